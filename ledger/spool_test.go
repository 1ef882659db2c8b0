package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
)

const small = 2 * maxRecord // the smallest spool file: it is full after some 180 pulls

// die leaves the ledger as a killed process would.
func die(l *Ledger) {
	l.stop()
	l.wg.Wait()
	l.spool.close()
}

// victimEnv tells the test binary to be the process that gets killed: it notes,
// records and appends in the directory that it names, and says so on stdout.
const victimEnv = "BREAKWATER_LEDGER_VICTIM"

func victim() {
	ctx, dir := context.Background(), os.Getenv(victimEnv)
	base, _ := strconv.Atoi(os.Getenv(victimEnv + "_BASE"))
	d, err := db.Open(ctx, db.Options{Source: filepath.Join(dir, "test.db"), Key: dbtest.Key})
	if err != nil {
		panic(err)
	}
	l, err := Open(ctx, d, Options{Spool: dir, Key: spoolKey, Segment: small, Every: 3 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	var next atomic.Int64
	for range 4 {
		go func() {
			for {
				n := base + int(next.Add(1))
				var err error
				switch rand.IntN(20) {
				case 0:
					err = appendAll(l, ctx, pull("r", n))
				case 1:
					err = l.Record(ctx, pull("r", n))
				default:
					err = l.Note(ctx, pull("r", n))
				}
				switch {
				case err == nil:
					fmt.Println(n) // one write: the pipe keeps it when we die
				case errors.Is(err, errFull):
					time.Sleep(time.Millisecond)
				default:
					panic(err)
				}
			}
		}()
	}
	select {}
}

func TestWhatWasAcknowledgedBeforeKill9HasOneRow(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for cycle := range 12 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), victimEnv+"="+dir, fmt.Sprintf("%s_BASE=%d", victimEnv, cycle*1_000_000))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var killer *time.Timer
		for lines.Scan() {
			if killer == nil {
				killer = time.AfterFunc(time.Duration(rand.IntN(120))*time.Millisecond, func() { c.Process.Kill() })
			}
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			acknowledged[pull("r", n).Correlation] = true
		}
		c.Wait()
		if killer == nil {
			t.Fatal("the victim died by itself")
		}
		func() { // every second time, the next victim finds what the last one left
			if cycle%2 == 0 {
				return
			}
			d, err := db.Open(t.Context(), db.Options{Source: filepath.Join(dir, "test.db"), Key: dbtest.Key})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			l, err := Open(t.Context(), d, Options{Spool: dir, Key: spoolKey, Segment: small})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			seen := whole(t, events(t, l, Query{Registry: "r"}))
			for c := range acknowledged {
				if seen[c] != 1 {
					t.Fatalf("after cycle %d, %s of %d acknowledged is lost", cycle, c, len(acknowledged))
				}
			}
			if damage := events(t, l, Query{}); len(damage) != 0 {
				t.Fatalf("damage after a kill: %+v", damage)
			}
		}()
	}
	t.Logf("%d acknowledged", len(acknowledged))
}

