package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/keys/keystest"
	"breakwater/ref"
)

// What moves is the keys: a registry of ten thousand blobs goes to a customer's key,
// to another and back in seconds (a minute on the slowest machine), and who pulls does not notice.
func TestARegistryOfTenThousandBlobsMovesInSeconds(t *testing.T) {
	blobs := 10000
	if testing.Short() {
		blobs = 100
	}
	vault := keystest.StartTransit(t)
	vault.Create("root", "aes256-gcm96")
	vault.Create("other", "rsa-3072")
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "token"), []byte(keystest.TransitToken), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, "--keys-directory", credentials)
	body := func(n int) string { return fmt.Sprintf("blob %d of many", n) }
	digest := func(n int) ref.Digest { return ref.SHA256.Sum([]byte(body(n))) }
	var next atomic.Int64
	var pushing sync.WaitGroup
	for range 64 { // who share commits
		pushing.Go(func() {
			for n := int(next.Add(1)); n <= blobs && !t.Failed(); n = int(next.Add(1)) {
				if r, answer := d.ask("POST", "/v2/many/blobs/uploads/?digest="+string(digest(n)), body(n), "Content-Type", "application/octet-stream"); r.StatusCode != http.StatusCreated {
					t.Errorf("push: %d %s", r.StatusCode, answer)
				}
			}
		})
	}
	pushing.Wait()

	done := make(chan struct{})
	var pulls atomic.Int64
	var pulling sync.WaitGroup
	for i := range 4 {
		pulling.Go(func() {
			for n := i; ; n += 7 {
				select {
				case <-done:
					return
				default:
				}
				at := n%blobs + 1
				if r, got := d.ask("GET", "/v2/many/blobs/"+string(digest(at)), ""); r.StatusCode != http.StatusOK || got != body(at) {
					t.Errorf("pull: %d %s", r.StatusCode, got)
					return
				}
				pulls.Add(1)
			}
		})
	}
	if r, answer := d.ask("PUT", "/providers/Breakwater.Keys/providers/vault", `{"properties":{"kind":"Transit","endpoint":"`+vault.URL+`","credential":"token"}}`); r.StatusCode != http.StatusCreated {
		t.Error(r.Status, answer)
	}
	key := func(name string) string {
		return `{"properties":{"encryption":{"status":"enabled","keyVaultProperties":{"keyIdentifier":"https://vault/keys/` + name + `"}}}}`
	}
	for _, change := range []string{key("root"), key("other"), `{"properties":{"encryption":{"status":"disabled"}}}`} {
		before, began := pulls.Load(), time.Now()
		if r, answer := d.ask("PATCH", d.id, change); r.StatusCode != http.StatusOK {
			t.Error(r.Status, answer)
		}
		took := time.Since(began)
		t.Logf("%s took %v", change, took)
		if took > time.Minute {
			t.Errorf("%s took %v", change, took)
		}
		for end := time.Now().Add(time.Minute); pulls.Load() < before+20 && !t.Failed() && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
		if pulls.Load() < before+20 {
			t.Error("nobody pulled")
		}
	}
	close(done)
	pulling.Wait()
	t.Logf("%d pulls", pulls.Load())
}
