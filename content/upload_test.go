package content

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/object"
	"breakwater/ref"
)

func (w *world) start() Upload {
	w.t.Helper()
	u, err := w.StartUpload(w.ctx, w.owner, repo, "")
	must(w.t, err)
	return u
}

func (w *world) add(id string, at int64, b []byte) (Upload, error) {
	return w.AppendUpload(w.ctx, w.owner, repo, id, Chunk{At: at, Size: int64(len(b)), Reader: bytes.NewReader(b)})
}

func (w *world) end(id string, at int64, b []byte, d ref.Digest) error {
	got, err := w.FinishUpload(w.ctx, w.owner, repo, id, Chunk{At: at, Size: int64(len(b)), Reader: bytes.NewReader(b)}, d)
	if err == nil && got.Digest != d {
		return fmt.Errorf("finished as %v", got)
	}
	return err
}

func (w *world) offset(id string) int64 {
	w.t.Helper()
	u, err := w.UploadStatus(w.ctx, w.owner, repo, id)
	must(w.t, err)
	return u.Offset
}

// A restarted process, or another one, knows only what the disks know.
func (w *world) restarted() *world {
	again := *w
	again.Store = New(w.db, w.disk, w.rings, w.ledger, w.sessions)
	return &again
}

func TestUploadGoesOnInAnyProcess(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(250_000)
		id := w.start().ID
		if len(id) > 100 || strings.ContainsAny(id, "/+%?&=") {
			t.Fatalf("id %q", id)
		}
		if w.offset(id) != 0 {
			t.Fatal("an upload begins at 0")
		}
		pieces := []int{0, 1, 100_000, 100_001, 200_000}
		for i := range len(pieces) - 1 {
			w = w.restarted()
			from, to := pieces[i], pieces[i+1]
			_, err := w.add(id, int64(from+5), b[from:to])
			wants(t, err, fault.UploadOutOfOrder)
			u, err := w.add(id, int64(from), b[from:to])
			must(t, err)
			if u.Offset != int64(to) || w.offset(id) != int64(to) || u.ID != id {
				t.Fatalf("%+v after %d", u, to)
			}
		}
		wants(t, w.end(id, 0, b[200_000:], sum(b)), fault.UploadOutOfOrder)
		wants(t, w.end(id, -1, []byte("oh no"), sum(b)), fault.DigestInvalid)
		if w.offset(id) != 200_000 {
			t.Fatal("a wrong end moved the upload")
		}
		must(t, w.end(id, 200_000, b[200_000:], sum(b)))
		w.reads(repo, b)

		wants(t, w.end(id, -1, b, sum(b)), fault.UploadUnknown)
		_, err := w.UploadStatus(w.ctx, w.owner, repo, id)
		wants(t, err, fault.UploadUnknown)
	})
}

func TestUploadIsFinishedWithOrWithoutLastChunk(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, a := range []ref.Algorithm{ref.SHA256, ref.SHA512} { // whatever was said at the start
			for _, named := range []ref.Algorithm{"", ref.SHA256, ref.SHA512} {
				for _, split := range []int{0, 1, 5_000, 10_000} {
					b := random(10_000)
					u, err := w.StartUpload(w.ctx, w.owner, repo, named)
					must(t, err)
					_, err = w.add(u.ID, -1, b[:split])
					must(t, err)
					_, err = w.add(u.ID, -1, nil)
					must(t, err)
					must(t, w.end(u.ID, -1, b[split:], a.Sum(b)))
					got, err := w.pull(repo, a.Sum(b))
					if err != nil || !bytes.Equal(got, b) {
						t.Fatal(err)
					}
				}
			}
		}
		id := w.start().ID
		must(t, w.end(id, 0, nil, sum(nil)))
		w.reads(repo, nil)
		wants(t, w.end(id, 0, nil, sum(nil)), fault.UploadUnknown)
	})
}

