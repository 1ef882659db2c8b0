//go:build linux

package object_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"breakwater/fault"
	"breakwater/object"
)

// small mounts a file system of a few megabytes in memory; only root can.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,nr_inodes=400"); err != nil {
		skip(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	d, err := object.NewDisk(small(t), func(err error) { t.Error("fatal:", err) })
	if err != nil {
		t.Fatal(err)
	}
	kept := object.NewKey()
	if _, err := d.Put(t.Context(), kept, strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	large := bytes.NewReader(make([]byte, 8<<20))
	_, err = d.Put(t.Context(), object.NewKey(), large)
	if fault.Of(err) != fault.StorageFull || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("put of more than fits: %v; want StorageFull", err)
	}
	if _, err := d.Put(t.Context(), object.NewKey(), strings.NewReader("fits again")); err != nil {
		t.Errorf("put after the refusal: %v", err)
	}
	o, err := d.Open(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size())); err != nil || string(b) != "kept" {
		t.Errorf("read: %q, %v", b, err)
	}
	n := 0
	for range d.List(t.Context(), "") {
		n++
	}
	if n != 2 {
		t.Errorf("%d objects lie on the disk, want 2", n)
	}
}

func TestDiskWithoutInodesRefuses(t *testing.T) {
	d, err := object.NewDisk(small(t), func(err error) { t.Error("fatal:", err) })
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		if _, err = d.Put(t.Context(), object.NewKey(), strings.NewReader("")); err != nil {
			break
		}
	}
	if fault.Of(err) != fault.StorageFull {
		t.Errorf("put: %v; want StorageFull", err)
	}
}

func TestReadOnlyDiskStillReads(t *testing.T) {
	dir := small(t)
	d, err := object.NewDisk(dir, func(err error) { t.Error("fatal:", err) })
	if err != nil {
		t.Fatal(err)
	}
	key := object.NewKey()
	if _, err := d.Put(t.Context(), key, strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), object.NewKey(), strings.NewReader("x")); fault.Of(err) != fault.Unavailable {
		t.Errorf("put: %v; want Unavailable", err)
	}
	if err := d.Delete(t.Context(), key); fault.Of(err) != fault.Unavailable {
		t.Errorf("delete: %v; want Unavailable", err)
	}
	o, err := d.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	if _, err := object.NewDisk(dir, nil); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// TestPutInChild is what the test below runs under strace; alone it does nothing.
func TestPutInChild(t *testing.T) {
	dir := os.Getenv("OBJECT_TEST_DIR")
	if dir == "" {
		return // not as a child
	}
	d, err := object.NewDisk(dir, func(err error) { t.Log("FATAL:", err) })
	if err != nil {
		t.Fatal(err)
	}
	size, err := d.Put(t.Context(), os.Getenv("OBJECT_TEST_KEY"), bytes.NewReader(make([]byte, 100_000)))
	t.Log("PUT:", size, fault.Of(err), err)
	for info := range d.List(t.Context(), "") {
		t.Log("LEFT:", info)
	}
}

// Each system call of a Put fails in turn, as a disk makes it fail.
func TestFailedSystemCallNeverPassesForDurable(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		skip(t, "strace is not installed")
	}
	for _, c := range []struct {
		name, inject string
		say          string
		fatal        bool
	}{
		{"nothing fails", "fsync:error=EIO:when=3", "PUT: 100000 Internal <nil>", false},
		{"write, no space", "write:error=ENOSPC:when=1", "PUT: 0 StorageFull", false},
		{"write, no quota", "write:error=EDQUOT:when=1", "PUT: 0 StorageFull", false},
		{"write, broken", "write:error=EIO:when=1", "PUT: 0 Unavailable", false},
		{"fsync of the file, broken", "fsync:error=EIO:when=1", "PUT: 0 Unavailable", true},
		{"fsync of the file, no space", "fsync:error=ENOSPC:when=1", "PUT: 0 StorageFull", false},
		{"fsync of the directory, broken", "fsync:error=EIO:when=1", "PUT: 0 Unavailable", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := object.NewDisk(dir, nil); err != nil {
				t.Fatal(err)
			}
			// Only the calls on the object, or on its directory, fail: strace counts for
			// each thread by itself, so the first is all that can be told.
			key := object.NewKey()
			path := filepath.Join(dir, key)
			if strings.Contains(c.name, "directory") {
				path = filepath.Dir(path)
			}
			args := []string{"-f", "-qq", "-o", os.DevNull, "-P", path,
				"-e", "trace=write,fsync", "-e", "inject=" + c.inject}
			child := exec.Command(strace, append(args, os.Args[0], "-test.run=^TestPutInChild$", "-test.v")...)
			child.Env = append(os.Environ(), "OBJECT_TEST_DIR="+dir, "OBJECT_TEST_KEY="+key)
			out, err := child.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), c.say) || strings.Contains(string(out), "FATAL:") != c.fatal || c.name != "nothing fails" && strings.Contains(string(out), "LEFT:") {
				t.Errorf("want %q, fatal %v:\n%s", c.say, c.fatal, out)
			}
		})
	}
}
