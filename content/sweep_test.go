package content

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

func TestSweepRemovesWhatWasDeletedAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push(repo, b)
		w.push("other", b)
		keep := w.putImage(repo, "keep", 2)
		gone := w.putImage(repo, "gone", 2)
		must(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(b)))
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(gone), Rules{}))
		if n := w.sweep(Sweep{Grace: time.Hour, Unused: time.Hour, Objects: true}); n != (Swept{}) {
			t.Fatalf("swept too early: %+v", n)
		}
		if n := w.sweep(Sweep{Objects: true}); n != (Swept{}) {
			t.Fatalf("swept what somebody has: %+v", n)
		}
		w.reads("other", b)
		if n := w.sweep(Sweep{Unused: 1}); n != (Swept{Links: 4, Blobs: 4, Objects: 4}) { // b in other, and the image
			t.Fatalf("swept %+v", n)
		}
		w.resolves(repo, tagged("keep"), keep)
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(keep), Rules{}))
		w.sweep(Sweep{Unused: 1, Objects: true})
		if n := w.objectsLeft(); n != 0 {
			t.Fatalf("%d objects are left", n)
		}
		w.push(repo, b) // and again
		w.reads(repo, b)
	})
}

func TestSweepForgetsAbandonedUploadsAndKeepsFinishedOnes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		done, begun := w.start().ID, w.start().ID
		_, err := w.add(done, 0, b[:500])
		must(t, err)
		must(t, w.end(done, 500, b[500:], sum(b)))
		_, err = w.add(begun, 0, b)
		must(t, err)
		if n := w.sweep(Sweep{}); n != (Swept{}) {
			t.Fatalf("swept %+v", n)
		}
		pass := func(change string) { // time
			must(t, w.db.Write(w.ctx, func(tx *db.Tx) error { _, err := tx.Exec(w.ctx, change); return err }))
		}
		pass(`UPDATE upload SET until = 1`)
		_, err = w.UploadStatus(w.ctx, w.owner, repo, begun)
		wants(t, err, fault.UploadUnknown)
		pass(`UPDATE upload SET expires = 1`)
		if n := w.sweep(Sweep{}); n != (Swept{Uploads: 2, Objects: 1}) {
			t.Fatalf("swept %+v", n)
		}
		w.reads(repo, b)
	})
}

func TestReaderOutlivesTheDeleteOfItsBlob(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(300_000)
		w.push(repo, b)
		r, err := w.Blob(w.ctx, w.owner, repo, sum(b))
		must(t, err)
		defer r.Close()
		must(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(b)))
		w.sweep(Sweep{})
		var got bytes.Buffer
		_, err = got.ReadFrom(r)
		if err != nil || !bytes.Equal(got.Bytes(), b) {
			t.Fatal(err)
		}
	})
}

func TestKeyOfASweptObjectCannotBeNamed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		// Another process is between bytes and name, longer than the sweep waits.
		other := w.restarted()
		src := &source{r: bytes.NewReader(random(100)), h: sha(), max: 1000}
		p, _, free, err := other.Store.put(w.ctx, registryUID, 0, src)
		must(t, err)
		defer free()
		if n := w.sweep(Sweep{Objects: true}); n.Objects != 1 {
			t.Fatalf("swept %+v", n)
		}
		err = w.db.Write(w.ctx, func(tx *db.Tx) error { return insertPart(w.ctx, tx, registryUID, "owner", p) })
		wants(t, err, fault.Unavailable)
	})
}

// P4: a sweep never takes what a push that is acknowledged later needs. The
// pushes share blobs, and the sweep waits for nobody.
func TestSweepDuringPushMountTagAndDelete(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config := random(50)
		stop, cancel := context.WithTimeout(w.ctx, 3*time.Second)
		defer cancel()
		var pushers, sweeper sync.WaitGroup
		var acked, swept atomic.Int32
		done := make(chan struct{})
		sweeper.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n, err := w.Sweep(w.ctx, Sweep{Objects: true})
				if err != nil {
					t.Error(err)
				}
				swept.Add(int32(n.Blobs + n.Objects))
			}
		})
		for i := range 4 {
			pushers.Go(func() {
				mine := name(i)
				for n := 0; stop.Err() == nil; n++ {
					layer := random(500)
					w.push(mine, config)
					w.push(mine, layer)
					m := text(imageOf(config, layer))
					p, err := w.PutManifest(w.ctx, w.owner, mine, Push{Reference: tagged("latest"), Body: m}, Rules{})
					if err != nil {
						t.Error(err)
						return
					}
					acked.Add(1)
					w.resolves(mine, tagged("latest"), m)
					if _, ok, err := w.Mount(w.ctx, w.owner, name(i+10), sum(layer), mine); err != nil || !ok {
						t.Error(ok, err)
					}
					if err := w.DeleteManifest(w.ctx, w.owner, mine, p.Digest, Rules{}); err != nil {
						t.Error(err)
					}
					for _, d := range []struct {
						from int
						b    []byte
					}{{i, layer}, {i, config}, {i + 10, layer}} {
						if err := w.DeleteBlob(w.ctx, w.owner, name(d.from), sum(d.b)); err != nil {
							t.Error(err)
						}
					}
				}
				w.putImage(mine, "last", 2)
			})
		}
		pushers.Wait()
		close(done)
		sweeper.Wait()
		w.sweep(Sweep{Objects: true})
		for i := range 4 {
			got, err := w.Manifest(w.ctx, w.owner, name(i), tagged("last"))
			must(t, err)
			w.resolves(name(i), tagged("last"), got.Body)
		}
		if n := w.objectsLeft(); n != 4*3 {
			t.Errorf("%d objects for 4 images", n)
		}
		t.Logf("%d images, %d blobs and objects swept", acked.Load(), swept.Load())
	})
}
