package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"

	"breakwater/fault"
)

var testKey = []byte("0123456789abcdefFEDCBA9876543210")

func openTest(t testing.TB, file string, base vfs.VFS, fatal func(error)) *DB {
	t.Helper()
	e, err := openSQLite(t.Context(), Options{Source: file, Key: testKey, Readers: 2, Fatal: fatal}, base)
	if err != nil {
		t.Fatal(err)
	}
	return &DB{SQLite, e}
}

func must(t testing.TB, d *DB, text string, args ...any) {
	t.Helper()
	if err := exec1(t.Context(), d, text, args...); err != nil {
		t.Fatal(err)
	}
}

func exec1(ctx context.Context, d *DB, text string, args ...any) error {
	return d.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, text, args...)
		return err
	})
}

func ids(t testing.TB, d *DB) map[int]bool {
	t.Helper()
	rows, err := d.Query(t.Context(), `SELECT id FROM t`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := make(map[int]bool)
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		all[id] = true
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return all
}

// TestAcknowledgedWritesSurviveKill kills a process that writes, again and again
// on one file, and looks for each write that it acknowledged.
func TestAcknowledgedWritesSurviveKill(t *testing.T) {
	const workers = 8
	if file := os.Getenv("DB_TEST_KILLED"); file != "" {
		d := openTest(t, file, vfs.Find("os"), nil)
		for w := range workers {
			go func() {
				for id := w + int(time.Now().UnixMicro())*workers; ; id += workers {
					if err := exec1(t.Context(), d, `INSERT INTO t VALUES ($1, $2)`, id, strings.Repeat("x", id%2000)); err != nil {
						fmt.Println("failed:", err)
					}
					fmt.Println(id)
				}
			}()
		}
		select {}
	}
	cycles := 20
	if testing.Short() {
		cycles = 3
	}
	file := filepath.Join(t.TempDir(), "killed.db")
	d := openTest(t, file, vfs.Find("os"), nil)
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT`)
	acknowledged := 0
	for cycle := range cycles {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestAcknowledgedWritesSurviveKill$")
		child.Env = append(os.Environ(), "DB_TEST_KILLED="+file)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(out, first); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(rand.N(150*time.Millisecond), func() { child.Process.Kill() })
		rest, _ := io.ReadAll(out)
		child.Wait()
		lines := strings.Split(string(first)+string(rest), "\n")
		d = openTest(t, file, vfs.Find("os"), nil)
		have := ids(t, d)
		for _, line := range lines[:len(lines)-1] {
			var id int
			if _, err := fmt.Sscan(line, &id); err != nil || !have[id] {
				t.Fatalf("cycle %d: acknowledged %q is lost", cycle, line)
			}
			acknowledged++
		}
	}
	var verdict string
	if err := d.QueryRow(t.Context(), `PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		t.Error(verdict, err)
	}
	t.Logf("%d acknowledged writes in %d lives", acknowledged, cycles)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// faulty is the operating system's VFS, whose n-th write or sync from now fails.
type faulty struct {
	vfs.VFS
	left atomic.Int64 // operations until one fails; below 0 none does
	kind string       // the operation that fails
	with error
	hits atomic.Int64
}

func (v *faulty) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := vfsutil.WrapOpenFilename(v.VFS, name, flags)
	if err != nil {
		return nil, flags, err
	}
	return &faultyFile{f, v}, flags, nil
}

func (v *faulty) fail(kind string) error {
	if v.left.Load() < 0 || kind != v.kind || v.left.Add(-1) != -1 {
		return nil
	}
	v.hits.Add(1)
	return v.with
}

type faultyFile struct {
	vfs.File
	vfs *faulty
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.vfs.fail("write"); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off) // torn
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultyFile) Sync(flags vfs.SyncFlag) error {
	if err := f.vfs.fail("sync"); err != nil {
		return err
	}
	return f.File.Sync(flags)
}

func (f *faultyFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }

