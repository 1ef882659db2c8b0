package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lukechampine.com/adiantum"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/object"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/seal"
)

// receipts are issued by the world's server.
func (w *world) receipts() *receipt.Store {
	w.t.Helper()
	platform, err := keys.OpenPlatform(filepath.Join(filepath.Dir(w.dir), "platform.key"))
	must(w.t, err)
	docs := resource.New(w.db)
	must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error {
		doc := resource.Resource{ID: theRegistry.ID, Type: registry.Type, Properties: []byte(`{}`)}
		doc.System.UID = registryUID
		_, err := docs.Put(w.ctx, tx, doc, resource.Any)
		return err
	}))
	ids, err := identity.New(identity.Options{DB: w.db, Documents: docs, Ledger: w.ledger, Vault: platform, Check: platform.Derive("token-check")})
	must(w.t, err)
	return &receipt.Store{Documents: docs, Ledger: w.ledger, Identity: ids}
}

func (w *world) approvals(of *receipt.Store) *approval.Store {
	return &approval.Store{DB: w.db, Documents: of.Documents, Ledger: w.ledger}
}

// erase erases a repository, as who has nobody to ask.
func (w *world) erase(g access.Grant, repo ref.Repository, receipts *receipt.Store) (receipt.Issued, error) {
	return w.EraseRepository(w.ctx, g, repo, receipts, w.approvals(receipts))
}

// verified is what a receipt says, with the keys that the server publishes.
func verified(t testing.TB, s *receipt.Store, i receipt.Issued) receipt.Receipt {
	t.Helper()
	set, err := s.Identity.ReceiptKeys(t.Context())
	must(t, err)
	r, err := receipt.Verify(i.Receipt, set)
	must(t, err)
	return r
}

// A thief has copies of the object files, and every key.
type thief struct {
	t     *testing.T
	files map[string][]byte // by key
}

// thieve takes copies of all objects.
func (w *world) thieve(t *testing.T) *thief {
	t.Helper()
	th := &thief{t, map[string][]byte{}}
	for info, err := range w.disk.List(w.ctx, "") {
		must(t, err)
		o, err := w.disk.Open(w.ctx, info.Key)
		must(t, err)
		b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
		must(t, err)
		must(t, o.Close())
		th.files[info.Key] = b
	}
	return th
}

// opens is which of the files the thief can open now: with all data keys, and every
// secret that the database has, whatever it is for.
func (th *thief) opens(w *world) (opened []string) {
	th.t.Helper()
	ring, err := w.rings.Ring(w.ctx, registryUID)
	must(th.t, err)
	rows, err := w.db.Query(w.ctx, `SELECT secret FROM part WHERE secret IS NOT NULL`)
	secrets, err := scan(rows, err, func(b *[]byte) []any { return []any{b} })
	must(th.t, err)
	for key, b := range th.files {
		for _, raw := range append(secrets, nil) {
			secret, err := seal.ParseSecret(raw)
			must(th.t, err)
			r, err := seal.Open(bytes.NewReader(b), int64(len(b)), ring, seal.Place{Registry: registryUID, Object: key}, secret)
			if err == nil {
				if _, err := r.NewStream().WriteTo(io.Discard); err == nil {
					opened = append(opened, key)
				}
			}
		}
	}
	slices.Sort(opened)
	return opened
}

// asBefore makes the objects of a blob as they were before objects had a secret.
func (w *world) asBefore(b []byte) {
	w.t.Helper()
	ring, err := w.rings.Ring(w.ctx, registryUID)
	must(w.t, err)
	there, err := findStored(w.ctx, w.db, registryUID, sum(b))
	must(w.t, err)
	for _, p := range there.parts {
		must(w.t, w.disk.Delete(w.ctx, p.object))
		_, err := w.disk.Put(w.ctx, p.object, seal.NewReader(bytes.NewReader(b[p.at:p.at+p.size]), ring.Current(), seal.Place{Registry: registryUID, Object: p.object}, seal.Secret{}))
		must(w.t, err)
		must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(w.ctx, `UPDATE part SET secret = NULL WHERE object = $1`, p.object)
			return err
		}))
	}
}

