package content

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/keys/keystest"
	"breakwater/object"
	"breakwater/resource"
)

// held gives the keys of the world's registry to a customer, who keeps one in Transit.
func (w *world) held() *keystest.Transit {
	w.t.Helper()
	vault := keystest.StartTransit(w.t)
	vault.Create("root", "aes256-gcm96")
	dir := w.t.TempDir()
	must(w.t, os.WriteFile(filepath.Join(dir, "token"), []byte(keystest.TransitToken), 0o600))
	docs := resource.New(w.db)
	w.rings.Entrust(&keys.Custody{Documents: docs, Ledger: w.ledger, Who: identity.ThisServer().Who(),
		Reach: keys.Reach{Dial: new(net.Dialer).DialContext, Directory: dir},
		Times: keys.Times{Believed: 5 * time.Millisecond, Pause: 5 * time.Millisecond}})
	if closer, ok := w.t.(interface{ Cleanup(func()) }); ok {
		closer.Cleanup(w.rings.Close)
	}
	none := 0
	text, err := json.Marshal(keys.Settings{Kind: keys.KindTransit, Endpoint: vault.URL, Credential: "token", BridgeMinutes: &none})
	must(w.t, err)
	put := func(tx *db.Tx, r resource.Resource) error {
		_, err := docs.Put(w.ctx, tx, r, resource.Any)
		return err
	}
	must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error {
		return put(tx, resource.Resource{ID: keys.ProviderID("vault"), Type: keys.ProviderType, Properties: text})
	}))
	moved, err := w.rings.Rewrap(w.ctx, registryUID, &keys.Holder{Registry: theRegistry.ID, Provider: keys.ProviderID("vault"), Key: "root", Version: "1"})
	must(w.t, err)
	must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error {
		if err := put(tx, resource.Resource{ID: theRegistry.ID, Type: "Microsoft.ContainerRegistry/registries"}); err != nil {
			return err
		}
		return moved.Commit(w.ctx, tx)
	}))
	return vault
}

// wait asks for the keys until that ends so: "" is well.
func (w *world) wait(as fault.Code, well bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		_, err := w.rings.Ring(w.ctx, registryUID)
		if well && err == nil || !well && fault.Of(err) == as {
			return
		}
		if time.Now().After(end) {
			w.t.Fatal(err)
		}
	}
}

// answers are all questions about content that has bytes, each alone.
func (w *world) answers(m, b, empty []byte) map[string]func() error {
	return map[string]func() error{
		"what a manifest is": func() error { _, err := w.HeadManifest(w.ctx, w.owner, repo, digested(m)); return err },
		"what a tag is":      func() error { _, err := w.HeadManifest(w.ctx, w.owner, repo, tagged("a")); return err },
		"a manifest":         func() error { _, err := w.Manifest(w.ctx, w.owner, repo, digested(m)); return err },
		"whether a blob is there": func() error {
			_, err := w.StatBlob(w.ctx, w.owner, repo, sum(b))
			return err
		},
		"a blob":               func() error { _, err := w.pull(repo, sum(b)); return err },
		"a blob without bytes": func() error { _, err := w.pull(repo, sum(empty)); return err },
		"a mount": func() error {
			_, ok, err := w.Mount(w.ctx, w.owner, "team/other", sum(b), repo)
			if err == nil && !ok {
				err = fault.New(fault.BlobUnknown, "not mounted")
			}
			return err
		},
		"a push": func() error {
			_, err := w.PutBlob(w.ctx, w.owner, repo, sum(b), -1, bytes.NewReader(b))
			return err
		},
		"a push of a manifest": func() error {
			_, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: tagged("b"), Body: m}, Rules{})
			return err
		},
	}
}

// A key that a customer refuses, exchanges, or keeps out of reach, closes every answer
// about content, in the same words. It is no damage: nothing is marked, and nobody is
// alarmed. A scrub passes over it, and counts nothing that it could not open.
func TestAKeyThatIsNotToBeHadClosesEveryAnswerAndIsNoDamage(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "a", 1)
		b, empty := random(1000), []byte{}
		w.push(repo, b)
		w.push(repo, empty)
		vault := w.held()
		all := w.answers(m, b, empty)
		well := func() {
			t.Helper()
			w.wait(0, true)
			for what, ask := range all {
				if err := ask(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			if n, err := w.Scrub(w.ctx, 1<<40); err != nil || n.Blobs != 4 || n.Manifests != 1 || n.Damaged != 0 {
				t.Errorf("%+v, %v", n, err)
			}
		}
		well()
		closed := func(how string, as fault.Code) {
			t.Helper()
			w.wait(as, false)
			for what, ask := range all {
				if err := ask(); fault.Of(err) != as {
					t.Errorf("%s, %s: %v", how, what, err)
				}
			}
			if n, err := w.Scrub(w.ctx, 1<<40); err != nil || n != (Scrubbed{}) {
				t.Errorf("%s: scrubbed %+v, %v", how, n, err)
			}
		}
		for mode, as := range map[string]fault.Code{"denied": fault.KeyRefused, "sealed": fault.Unavailable} {
			vault.Mode(mode)
			closed(mode, as)
			vault.Mode("well")
			well()
		}
		vault.Delete("root")
		vault.Create("root", "aes256-gcm96") // another of its name, which does not open what was wrapped
		closed("exchanged", fault.KeyRefused)
		if told := w.alarms(); len(told) != 0 {
			t.Errorf("on record as damage: %q", told)
		}
	})
}

