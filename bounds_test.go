package main

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/network/link"
	"breakwater/registry"
	"breakwater/resource"
)

// However little memory there is, what links carry is bounded, and is not nothing.
func TestLinksCarryABoundedNumberOfConnections(t *testing.T) {
	for _, c := range []struct {
		most   int
		memory int64
		want   int
	}{
		{1000, math.MaxInt64, 1000}, {1000, 0, 1}, {1000, 4 * link.Window, 1}, {1000, 4*link.Window - 1, 1}, {1000, 40 * link.Window, 10}, {5, 40 * link.Window, 5},
		{math.MaxInt, math.MaxInt64, 1 << 20},
	} {
		if n := linkConnections(c.most, c.memory); n != c.want {
			t.Errorf("%d at most, %d bytes: %d, want %d", c.most, c.memory, n, c.want)
		}
	}
}

// A handshake with a name that nobody can look up, because the database hangs, goes on
// without it after a moment.
func TestAHandshakeWaitsAMomentForAName(t *testing.T) {
	d := dbtest.Postgres(t)
	docs := resource.New(d)
	h := &house{registries: registry.New(registry.Options{DB: d, Documents: docs, Default: registryName, Domain: "example.com"})}
	locked, free, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- d.Write(context.WithoutCancel(t.Context()), func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `LOCK TABLE resource, counter IN ACCESS EXCLUSIVE MODE`)
			close(locked)
			<-free
			return err
		})
	}()
	<-locked
	began := time.Now()
	let := sync.OnceFunc(func() { close(free) })
	time.AfterFunc(20*time.Second, let) // for a handshake that would wait for ever
	if h.isDataEndpoint(t.Context(), "shop1.eu.data.example.com") {
		t.Error("a name that nobody has looked up is a data endpoint")
	}
	took := time.Since(began)
	let()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took > 15*time.Second || took < time.Second {
		t.Errorf("a handshake waited %v", took)
	}
}