// The proof of crypto-erase: who has copied the object store, and has every key and the
// database as it is afterwards, opened all before and opens nothing of it after.
func TestWhatWasErasedOpensForNobody(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const doomed, other ref.Repository = "team/doomed", "team/other"
		receipts := w.receipts()
		shared, old, layer, lost := random(3000), random(5000), random(200_000), random(400)
		w.push(doomed, shared)
		_, ok, err := w.Mount(w.ctx, w.owner, other, sum(shared), doomed)
		if must(t, err); !ok {
			t.Fatal("not mounted")
		}
		w.push(doomed, old)
		w.asBefore(old)
		w.reads(doomed, old)
		w.push(doomed, layer)
		config := random(100)
		w.push(doomed, config)
		live := text(imageOf(config, shared, layer))
		w.put(doomed, tagged("live"), live)
		trash := text(imageOf(config, old))
		w.put(doomed, tagged("trash"), trash)
		must(t, w.DeleteManifest(w.ctx, w.owner, doomed, sum(trash), week))
		w.push(doomed, lost)
		must(t, w.DeleteBlob(w.ctx, w.owner, doomed, sum(lost))) // no sweep has come by
		otherImage := w.putImage(other, "latest", 2)
		u, err := w.StartUpload(w.ctx, w.owner, doomed, "")
		must(t, err)
		_, err = w.AppendUpload(w.ctx, w.owner, doomed, u.ID, Chunk{At: 0, Size: 700, Reader: bytes.NewReader(random(700))})
		must(t, err)

		th := w.thieve(t)
		if got := th.opens(w); len(got) != len(th.files) || len(got) != 9 {
			t.Fatalf("before, %d of %d open", len(got), len(th.files))
		}
		i, err := w.erase(w.owner, doomed, receipts)
		must(t, err)
		was, err := findStored(w.ctx, w.db, registryUID, sum(shared))
		must(t, err)
		opened := th.opens(w)
		if len(opened) != 5 || !slices.Contains(opened, was.parts[0].object) { // 3 of the other image, the shared one, and the old one, as the receipt says
			t.Errorf("after, %d open: %v", len(opened), opened)
		}
		if n := w.objectsLeft(); n != 4 {
			t.Errorf("%d objects are left", n)
		}

		r := verified(t, receipts, i)
		d := r.Destroyed
		list := []string{string(sum(live)), string(sum(trash)), string(sum(old)), string(sum(layer)), string(sum(config)), string(sum(lost))}
		slices.Sort(list)
		hash := sha256.Sum256([]byte(strings.Join(list, "\n") + "\n"))
		want := receipt.Tally{Repositories: 1, Manifests: 2, Tags: 2, Blobs: 4, Uploads: 1, Objects: 5, Bytes: 5000 + 200_000 + 100 + 400 + 700, Digests: 6, SHA256: hex.EncodeToString(hash[:])}
		if d != want {
			t.Errorf("destroyed %+v, not %+v", d, want)
		}
		if o := r.Remains.OldFormat; o == nil || o.Objects != 1 || o.Bytes != 5000 {
			t.Errorf("old format: %+v", o)
		}
		if s := r.Remains.Shared; s == nil || s.Blobs != 1 || s.Bytes != 3000 || !slices.Equal(s.With, []ref.Repository{other}) || s.Digests[0] != sum(shared) {
			t.Errorf("shared: %+v", s)
		}
		if r.Repository != doomed || r.Kind != receipt.Repository || len(r.Keys) != 0 || r.CustomerKey != nil || r.Registry.UID != registryUID || r.Request != "test" {
			t.Errorf("receipt: %+v", r)
		}

		// The ledger has the receipt's digest, in the event that the receipt names.
		events := w.events()
		at := slices.IndexFunc(events, func(e ledger.Event) bool { return e.Seq == r.Event.Seq })
		if at < 0 {
			t.Fatalf("no event %d", r.Event.Seq)
		}
		if e := events[at]; e.Operation != string(access.RepositoryErase) || e.Detail.More["receiptSHA256"] != i.SHA256 || e.Detail.More["receipt"] != r.ID || e.Detail.Repository != doomed {
			t.Errorf("event %+v", e)
		}
		// The others go on; the doomed one has neither names nor trash, and can be made again.
		w.resolves(other, tagged("latest"), otherImage)
		w.reads(other, shared)
		_, err = w.Manifest(w.ctx, w.owner, doomed, tagged("live"))
		wants(t, err, fault.TagUnknown)
		wants(t, w.Restore(w.ctx, w.owner, doomed, sum(trash), "", false, week), fault.NameUnknown)
		_, err = w.UploadStatus(w.ctx, w.owner, doomed, u.ID)
		wants(t, err, fault.UploadUnknown)
		_, err = w.erase(w.owner, doomed, receipts)
		wants(t, err, fault.NameUnknown)
		w.push(doomed, layer)
		w.reads(doomed, layer)
		if damage := slices.ContainsFunc(w.events(), func(e ledger.Event) bool { return e.Category == ledger.Security }); damage {
			t.Error("an erase was taken for damage")
		}
	})
}