// A shaky store is one whose objects cannot be opened for a while, or take their time.
type shaky struct {
	object.Store
	fails  atomic.Bool
	opened atomic.Int32
	gate   atomic.Pointer[chan struct{}] // that opening waits for
}

func (f *shaky) Open(ctx context.Context, key string) (object.Object, error) {
	f.opened.Add(1)
	if gate := f.gate.Load(); gate != nil {
		select {
		case <-*gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.fails.Load() {
		return nil, &os.PathError{Op: "open", Path: key, Err: syscall.EIO}
	}
	return f.Store.Open(ctx, key)
}

// A disk that does not answer says nothing about what lies on it: it is no damage, and a
// push replaces nothing because of it.
func TestADiskThatFailsIsNoDamage(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push(repo, b)
		disk := &shaky{Store: w.disk}
		w.objects = disk
		before := w.objectsLeft()
		for _, proven := range []bool{true, false} {
			if !proven {
				w.sql(`UPDATE blob SET proof = NULL`)
			}
			disk.fails.Store(true)
			if _, err := w.pull(repo, sum(b)); err == nil || fault.Of(err) == fault.Damaged {
				t.Errorf("a pull: %v", err)
			}
			if _, err := w.PutBlob(w.ctx, w.owner, repo, sum(b), -1, bytes.NewReader(b)); err == nil || fault.Of(err) == fault.Damaged {
				t.Errorf("a push: %v", err)
			}
			if n, err := w.Scrub(w.ctx, 1<<40); err != nil || n != (Scrubbed{}) {
				t.Errorf("scrubbed %+v, %v", n, err)
			}
			if !w.has(repo, sum(b)) {
				t.Error("it is marked")
			}
			disk.fails.Store(false)
			w.reads(repo, b)
			w.push(repo, b)
			if n := w.objectsLeft(); n != before {
				t.Errorf("%d objects, not %d", n, before)
			}
		}
		if told := w.alarms(); len(told) != 0 {
			t.Errorf("on record as damage: %q", told)
		}
	})
}

// Those who first want a blob that nobody has read since proofs are made share one
// examination. Who leaves does not stop the others, the last who leaves stops it, and
// what failed is tried again.
func TestFirstReadersShareOneExamination(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push(repo, b)
		w.sql(`UPDATE blob SET proof = NULL`)
		disk := &shaky{Store: w.disk}
		w.objects = disk
		const readers = 8
		crowd := func(during func(leave []context.CancelFunc, let func())) (errs [readers]error) {
			t.Helper()
			gate := make(chan struct{})
			disk.gate.Store(&gate)
			let := sync.OnceFunc(func() { close(gate) })
			defer let()
			var reading sync.WaitGroup
			var leave []context.CancelFunc
			for i := range readers {
				ctx, cancel := context.WithCancel(w.ctx)
				defer cancel()
				leave = append(leave, cancel)
				reading.Go(func() {
					r, err := w.Blob(ctx, w.owner, repo, sum(b))
					if err == nil {
						var got []byte
						if got, err = io.ReadAll(r); err == nil && !bytes.Equal(got, b) {
							err = fmt.Errorf("%d other bytes", len(got))
						}
						r.Close()
					}
					errs[i] = err
				})
			}
			for end := time.Now().Add(time.Minute); w.waiting() != readers; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d wait", w.waiting())
				}
			}
			during(leave, let)
			reading.Wait()
			return errs
		}
		disk.fails.Store(true)
		for _, err := range crowd(func(_ []context.CancelFunc, let func()) { let() }) {
			if err == nil || fault.Of(err) == fault.Damaged {
				t.Errorf("%v", err)
			}
		}
		if n := disk.opened.Swap(0); n != 1 {
			t.Errorf("%d tried", n)
		}
		disk.fails.Store(false)
		for _, err := range crowd(func(leave []context.CancelFunc, _ func()) {
			for _, f := range leave {
				f()
			}
		}) {
			if err == nil {
				t.Error("who has left was answered")
			}
		}
		if n := disk.opened.Swap(0); n != 1 || w.waiting() != 0 || len(w.looks) != 0 {
			t.Errorf("%d tried, %d wait", n, w.waiting())
		}
		for i, err := range crowd(func(leave []context.CancelFunc, let func()) {
			leave[0]() // perhaps who began it
			for w.waiting() == readers {
				time.Sleep(time.Millisecond)
			}
			let()
		}) {
			if (err == nil) != (i > 0) {
				t.Errorf("reader %d: %v", i, err)
			}
		}
		if n := disk.opened.Swap(0); n != 1+readers-1 { // once for all, then each what it gives out
			t.Errorf("%d objects were opened", n)
		}
		disk.gate.Store(nil)
		w.reads(repo, b)
		if n := disk.opened.Load(); n != 1 {
			t.Error("it was not proven")
		}
	})
}

// waiting is how many wait for an examination.
func (w *world) waiting() (n int) {
	w.looking.Lock()
	defer w.looking.Unlock()
	for _, l := range w.looks {
		n += l.waiting
	}
	return n
}
