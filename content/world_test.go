package content

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/object"
	"breakwater/ref"
)

// TestMain keeps the model to a few rounds, unless -rapid.checks asks for others:
// each is some hundred commits.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		flag.Set("rapid.checks", "10")
	}
	goleak.VerifyTestMain(m)
}

// A world is one store on real disks, with a registry in it and its owner.
type world struct {
	*Store
	t     testing.TB
	ctx   context.Context
	dir   string // of the objects
	disk  object.Store
	owner access.Grant
}

const registryUID = "5f1f0f5e-6b0e-4b4e-9a43-5d6f2c1c7a10"

var theRegistry = access.Registry{UID: registryUID,
	ID: "/subscriptions/0/resourceGroups/local/providers/Microsoft.ContainerRegistry/registries/breakwater"}

func newWorld(t testing.TB, d *db.DB) *world {
	t.Helper()
	dir := t.TempDir()
	platform, err := keys.OpenPlatform(filepath.Join(dir, "platform.key"))
	must(t, err)
	disk, err := object.NewDisk(filepath.Join(dir, "objects"), func(err error) { t.Error(err) })
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "spool"), 0o700))
	l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: filepath.Join(dir, "spool"), Key: platform.Derive("ledger-spool"), Segment: 1 << 17})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	rings := keys.NewRings(d, platform)
	must(t, d.Write(t.Context(), func(tx *db.Tx) error { return rings.Create(t.Context(), tx, registryUID) }))
	return &world{
		Store: New(d, disk, rings, l, platform.Derive("upload-session")),
		t:     t, ctx: context.Background(), dir: filepath.Join(dir, "objects"), disk: disk,
		owner: access.ServerGrant(theRegistry, access.Call{Correlation: "test"}),
	}
}

// each runs test in a world on each engine.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) { test(t, newWorld(t, d)) })
}

// allow is a grant for a user who may do these actions in these repositories.
func allow(user string, may map[ref.Repository][]access.Action) access.Grant {
	p := identity.Principal{ID: user, Kind: identity.User, Name: user}
	var as []access.Assignment
	for repo, actions := range may {
		as = append(as, access.Assignment{Principal: user, Actions: actions, Scope: ref.RepositoryScope(theRegistry.ID, repo)})
	}
	return access.NewGrant(theRegistry, p, access.NewHeld(as...), access.Call{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants fails the test unless err is a fault of this code.
func wants(t testing.TB, err error, c fault.Code) {
	t.Helper()
	if err == nil || fault.Of(err) != c {
		t.Fatalf("got %v, want %v", err, c)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func sum(b []byte) ref.Digest { return ref.SHA256.Sum(b) }

// push puts a blob and returns its digest.
func (w *world) push(repo ref.Repository, b []byte) ref.Digest {
	w.t.Helper()
	got, err := w.PutBlob(w.ctx, w.owner, repo, sum(b), int64(len(b)), bytes.NewReader(b))
	must(w.t, err)
	if got.Digest != sum(b) || got.Size != int64(len(b)) {
		w.t.Fatalf("stored %v", got)
	}
	return got.Digest
}

func (w *world) pull(repo ref.Repository, d ref.Digest) ([]byte, error) {
	b, err := w.Blob(w.ctx, w.owner, repo, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func (w *world) has(repo ref.Repository, d ref.Digest) bool {
	w.t.Helper()
	_, err := w.StatBlob(w.ctx, w.owner, repo, d)
	if err != nil && fault.Of(err) != fault.BlobUnknown {
		w.t.Fatal(err)
	}
	return err == nil
}

// reads fails the test unless the repository has exactly this blob.
func (w *world) reads(repo ref.Repository, want []byte) {
	w.t.Helper()
	got, err := w.pull(repo, sum(want))
	must(w.t, err)
	if !bytes.Equal(got, want) {
		w.t.Fatalf("%d bytes that are not the %d that were pushed", len(got), len(want))
	}
}

type doc = map[string]any

func describe(mediaType string, b []byte) doc {
	return doc{"mediaType": mediaType, "digest": sum(b), "size": len(b)}
}

// imageOf is an image manifest of a config and layers.
func imageOf(config []byte, layers ...[]byte) doc {
	list := []doc{}
	for _, l := range layers {
		list = append(list, describe("application/vnd.oci.image.layer.v1.tar", l))
	}
	return doc{"schemaVersion": 2, "mediaType": ociImage, "config": describe("application/vnd.oci.image.config.v1+json", config), "layers": list}
}

func indexOf(manifests ...[]byte) doc {
	list := []doc{}
	for _, m := range manifests {
		list = append(list, describe(ociImage, m))
	}
	return doc{"schemaVersion": 2, "mediaType": ociIndex, "manifests": list}
}

func text(doc doc) []byte {
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return b
}

func tagged(name string) ref.Reference { return ref.Reference{Tag: ref.Tag(name)} }

func digested(b []byte) ref.Reference { return ref.Reference{Digest: sum(b)} }

// putImage pushes a new image and returns its manifest.
func (w *world) putImage(repo ref.Repository, r string, layers int) []byte {
	w.t.Helper()
	config := random(100)
	w.push(repo, config)
	var all [][]byte
	for range layers {
		all = append(all, random(1000))
		w.push(repo, all[len(all)-1])
	}
	m := text(imageOf(config, all...))
	w.put(repo, tagged(r), m)
	return m
}

func (w *world) put(repo ref.Repository, r ref.Reference, m []byte) Pushed {
	w.t.Helper()
	p, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: r, Body: m}, Rules{})
	must(w.t, err)
	return p
}

// resolves fails the test unless r is exactly m there, and all that m names can be read.
func (w *world) resolves(repo ref.Repository, r ref.Reference, m []byte) {
	w.t.Helper()
	got, err := w.Manifest(w.ctx, w.owner, repo, r)
	must(w.t, err)
	if !bytes.Equal(got.Body, m) || got.Digest != sum(m) || got.Size != int64(len(m)) {
		w.t.Fatalf("%v is not what was pushed", r)
	}
	doc, err := decode(got.Body, got.MediaType)
	must(w.t, err)
	for _, b := range doc.blobs {
		content, err := w.pull(repo, b.digest)
		if err != nil || sum(content) != b.digest {
			w.t.Fatalf("blob of %v: %v", r, err)
		}
	}
}

// objectsLeft is how many files the object store has.
func (w *world) objectsLeft() (n int) {
	for _, err := range w.disk.List(w.ctx, "") {
		must(w.t, err)
		n++
	}
	return n
}

func (w *world) events() (all []ledger.Event) {
	for e, err := range w.ledger.Events(w.ctx, ledger.Query{Registry: registryUID}) {
		must(w.t, err)
		all = append(all, e)
	}
	return all
}

func (w *world) sweep(o Sweep) Swept {
	w.t.Helper()
	n, err := w.Sweep(w.ctx, o)
	must(w.t, err)
	return n
}

func name(i int) ref.Repository { return ref.Repository(fmt.Sprintf("team/r%d", i)) }

func sha() hash.Hash { return ref.SHA256.New() }