// A receipt that was changed, or that another server signed, is refused.
func TestAChangedReceiptIsRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		receipts := w.receipts()
		w.push(repo, random(10))
		i, err := w.erase(w.owner, repo, receipts)
		must(t, err)
		set, err := receipts.Identity.ReceiptKeys(w.ctx)
		must(t, err)
		for at := 0; at < len(i.Receipt); at += 7 {
			b := []byte(i.Receipt)
			if b[at]++; b[at] == '.'+1 {
				continue
			}
			if _, err := receipt.Verify(string(b), set); err == nil {
				t.Fatalf("byte %d can be changed", at)
			}
		}
		tokens, err := receipts.Identity.Keys(w.ctx)
		must(t, err)
		for name, keys := range map[string]any{"of tokens": tokens, "of nobody": nil} {
			other := set
			if other.Keys = nil; keys != nil {
				other = tokens
			}
			if _, err := receipt.Verify(i.Receipt, other); !errors.Is(err, receipt.ErrForged) {
				t.Errorf("keys %s: %v", name, err)
			}
		}
		if got, err := receipts.List(w.ctx, w.owner, theRegistry.ID, "", 10); err != nil || len(got) != 1 || got[0] != i {
			t.Errorf("kept: %v, %v", got, err)
		}
		nobody := allow("somebody", map[ref.Repository][]access.Action{repo: {access.ContentRead, access.ContentDelete}})
		_, err = receipts.List(w.ctx, nobody, theRegistry.ID, "", 10)
		wants(t, err, fault.Denied)
		_, err = receipts.Get(w.ctx, w.owner, "/subscriptions/1", i.ID.Name())
		wants(t, err, fault.NotFound)
	})
}

func TestLocksAndRightsHoldAnEraseBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		receipts := w.receipts()
		m := w.putImage(repo, "v1", 1)
		stays := func(err error, c fault.Code) {
			t.Helper()
			wants(t, err, c)
			w.resolves(repo, tagged("v1"), m)
		}
		deleter := allow("deleter", map[ref.Repository][]access.Action{repo: {access.ContentRead, access.ContentWrite, access.ContentDelete}})
		_, err := w.erase(deleter, repo, receipts)
		stays(err, fault.Denied)

		no, yes := false, true
		for name, lock := range map[string]func(*bool) error{
			"repository": func(b *bool) error {
				_, err := w.PatchRepository(w.ctx, w.owner, repo, AttributesPatch{Delete: b})
				return err
			},
			"tag": func(b *bool) error {
				_, err := w.PatchTag(w.ctx, w.owner, repo, "v1", AttributesPatch{Write: b})
				return err
			},
			"manifest": func(b *bool) error {
				_, err := w.PatchManifest(w.ctx, w.owner, repo, sum(m), AttributesPatch{Delete: b})
				return err
			},
		} {
			must(t, lock(&no))
			_, err = w.erase(w.owner, repo, receipts)
			if stays(err, fault.Disallowed); err == nil {
				t.Error(name)
			}
			must(t, lock(&yes))
		}
		for _, level := range []string{resource.CanNotDelete, resource.ReadOnly} {
			id := theRegistry.ID + "/providers/Microsoft.Authorization/locks/keep"
			must(t, w.db.Write(w.ctx, func(tx *db.Tx) error {
				_, err := receipts.Documents.Put(w.ctx, tx, resource.Resource{ID: id, Type: resource.LockType, Properties: []byte(`{"level":"` + level + `"}`)}, resource.Any)
				return err
			}))
			_, err = w.erase(w.owner, repo, receipts)
			stays(err, fault.ScopeLocked)
			must(t, w.db.Write(w.ctx, func(tx *db.Tx) error { return receipts.Documents.Delete(w.ctx, tx, id, resource.Any) }))
		}
		_, err = w.erase(w.owner, repo, receipts)
		must(t, err)
	})
}

