package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"breakwater/db/dbtest"
)

// knocks says how the registry answers the owner's login.
func knocks(t *testing.T, data string) int {
	t.Helper()
	owner, err := dial(filepath.Join(data, "owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, owner.Server+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.SetBasicAuth(owner.Username, owner.Password)
	r, err := owner.http.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	return r.StatusCode
}

// A first start may be killed at any moment; the next one finishes what it began,
// and the login in owner.json works.
func TestAFirstStartThatIsKilledHeals(t *testing.T) {
	whole := 300 * time.Millisecond // about as long as a first start takes
	for i := range 20 {
		data := filepath.Join(t.TempDir(), "data")
		s := newPatient(t, data)
		for kills := range 2 {
			c := launch(t, s)
			time.Sleep(whole * time.Duration(2*i+kills+1) / 40)
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		s.start()
		if got := knocks(t, data); got != http.StatusOK {
			t.Fatalf("round %d: the owner's login is answered with %d", i, got)
		}
		if _, err := os.Stat(filepath.Join(data, "owner.json.new")); !os.IsNotExist(err) {
			t.Fatalf("round %d: an unfinished login is left: %v", i, err)
		}
		s.kill()
	}
}

// The moment between a new owner and the file with the login is short, and the
// one that would lock everybody out.
func TestALoginThatWasNeverWrittenIsMadeAgain(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := newPatient(t, data)
	s.start()
	s.kill()
	path := filepath.Join(data, "owner.json")
	lost, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".new"); err != nil {
		t.Fatal(err)
	}
	s.start()
	found, err := os.ReadFile(path)
	if err != nil || bytes.Equal(lost, found) {
		t.Fatalf("the login was not made again: %v", err)
	}
	if got := knocks(t, data); got != http.StatusOK {
		t.Errorf("the new login is answered with %d", got)
	}
	if err := os.WriteFile(path, lost, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := knocks(t, data); got != http.StatusUnauthorized {
		t.Errorf("the lost login is answered with %d", got)
	}
}

// Who takes owner.json away has the login; the server does not make another.
func TestALoginThatWasTakenAwayStaysAway(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := newPatient(t, data)
	s.start()
	s.kill()
	path := filepath.Join(data, "owner.json")
	taken := filepath.Join(t.TempDir(), "owner.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(taken, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	ended(t, s, launch(t, s), func() {
		if run(t.Context(), []string{"registry", "show", "--owner-file", taken}, &out, &errs) != success {
			t.Error(errs.String())
		}
	})
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("owner.json is back: %v", err)
	}
}

// launch begins a start.
func launch(t *testing.T, s *patient) *exec.Cmd {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(binary, s.args...)
	c.Args[0] = "breakwater"
	c.Stderr, c.Stdout = s.log, s.log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Process.Kill(), c.Wait() }) // nothing, if it has ended
	return c
}

// ended waits until a launched server is ready, and ends it politely.
func ended(t *testing.T, s *patient, c *exec.Cmd, do func()) {
	t.Helper()
	for begun := time.Now(); !s.ready(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			_ = c.Process.Kill()
			_ = c.Wait()
			t.Fatal("the server is not ready")
		}
	}
	do()
	_ = c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("asked to stop, the server ended with %v", err)
	}
}

func TestAServerThatIsAskedToStopEndsWithSuccess(t *testing.T) {
	s := newPatient(t, filepath.Join(t.TempDir(), "data"))
	ended(t, s, launch(t, s), func() {})
}

func TestTheOwnersFileFollowsTheAddress(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := newPatient(t, data)
	s.start()
	before, err := readLogin(filepath.Join(data, "owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	s.kill()
	elsewhere := newPatient(t, data)
	elsewhere.start()
	after, err := readLogin(filepath.Join(data, "owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	if after.Server == before.Server || after.Password != before.Password {
		t.Errorf("before %s, after %s, the same password: %v", before.Server, after.Server, after.Password == before.Password)
	}
	if got := knocks(t, data); got != http.StatusOK {
		t.Errorf("the login is answered with %d", got)
	}
}

func TestASecondServerOnTheSameDataRefuses(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := newPatient(t, data)
	s.start()
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"serve", "--data", data, "--listen", "localhost:0", "--ops", ""}, &out, &errs)
	if status != failure || !strings.Contains(errs.String(), "in use") || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("status %d: %s", status, errs.String())
	}
	if got := knocks(t, data); got != http.StatusOK {
		t.Errorf("the first one answers with %d", got)
	}
}

// Several processes may share a PostgreSQL database and a data directory; also
// when all of them start for the first time at once.
func TestServersThatStartAtOnceOnPostgreSQLMakeOneRegistry(t *testing.T) {
	url := dbtest.PostgresURL(t)
	data := filepath.Join(t.TempDir(), "data")
	var servers []*patient
	var launched []*exec.Cmd
	for i := range 3 {
		servers = append(servers, newPatient(t, data, "--database", url))
		launched = append(launched, launch(t, servers[i]))
	}
	for i, s := range servers {
		ended(t, s, launched[i], func() {
			l, err := readLogin(filepath.Join(data, "owner.json"))
			if err != nil {
				t.Fatal(err)
			}
			l.Server = "https://" + s.args[4]
			path := filepath.Join(t.TempDir(), "owner.json")
			if err := writeLogin(path+".new", path, l); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			if run(t.Context(), []string{"registry", "show", "--owner-file", path}, &out, &errs) != success {
				t.Errorf("%s: %s", l.Server, errs.String())
			}
		})
	}
}

func TestAForeignPlatformKeyIsRefusedAtTheStart(t *testing.T) {
	url := dbtest.PostgresURL(t)
	s := newPatient(t, filepath.Join(t.TempDir(), "data"), "--database", url)
	s.start()
	s.kill()
	var out, errs bytes.Buffer
	status := run(t.Context(), []string{"serve", "--data", t.TempDir(), "--database", url, "--listen", "localhost:0", "--ops", ""}, &out, &errs)
	if status != failure || !strings.Contains(errs.String(), "platform") {
		t.Errorf("status %d: %s", status, errs.String())
	}
}

// Without its key the data is noise. A new key would only hide that the old one
// is missing.
func TestAServerWithoutItsPlatformKeyRefuses(t *testing.T) {
	data, key := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "key")
	s := newPatient(t, data, "--platform-key", key)
	s.start()
	s.kill()
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	serve := []string{"serve", "--data", data, "--listen", "localhost:0", "--ops", "", "--platform-key", key}
	if status := run(t.Context(), serve, &out, &errs); status != failure || !strings.Contains(errs.String(), "put it back") {
		t.Errorf("status %d: %s", status, errs.String())
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("it made another key")
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	s.start()
	if got := knocks(t, data); got != http.StatusOK {
		t.Errorf("with the key again the login is answered with %d", got)
	}
}