// TestEveryFailingWriteIsRefusedAndHealed makes each write system call of a
// workload fail in turn: the write concerned is refused, reads go on, the next
// write works, and after a restart there is exactly what was acknowledged.
func TestEveryFailingWriteIsRefusedAndHealed(t *testing.T) {
	for _, with := range []error{vfs.SystemError(syscall.ENOSPC, sqlite3.FULL), syscall.EIO} {
		for n := int64(0); ; n++ {
			base := &faulty{VFS: vfs.Find("os"), kind: "write", with: with}
			base.left.Store(-1)
			file := filepath.Join(t.TempDir(), "faulty.db")
			d := openTest(t, file, base, func(err error) { t.Error(err) })
			must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB) STRICT`)
			base.left.Store(n)
			want := make(map[int]bool)
			for id := range 6 {
				err := exec1(t.Context(), d, `INSERT INTO t VALUES ($1, $2)`, id, bytes.Repeat([]byte{1}, 3000*id))
				want[id] = err == nil
				if err != nil && (IsFull(err) != (with != syscall.EIO) || IsBusy(err) != (with == syscall.EIO)) {
					t.Errorf("write %d: %v", n, err)
				}
				if code := fault.Of(err); err != nil && code != fault.StorageFull && code != fault.Unavailable {
					t.Errorf("write %d: %v", n, code)
				}
				if have := ids(t, d); have[id] != want[id] {
					t.Fatalf("write %d: row %d: %v, %v", n, id, have[id], err)
				}
			}
			base.left.Store(-1)
			must(t, d, `INSERT INTO t VALUES (100, NULL)`)
			want[100] = true
			if err := d.Close(); err != nil {
				t.Errorf("write %d: %v", n, err)
			}
			d = openTest(t, file, base, nil)
			have := ids(t, d)
			for id, there := range want {
				if have[id] != there {
					t.Errorf("write %d: row %d is there: %v", n, id, have[id])
				}
			}
			d.Close()
			if base.hits.Load() == 0 {
				t.Logf("%d writes failed with %v", n, with)
				break
			}
		}
	}
}

// TestAFailedFsyncStopsEverything: after it, Linux takes the lost pages for clean.
func TestAFailedFsyncStopsEverything(t *testing.T) {
	base := &faulty{VFS: vfs.Find("os"), kind: "sync", with: syscall.EIO}
	base.left.Store(-1)
	var fatal atomic.Int64
	file := filepath.Join(t.TempDir(), "faulty.db")
	d := openTest(t, file, base, func(error) { fatal.Add(1) })
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY) STRICT`)
	must(t, d, `INSERT INTO t VALUES (1)`)
	base.left.Store(0)
	var wg sync.WaitGroup
	for id := range 8 {
		wg.Go(func() {
			if exec1(t.Context(), d, `INSERT INTO t VALUES ($1)`, 10+id) == nil {
				t.Error("a write was acknowledged")
			}
		})
	}
	wg.Wait()
	if err := exec1(t.Context(), d, `INSERT INTO t VALUES (2)`); err == nil || fatal.Load() != 1 {
		t.Errorf("%v, fatal %d times", err, fatal.Load())
	}
	if !ids(t, d)[1] {
		t.Error("reads do not go on")
	}
	d.Close()
	d = openTest(t, file, vfs.Find("os"), nil)
	if !ids(t, d)[1] {
		t.Error("the acknowledged row is lost")
	}
	d.Close()
}

func TestAFullDiskRefusesAndRecovers(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs a small file system: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	d := openTest(t, filepath.Join(dir, "full.db"), vfs.Find("os"), func(err error) { t.Error(err) })
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB) STRICT`)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 50_000)
	var err error
	last := 0
	for err == nil {
		last++
		err = exec1(t.Context(), d, `INSERT INTO t VALUES ($1, $2)`, last, body)
	}
	if !IsFull(err) || fault.Of(err) != fault.StorageFull {
		t.Fatal(err)
	}
	for range 3 {
		if have := ids(t, d); len(have) != last-1 {
			t.Errorf("%d rows of %d", len(have), last-1)
		}
		if err := exec1(t.Context(), d, `INSERT INTO t VALUES ($1, $2)`, 10*last, make([]byte, 3_000_000)); !IsFull(err) {
			t.Error(err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	must(t, d, `DELETE FROM t WHERE id < $1`, last/2)
	for id := range last / 4 {
		must(t, d, `INSERT INTO t VALUES ($1, $2)`, 1000+id, body)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFlippedBitIsAnErrorAndNotAnAnswer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "flipped.db")
	d := openTest(t, file, vfs.Find("os"), nil)
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB) STRICT`)
	for id := range 20 {
		must(t, d, `INSERT INTO t VALUES ($1, $2)`, id, bytes.Repeat([]byte("secret content! "), 500))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(whole, []byte("secret")) || bytes.Contains(whole, []byte("SQLite")) || bytes.Contains(whole, []byte("CREATE")) {
		t.Error("the file is not encrypted")
	}
	for page := pageSize; page < len(whole); page += pageSize {
		broken := bytes.Clone(whole)
		broken[page+rand.N(pageSize)] ^= 1 << rand.N(8)
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := openSQLite(t.Context(), Options{Source: file, Key: testKey}, vfs.Find("os"))
		if err == nil {
			e.close()
			t.Fatalf("a flipped bit in page %d was not seen", page/pageSize+1)
		}
	}
}