// A process that dies between the names and the bytes leaves the bytes to a sweep.
func TestASweepFinishesAnErase(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		receipts := w.receipts()
		w.putImage(repo, "v1", 3)
		draft, err := receipts.Draft(w.ctx, w.owner)
		must(t, err)
		r := receipt.Receipt{Kind: receipt.Repository, Repository: repo, Registry: receipt.Of{UID: registryUID, ID: theRegistry.ID}}
		must(t, w.db.Write(w.ctx, func(tx *db.Tx) error {
			_, err := w.eraseRepository(w.ctx, tx, w.owner, r, draft, receipts, w.approvals(receipts))
			return err
		}))
		if n := w.objectsLeft(); n != 4 {
			t.Fatalf("%d objects", n)
		}
		th := w.thieve(t)
		if got := th.opens(w); len(got) > 0 {
			t.Errorf("%v open", got)
		}
		if n := w.restarted().sweep(Sweep{Grace: time.Hour}); n.Objects != 4 {
			t.Errorf("swept %+v", n)
		}
		if n := w.objectsLeft(); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// Pushes, mounts and pulls of what is being erased: nothing that has a name is ever
// without its bytes or its secret, and what is pulled elsewhere is always whole.
func TestEraseDuringPushMountAndPull(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		receipts := w.receipts()
		shared := random(70_000)
		const safe, doomed ref.Repository = "safe", "doomed"
		w.push(safe, shared)
		stop, cancel := context.WithTimeout(w.ctx, 2*time.Second)
		defer cancel()
		var all sync.WaitGroup
		var erased, mounted, pulled atomic.Int32
		for i := range 2 {
			all.Go(func() { // the same blobs in the doomed repository, and from there in another
				mine := name(i)
				for stop.Err() == nil {
					layer := random(500)
					if _, err := w.PutBlob(w.ctx, w.owner, doomed, sum(shared), -1, bytes.NewReader(shared)); err != nil {
						t.Error(err)
					}
					if _, err := w.PutBlob(w.ctx, w.owner, doomed, sum(layer), -1, bytes.NewReader(layer)); err != nil {
						t.Error(err)
					}
					_, ok, err := w.Mount(w.ctx, w.owner, mine, sum(layer), doomed)
					if err != nil {
						t.Error(err)
					}
					if ok {
						mounted.Add(1)
						w.reads(mine, layer) // from then on it is here to stay
					}
					m := text(imageOf(layer, shared))
					_, err = w.PutManifest(w.ctx, w.owner, doomed, Push{Reference: tagged("latest"), Body: m}, Rules{})
					if err != nil && fault.Of(err) != fault.ManifestBlobUnknown {
						t.Error(err)
					}
				}
			})
		}
		all.Go(func() {
			for stop.Err() == nil {
				w.reads(safe, shared)
				pulled.Add(1)
			}
		})
		all.Go(func() { // who pulls what is erased gets all of it, or hears that it is not there
			for stop.Err() == nil {
				b, err := w.pull(doomed, sum(shared))
				if err == nil && !bytes.Equal(b, shared) || err != nil && fault.Of(err) != fault.BlobUnknown {
					t.Errorf("pulled %d bytes, %v", len(b), err)
				}
			}
		})
		all.Go(func() {
			for stop.Err() == nil {
				if _, err := w.erase(w.owner, doomed, receipts); err == nil {
					erased.Add(1)
				} else if fault.Of(err) != fault.NameUnknown {
					t.Error(err)
				}
				if _, err := w.Sweep(w.ctx, Sweep{Objects: true}); err != nil {
					t.Error(err)
				}
			}
		})
		all.Wait()
		if _, err := w.erase(w.owner, doomed, receipts); err != nil && fault.Of(err) != fault.NameUnknown {
			t.Error(err)
		}
		// All that has a name can be read.
		n, err := w.Scrub(w.ctx, 1<<40)
		must(t, err)
		if n.Damaged > 0 || n.Blobs == 0 {
			t.Errorf("scrubbed %+v", n)
		}
		w.sweep(Sweep{Objects: true})
		if left := w.objectsLeft(); left != n.Blobs {
			t.Errorf("%d objects of %d blobs", left, n.Blobs)
		}
		for _, e := range w.events() {
			if e.Category == ledger.Security {
				t.Errorf("taken for damage: %+v", e)
				break
			}
		}
		t.Logf("%d erased, %d mounted, %d pulled", erased.Load(), mounted.Load(), pulled.Load())
		if erased.Load() == 0 || mounted.Load() == 0 || pulled.Load() == 0 {
			t.Error("nothing happened")
		}
	})
}

// Data that a server stored before objects had secrets is served as ever, moved to
// another repository, and scrubbed.
func TestObjectsWithoutASecretAreServed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(150_000)
		w.push(repo, b)
		w.asBefore(b)
		w.reads(repo, b)
		w.push("team/again", b)
		w.reads("team/again", b)
		if n, err := w.Scrub(w.ctx, 1<<40); err != nil || n.Damaged != 0 || n.Blobs != 1 {
			t.Errorf("%+v, %v", n, err)
		}
		// A secret that somebody writes into the row, or takes out of it, opens nothing.
		for _, change := range []any{bytes.Repeat([]byte{1}, 32), []byte{1, 2}, []byte{}} {
			must(t, w.db.Write(w.ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(w.ctx, `UPDATE part SET secret = $1`, change)
				return err
			}))
			must(t, w.db.Write(w.ctx, func(tx *db.Tx) error { _, err := tx.Exec(w.ctx, `UPDATE blob SET damaged = NULL`); return err }))
			_, err := w.pull(repo, sum(b))
			wants(t, err, fault.Damaged)
		}
	})
}

// A manor is a house whose registries have content.
type manor struct {
	*gatetest.House
	*Store
	t          *testing.T
	registries *registry.Store
	receipts   *receipt.Store
	g          access.Grant
}

