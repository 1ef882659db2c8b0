package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Root is what everything on a server follows from, and the file that keeps it
// sealed, once for each platform key that opens it: usually one, and two while one
// takes the place of another. So a platform key can be changed, and nothing that
// follows from the root changes with it.
//
// A server from before there was such a file has its platform key for a root.
type Root struct {
	*Platform           // the root itself
	key       *Platform // the platform key that opened it
	path      string
	file      rootFile
}

// A rootFile tells nobody anything who has no key that opens it.
type rootFile struct {
	Root    string       `json:"root"`   // name of the root
	Keys    []sealedRoot `json:"keys"`   // that open it; the newest is the last
	Number  int64        `json:"number"` // of the last change; they count from 1
	Changes []RootChange `json:"changes"`
	Proof   []byte       `json:"proof,omitempty"` // HMAC-SHA256 of the rest under the root: nobody else made the file
}

type sealedRoot struct {
	Key  string `json:"key"`  // its name
	Root []byte `json:"root"` // the root, sealed by it
}

// A RootChange is one of which platform keys open the root.
type RootChange struct {
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`   // who the machine says that it was
	What   string    `json:"what"` // one of the words below
	Key    string    `json:"key"`  // the name of the platform key
}

// What became of a platform key.
const (
	RootMade    = "made"     // the root, with its first key
	KeyAdmitted = "admitted" // it opens the root from now on
	KeyRetired  = "retired"  // it opens nothing any more
)

const (
	maxRoot     = 64 << 10 // bytes of the file
	rootChanges = 64       // that the file remembers
)

// ErrNotItsKey says that a root is sealed for other platform keys.
var ErrNotItsKey = errors.New("this platform key does not open the root")

// MakeRoot makes a random root for a server that has stored nothing yet, and returns
// when its file would survive a power cut. A file that is there already stays.
func MakeRoot(path string, key *Platform, by string) (*Root, error) {
	secret := make([]byte, Size)
	rand.Read(secret)
	defer clear(secret)
	r := &Root{Platform: &Platform{key: hide(secret)}, key: key, path: path}
	if err := r.Keep(by); err != nil {
		return nil, err
	}
	return OpenRoot(path, key)
}

// OpenRoot opens the root with a platform key. Where there is no file the platform key is the
// root: whoever calls must find out whether it opens what is stored. A file that was
// changed, belongs to another server or is sealed for another key is refused, and never
// replaced.
func OpenRoot(path string, key *Platform) (*Root, error) {
	file, err := readRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Root{Platform: key, key: key, path: path}, nil
	}
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(file.Keys, func(s sealedRoot) bool { return s.Key == key.Name() })
	if at < 0 {
		return nil, fmt.Errorf("%s: %w: it is %s, and what opens it is %s; name that one with --platform-key, or put back the file of this server", path, ErrNotItsKey, key.Name(), strings.Join(file.names(), " and "))
	}
	secret, err := key.rootSeal().Open(nil, nil, file.Keys[at].Root, []byte(file.Root))
	if err != nil || len(secret) != Size {
		return nil, fmt.Errorf("%s: %w; restore it from a copy", path, ErrDamaged)
	}
	defer clear(secret)
	r := &Root{Platform: &Platform{key: hide(secret)}, key: key, path: path, file: file}
	if err := file.proven(r.Platform); err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from a copy", path, err)
	}
	return r, nil
}

// Kept reports whether the root has a file. If not, the platform key is the root.
func (r *Root) Kept() bool { return len(r.file.Keys) > 0 }

// Path is where the file lies, or would.
func (r *Root) Path() string { return r.path }

// Key is the name of the platform key that opened the root.
func (r *Root) Key() string { return r.key.Name() }

// Keys are the names of those that open the root; the newest is the last.
func (r *Root) Keys() []string { return r.file.names() }

// Changes are the last changes and the number of all there have been, as the file has
// them now: others make them, beside this process.
func (r *Root) Changes() (last []RootChange, n int64, err error) {
	file, err := readRoot(r.path)
	if errors.Is(err, fs.ErrNotExist) && !r.Kept() {
		return nil, 0, nil
	}
	if err == nil {
		if err = file.proven(r.Platform); err != nil {
			err = fmt.Errorf("%s: %w; restore it from a copy", r.path, err)
		}
	}
	return file.Changes, file.Number, err
}

// Keep makes the file of a root that has none, sealed for the platform key. Whoever calls
// has seen that it opens what is stored.
func (r *Root) Keep(by string) error {
	if r.Kept() {
		return nil
	}
	f := r.with(rootFile{}, RootMade, r.key, by)
	text, err := f.text(r.Platform)
	if err == nil {
		err = createPlatform(r.path, text)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", r.path, err)
	}
	r.file = f
	return nil
}

// Admit has another platform key open the root as well, and returns when that would
// survive a power cut. Those that opened it still do.
func (r *Root) Admit(key *Platform, by string) error {
	if slices.Contains(r.file.names(), key.Name()) {
		return nil
	}
	return r.replace(r.with(r.file, KeyAdmitted, key, by))
}

// Retire has nothing open the root from now on but the platform key that opened it
// here, and returns the names of the others.
func (r *Root) Retire(by string) (retired []string, err error) {
	file := r.file
	file.Keys = nil
	for _, s := range r.file.Keys {
		if s.Key == r.key.Name() {
			file.Keys = append(file.Keys, s)
			continue
		}
		retired = append(retired, s.Key)
		file = file.changed(KeyRetired, s.Key, by)
	}
	if len(retired) == 0 {
		return nil, nil
	}
	return retired, r.replace(file)
}

func (f rootFile) names() (all []string) {
	for _, s := range f.Keys {
		all = append(all, s.Key)
	}
	return all
}

// with is the file that key opens as well.
func (r *Root) with(f rootFile, what string, key *Platform, by string) rootFile {
	f.Root = r.Name()
	f.Keys = append(slices.Clone(f.Keys), sealedRoot{key.Name(), key.rootSeal().Seal(nil, nil, r.Platform.key()[:], []byte(f.Root))})
	return f.changed(what, key.Name(), by)
}

func (f rootFile) changed(what, key, by string) rootFile {
	f.Number++
	f.Changes = append(slices.Clone(f.Changes), RootChange{f.Number, time.Now().UTC().Truncate(time.Microsecond), by, what, key})
	f.Changes = f.Changes[max(0, len(f.Changes)-rootChanges):]
	return f
}

// replace writes the file in the place of the one before: a crash leaves the one or the other.
func (r *Root) replace(f rootFile) error {
	text, err := f.text(r.Platform)
	if err == nil {
		err = replaceFile(r.path, text)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", r.path, err)
	}
	r.file = f
	return nil
}

func (f rootFile) text(root *Platform) ([]byte, error) {
	var err error
	if f.Proof, err = f.proof(root); err != nil {
		return nil, err
	}
	return f.encode()
}

func (f rootFile) encode() ([]byte, error) {
	text, err := json.MarshalIndent(f, "", "  ")
	return append(text, '\n'), err
}

// proof is what only who has the root can make of a file.
func (f rootFile) proof(root *Platform) ([]byte, error) {
	f.Proof = nil
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	sum := hmac.New(sha256.New, root.Derive("root-file"))
	sum.Write(text)
	return sum.Sum(nil), nil
}

func (f rootFile) proven(root *Platform) error {
	want, err := f.proof(root)
	switch {
	case err != nil:
		return err
	case f.Root != root.Name():
		return fmt.Errorf("%w: it has the root %s, not %s", ErrDamaged, f.Root, root.Name())
	case !hmac.Equal(want, f.Proof):
		return ErrDamaged
	}
	return nil
}

func readRoot(path string) (f rootFile, err error) {
	file, info, err := openOwn("root", path)
	if err != nil {
		return f, err
	}
	defer file.Close()
	if info.Size() > maxRoot {
		return f, fmt.Errorf("%s: %w: it is too large; restore it from a copy", path, ErrDamaged)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxRoot))
	if err != nil {
		return f, fmt.Errorf("root: %w", err)
	}
	if err := json.Unmarshal(text, &f); err != nil || len(f.Keys) == 0 {
		return f, fmt.Errorf("%s: %w; restore it from a copy", path, ErrDamaged)
	}
	// One content has one text, and what a later version adds must not be lost by this one.
	if again, err := f.encode(); err != nil || !bytes.Equal(again, text) {
		return f, fmt.Errorf("%s: %w, or written by a later breakwater; restore it from a copy", path, ErrDamaged)
	}
	return f, nil
}

// replaceFile returns when the content at path would survive a power cut. Until then
// there is what was there before.
func replaceFile(path string, content []byte) error {
	draft := path + ".new"
	create := func() (*os.File, error) { return os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) }
	f, err := create()
	if errors.Is(err, fs.ErrExist) { // what a crash left, or somebody else
		if err = os.Remove(draft); err == nil {
			f, err = create()
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Name is what people and files call a platform key or a root: it tells them apart, and nothing else.
func (p *Platform) Name() string { return hex.EncodeToString(p.Derive("name")[:8]) }

// rootSeal is what a platform key seals a root with.
func (p *Platform) rootSeal() cipher.AEAD { return p.sealing("root") }

// sealing is AES-256-GCM with a random nonce, under the key of a purpose.
func (p *Platform) sealing(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(p.Derive(purpose))
	if err != nil {
		panic(err) // only for a wrong key length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}
