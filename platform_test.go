package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/db/dbtest"
	"breakwater/keys"
)

// does runs a command that must succeed, and says what it said.
func does(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if run(t.Context(), args, &out, &out) != success {
		t.Fatalf("%s: %s", strings.Join(args, " "), out.String())
	}
	return out.String()
}

// refuses runs a command that must not succeed, and must say why.
func refuses(t *testing.T, why string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if run(t.Context(), args, &out, &out) != failure || !strings.Contains(out.String(), why) {
		t.Errorf("%s: %s", strings.Join(args, " "), out.String())
	}
}

func copied(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err = errors.Join(err, os.WriteFile(to, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// onRecord are the changes of platform keys that the ledger has.
func onRecord(t *testing.T, data string) (all []string) {
	t.Helper()
	for line := range strings.Lines(does(t, "logs", "--category", "Security", "--output", "json", "--owner-file", filepath.Join(data, "owner.json"))) {
		if _, rest, ok := strings.Cut(line, `"operation":"Breakwater.Server/platformKeys/`); ok {
			what, _, _ := strings.Cut(rest, `"`)
			all = append(all, what)
		}
	}
	return all
}

// Servers that share data and a PostgreSQL database share one root, and each has the platform key where
// it wants. They get the new key one after the other, and none of them stops for it.
func TestServersOnPostgreSQLGetANewPlatformKeyOneAfterTheOther(t *testing.T) {
	url, dir := dbtest.PostgresURL(t), t.TempDir()
	data, next := filepath.Join(dir, "data"), filepath.Join(dir, "next.key")
	file := func(i int) string { return filepath.Join(dir, fmt.Sprint("server", i, ".key")) }
	var servers []*patient
	for i := range 2 {
		s := newPatient(t, data, "--database", url, "--platform-key", file(i))
		if i > 0 {
			copied(t, file(0), file(i))
		}
		s.start()
		servers = append(servers, s)
	}
	stranger := []string{"serve", "--data", data, "--database", url, "--listen", "localhost:0", "--ops", "", "--platform-key"}
	answers := func(when string) {
		t.Helper()
		for i, s := range servers {
			if !s.ready() {
				t.Errorf("%s: server %d does not answer", when, i)
			}
		}
		if got := knocks(t, data); got != http.StatusOK {
			t.Errorf("%s: the owner's login is answered with %d", when, got)
		}
	}
	restart := func(i int, key string) {
		t.Helper()
		copied(t, key, file(i))
		servers[i].kill()
		servers[i].start()
	}

	copied(t, file(0), filepath.Join(dir, "old.key"))
	does(t, "platform", "rotate", "--data", data, "--platform-key", file(0), "--new-key", next, "--keep-old")
	answers("both keys open the root")
	restart(0, next)
	answers("one server has the new key")
	restart(1, file(1))
	answers("one server begins with the old key meanwhile")
	restart(1, next)
	does(t, "platform", "retire", "--data", data, "--platform-key", next)
	answers("the old key is retired")
	refuses(t, "does not open the root", append(stranger, filepath.Join(dir, "old.key"))...)

	// At once, for a server that was forgotten: it goes on until it ends, and then says what it wants.
	copied(t, next, filepath.Join(dir, "forgotten.key"))
	does(t, "platform", "rotate", "--data", data, "--platform-key", file(0))
	answers("one server was forgotten")
	servers[1].kill()
	refuses(t, "name that one with --platform-key", append(stranger, file(1))...)
	restart(0, file(0))
	restart(1, file(0))
	answers("both have it")
	if got, want := onRecord(t, data), []string{"made", "admitted", "retired", "admitted", "retired"}; !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("on record: %q, not %q", got, want)
	}

	// Without the root the platform key opens nothing, and nothing is made in its place.
	for _, s := range servers {
		s.kill()
	}
	if err := os.Rename(filepath.Join(data, "root.sealed"), filepath.Join(dir, "root.sealed")); err != nil {
		t.Fatal(err)
	}
	refuses(t, "put it back from a copy", append(stranger, file(0))...)
	elsewhere := t.TempDir()
	refuses(t, "put it back from a copy", "serve", "--data", elsewhere, "--database", url, "--listen", "localhost:0", "--ops", "", "--platform-key", file(0))
	for _, dir := range []string{data, elsewhere} {
		if !absent(filepath.Join(dir, "root.sealed")) {
			t.Error("a root was made for data that has one")
		}
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// A server from before there were roots goes on with its platform key, and gets a root with
// its first start, that another key can then open.
func TestAServerFromBeforeThereWereRootsGetsAnotherPlatformKey(t *testing.T) {
	for name, flags := range map[string]func() []string{
		"SQLite": func() []string { return nil }, "PostgreSQL": func() []string { return []string{"--database", dbtest.PostgresURL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			path, sealed := filepath.Join(data, "platform.key"), filepath.Join(data, "root.sealed")
			if err := os.Mkdir(data, 0o700); err != nil {
				t.Fatal(err)
			}
			key, err := keys.OpenPlatform(path)
			if err != nil {
				t.Fatal(err)
			}
			root, err := keys.OpenRoot(sealed, key) // all follows from the key itself, as it did then
			if err == nil {
				err = root.Keep("the test")
			}
			if err != nil {
				t.Fatal(err)
			}
			s := newPatient(t, data, flags()...)
			s.start()
			s.kill()
			if err := os.Remove(sealed); err != nil {
				t.Fatal(err)
			}
			refuses(t, "start a server of this version", "platform", "rotate", "--data", data)
			s.start()
			if got := knocks(t, data); got != http.StatusOK || absent(sealed) {
				t.Errorf("the owner's login is answered with %d", got)
			}
			copied(t, path, path+".old")
			if said := does(t, "platform", "rotate", "--data", data); !strings.Contains(said, "is the root of this server itself") {
				t.Errorf("it says %s", said)
			}
			s.kill()
			s.start()
			if got := knocks(t, data); got != http.StatusOK {
				t.Errorf("with another platform key the owner's login is answered with %d", got)
			}
			s.kill()
			refuses(t, "does not open the root", append(slices.Clone(s.args), "--platform-key", path+".old")...)
		})
	}
}

// Who puts an older root file back, with the key of then, is let in, as who restores a
// backup is; but not unnoticed. Nor is what happens to the file of a server that runs.
func TestARootFileThatIsNotTheLastIsOnRecord(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := newPatient(t, data)
	s.args = append(s.args, "--config", filepath.Join(t.TempDir(), "server.yaml"))
	if err := os.WriteFile(s.args[len(s.args)-1], []byte("keys:\n  every: 100ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	key, sealed := filepath.Join(data, "platform.key"), filepath.Join(data, "root.sealed")
	copied(t, key, key+".old")
	copied(t, sealed, sealed+".old")
	does(t, "platform", "rotate", "--data", data)
	told := func(n int) {
		t.Helper()
		for range 200 {
			log := does(t, "logs", "--category", "Security", "--output", "json", "--owner-file", filepath.Join(data, "owner.json"))
			if strings.Count(log, `"kind":"key","object":"root"`) == n {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("damage of the root is not on record %d times", n)
	}
	recorded := func(n int) {
		t.Helper()
		for range 200 {
			if len(onRecord(t, data)) == n {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("on record: %q", onRecord(t, data))
	}
	recorded(3)
	told(0)
	if err := os.Remove(sealed); err != nil {
		t.Fatal(err)
	}
	told(1)
	if got := knocks(t, data); got != http.StatusOK {
		t.Errorf("without the file the server that runs answers with %d", got)
	}
	s.kill()
	copied(t, key+".old", key)
	copied(t, sealed+".old", sealed)
	s.start()
	told(2)
	does(t, "platform", "rotate", "--data", data)
	recorded(5)
}