func newManor(t *testing.T, d *db.DB) *manor {
	h := gatetest.Open(t, d, nil)
	m := &manor{House: h, t: t, Store: New(d, h.Objects, h.Rings, h.Ledger, h.Platform.Derive("upload-session"))}
	m.receipts = &receipt.Store{Documents: h.Documents, Ledger: h.Ledger, Identity: h.Identity}
	m.registries = registry.New(registry.Options{DB: d, Documents: h.Documents, Ledger: h.Ledger, Rings: h.Rings, Identity: h.Identity, Access: h.Access,
		Receipts: m.receipts, Approvals: h.Approvals, Contents: m.Contents(),
		Default: "breakwater", Host: "localhost", Domain: "registries.test"})
	m.g = access.ServerGrant(h.Registry.Ref(), access.Call{Correlation: "test"})
	return m
}

func (m *manor) world() *world {
	return &world{Store: m.Store, t: m.t, ctx: context.Background(), disk: m.Objects, owner: m.g}
}

// An erased registry goes on, empty, with another key; who has the old objects and the
// new keys opens nothing.
func TestAnErasedRegistryGoesOnEmpty(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		w, uid := m.world(), m.Registry.UID
		img := w.putImage("a/b", "v1", 2)
		w.putImage("c", "v1", 1)
		old := random(300)
		w.push("c", old)
		u, err := w.StartUpload(w.ctx, m.g, "c", "")
		must(t, err)
		_, err = w.AppendUpload(w.ctx, m.g, "c", u.ID, Chunk{At: 0, Size: 9, Reader: bytes.NewReader(random(9))})
		must(t, err)
		before, err := m.Rings.Ring(w.ctx, uid)
		must(t, err)
		no, yes := false, true
		_, err = w.PatchTag(w.ctx, m.g, "a/b", "v1", AttributesPatch{Delete: &no})
		must(t, err)
		_, err = m.registries.Erase(w.ctx, m.g, m.Registry.ID, false)
		wants(t, err, fault.Disallowed)
		w.resolves("a/b", tagged("v1"), img)
		_, err = w.PatchTag(w.ctx, m.g, "a/b", "v1", AttributesPatch{Delete: &yes})
		must(t, err)
		stranger := access.NewGrant(m.Registry.Ref(), identity.Principal{ID: "x", Kind: identity.User}, access.NewHeld(), access.Call{})
		_, err = m.registries.Erase(w.ctx, stranger, m.Registry.ID, false)
		wants(t, err, fault.Denied)

		// A push whose bytes came before, and whose name comes after, gets none.
		late := random(100_000)
		var i receipt.Issued
		_, err = w.PutBlob(w.ctx, m.g, "late", sum(late), -1, io.MultiReader(bytes.NewReader(late[:70_000]), during(func() {
			i, err = m.registries.Erase(w.ctx, m.g, m.Registry.ID, false)
			must(t, err)
		}), bytes.NewReader(late[70_000:])))
		wants(t, err, fault.Unavailable)
		w.push("late", late)
		w.reads("late", late)

		after, err := m.Rings.Ring(w.ctx, uid)
		must(t, err)
		if after.Current().Version() != 2 {
			t.Errorf("the new key is version %d", after.Current().Version())
		}
		if _, err := after.Version(1); err == nil {
			t.Error("the old key is there")
		}
		if _, err := before.Version(1); err != nil {
			t.Error(err)
		}
		for _, r := range []ref.Repository{"a/b", "c"} {
			_, _, err := w.Tags(w.ctx, m.g, r, "", -1)
			wants(t, err, fault.NameUnknown)
		}
		_, err = w.UploadStatus(w.ctx, m.g, "c", u.ID)
		wants(t, err, fault.UploadUnknown)
		w.sweep(Sweep{Objects: true})
		if n := w.objectsLeft(); n != 1 {
			t.Errorf("%d objects are left", n)
		}
		r := verified(t, m.receipts, i)
		if len(r.Keys) != 1 || r.Keys[0].Version != 1 || len(r.Keys[0].Fingerprint) != 64 || r.NextKey == nil || r.NextKey.Version != 2 || r.NextKey.CustomerKey {
			t.Errorf("keys %+v, then %+v", r.Keys, r.NextKey)
		}
		if d := r.Destroyed; d.Repositories != 2 || d.Manifests != 2 || d.Tags != 2 || d.Blobs != 6 || d.Objects != 7 || d.Uploads != 1 || d.Digests != 8 {
			t.Errorf("destroyed %+v", d)
		}
		reg, err := m.registries.Get(w.ctx, m.g, m.Registry.ID)
		must(t, err)
		if reg.Encryption.DataKeys.Version != 2 {
			t.Errorf("the registry says %+v", reg.Encryption)
		}
	})
}

