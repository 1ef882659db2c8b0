package keys_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/keys"
)

// A ground is a directory with a root, and the platform key that opens it.
type ground struct {
	path string
	key  *keys.Platform
	root *keys.Root
}

func newGround(t *testing.T) ground {
	t.Helper()
	g := ground{path: filepath.Join(t.TempDir(), "root.sealed"), key: platform(t)}
	var err error
	if g.root, err = keys.MakeRoot(g.path, g.key, "the test"); err != nil {
		t.Fatal(err)
	}
	return g
}

func follows(a, b interface{ Derive(string) []byte }) bool {
	return bytes.Equal(a.Derive("database"), b.Derive("database"))
}

func refusesKey(t *testing.T, path string, key *keys.Platform) {
	t.Helper()
	if _, err := keys.OpenRoot(path, key); !errors.Is(err, keys.ErrNotItsKey) {
		t.Errorf("the key %s: %v", key.Name(), err)
	}
}

func TestARootIsMadeOnceAndFollowsFromNoKey(t *testing.T) {
	g := newGround(t)
	if info, err := os.Stat(g.path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if follows(g.root, g.key) {
		t.Error("the root is the platform key")
	}
	again, err := keys.OpenRoot(g.path, g.key)
	if err != nil || !follows(again, g.root) {
		t.Errorf("opened again: %v", err)
	}
	if twice, err := keys.MakeRoot(g.path, g.key, "the test"); err != nil || !follows(twice, g.root) {
		t.Errorf("made again: %v, or another root", err)
	}
	if _, err := keys.MakeRoot(g.path, platform(t), "the test"); !errors.Is(err, keys.ErrNotItsKey) {
		t.Errorf("made again with another key: %v", err)
	}
	if other := newGround(t); follows(other.root, g.root) {
		t.Error("two servers have one root")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s"} {
		if s := fmt.Sprintf(verb, g.root); s != "[key]" {
			t.Errorf("%s prints %s", verb, s)
		}
	}
	text, err := os.ReadFile(g.path)
	if err != nil || bytes.Contains(text, g.root.Derive("name")) {
		t.Error("the file tells the root")
	}
}

// While a key takes the place of another, both open the root; afterwards the old one
// opens nothing, and who reads the file only for its changes sees them.
func TestAPlatformKeyTakesThePlaceOfAnother(t *testing.T) {
	g := newGround(t)
	running, err := keys.OpenRoot(g.path, g.key)
	if err != nil {
		t.Fatal(err)
	}
	next := platform(t)
	refusesKey(t, g.path, next)
	if err := g.root.Admit(next, "alice"); err != nil {
		t.Fatal(err)
	}
	if err := g.root.Admit(next, "alice"); err != nil {
		t.Errorf("admitted twice: %v", err)
	}
	for _, key := range []*keys.Platform{g.key, next} {
		r, err := keys.OpenRoot(g.path, key)
		if err != nil || !follows(r, g.root) || !slices.Equal(r.Keys(), []string{g.key.Name(), next.Name()}) || r.Key() != key.Name() {
			t.Fatalf("between: %v, %v", r.Keys(), err)
		}
	}
	after, err := keys.OpenRoot(g.path, next)
	if err != nil {
		t.Fatal(err)
	}
	if retired, err := after.Retire("bob"); err != nil || !slices.Equal(retired, []string{g.key.Name()}) {
		t.Errorf("retired %v, %v", retired, err)
	}
	if retired, err := after.Retire("bob"); err != nil || retired != nil {
		t.Errorf("retired twice: %v, %v", retired, err)
	}
	refusesKey(t, g.path, g.key)
	if r, err := keys.OpenRoot(g.path, next); err != nil || !follows(r, g.root) {
		t.Errorf("after: %v", err)
	}
	changes, n, err := running.Changes()
	var said []string
	for _, c := range changes {
		said = append(said, fmt.Sprint(c.Number, " ", c.What, " ", c.Key, " ", c.By))
	}
	want := []string{"1 made " + g.key.Name() + " the test", "2 admitted " + next.Name() + " alice", "3 retired " + g.key.Name() + " bob"}
	if err != nil || n != 3 || !slices.Equal(said, want) {
		t.Errorf("on record: %q, %d, %v", said, n, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(g.path)); len(left) != 1 {
		t.Errorf("left beside the root: %v", left)
	}
}

// Whatever lies where the next file is written first: nothing is written through it, and
// its mode is not that of the root.
func TestADraftOfARootThatIsThereIsNotWrittenTo(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for name, put := range map[string]func(draft string) error{
		"a file that others may read": func(draft string) error {
			return errors.Join(os.WriteFile(draft, []byte("half"), 0o600), os.Chmod(draft, 0o644))
		},
		"a symbolic link": func(draft string) error {
			return errors.Join(os.WriteFile(elsewhere, []byte("precious"), 0o600), os.Symlink(elsewhere, draft))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			if err := put(g.path + ".new"); err != nil {
				t.Fatal(err)
			}
			next := platform(t)
			if err := g.root.Admit(next, "alice"); err != nil {
				t.Fatal(err)
			}
			if _, err := keys.OpenRoot(g.path, next); err != nil {
				t.Error(err)
			}
		})
	}
	if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "precious" {
		t.Errorf("elsewhere there is %q, %v", b, err)
	}
}

// A server from before there were roots has its platform key for one, and goes on with it
// when the platform key is another.
func TestTheKeyOfAnOldServerIsItsRoot(t *testing.T) {
	path, key, next := filepath.Join(t.TempDir(), "root.sealed"), platform(t), platform(t)
	r, err := keys.OpenRoot(path, key)
	if err != nil || r.Kept() || !follows(r, key) {
		t.Fatalf("without a file: %v", err)
	}
	if _, n, err := r.Changes(); n != 0 || err != nil {
		t.Errorf("%d changes, %v", n, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("opening made a file")
	}
	if err := errors.Join(r.Keep("the test"), r.Admit(next, "alice")); err != nil {
		t.Fatal(err)
	}
	after, err := keys.OpenRoot(path, next)
	if err != nil || !follows(after, key) {
		t.Fatalf("with the new key: %v", err)
	}
	if _, err := after.Retire("alice"); err != nil {
		t.Fatal(err)
	}
	refusesKey(t, path, key)
}

func TestARootFileThatIsNotWhatWasWrittenIsRefused(t *testing.T) {
	g := newGround(t)
	first, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.root.Admit(platform(t), "alice"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(what string, bad []byte) {
		t.Helper()
		if err := os.WriteFile(g.path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenRoot(g.path, g.key); err == nil {
			t.Errorf("%s: opened", what)
		} else if !strings.Contains(err.Error(), g.path) {
			t.Errorf("%s: it does not say where: %v", what, err)
		}
		if _, _, err := g.root.Changes(); err == nil {
			t.Errorf("%s: its changes were believed", what)
		}
		if is, _ := os.ReadFile(g.path); !bytes.Equal(is, bad) {
			t.Errorf("%s: the file was changed", what)
		}
	}
	for i := range text {
		refuses(fmt.Sprint("byte ", i), slices.Concat(text[:i], []byte{text[i] ^ 1}, text[i+1:]))
	}
	for _, n := range []int{0, 1, len(text) / 2, len(text) - 1} {
		refuses(fmt.Sprint("cut to ", n), text[:n])
	}
	refuses("grown", append(slices.Clone(text), '\n'))
	refuses("of a later version", bytes.Replace(text, []byte("{\n"), []byte("{\n  \"later\": true,\n"), 1))
	refuses("signed by somebody else", bytes.Replace(text, []byte(`"alice"`), []byte(`"mallory"`), 1))
	refuses("endless", bytes.Repeat([]byte(" "), 1<<17))
	other, err := os.ReadFile(newGround(t).path)
	if err != nil {
		t.Fatal(err)
	}
	refuses("of another server", other)

	// An older file of the same server is one of its files: who has it and its key is let in.
	if err := os.WriteFile(g.path, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := keys.OpenRoot(g.path, g.key); err != nil || !follows(r, g.root) {
		t.Errorf("an older file: %v", err)
	}
	if err := os.Chmod(g.path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenRoot(g.path, g.key); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("readable by others: %v", err)
	}
	if err := os.Remove(g.path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.root.Changes(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is gone: %v", err)
	}
}

// Two servers may have one platform key; the root of one opens nothing of the other.
func TestRingsTellWhoseRootTheyFollowFrom(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a, b := newGround(t), newGround(t)
		rings := keys.NewRings(d, a.root)
		if stored, err := keys.Stored(t.Context(), d); err != nil || stored {
			t.Errorf("stored %v, %v", stored, err)
		}
		if err := keys.NewRings(d, b.root).Fit(t.Context()); err != nil {
			t.Errorf("nothing is stored: %v", err)
		}
		for _, uid := range []string{"one", "two"} {
			if err := d.Write(t.Context(), func(tx *db.Tx) error { return rings.Create(t.Context(), tx, uid) }); err != nil {
				t.Fatal(err)
			}
		}
		if stored, err := keys.Stored(t.Context(), d); err != nil || !stored {
			t.Errorf("stored %v, %v", stored, err)
		}
		fit := func(r *keys.Root) error { return keys.NewRings(d, r).Fit(t.Context()) }
		if err := fit(a.root); err != nil {
			t.Error(err)
		}
		if err := fit(b.root); !errors.Is(err, keys.ErrDamaged) {
			t.Errorf("another root: %v", err)
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE keyring SET wrapped = $1 WHERE registry = 'one'`, []byte("damaged"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := fit(a.root); err != nil {
			t.Errorf("one key is damaged: %v", err)
		}
	})
}

func TestRootVectorOfTheDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(doc), "\n```root\n")
	body, _, ok := strings.Cut(body, "```")
	head, file, found := strings.Cut(body, "\n{")
	if !ok || !found {
		t.Fatal("docs/format.md has no vector of a root")
	}
	var key, want []byte
	var purpose string
	if _, err := fmt.Sscanf(head, "platform key: %x\npurpose: %s\nderived: %x", &key, &purpose, &want); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "key"), key, 0o600), os.WriteFile(filepath.Join(dir, "root"), []byte("{"+file), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, err := keys.OpenPlatform(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := keys.OpenRoot(filepath.Join(dir, "root"), p)
	if err != nil || !bytes.Equal(r.Derive(purpose), want) {
		t.Errorf("the root of the document: %v, or another one", err)
	}
}
