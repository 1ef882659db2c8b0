package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"breakwater/keys"
)

// A rotation is a copy of what a server has of its platform key, and a command on it.
type rotation struct {
	t       *testing.T
	dir     string
	command []string
}

func newRotation(t *testing.T, from string, command ...string) *rotation {
	t.Helper()
	r := &rotation{t: t, dir: t.TempDir()}
	r.command = append([]string{"platform", "rotate", "--data", r.dir}, command...)
	for i, arg := range r.command {
		if arg == "next.key" {
			r.command[i] = filepath.Join(r.dir, arg)
		}
	}
	for _, name := range []string{"platform.key", "root.sealed"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(r.dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// broken runs the command and breaks it at its n-th write, and says which one that was:
// none, if it has fewer.
func (r *rotation) broken(n int, how verdict) (at string) {
	r.t.Helper()
	// It waits for who starts, and so the tracer is there before anything is written.
	starting, err := flock(filepath.Join(r.dir, "start.lock"), unix.LOCK_EX)
	if err != nil {
		r.t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	var said bytes.Buffer
	c := exec.Command(binary, r.command...)
	c.Args[0] = "breakwater"
	c.Stderr, c.Stdout = &said, &said
	gone, err := traceable(c)
	if err != nil {
		r.t.Fatal(err)
	}
	writes := 0
	tr := trace(r.t, c.Process.Pid, r.dir)
	tr.from(func(_ int, name, path string) verdict {
		if filepath.Base(path) == "start.lock" {
			return verdict{}
		}
		if writes++; writes != n {
			return verdict{}
		}
		at = name + " " + filepath.Base(path)
		return how
	})
	starting.Close()
	<-gone // with an error, if the tracer heard of the end first
	tr.from(nil)
	if done := strings.Contains(said.String(), "Keep a copy of the key"); done != (at == "") {
		r.t.Errorf("broken at %q, it says: %s", at, said.String())
	}
	return at
}

func (r *rotation) opens(key string) (*keys.Root, error) {
	p, err := keys.OpenPlatform(filepath.Join(r.dir, key))
	if err != nil {
		return nil, err
	}
	return keys.OpenRoot(filepath.Join(r.dir, "root.sealed"), p)
}

// A change of the platform key may be killed, or fail, at any write: the file that is
// configured opens the root whenever that is, and the change can be ended.
func TestAChangeOfThePlatformKeyIsBrokenAtEveryWrite(t *testing.T) {
	s := newPatient(t, filepath.Join(t.TempDir(), "data"))
	s.start()
	s.kill()
	whole := newRotation(t, s.data)
	was, err := whole.opens("platform.key")
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(s.data, "platform.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		command []string
		key     string    // the one that is to be configured afterwards
		how     []verdict // in turn
	}{
		{"in place, killed", nil, "platform.key", []verdict{{kill: true}}},
		{"in place, failed", nil, "platform.key", []verdict{{fail: syscall.ENOSPC}, {fail: syscall.EIO}}},
		{"another file, killed", []string{"--new-key", "next.key"}, "next.key", []verdict{{kill: true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			points := 0
			for n := 1; ; n += count("BREAKWATER_TEST_STRIDE", 1) {
				r := newRotation(t, s.data, c.command...)
				at := r.broken(n, c.how[n%len(c.how)])
				if at == "" {
					break
				}
				points++
				now, err := r.opens("platform.key")
				if err != nil && c.key != "platform.key" { // it may be over for the old one
					now, err = r.opens(c.key)
				}
				if err != nil || now.Name() != was.Name() {
					t.Fatalf("at %s: the root is lost: %v", at, err)
				}
				// It goes on where it was, or says how it ends.
				var out bytes.Buffer
				if run(t.Context(), r.command, &out, &out) != success {
					out.Reset()
					if run(t.Context(), []string{"platform", "retire", "--data", r.dir, "--platform-key", filepath.Join(r.dir, c.key)}, &out, &out) != success {
						t.Fatalf("at %s: it cannot be ended: %s", at, out.String())
					}
				}
				after, err := r.opens(c.key)
				if err != nil || after.Name() != was.Name() || len(after.Keys()) != 1 {
					t.Fatalf("at %s: the new key opens %v, %v", at, after, err)
				}
				if err := os.WriteFile(filepath.Join(r.dir, "old.key"), old, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := r.opens("old.key"); err == nil {
					t.Fatalf("at %s: the old key still opens the root", at)
				}
			}
			t.Logf("broken at each of %d writes", points)
			if points*count("BREAKWATER_TEST_STRIDE", 1) < 10 {
				t.Errorf("a change has only %d writes?", points)
			}
		})
	}

	// And the server goes on with what is there in the end.
	var out bytes.Buffer
	if run(t.Context(), []string{"platform", "rotate", "--data", s.data}, &out, &out) != success {
		t.Fatal(out.String())
	}
	s.start()
	if got := knocks(t, s.data); got != http.StatusOK {
		t.Error(fmt.Sprint("the owner's login is answered with ", got))
	}
}
