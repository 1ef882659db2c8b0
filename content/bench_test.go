package content

import (
	"bytes"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/ref"
)

// onSQLite measures what a request costs the processor, which on a shared
// machine says more than the clock: fsyncs wait, and waiting is free.
func onSQLite(b *testing.B) *world { return newWorld(b, dbtest.SQLite(b)) }

func measure(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		f()
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N)/1000, "cpu-µs/op")
}

func BenchmarkManifestByTag(b *testing.B) {
	w := onSQLite(b)
	w.putImage(repo, "v1", 3)
	g := allow("reader", map[ref.Repository][]access.Action{repo: {access.ContentRead}})
	measure(b, func() {
		if m, err := w.Manifest(w.ctx, g, repo, tagged("v1")); err != nil || len(m.Body) == 0 {
			b.Fatal(err)
		}
	})
}

func BenchmarkHeadManifest(b *testing.B) {
	w := onSQLite(b)
	w.putImage(repo, "v1", 3)
	measure(b, func() {
		if _, err := w.HeadManifest(w.ctx, w.owner, repo, tagged("v1")); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkStatBlob(b *testing.B) {
	w := onSQLite(b)
	d := w.push(repo, random(1000))
	measure(b, func() {
		if _, err := w.StatBlob(w.ctx, w.owner, repo, d); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkPullBlob64K(b *testing.B) {
	w := onSQLite(b)
	d := w.push(repo, random(64<<10))
	measure(b, func() {
		blob, err := w.Blob(w.ctx, w.owner, repo, d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, blob); err != nil {
			b.Fatal(err)
		}
		blob.Close()
	})
}

func BenchmarkPushBlob(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := onSQLite(b)
			content, n := random(size), 0
			measure(b, func() {
				n++
				copy(content, fmt.Sprint(n))
				d := sum(content)
				u, err := w.StartUpload(w.ctx, w.owner, repo, "")
				if err != nil {
					b.Fatal(err)
				}
				c := Chunk{At: -1, Size: int64(size), Reader: bytes.NewReader(content)}
				if _, err := w.FinishUpload(w.ctx, w.owner, repo, u.ID, c, d); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func BenchmarkPushBlob256M(b *testing.B) {
	w := onSQLite(b)
	content := make([]byte, 256<<20)
	d := sum(content)
	b.SetBytes(int64(len(content)))
	measure(b, func() {
		if _, err := w.PutBlob(w.ctx, w.owner, repo, d, -1, bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkPushManifest(b *testing.B) {
	w := onSQLite(b)
	config := random(100)
	layers := [][]byte{random(100), random(100), random(100)}
	w.push(repo, config)
	for _, l := range layers {
		w.push(repo, l)
	}
	n := 0
	measure(b, func() {
		n++
		m := imageOf(config, layers...)
		m["n"] = n
		if _, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: tagged(fmt.Sprint("v", n)), Body: text(m)}, Rules{}); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkTagsPage(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := onSQLite(b)
			w.put(repo, tagged("v"), text(indexOf()))
			must(b, w.db.Write(w.ctx, func(tx *db.Tx) error {
				for i := range n {
					if err := moveTag(w.ctx, tx, 1, ref.Tag(fmt.Sprintf("v%07d", i)), sum(text(indexOf())), 1, 1, 0); err != nil {
						return err
					}
				}
				return nil
			}))
			measure(b, func() {
				tags, _, err := w.Tags(w.ctx, w.owner, repo, fmt.Sprintf("v%07d", n/2), 100)
				if err != nil || len(tags) != 100 {
					b.Fatal(len(tags), err)
				}
			})
		})
	}
}

func BenchmarkTagsWholePage(b *testing.B) {
	w := onSQLite(b)
	w.put(repo, tagged("v"), text(indexOf()))
	for i := range 1100 {
		w.put(repo, tagged(fmt.Sprintf("v%07d", i)), text(indexOf()))
	}
	measure(b, func() {
		if tags, _, err := w.Tags(w.ctx, w.owner, repo, "", -1); err != nil || len(tags) != maxPage {
			b.Fatal(err)
		}
	})
}

func BenchmarkReferrersPage(b *testing.B) {
	w := onSQLite(b)
	subject := []byte("subject")
	for i := range 1000 {
		d := indexOf()
		d["subject"], d["artifactType"] = describe(ociImage, subject), "application/vnd.example.signature.v1"
		d["annotations"] = map[string]string{"org.opencontainers.image.created": time.Now().String(), "n": fmt.Sprint(i)}
		w.put(repo, digested(text(d)), text(d))
	}
	measure(b, func() {
		r, err := w.Referrers(w.ctx, w.owner, repo, sum(subject), "", "")
		if err != nil || r.Next == "" {
			b.Fatal(err)
		}
	})
}