// Under dual control a repository is erased by two; what was approved is the repository
// that was there.
func TestTwoHaveToWantThatARepositoryIsErased(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		w := m.world()
		person := func(name string) access.Grant {
			_, doc, err := m.Directory.CreateUser(w.ctx, m.House.Server(), name)
			must(t, err)
			_, err = m.Access.Assign(w.ctx, m.House.Server(), m.Registry.ID.Scope(), ref.NewGUID(), access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: doc.System.UID, PrincipalType: "User"})
			must(t, err)
			p := identity.Principal{ID: doc.System.UID, Kind: identity.User, Name: name, Account: doc.ID}
			held, err := m.Access.LoadAssignments(w.ctx, m.Registry.Ref(), p)
			must(t, err)
			return access.NewGrant(m.Registry.Ref(), p, held, access.Call{})
		}
		alice, bob := person("alice"), person("bob")
		_, err := m.registries.Update(w.ctx, m.g, m.Registry.ID, resource.Any, func(r *registry.Registry) error {
			r.Policies.SoftDelete.Status, r.DualControl.Status = "enabled", "enabled"
			return nil
		})
		must(t, err)
		asked := func() ref.ID {
			t.Helper()
			_, err := m.EraseRepository(w.ctx, alice, repo, m.receipts, m.Approvals)
			wants(t, err, fault.ApprovalRequired)
			return ref.ID(fault.From(err).Detail.(map[string]string)["request"])
		}
		_, err = m.EraseRepository(w.ctx, alice, repo, m.receipts, m.Approvals)
		wants(t, err, fault.NameUnknown) // nobody is asked to approve what there is not
		img := w.putImage(repo, "v1", 1)
		id := asked()
		w.resolves(repo, tagged("v1"), img)
		_, err = m.Approvals.Answer(w.ctx, bob, id, approval.Approved, "")
		must(t, err)
		_, _, err = m.DeleteRepository(w.ctx, m.g, repo, Rules{}) // by the server; another one comes in its place
		must(t, err)
		w.sweep(Sweep{})
		img = w.putImage(repo, "v1", 1)
		next := asked()
		if next == id {
			t.Error("it is the request for the one before")
		}
		w.resolves(repo, tagged("v1"), img)
		_, err = m.Approvals.Answer(w.ctx, bob, next, approval.Approved, "")
		must(t, err)
		_, err = m.EraseRepository(w.ctx, alice, repo, m.receipts, m.Approvals)
		must(t, err)
		_, _, err = w.Tags(w.ctx, m.g, repo, "", -1)
		wants(t, err, fault.NameUnknown)
	})
}

// during is an empty reader that does something.
type during func()

func (d during) Read([]byte) (int, error) { d(); return 0, io.EOF }

// A registry that is deleted gives a receipt too, which outlives it.
func TestADeletedRegistryLeavesAReceipt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		ctx := t.Context()
		id := m.Registry.ID.Parent().Parent().Extension(registry.Type, "shop1")
		reg, err := m.registries.Create(ctx, m.g, id, "local", nil, registry.Properties{})
		must(t, err)
		w := m.world()
		w.owner = access.ServerGrant(reg.Ref(), access.Call{})
		w.putImage("a", "v1", 1)
		i, err := m.registries.Delete(ctx, m.g, id, resource.Any)
		must(t, err)
		if n := w.objectsLeft(); n != 0 {
			t.Errorf("%d objects are left", n)
		}
		kept, err := m.receipts.Get(ctx, m.g, id.Parent().Parent(), i.ID.Name())
		must(t, err)
		r := verified(t, m.receipts, kept)
		if r.Kind != receipt.Deletion || len(r.Keys) != 1 || r.NextKey != nil || r.Destroyed.Manifests != 1 || r.Event.Ledger != "" || r.Registry.UID != reg.UID {
			t.Errorf("receipt %+v", r)
		}
		var last ledger.Event
		for e, err := range m.Ledger.Events(ctx, ledger.Query{}) {
			must(t, err)
			if e.Seq == r.Event.Seq {
				last = e
			}
		}
		if last.Detail.More["receiptSHA256"] != i.SHA256 || last.Operation != string(access.RegistryDelete) {
			t.Errorf("event %+v", last)
		}
	})
}