// TestAnyCrashLeavesEachFactOnce stops at any point between two changes of the
// files, or in the middle of a write to the spool, and goes on with a copy.
func TestAnyCrashLeavesEachFactOnce(t *testing.T) {
	template := t.TempDir() // a database with its schema, made once
	if d, err := db.Open(t.Context(), db.Options{Source: filepath.Join(template, "test.db"), Key: dbtest.Key}); err != nil {
		t.Fatal(err)
	} else if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		dir := copied(t, template)
		acknowledged, perhaps := map[string]bool{}, map[string]bool{}
		n := 0
		for range rapid.IntRange(1, 3).Draw(r, "lives") {
			d, err := db.Open(t.Context(), db.Options{Source: filepath.Join(dir, "test.db"), Key: dbtest.Key})
			if err != nil {
				r.Fatal(err)
			}
			l, err := Open(t.Context(), d, Options{Spool: dir, Key: spoolKey, Segment: small, Every: time.Hour})
			if err != nil {
				r.Fatal(err)
			}
			for range rapid.IntRange(0, 8).Draw(r, "steps") {
				many := rapid.IntRange(1, 90).Draw(r, "many")
				switch rapid.SampledFrom([]string{"note", "note", "note", "record", "append", "flush"}).Draw(r, "step") {
				case "note":
					for range many {
						n++
						if err := l.Note(t.Context(), pull("r", n)); errors.Is(err, errFull) {
							if err := l.Flush(t.Context()); err != nil {
								r.Fatal(err)
							}
						} else if err != nil {
							r.Fatal(err)
						} else {
							acknowledged[pull("r", n).Correlation] = true
						}
					}
				case "record":
					n++
					if err := l.Record(t.Context(), pull("r", n)); err == nil {
						acknowledged[pull("r", n).Correlation] = true
					} else if !errors.Is(err, errFull) {
						r.Fatal(err)
					}
				case "append":
					n++
					if err := appendAll(l, t.Context(), pull("r", n)); err != nil {
						r.Fatal(err)
					}
					acknowledged[pull("r", n).Correlation] = true
				case "flush":
					if err := l.Flush(t.Context()); err != nil {
						r.Fatal(err)
					}
				}
			}
			// The crash: nothing is flushed, and perhaps a record is half written.
			dead := copied(t, dir)
			if torn := rapid.IntRange(-1, 700).Draw(r, "torn"); torn >= 0 {
				n++
				if l.Note(t.Context(), pull("r", n)) == nil {
					perhaps[pull("r", n).Correlation] = true
					tear(t, dir, dead, torn)
				}
			}
			die(l)
			d.Close()
			dir = dead
		}
		d, err := db.Open(t.Context(), db.Options{Source: filepath.Join(dir, "test.db"), Key: dbtest.Key})
		if err != nil {
			r.Fatal(err)
		}
		defer d.Close()
		l, err := Open(t.Context(), d, Options{Spool: dir, Key: spoolKey, Segment: small, Every: time.Hour})
		if err != nil {
			r.Fatal(err)
		}
		defer l.Close()
		seen := whole(t, events(t, l, Query{Registry: "r"}))
		for c := range acknowledged {
			if seen[c] != 1 {
				r.Fatalf("%s is lost", c)
			}
			delete(seen, c)
		}
		for c := range seen {
			if !perhaps[c] {
				r.Fatalf("%s is there and did not happen", c)
			}
		}
		if damage := events(t, l, Query{}); len(damage) != 0 {
			r.Fatalf("damage after a crash: %+v", damage)
		}
	})
}