func TestUploadBelongsToItsRepositoryAndCaller(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.start().ID
		_, err := w.add(id, 0, []byte("half"))
		must(t, err)
		other := allow("mallory", map[ref.Repository][]access.Action{repo: {access.ContentWrite}})
		elsewhere := access.ServerGrant(access.Registry{UID: "other", ID: theRegistry.ID}, access.Call{})
		uuid, rest, _ := strings.Cut(id, ".")
		for name, try := range map[string]func() error{
			"caller":     func() error { _, err := w.UploadStatus(w.ctx, other, repo, id); return err },
			"registry":   func() error { _, err := w.UploadStatus(w.ctx, elsewhere, repo, id); return err },
			"repository": func() error { _, err := w.UploadStatus(w.ctx, w.owner, "team/other", id); return err },
			"uuid only":  func() error { _, err := w.UploadStatus(w.ctx, w.owner, repo, uuid); return err },
			"no claim":   func() error { _, err := w.UploadStatus(w.ctx, w.owner, repo, uuid+"."); return err },
			"new uuid":   func() error { _, err := w.UploadStatus(w.ctx, w.owner, repo, ref.NewGUID()+"."+rest); return err },
			"append": func() error {
				_, err := w.AppendUpload(w.ctx, other, repo, id, Chunk{At: -1, Size: -1, Reader: strings.NewReader("evil")})
				return err
			},
			"finish": func() error {
				_, err := w.FinishUpload(w.ctx, other, repo, id, Chunk{At: -1, Size: 0, Reader: strings.NewReader("")}, sum([]byte("half")))
				return err
			},
			"cancel": func() error { return w.CancelUpload(w.ctx, other, repo, id) },
		} {
			if err := try(); fault.Of(err) != fault.UploadUnknown {
				t.Errorf("%s: %v", name, err)
			}
		}
		for i := range id {
			forged := id[:i] + string(id[i]^1) + id[i+1:]
			if _, err := w.UploadStatus(w.ctx, w.owner, repo, forged); fault.Of(err) != fault.UploadUnknown {
				t.Errorf("forged at %d: %v", i, err)
			}
		}
		if w.offset(id) != 4 {
			t.Fatal("somebody moved it")
		}
	})
}

func TestUploadThatIsTooOldIsUnknown(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		uuid := ref.NewGUID()
		claim := append(binary.BigEndian.AppendUint32(nil, uint32(time.Now().Unix())), 0)
		id := uuid + "." + base64.RawURLEncoding.EncodeToString(append(claim, w.mac(w.owner, repo, uuid, claim)...))
		_, err := w.add(id, 0, []byte("x"))
		wants(t, err, fault.UploadUnknown)
	})
}

func TestCancelledUploadStaysCancelled(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, begun := range []bool{false, true} {
			id := w.start().ID
			if begun {
				_, err := w.add(id, 0, random(1000))
				must(t, err)
			}
			must(t, w.CancelUpload(w.ctx, w.owner, repo, id))
			wants(t, w.CancelUpload(w.ctx, w.owner, repo, id), fault.UploadUnknown)
			_, err := w.add(id, 0, []byte("x"))
			wants(t, err, fault.UploadUnknown)
			wants(t, w.end(id, 0, nil, sum(nil)), fault.UploadUnknown)
		}
		w.sweep(Sweep{})
		if n := w.objectsLeft(); n != 0 {
			t.Fatalf("%d objects are left", n)
		}
	})
}

func TestClientThatDiesInTheMiddleKeepsWhatArrived(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(200_000)
		for _, cut := range []int{0, 1, 65_535, 65_536, 131_072, 199_999} {
			id := w.start().ID
			ctx, leave := context.WithCancel(w.ctx)
			body := io.MultiReader(bytes.NewReader(b[:cut]), readerFunc(func([]byte) (int, error) { leave(); return 0, io.ErrUnexpectedEOF }))
			u, err := w.AppendUpload(ctx, w.owner, repo, id, Chunk{At: 0, Size: int64(len(b)), Reader: body})
			wants(t, err, fault.UploadInvalid)
			if u.Offset != int64(cut) || w.offset(id) != int64(cut) {
				t.Fatalf("%d after %d bytes", u.Offset, cut)
			}
			body = io.MultiReader(bytes.NewReader(b[cut:]), failing{})
			_, err = w.FinishUpload(w.ctx, w.owner, repo, id, Chunk{At: -1, Size: -1, Reader: body}, sum(b))
			wants(t, err, fault.UploadInvalid)
			if w.has(repo, sum(b)) {
				t.Fatal("an end that was cut off made a blob")
			}
			must(t, w.end(id, int64(cut), b[cut:], sum(b)))
			w.reads(repo, b)
			must(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(b)))
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestOfParallelRequestsOneMovesTheUpload(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range 5 {
			id := w.start().ID
			var whole []byte
			for range 3 {
				var wins atomic.Int32
				var winner []byte
				var wg sync.WaitGroup
				for range 8 {
					b := random(2000)
					wg.Go(func() {
						switch _, err := w.add(id, int64(len(whole)), b); {
						case err == nil:
							wins.Add(1)
							winner = b
						case fault.Of(err) != fault.UploadOutOfOrder:
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if wins.Load() != 1 {
					t.Fatalf("%d requests moved it", wins.Load())
				}
				whole = append(whole, winner...)
			}
			must(t, w.end(id, -1, nil, sum(whole)))
			w.reads(repo, whole)
		}
		w.sweep(Sweep{Objects: true})
		if n := w.objectsLeft(); n != 5*3 {
			t.Fatalf("%d objects for 15 parts", n)
		}
	})
}

func TestOfParallelFinishesOneWins(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, begun := range []int{0, 5000} {
			for range 5 {
				id, head := w.start().ID, random(begun)
				_, err := w.add(id, 0, head)
				must(t, err)
				var wins, appended atomic.Int32
				var wg sync.WaitGroup
				for i := range 8 {
					tail := random(1000 + i)
					wg.Go(func() {
						whole := append(bytes.Clone(head), tail...)
						if i == 7 { // an append may be first; then every end is out of order or not what its digest says
							if _, err := w.add(id, int64(begun), tail); err == nil {
								appended.Add(1)
							}
							return
						}
						switch err := w.end(id, -1, tail, sum(whole)); fault.Of(err) {
						case fault.UploadUnknown, fault.UploadOutOfOrder, fault.DigestInvalid:
							if w.has(repo, sum(whole)) {
								t.Error("a loser's blob is there")
							}
						default:
							if err != nil {
								t.Error(err)
								return
							}
							wins.Add(1)
							w.reads(repo, whole)
						}
					})
				}
				wg.Wait()
				if n := wins.Load(); n > 1 || n == 0 && appended.Load() == 0 {
					t.Fatalf("%d requests finished it", n)
				}
			}
		}
	})
}

func TestParallelPushesOfOneBlobStoreItOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range 5 {
			b := random(50_000)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					switch i % 2 {
					case 0:
						w.push(name(i%3), b)
					case 1:
						u, err := w.StartUpload(w.ctx, w.owner, repo, "")
						if err == nil {
							_, err = w.add(u.ID, 0, b[:20_000])
						}
						if err == nil {
							err = w.end(u.ID, -1, b[20_000:], sum(b))
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			w.reads(repo, b)
			w.reads(name(0), b)
		}
		w.sweep(Sweep{Objects: true})
		if n := w.objectsLeft(); n < 5 || n > 10 { // one or two parts each
			t.Fatalf("%d objects for 5 blobs", n)
		}
		w.reads(repo, nil2(w, t))
	})
}