// Who meets a row between its reading and the end of its key hears that it is not there;
// nothing is damaged, so nothing is on record as that.
func TestWhatIsErasedWhileItIsLookedForIsNoDamage(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		w, uid := m.world(), m.Registry.UID
		w.putImage("a", "v1", 1)
		u, err := w.StartUpload(w.ctx, m.g, "a", "")
		must(t, err)
		_, err = w.AppendUpload(w.ctx, m.g, "a", u.ID, Chunk{At: 0, Size: 9, Reader: bytes.NewReader(random(9))})
		must(t, err)
		manifest, _, err := w.manifest(w.ctx, m.g, "a", tagged("v1"), true)
		must(t, err)
		id, err := w.openTicket(m.g, "a", u.ID)
		must(t, err)
		from, err := sessionRow(w.ctx, w.db, id)
		must(t, err)
		_, err = m.registries.Erase(w.ctx, m.g, m.Registry.ID, false)
		must(t, err)
		told := w.ledger.Alarms()
		err = w.unseal(w.ctx, uid, func(ring *keys.Ring) error { _, err := openManifest(ring, manifest); return err })
		wants(t, w.manifestDamaged(w.ctx, found(m.g, ledger.Detail{Repository: "a"}), manifest, err), fault.ManifestUnknown)
		w.putImage("a", "v1", 1)
		wants(t, w.manifestDamaged(w.ctx, found(m.g, ledger.Detail{Repository: "a"}), manifest, err), fault.ManifestUnknown)
		err = w.unseal(w.ctx, uid, func(ring *keys.Ring) error { return from.open(ring, id) })
		wants(t, w.uploadDamaged(w.ctx, m.g, "a", id, err), fault.UploadUnknown)
		if n := w.ledger.Alarms() - told; n != 0 {
			t.Errorf("%d alarms", n)
		}
	})
}