func TestNeitherKeyNorContentLeaks(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a b?c%20d&vfs=os#.db")
	d := openTest(t, file, vfs.Find("os"), nil)
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT) STRICT`)
	must(t, d, `INSERT INTO t VALUES (1, $1)`, strings.Repeat("customer content ", 1000))
	found, err := os.ReadDir(dir)
	if err != nil || len(found) != 3 {
		t.Error(found, err)
	}
	for _, f := range found {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		info, err2 := f.Info()
		if err != nil || err2 != nil || info.Mode().Perm() != 0o600 {
			t.Error(f.Name(), info.Mode(), err, err2)
		}
		if bytes.Contains(raw, []byte("customer")) || bytes.Contains(raw, testKey) || bytes.Contains(raw, []byte("SQLite format")) {
			t.Errorf("%s shows content", f.Name())
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for what, o := range map[string]Options{
		"another key": {Source: file, Key: bytes.Repeat([]byte("K"), 32)},
		"a short key": {Source: file, Key: []byte("KKKKKKKKKK")},
		"no folder":   {Source: filepath.Join(dir, "none", "x.db"), Key: testKey},
	} {
		_, err := Open(t.Context(), o)
		if err == nil || strings.Contains(err.Error(), "KKK") || strings.Contains(err.Error(), string(testKey)) || strings.Contains(err.Error(), "4b4b") {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: %v", what, err)
	}
	_, err = Open(t.Context(), Options{Source: "postgres://user:pass%zz@[/x"})
	if err == nil || strings.Contains(err.Error(), "zz") {
		t.Error(err)
	}
}

// TestOneWhoFailsAtTheCommitFailsAlone shares a transaction among writes of
// which one violates a foreign key that is checked at the commit only.
func TestOneWhoFailsAtTheCommitFailsAlone(t *testing.T) {
	d := openTest(t, filepath.Join(t.TempDir(), "shared.db"), vfs.Find("os"), nil)
	defer d.Close()
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED) STRICT`)
	w := d.engine.(*lite).writer
	var runs atomic.Int64
	var wg sync.WaitGroup
	holds, gathered := make(chan struct{}), make(chan struct{})
	held := sync.OnceFunc(func() { close(holds) })
	wg.Go(func() { // holds the turn until the others queue
		if err := d.Write(t.Context(), func(tx *Tx) error { held(); <-gathered; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-holds
	cancelled, cancel := context.WithCancel(t.Context())
	for id := range 10 {
		wg.Go(func() {
			ctx := t.Context()
			if id == 7 {
				ctx = cancelled
			}
			err := d.Write(ctx, func(tx *Tx) error {
				runs.Add(1)
				var parent any
				if id == 4 {
					parent = 12345
				}
				_, err := tx.Exec(t.Context(), `INSERT INTO t VALUES ($1, $2)`, id, parent)
				if id == 5 {
					return io.EOF
				}
				return err
			})
			switch {
			case id == 4 && !IsForeignKey(err), id == 5 && err != io.EOF, id == 7 && err != context.Canceled,
				id != 4 && id != 5 && id != 7 && err != nil:
				t.Errorf("write %d: %v", id, err)
			}
		})
	}
	queued := func(n int) {
		for have := -1; have != n; time.Sleep(time.Millisecond) {
			w.mu.Lock()
			have = len(w.queue)
			w.mu.Unlock()
		}
	}
	queued(10)
	cancel()
	queued(9)
	close(gathered)
	wg.Wait()
	if have := ids(t, d); len(have) != 7 || have[4] || have[5] || have[7] {
		t.Error(have)
	}
	t.Logf("10 writes ran %d times", runs.Load())
}

func TestTheLogStaysSmallAndTextsAreForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log.db")
	d := openTest(t, file, vfs.Find("os"), nil)
	must(t, d, `CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB) STRICT`)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ids(t, d)
				}
			}
		})
	}
	body := make([]byte, 200_000)
	for i := range 600 { // 120 MB through the log
		must(t, d, fmt.Sprintf(`INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body, id = %d - %d + $1`, i, i), i%20, body)
	}
	close(stop)
	readers.Wait()
	info, err := os.Stat(file + "-wal")
	if err != nil || info.Size() > 100<<20 {
		t.Errorf("the log has %d bytes: %v", info.Size(), err)
	}
	t.Logf("the log has %d MiB", info.Size()>>20)
	if n := len(d.engine.(*lite).writer.c.stmts); n > stmtsMax {
		t.Errorf("%d prepared statements", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := exec1(t.Context(), d, `SELECT 1`); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if err := d.QueryRow(t.Context(), `SELECT 1`).Scan(new(int)); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestSQLiteIsNewEnough(t *testing.T) {
	d := openTest(t, filepath.Join(t.TempDir(), "version.db"), vfs.Find("os"), nil)
	defer d.Close()
	var version string
	var a, b, c int
	if err := d.QueryRow(t.Context(), `SELECT sqlite_version()`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	fmt.Sscanf(version, "%d.%d.%d", &a, &b, &c)
	if a*1_000_000+b*1000+c < 3_051_003 {
		t.Errorf("SQLite %s has the WAL-reset bug", version)
	}
	t.Log(version)
}
