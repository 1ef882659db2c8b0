package keys_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/keys"
)

func platform(t *testing.T) *keys.Platform {
	t.Helper()
	p, err := keys.OpenPlatform(filepath.Join(t.TempDir(), "platform.key"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlatformKeyIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "platform.key")
	p, err := keys.OpenPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != keys.Size || info.Mode() != 0o600 {
		t.Fatalf("the file is %v, %v", info, err)
	}
	again, err := keys.OpenPlatform(path)
	if err != nil || !bytes.Equal(p.Derive("database"), again.Derive("database")) {
		t.Errorf("opened again: %v, or another key", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside the key: %v, %v", entries, err)
	}
	if bytes.Equal(p.Derive("database"), p.Derive("token-check")) || bytes.Equal(p.Derive("database"), platform(t).Derive("database")) {
		t.Error("two purposes or two platforms have one key")
	}
}

func TestProcessesThatStartTogetherGetOnePlatformKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.key")
	derived := make([]string, 8)
	var wg sync.WaitGroup
	for i := range derived {
		wg.Go(func() {
			p, err := keys.OpenPlatform(path)
			if err != nil {
				t.Error(err)
				return
			}
			derived[i] = string(p.Derive("x"))
		})
	}
	wg.Wait()
	for _, d := range derived {
		if d != derived[0] {
			t.Fatal("two keys")
		}
	}
}

func TestPlatformKeyThatIsNotSafeIsRefused(t *testing.T) {
	key := []byte(strings.Repeat("k", keys.Size))
	for _, c := range []struct {
		name string
		mode fs.FileMode
		key  []byte
		ok   bool
	}{
		{"owner only", 0o600, key, true},
		{"owner reads", 0o400, key, true},
		{"group reads", 0o640, key, false},
		{"world reads", 0o604, key, false},
		{"group writes", 0o620, key, false},
		{"empty", 0o600, nil, false},
		{"short", 0o600, key[1:], false},
		{"long", 0o600, append([]byte("\n"), key...), false},
	} {
		path := filepath.Join(t.TempDir(), "platform.key")
		if err := errors.Join(os.WriteFile(path, c.key, c.mode), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := keys.OpenPlatform(path)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, c.key) {
			t.Errorf("%s: the file was changed", c.name)
		}
		if err != nil && strings.Contains(err.Error(), "kkkk") {
			t.Errorf("%s: the error tells the key: %v", c.name, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link.key")
	if err := errors.Join(os.WriteFile(link+".real", key, 0o600), os.Symlink(link+".real", link)); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenPlatform(link); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a link: %v", err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(link+".real", 0, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenPlatform(link + ".real"); err != nil {
			t.Errorf("of root: %v", err)
		}
		if err := os.Chown(link+".real", 12345, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenPlatform(link + ".real"); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("of another user: %v", err)
		}
	}
	if _, err := keys.OpenPlatform(t.TempDir()); err == nil {
		t.Error("a directory was taken for a key")
	}
	if _, err := keys.OpenPlatform(filepath.Join(t.TempDir(), "missing", "platform.key")); err == nil {
		t.Error("a directory was made")
	}
}

func TestWhatIsWrappedUnwrapsOnlyForItsPlace(t *testing.T) {
	p, secret := platform(t), []byte("a secret of some length")
	w, err := p.Wrap(t.Context(), "registry/a/1", secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Unwrap(t.Context(), w); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap: %q, %v", got, err)
	}
	if bytes.Contains(w.Data, secret) {
		t.Error("the secret is visible")
	}
	if twice, _ := p.Wrap(t.Context(), "registry/a/1", secret); bytes.Equal(twice.Data, w.Data) {
		t.Error("wrapped twice it looks the same")
	}
	for i := range w.Data {
		bad := keys.Wrapped{ID: w.ID, Data: bytes.Clone(w.Data)}
		bad.Data[i] ^= 1
		if _, err := p.Unwrap(t.Context(), bad); err == nil {
			t.Errorf("byte %d flipped: unwrapped", i)
		}
		bad.Data = w.Data[:i]
		if _, err := p.Unwrap(t.Context(), bad); err == nil {
			t.Errorf("cut to %d: unwrapped", i)
		}
	}
	if _, err := p.Unwrap(t.Context(), keys.Wrapped{ID: "registry/a/2", Data: w.Data}); err == nil {
		t.Error("unwrapped for another place")
	}
	if _, err := platform(t).Unwrap(t.Context(), w); err == nil {
		t.Error("unwrapped under another platform key")
	}
}

// systemd gives a credential to the user of a service by an access list, and chmod
// then shows rights of a group that nobody has.
func TestACredentialOfSystemdIsASafePlatformKey(t *testing.T) {
	me := uint32(os.Geteuid())
	type entry struct {
		whom, may uint16
		id        uint32
	}
	const owner, user, group, its, mask, other, nobody = 0x01, 0x02, 0x08, 0x04, 0x10, 0x20, 0xffffffff
	for name, c := range map[string]struct {
		list []entry
		ok   bool
	}{
		"for this user":         {[]entry{{owner, 4, nobody}, {user, 4, me}, {its, 0, nobody}, {mask, 4, nobody}, {other, 0, nobody}}, true},
		"for this and another":  {[]entry{{owner, 4, nobody}, {user, 4, me}, {user, 4, 12345}, {its, 0, nobody}, {mask, 4, nobody}, {other, 0, nobody}}, false},
		"for a group":           {[]entry{{owner, 4, nobody}, {user, 4, me}, {its, 0, nobody}, {group, 4, 12345}, {mask, 4, nobody}, {other, 0, nobody}}, false},
		"for the file's group":  {[]entry{{owner, 4, nobody}, {user, 4, me}, {its, 4, nobody}, {mask, 4, nobody}, {other, 0, nobody}}, false},
		"for this, and anybody": {[]entry{{owner, 4, nobody}, {user, 4, me}, {its, 0, nobody}, {mask, 4, nobody}, {other, 4, nobody}}, false},
	} {
		path := filepath.Join(t.TempDir(), "platform.key")
		if err := os.WriteFile(path, make([]byte, keys.Size), 0o400); err != nil {
			t.Fatal(err)
		}
		list := []byte{2, 0, 0, 0}
		for _, e := range c.list {
			list = binary.LittleEndian.AppendUint16(list, e.whom)
			list = binary.LittleEndian.AppendUint16(list, e.may)
			list = binary.LittleEndian.AppendUint32(list, e.id)
		}
		if err := unix.Setxattr(path, "system.posix_acl_access", list, 0); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("the file system of the temporary directory has no access lists")
		} else if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenPlatform(path); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlatformVectorOfTheDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(doc), "\n```platform\n")
	body, _, ok := strings.Cut(body, "\n```")
	if !ok {
		t.Fatal("docs/format.md has no vector of the platform key")
	}
	v := map[string]string{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		v[name] = value
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := os.WriteFile(path, unhex(v["platform key"]), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keys.OpenPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(p.Derive(v["purpose"])); got != v["derived"] {
		t.Errorf("the key of %q is %s", v["purpose"], got)
	}
	got, err := p.Unwrap(t.Context(), keys.Wrapped{ID: keys.KeyID(v["id"]), Data: unhex(v["wrapped"])})
	if err != nil || hex.EncodeToString(got) != v["secret"] {
		t.Errorf("unwrapped to %x, %v", got, err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	secret := bytes.Repeat([]byte{0xAB}, keys.Size)
	path := filepath.Join(t.TempDir(), "platform.key")
	if err := os.WriteFile(path, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := keys.OpenPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := keys.NewRing("reg-1", secret)
	if err != nil {
		t.Fatal(err)
	}
	type outer struct {
		Key   keys.DataKey
		inner keys.DataKey
		ring  *keys.Ring
		p     keys.Platform
	}
	for _, v := range []any{p, *p, r, *r, r.Current(), new(keys.DataKey), outer{r.Current(), r.Current(), r, *p}, []keys.DataKey{r.Current()}} {
		var b strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08b"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
		if err := json.NewEncoder(&b).Encode(v); err != nil {
			t.Errorf("%T: %v", v, err)
		}
		for _, tell := range []string{"171 171", "171,171", "abababab", "ABABABAB", "ab, 0xab", "q6urq6ur", "\xab\xab", `\xab\xab`, "10101011 10101011"} {
			if strings.Contains(b.String(), tell) {
				t.Errorf("%T prints %q", v, tell)
			}
		}
	}
	if s := fmt.Sprint(r.Current()); s != "[key]" {
		t.Errorf("a key prints as %s", s)
	}
}

func TestRingKnowsItsVersions(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, keys.Size), bytes.Repeat([]byte{2}, keys.Size)
	r, err := keys.NewRing("reg-1", one, two)
	if err != nil {
		t.Fatal(err)
	}
	if k := r.Current(); k.Version() != 2 || k.Registry() != "reg-1" || r.Registry() != "reg-1" {
		t.Errorf("current is version %d of %s", k.Version(), k.Registry())
	}
	for n, ok := range map[uint32]bool{0: false, 1: true, 2: true, 3: false} {
		k, err := r.Version(n)
		if (err == nil) != ok || ok && k.Version() != n || !ok && fault.Of(err) != fault.Unavailable {
			t.Errorf("version %d: %d, %v", n, k.Version(), err)
		}
	}
	if _, err := keys.NewRing("reg-1", one[1:]); err == nil {
		t.Error("a short key was taken")
	}
}

func TestDerivedKeysDifferInEverything(t *testing.T) {
	r, err := keys.NewRing("reg-1", bytes.Repeat([]byte{1}, keys.Size), bytes.Repeat([]byte{2}, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.Version(1)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[keys.Size]byte]bool{}
	for _, k := range []keys.DataKey{first, r.Current()} {
		for _, salt := range []string{"s", "t"} {
			for _, info := range []string{"i", "j"} {
				key, commitment, err := k.Derive([]byte(salt), []byte(info))
				if err != nil || seen[key] || seen[commitment] || key == commitment {
					t.Errorf("derived twice, or %v", err)
				}
				seen[key], seen[commitment] = true, true
			}
		}
	}
	if _, _, err := (keys.DataKey{}).Derive(nil, nil); fault.Of(err) != fault.Unavailable {
		t.Errorf("the zero key: %v", err)
	}
}

func TestRegistryHasItsRingAfterARestart(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, p := t.Context(), platform(t)
		rings := keys.NewRings(d, p)
		if _, err := rings.Ring(ctx, "reg-1"); fault.Of(err) != fault.Unavailable {
			t.Errorf("a registry without a key: %v", err)
		}
		create := func(uid string) error {
			return d.Write(ctx, func(tx *db.Tx) error { return rings.Create(ctx, tx, uid) })
		}
		for _, uid := range []string{"reg-1", "reg-2"} {
			if err := create(uid); err != nil {
				t.Fatal(err)
			}
		}
		if err := create("reg-1"); fault.Of(err) != fault.Conflict {
			t.Errorf("a second first key: %v", err)
		}
		derive := func(s *keys.Rings, uid string) [keys.Size]byte {
			r, err := s.Ring(ctx, uid)
			if err != nil {
				t.Fatal(err)
			}
			key, _, err := r.Current().Derive([]byte("salt"), nil)
			if err != nil || r.Current().Version() != 1 || r.Registry() != uid {
				t.Fatalf("ring of %s: version %d of %s, %v", uid, r.Current().Version(), r.Registry(), err)
			}
			return key
		}
		one := derive(rings, "reg-1")
		if derive(keys.NewRings(d, p), "reg-1") != one {
			t.Error("another key after a restart")
		}
		if derive(rings, "reg-2") == one {
			t.Error("two registries share a key")
		}
		rings.Forget("reg-1")
		if derive(rings, "reg-1") != one {
			t.Error("another key after Forget")
		}
	})
}

func TestRingThatCannotBeOpenedIsRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, p := t.Context(), platform(t)
		rings := keys.NewRings(d, p)
		err := d.Write(ctx, func(tx *db.Tx) error {
			return errors.Join(rings.Create(ctx, tx, "reg-1"), rings.Create(ctx, tx, "reg-2"))
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.NewRings(d, platform(t)).Ring(ctx, "reg-1"); fault.Of(err) != fault.Unavailable {
			t.Errorf("under another platform key: %v", err)
		}
		err = d.Write(ctx, func(tx *db.Tx) error { // who can write to the database gives one registry the key of another
			_, err := tx.Exec(ctx, `UPDATE keyring SET wrapped = (SELECT wrapped FROM keyring WHERE registry = $1) WHERE registry = $2`, "reg-2", "reg-1")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rings.Ring(ctx, "reg-1"); fault.Of(err) != fault.Unavailable {
			t.Errorf("the key of another registry: %v", err)
		}
	})
}

func TestKeyOfARegistryThatWasNotCreatedIsNotThere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, rings, undo := t.Context(), keys.NewRings(d, platform(t)), errors.New("undo")
		err := d.Write(ctx, func(tx *db.Tx) error {
			return errors.Join(rings.Create(ctx, tx, "reg-1"), undo)
		})
		if !errors.Is(err, undo) {
			t.Fatal(err)
		}
		if _, err := rings.Ring(ctx, "reg-1"); fault.Of(err) != fault.Unavailable {
			t.Errorf("ring: %v", err)
		}
	})
}