// A damaged row of a key keeps nobody from destroying what is sealed with it; the receipt
// does not say which key it was.
func TestADamagedKeyEndsLikeAnother(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		ctx := t.Context()
		id := m.Registry.ID.Parent().Parent().Extension(registry.Type, "shop1")
		reg, err := m.registries.Create(ctx, m.g, id, "local", nil, registry.Properties{})
		must(t, err)
		damage := func() {
			must(t, d.Write(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE keyring SET wrapped = $1 WHERE registry = $2`, []byte("damaged"), reg.UID)
				return err
			}))
		}
		for _, destroy := range []func() (receipt.Issued, error){
			func() (receipt.Issued, error) { return m.registries.Erase(ctx, m.g, id, false) },
			func() (receipt.Issued, error) { return m.registries.Delete(ctx, m.g, id, resource.Any) },
		} {
			damage()
			i, err := destroy()
			must(t, err)
			if r := verified(t, m.receipts, i); len(r.Keys) != 1 || r.Keys[0].Fingerprint != "" {
				t.Errorf("keys %+v", r.Keys)
			}
		}
	})
}

// decipher reads the pages of a SQLite file as who has the key can (db/cipher.go).
func decipher(t *testing.T, path string, key []byte) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	const page = 4096
	cipher := adiantum.New(key)
	for at := 0; at+page <= len(b); at += page {
		cipher.Decrypt(b[at:at+page], binary.LittleEndian.AppendUint64(nil, uint64(at)|1<<56))
	}
	return b
}

// What is deleted is overwritten: the files of SQLite have no secret of what was erased.
func TestErasedSecretsLeaveTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.db")
	key := bytes.Repeat([]byte{3}, 32)
	d, err := db.Open(t.Context(), db.Options{Source: path, Key: key})
	must(t, err)
	w := newWorld(t, d)
	t.Cleanup(func() { must(t, d.Close()) })
	for i := range 300 {
		w.push(name(i%3), random(10+i))
	}
	secrets := func(where string) (all [][]byte) {
		rows, err := d.Query(w.ctx, `SELECT secret FROM part WHERE owner IN (SELECT b.bytes FROM blob b JOIN link l ON l.blob = b.id JOIN repository r ON r.id = l.repository WHERE r.name `+where+`)`)
		all, err = scan(rows, err, func(b *[]byte) []any { return []any{b} })
		must(t, err)
		return all
	}
	doomed, others := secrets(`= 'team/r1'`), secrets(`<> 'team/r1'`)
	must(t, d.Settle(w.ctx))
	in := func(all [][]byte) (n int) {
		plain := decipher(t, path, key)
		for _, s := range all {
			if bytes.Contains(plain, s) {
				n++
			}
		}
		return n
	}
	if len(doomed) != 100 || in(doomed) != 100 || in(others) != 200 {
		t.Fatalf("before: %d secrets, %d in the file", len(doomed), in(doomed))
	}
	_, err = w.erase(w.owner, name(1), w.receipts())
	must(t, err)
	if n := in(doomed); n != 0 {
		t.Errorf("%d of the erased secrets are in the file", n)
	}
	if n := in(others); n != 200 {
		t.Errorf("%d of the others are left", n)
	}
	// They go also where the bytes stay.
	w.objects = stays{w.objects}
	w.push(name(1), random(10))
	doomed = secrets(`= 'team/r1'`)
	_, err = w.erase(w.owner, name(1), w.receipts())
	must(t, err)
	if n := in(doomed); len(doomed) != 1 || n != 0 {
		t.Errorf("%d of %d erased secrets are in the file", n, len(doomed))
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the log: %v, %v", info, err)
	}
}

// stays is a store that deletes nothing.
type stays struct{ object.Store }

func (stays) Delete(context.Context, ...string) error { return errors.New("read-only") }

// What the version before stored, and its schema, are taken over: its objects are served,
// new ones lie beside them, and an upload that was under way begins anew.
func TestWhatTheVersionBeforeStoredIsServed(t *testing.T) {
	for name, source := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "b.db") },
		"postgres": func(t *testing.T) string { return dbtest.PostgresURL(t) },
	} {
		t.Run(name, func(t *testing.T) {
			o := db.Options{Source: source(t), Key: dbtest.Key}
			d, err := db.Open(t.Context(), o)
			must(t, err)
			w := newWorld(t, d)
			b, more := random(150_000), random(1000)
			w.push(repo, b)
			w.asBefore(b)
			u := w.start()
			_, err = w.add(u.ID, 0, more[:500])
			must(t, err)
			must(t, d.Write(w.ctx, func(tx *db.Tx) error {
				return steps(w.ctx, tx, step{`ALTER TABLE part DROP COLUMN secret`, nil}, step{`ALTER TABLE upload DROP COLUMN repository`, nil},
					step{`DELETE FROM schema_version WHERE version_id = 12`, nil})
			}))
			must(t, w.ledger.Flush(w.ctx))
			must(t, d.Close())

			d, err = db.Open(t.Context(), o)
			must(t, err)
			t.Cleanup(func() { must(t, d.Close()) })
			platform, err := keys.OpenPlatform(filepath.Join(filepath.Dir(w.dir), "platform.key"))
			must(t, err)
			l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: platform.Derive("ledger-spool"), Segment: 1 << 17})
			must(t, err)
			t.Cleanup(func() { must(t, l.Close()) })
			w.Store = New(d, w.disk, keys.NewRings(d, platform), l, platform.Derive("upload-session"))
			w.reads(repo, b)
			_, err = w.add(u.ID, 500, more[500:])
			wants(t, err, fault.UploadUnknown)
			w.push(repo, more)
			w.reads(repo, more)
			receipts := w.receipts()
			i, err := w.erase(w.owner, repo, receipts)
			must(t, err)
			if r := verified(t, receipts, i); r.Destroyed.Objects != 2 || r.Remains.OldFormat == nil || r.Remains.OldFormat.Objects != 1 || r.Remains.OldFormat.Bytes != 150_000 {
				t.Errorf("%+v, %+v", r.Destroyed, r.Remains.OldFormat)
			}
		})
	}
}

// Pushes go on while the whole registry is erased: each has its name before, and is gone,
// or after, and is whole, or is told to come again.
func TestEraseOfARegistryDuringPushes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newManor(t, d)
		w := m.world()
		shared := random(3000)
		stop, cancel := context.WithTimeout(w.ctx, 1500*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		var pushed, late, erased atomic.Int32
		for i := range 3 {
			all.Go(func() {
				for stop.Err() == nil {
					layer := random(500)
					for _, b := range [][]byte{shared, layer} {
						_, err := w.PutBlob(w.ctx, w.owner, name(i), sum(b), -1, bytes.NewReader(b))
						if err != nil && fault.Of(err) != fault.Unavailable {
							t.Error(err)
						}
					}
					_, _, err := w.Mount(w.ctx, w.owner, name(i+10), sum(shared), name(i))
					if err != nil {
						t.Error(err)
					}
					_, err = w.PutManifest(w.ctx, w.owner, name(i), Push{Reference: tagged("latest"), Body: text(imageOf(layer, shared))}, Rules{})
					switch fault.Of(err) {
					case fault.Unavailable, fault.ManifestBlobUnknown:
						late.Add(1)
					default:
						if err != nil {
							t.Error(err)
						}
						pushed.Add(1)
					}
				}
			})
		}
		all.Go(func() {
			for stop.Err() == nil {
				if _, err := m.registries.Erase(w.ctx, m.g, m.Registry.ID, false); err != nil {
					t.Error(err)
				}
				erased.Add(1)
				time.Sleep(20 * time.Millisecond) // for pushes to come through
			}
		})
		all.Wait()
		n, err := w.Scrub(w.ctx, 1<<40)
		must(t, err)
		if n.Damaged > 0 {
			t.Errorf("scrubbed %+v", n)
		}
		t.Logf("%d pushed, %d late, %d erased, %+v left", pushed.Load(), late.Load(), erased.Load(), n)
		if pushed.Load() == 0 || erased.Load() == 0 {
			t.Error("nothing happened")
		}
	})
}
