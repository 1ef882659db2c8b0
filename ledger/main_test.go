package ledger

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/db"
	"breakwater/ref"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		victim()
		return
	}
	goleak.VerifyTestMain(m)
}

var spoolKey = bytes.Repeat([]byte{0x5e}, 32)

func open(t testing.TB, d *db.DB, o Options) *Ledger {
	t.Helper()
	if o.Spool == "" {
		o.Spool = t.TempDir()
	}
	if o.Key == nil {
		o.Key = spoolKey
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { t.Error(err) }
	}
	l, err := Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// pull is an event as the door makes it; correlation tells it from others.
func pull(registry string, n int) Event {
	return Event{
		Registry: registry, Category: Repository, Operation: "Pull", Outcome: Success, Status: 200,
		Scope:       "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/main/providers/microsoft.containerregistry/registries/breakwater/repositories/team/api",
		Who:         Who{ID: "b1946ac92492d2347c6235b4d2611184", Kind: "token", Name: "ci"},
		From:        From{Address: netip.MustParseAddr("192.0.2.7"), Listener: "main", Host: "localhost:8443", UserAgent: "containers/5.33.1 (github.com/containers/image)"},
		Correlation: fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		Duration:    1234567,
		Detail: Detail{Repository: "team/api", Tag: "v1", Digest: ref.SHA256.Sum([]byte("x")),
			MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1234},
	}
}

func events(t testing.TB, l *Ledger, q Query) []Event {
	t.Helper()
	var all []Event
	for e, err := range l.Events(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// whole fails unless events are numbered 1, 2, 3 … and no two are one fact. It
// returns how often each correlation is there.
func whole(t testing.TB, all []Event) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for i, e := range all {
		if e.Seq != int64(i)+1 {
			t.Fatalf("event %d has number %d", i+1, e.Seq)
		}
		if seen[e.Correlation]++; seen[e.Correlation] > 1 {
			t.Fatalf("%s is there twice", e.Correlation)
		}
	}
	return seen
}

func appendAll(l *Ledger, ctx context.Context, events ...Event) error {
	return l.db.Write(ctx, func(tx *db.Tx) error { return l.Append(ctx, tx, events...) })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}