// copied is a copy of the files in dir, as a killed process leaves them.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// tear gives the spool files in dead the first n bytes of what is new in dir.
func tear(t *testing.T, dir, dead string, n int) {
	t.Helper()
	for i := range 2 {
		name := fmt.Sprintf("spool-%d", i)
		now, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		was, err := os.ReadFile(filepath.Join(dead, name))
		if err != nil {
			t.Fatal(err)
		}
		for j := range now {
			if now[j] != was[j] {
				if j < headSize {
					break // a header is one write within one page
				}
				copy(was[j:], now[j:min(j+n, len(now))])
				break
			}
		}
		if err := os.WriteFile(filepath.Join(dead, name), was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// stall holds the database's only writer, as a disk does whose fsync is slow.
func stall(t *testing.T, d *db.DB) (release func()) {
	t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { d.Write(t.Context(), func(*db.Tx) error { close(held); <-free; return nil }) })
	<-held
	return func() { close(free); wg.Wait() }
}

func TestASlowDiskDelaysNoNoteAndAFullSpoolRefuses(t *testing.T) {
	d := dbtest.SQLite(t)
	l := open(t, d, Options{Segment: small, Every: time.Millisecond, Wait: 50 * time.Millisecond})
	release := stall(t, d)
	n, longest := 0, time.Duration(0)
	var err error
	for err == nil {
		n++
		start := time.Now()
		err = l.Note(t.Context(), pull("r", n))
		longest = max(longest, time.Since(start))
	}
	if f := fault.From(err); !errors.Is(err, errFull) || f.Code != fault.Unavailable || f.Retry == 0 {
		t.Fatalf("a full spool said %v", err)
	}
	if err := l.Record(t.Context(), pull("r", n)); fault.Of(err) != fault.Unavailable {
		t.Fatalf("a full spool said %v", err)
	}
	if n < 300 || longest > 100*time.Millisecond {
		t.Fatalf("%d notes, the longest took %v", n, longest)
	}
	release()
	eventually(t, "noting works again", func() bool { return l.Note(t.Context(), pull("r", n)) == nil })
	if seen := whole(t, events(t, l, Query{Registry: "r"})); len(seen) != n {
		t.Fatalf("%d events of %d", len(seen), n)
	}
}

func TestReadsThatComeFasterThanTheirRowsAreSlowedDown(t *testing.T) {
	d := dbtest.SQLite(t)
	l := open(t, d, Options{Segment: small, Every: time.Millisecond, Wait: 10 * time.Second})
	release := stall(t, d)
	time.AfterFunc(200*time.Millisecond, release)
	var wg sync.WaitGroup
	var n atomic.Int64
	start := time.Now()
	for range 8 {
		wg.Go(func() {
			for range 250 { // far more than the spool holds
				if err := l.Note(t.Context(), pull("r", int(n.Add(1)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("nobody waited: %v", took)
	}
	if seen := whole(t, events(t, l, Query{Registry: "r"})); len(seen) != 2000 {
		t.Fatalf("%d events of 2000", len(seen))
	}
}

func TestAFullDiskStopsNoReadUntilTheSpoolIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
			t.Fatal(err)
		}
		t.Skipf("needs root to mount a small file system: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d := dbtest.Open(t, filepath.Join(dir, "test.db"))
	defer d.Close()
	o := Options{Spool: dir, Key: spoolKey, Segment: small, Every: time.Millisecond}
	l, err := Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err = nil; err == nil; {
		_, err = filler.Write(make([]byte, 4096))
	}
	n, acknowledged := 0, map[string]bool{}
	ack := func(err error) error {
		if err == nil {
			acknowledged[pull("r", n).Correlation] = true
		}
		return err
	}
	for n = 1; ; n++ {
		do := l.Note
		if n%50 == 0 {
			do = l.Record
		}
		if err = ack(do(t.Context(), pull("r", n))); err != nil {
			break
		}
		if n == 100 { // the process dies, and starts with the disk still full
			die(l)
			if l, err = Open(t.Context(), d, o); err != nil {
				t.Fatalf("start on a full disk: %v", err)
			}
		}
		if n > 100_000 {
			t.Fatal("the disk does not get full")
		}
	}
	if n < 200 || !errors.Is(err, errFull) {
		t.Fatalf("after %d notes: %v", n, err)
	}
	for e, err := range l.Events(t.Context(), Query{Registry: "r"}) {
		if err != nil && !db.IsFull(err) || err == nil && e.Seq == 0 {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	filler.Close()
	n++
	eventually(t, "noting works again", func() bool { return ack(l.Note(t.Context(), pull("r", n))) == nil })
	seen := whole(t, events(t, l, Query{Registry: "r"}))
	for c := range acknowledged {
		if seen[c] != 1 {
			t.Fatalf("%s is lost", c)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageInTheSpoolCostsOnlyWhatItHitAndIsRecorded(t *testing.T) {
	d := dbtest.SQLite(t)
	o := Options{Spool: t.TempDir(), Key: spoolKey, Segment: small, Every: time.Hour}
	l, err := Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		if err := l.Note(t.Context(), pull("r", n)); err != nil {
			t.Fatal(err)
		}
	}
	size := (l.spool.live.end - headSize) / 50
	path := l.spool.live.f.Name()
	die(l)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), headSize+10*size+100)
	f.WriteAt(make([]byte, 2*size), headSize+20*size-8)
	f.Close()

	l = open(t, d, o)
	seen := whole(t, events(t, l, Query{Registry: "r"}))
	if len(seen) != 50-1-3 || seen[pull("r", 9).Correlation] != 1 || seen[pull("r", 10).Correlation] != 0 || seen[pull("r", 49).Correlation] != 1 {
		t.Fatalf("%d events", len(seen))
	}
	if told := events(t, l, Query{}); len(told) != 1 || told[0].Operation != "SpoolDamaged" || told[0].Detail.More["records"] != "4" {
		t.Fatalf("%+v", told)
	}
}

func TestTheSpoolShowsNothingAndOpensWithNoOtherKey(t *testing.T) {
	d := dbtest.SQLite(t)
	o := Options{Spool: t.TempDir(), Key: spoolKey, Segment: small, Every: time.Hour}
	l, err := Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	e := pull("r", 1)
	if err := l.Note(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	die(l)
	for i := range 2 {
		path := filepath.Join(o.Spool, fmt.Sprintf("spool-%d", i))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{e.Correlation, "team/api", string(e.Detail.Digest), "success", string(spoolKey)} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s shows %q", path, secret)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() != small {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	o.Key = bytes.Repeat([]byte{1}, 32)
	for range 2 { // that something is missing is a fact, and has one row
		if l, err = Open(t.Context(), d, o); err != nil {
			t.Fatal(err)
		}
		if got := events(t, l, Query{Registry: "r"}); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		if told := events(t, l, Query{}); len(told) != 1 || told[0].Operation != "SpoolDamaged" || told[0].Detail.More["files"] != "1" {
			t.Errorf("%+v", told)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFailedWriteRepeatsNoNonce(t *testing.T) {
	s, err := openSpool(t.TempDir(), spoolKey, small)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	run, next := s.run, s.live.next
	good := s.live.f
	if s.live.f, err = os.Open(good.Name()); err != nil { // not for writing
		t.Fatal(err)
	}
	if _, _, err := s.write(make([]byte, recHead+100, 200)); err == nil {
		t.Fatal("wrote to a file that cannot be written")
	}
	s.live.f.Close()
	s.live.f = good
	if s.run == run || s.live.next != next {
		t.Fatal("the next record would have the same nonce")
	}
}

func TestAFailedSyncIsFatal(t *testing.T) {
	var fatal error
	l := Ledger{o: Options{Fatal: func(err error) { fatal = err }}}
	r, w, err := os.Pipe() // cannot be synced
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := l.sync(t.Context(), []*os.File{w}); err == nil || fatal == nil {
		t.Fatal("a failed sync was forgiven")
	}
}

// FuzzSpool gives the reader a spool file that somebody has changed: it never
// fails, and never yields anything but what was sealed, in order.
func FuzzSpool(f *testing.F) {
	path := filepath.Join(f.TempDir(), "spool-0")
	var g segment
	if err := g.open(path, spoolKey, 4096); err != nil {
		f.Fatal(err)
	}
	s := spool{secret: spoolKey, size: 4096, live: &g, run: 1}
	if err := g.begin(1, spoolKey); err != nil {
		f.Fatal(err)
	}
	var want []string
	for i := range 12 {
		text := fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte{'x'}, 10*i))
		if _, _, err := s.write(append(make([]byte, recHead, 512), text...)); err != nil {
			f.Fatal(err)
		}
		want = append(want, text)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	g.f.Close()
	f.Add(uint16(0), []byte{}, uint16(0), uint16(0), uint16(0))
	f.Add(uint16(headSize), []byte{0xff, 0xff, 0xff, 0xff}, uint16(64), uint16(200), uint16(100))
	f.Add(uint16(8), binary.LittleEndian.AppendUint64(nil, 2), uint16(0), uint16(4096), uint16(64))
	f.Fuzz(func(t *testing.T, at uint16, with []byte, from, to, n uint16) {
		b := slices.Clone(good)
		clamp := func(i uint16) int { return min(int(i), len(b)) }
		copy(b[clamp(to):], good[clamp(from):min(clamp(from)+int(n), len(b))]) // moved
		copy(b[clamp(at):], with)                                              // overwritten
		var head [headSize]byte
		copy(head[:], b)
		var h segment
		if !h.parse(head, spoolKey) {
			return
		}
		sc := scanner{r: bytes.NewReader(b), aead: h.aead, off: headSize, limit: int64(len(b))}
		last := -1
		for sc.next() {
			i := slices.Index(want, string(sc.record))
			if i <= last || int(sc.index) != i+1 {
				t.Fatalf("%q after %d, index %d", sc.record, last, sc.index)
			}
			parseRecord(sc.record)
			last = i
		}
		if bytes.Equal(b, good) && (last != len(want)-1 || sc.lost != 0) {
			t.Fatalf("of an unchanged file: %d, lost %d", last, sc.lost)
		}
		parseRecord(with)
	})
}