// nil2 pushes an empty blob from many sides: it has no object at all.
func nil2(w *world, t *testing.T) []byte {
	before := w.objectsLeft()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { w.push(repo, nil) })
	}
	wg.Wait()
	if w.objectsLeft() != before {
		t.Error("an empty blob has an object")
	}
	return nil
}

// full is a store whose disk is full.
type full struct{ object.Store }

func (f full) Put(_ context.Context, _ string, r io.Reader) (int64, error) {
	io.CopyN(io.Discard, r, 10)
	return 0, fault.New(fault.StorageFull, "full")
}

func TestFullDiskRefusesPushesAndReadsGoOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 2)
		id := w.start().ID
		_, err := w.add(id, 0, []byte("before"))
		must(t, err)
		w.objects = full{w.disk}
		_, err = w.PutBlob(w.ctx, w.owner, repo, sum([]byte("x")), 1, strings.NewReader("x"))
		wants(t, err, fault.StorageFull)
		_, err = w.add(id, -1, []byte(" and after"))
		wants(t, err, fault.StorageFull)
		w.resolves(repo, tagged("v1"), m)
		w.objects = w.disk
		must(t, w.end(id, 6, []byte(" and after"), sum([]byte("before and after"))))
	})
}

// dying is a store of a process that dies after it has put n objects.
type dying struct {
	object.Store
	n *int
}

var errDead = errors.New("dead")

func (d dying) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	size, err := d.Store.Put(ctx, key, r)
	if *d.n--; err == nil && *d.n < 0 {
		return 0, errDead // the bytes are there, and nobody will name them
	}
	return size, err
}

func (dying) Delete(context.Context, ...string) error { return errDead }

func TestCrashBetweenBytesAndNameLeavesOnlyWhatASweepRemoves(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 2)
		before := w.objectsLeft()
		b := random(10_000)
		for n := range 3 {
			left := n
			w.objects = dying{w.disk, &left}
			id := w.start().ID
			_, err1 := w.add(id, -1, b[:3000])
			_, err2 := w.add(id, -1, b[3000:6000])
			err3 := w.end(id, -1, b[6000:], sum(b))
			if n < 2 && !errors.Is(errors.Join(err1, err2), errDead) || n == 2 && !errors.Is(err3, errDead) {
				t.Fatal(err1, err2, err3)
			}
			w = w.restarted()
			w.objects = w.disk
			if w.has(repo, sum(b)) {
				t.Fatal("a blob without all of its bytes")
			}
			if w.sweep(Sweep{Objects: true, Grace: time.Hour}).Objects != 0 {
				t.Fatal("a young object was swept")
			}
			w.sweep(Sweep{Objects: true})
			must(t, w.CancelUpload(w.ctx, w.owner, repo, id))
			w.sweep(Sweep{})
			if got := w.objectsLeft(); got != before {
				t.Fatalf("%d objects, %d before", got, before)
			}
			w.resolves(repo, tagged("v1"), m)
		}
	})
}
