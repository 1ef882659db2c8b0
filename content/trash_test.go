package content

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
)

var week = Rules{SoftDelete: 7 * 24 * time.Hour}

// pass lets the time of what is in the trash, or without a tag, run out.
func (w *world) pass(statement string) {
	w.t.Helper()
	must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error { _, err := tx.Exec(w.ctx, statement); return err }))
}

const runOut = `UPDATE manifest SET due = 1 WHERE due IS NOT NULL`

func (w *world) trash() (manifests []ref.Digest, tags []ref.Tag) {
	w.t.Helper()
	ms, _, err := w.DeletedManifests(w.ctx, w.owner, repo, Page{N: -1})
	must(w.t, err)
	ts, _, err := w.DeletedTags(w.ctx, w.owner, repo, Page{N: -1})
	must(w.t, err)
	for _, m := range ms {
		if left := m.Until.Sub(m.At); left < week.SoftDelete-time.Minute {
			w.t.Errorf("%s can be restored for %v", m.Digest, left)
		}
		manifests = append(manifests, m.Digest)
	}
	for _, t := range ts {
		tags = append(tags, t.Name)
	}
	return manifests, tags
}

func TestDeletedManifestIsRestoredByteForByte(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 2)
		must(t, w.pushes(tagged("v2"), m, Rules{}))
		about := indexOf(m)
		about["subject"] = describe(ociImage, m)
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), week))
		wants(t, w.head(w.owner, tagged("v1")), fault.TagUnknown)
		wants(t, w.head(w.owner, digested(m)), fault.ManifestUnknown)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), week), fault.ManifestUnknown)
		wants(t, w.pushes(tagged("v3"), m, Rules{}), fault.Conflict)
		wants(t, w.pushes(tagged("v3"), text(indexOf(m)), Rules{}), fault.ManifestBlobUnknown)
		_, err := w.ManifestInfo(w.ctx, w.owner, repo, sum(m))
		wants(t, err, fault.ManifestUnknown)
		if ms, ts := w.trash(); !slices.Equal(ms, []ref.Digest{sum(m)}) || !slices.Equal(ts, []ref.Tag{"v1", "v2"}) {
			t.Errorf("trash %v %v", ms, ts)
		}
		names, _, err := w.DeletedRepositories(w.ctx, w.owner, Page{N: -1})
		if must(t, err); !slices.Equal(names, []ref.Repository{repo}) {
			t.Errorf("%v", names)
		}
		w.sweep(Sweep{Unused: 1, Objects: true}) // takes nothing that can be restored
		wants(t, w.Restore(w.ctx, w.owner, repo, sum(m), "v9", false, week), fault.TagUnknown)
		reader := allow("reader", map[ref.Repository][]access.Action{repo: {access.ContentRead, access.ContentWrite, access.ContentDelete, access.MetadataRead, access.MetadataWrite}})
		wants(t, w.Restore(w.ctx, reader, repo, sum(m), "v1", false, week), fault.Denied)
		must(t, w.Restore(w.ctx, w.owner, repo, sum(m), "v1", false, week))
		w.resolves(repo, tagged("v1"), m)
		wants(t, w.head(w.owner, tagged("v2")), fault.TagUnknown)
		must(t, w.Restore(w.ctx, w.owner, repo, sum(m), "v2", false, week)) // the tag alone
		w.resolves(repo, tagged("v2"), m)
		if ms, ts := w.trash(); ms != nil || ts != nil {
			t.Errorf("trash %v %v", ms, ts)
		}
		wants(t, w.Restore(w.ctx, w.owner, repo, sum(m), "", false, week), fault.ManifestUnknown)
	})
}

func TestRestoredTagMovesOnlyByForce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a := w.putImage(repo, "v1", 1)
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", week))
		w.resolves(repo, digested(a), a)
		b := w.putImage(repo, "v1", 1)
		wants(t, w.Restore(w.ctx, w.owner, repo, sum(a), "v1", false, week), fault.Conflict)
		w.resolves(repo, tagged("v1"), b)
		if _, ts := w.trash(); !slices.Equal(ts, []ref.Tag{"v1"}) {
			t.Errorf("a refused restore took %v from the trash", ts)
		}
		w.patchTag("v1", AttributesPatch{Write: no()})
		wants(t, w.Restore(w.ctx, w.owner, repo, sum(a), "v1", true, week), fault.Disallowed)
		w.patchTag("v1", AttributesPatch{Write: yes()})
		must(t, w.Restore(w.ctx, w.owner, repo, sum(a), "v1", true, week))
		w.resolves(repo, tagged("v1"), a)

		must(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", week))
		w.pass(`UPDATE tag SET due = 1 WHERE due IS NOT NULL`)
		w.sweep(Sweep{})
		wants(t, w.Restore(w.ctx, w.owner, repo, sum(a), "v1", true, week), fault.TagUnknown)
	})
}

func TestIndexIsRestoredAfterWhatItNames(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		child := w.putImage(repo, "child", 1)
		idx := text(indexOf(child))
		w.put(repo, tagged("idx"), idx)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(child), week), fault.Referenced)
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(idx), week))
		// Nor does it go for good before the index, whatever the policy says now.
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(child), Rules{}))
		if ms, _ := w.trash(); len(ms) != 2 {
			t.Fatalf("trash %v", ms)
		}
		err := w.Restore(w.ctx, w.owner, repo, sum(idx), "idx", false, week)
		wants(t, err, fault.Conflict)
		if d := fmt.Sprint(fault.From(err).Detail); d != fmt.Sprint(map[string]any{"digests": []ref.Digest{sum(child)}}) {
			t.Errorf("it says %v", d)
		}
		must(t, w.Restore(w.ctx, w.owner, repo, sum(child), "", false, week))
		must(t, w.Restore(w.ctx, w.owner, repo, sum(idx), "idx", false, week))
		w.resolves(repo, tagged("idx"), idx)

		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(idx), week))
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(child), week))
		w.pass(runOut)
		if n := w.sweep(Sweep{Unused: 1, Objects: true}); n.Manifests != 2 || n.Blobs != 2 {
			t.Errorf("swept %+v", n)
		}
		if ms, ts := w.trash(); ms != nil || ts != nil || w.objectsLeft() != 0 {
			t.Errorf("trash %v %v, %d objects", ms, ts, w.objectsLeft())
		}
		w.push(repo, nil)
		must(t, w.pushes(tagged("x"), text(indexOf()), Rules{}))
	})
}

func TestRepositoryGoesWithAllThatIsInIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		child := w.putImage(repo, "child", 1)
		idx := text(indexOf(child))
		w.put(repo, tagged("idx"), idx)
		w.push(repo, random(30))
		other := w.putImage("other", "v1", 1)
		del := func(rules Rules) {
			t.Helper()
			manifests, tags, err := w.DeleteRepository(w.ctx, w.owner, repo, rules)
			must(t, err)
			want := []ref.Digest{sum(child), sum(idx)}
			slices.Sort(want)
			if !slices.Equal(manifests, want) || !slices.Equal(tags, []ref.Tag{"child", "idx"}) {
				t.Errorf("deleted %v %v", manifests, tags)
			}
			for _, r := range []ref.Reference{tagged("child"), digested(child), digested(idx)} {
				if err := w.head(w.owner, r); fault.Of(err).Row().Status != 404 {
					t.Errorf("%v: %v", r, err)
				}
			}
			_, _, err = w.Tags(w.ctx, w.owner, repo, "", -1)
			wants(t, err, fault.NameUnknown)
			names, _, err := w.Repositories(w.ctx, w.owner, "", -1)
			if must(t, err); !slices.Equal(names, []ref.Repository{"other"}) {
				t.Errorf("the catalog shows %v", names)
			}
		}
		del(week)
		if ms, ts := w.trash(); len(ms) != 2 || len(ts) != 2 {
			t.Errorf("trash %v %v", ms, ts)
		}
		must(t, w.Restore(w.ctx, w.owner, repo, sum(child), "child", false, week))
		must(t, w.Restore(w.ctx, w.owner, repo, sum(idx), "idx", false, week))
		w.resolves(repo, tagged("child"), child)
		del(Rules{}) // for good
		_, _, err := w.DeletedManifests(w.ctx, w.owner, repo, Page{N: -1})
		wants(t, err, fault.NameUnknown)
		w.sweep(Sweep{Unused: 1, Objects: true})
		w.resolves("other", tagged("v1"), other)
		if n := w.objectsLeft(); n != 2 {
			t.Errorf("%d objects for one image", n)
		}
		w.putImage(repo, "v1", 1) // and again, as a new one
		r, err := w.Repository(w.ctx, w.owner, repo)
		if must(t, err); r.Manifests != 1 || r.Tags != 1 {
			t.Errorf("%+v", r)
		}
		_, _, err = w.DeleteRepository(w.ctx, w.owner, repo, week)
		must(t, err)
		w.pass(runOut)
		w.sweep(Sweep{Unused: 1, Objects: true})
		if n := w.objectsLeft(); n != 2 {
			t.Errorf("%d objects for one image", n)
		}
	})
}

func TestUntaggedManifestsGoByPolicyAndNoOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		tag, was := w.putImage(repo, "tag", 1), w.putImage(repo, "moves", 1)
		w.putImage(repo, "moves", 1)
		lockedOne, child := w.putImage(repo, "locked", 1), w.putImage(repo, "child", 1)
		w.put(repo, tagged("idx"), text(indexOf(child)))
		sbom := imageOf(random(0))
		w.push(repo, nil)
		sbom["subject"] = describe(ociImage, tag)
		w.put(repo, digested(text(sbom)), text(sbom))
		never := text(indexOf())
		w.put(repo, digested(never), never)
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "locked", Rules{}))
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "child", Rules{}))
		w.patchManifest(lockedOne, AttributesPatch{Delete: no()})
		have := func() (all []ref.Digest) {
			t.Helper()
			ms, _, err := w.ManifestInfos(w.ctx, w.owner, repo, Page{N: -1})
			must(t, err)
			for _, m := range ms {
				all = append(all, m.Digest)
			}
			return all
		}
		before := have()
		rules := func(r Retention) Sweep {
			return Sweep{Registries: func(context.Context) (map[string]Rules, error) {
				return map[string]Rules{registryUID: {Retention: r}}, nil
			}}
		}
		for _, keeps := range []Retention{{}, {On: true, After: time.Hour}, {On: true, Since: time.Now().Add(time.Hour)}} {
			if n := w.sweep(rules(keeps)); n != (Swept{}) {
				t.Fatalf("%+v took %+v", keeps, n)
			}
		}
		if n := w.sweep(rules(Retention{On: true})); n != (Swept{Manifests: 2}) {
			t.Errorf("swept %+v", n)
		}
		want := slices.DeleteFunc(before, func(d ref.Digest) bool { return d == sum(was) || d == sum(never) })
		if got := have(); !slices.Equal(got, want) {
			t.Errorf("%v are left, not %v", got, want)
		}
	})
}

func TestDeletedRegistryLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const uid = "0a4f5a6e-1111-4e4e-9a43-5d6f2c1c7a10"
		mine := w.putImage(repo, "v1", 1)
		must(t, w.db.Write(w.ctx, func(tx *db.Tx) error { return w.rings.Create(w.ctx, tx, uid) }))
		other := *w
		other.owner = access.ServerGrant(access.Registry{UID: uid, ID: "/subscriptions/0/resourceGroups/local/providers/Microsoft.ContainerRegistry/registries/other"}, access.Call{})
		child := other.putImage(repo, "v1", 1)
		other.put("b", tagged("x"), text(indexOf()))
		other.put(repo, tagged("idx"), text(indexOf(child)))
		must(t, other.DeleteTag(w.ctx, other.owner, repo, "v1", week))
		must(t, other.DeleteManifest(w.ctx, other.owner, repo, sum(text(indexOf(child))), week))
		there := map[string]Rules{registryUID: {}, uid: {}}
		o := Sweep{Objects: true, Registries: func(context.Context) (map[string]Rules, error) { return there, nil }}
		if n := w.sweep(o); n != (Swept{}) {
			t.Fatalf("swept %+v", n)
		}
		there = nil // who knows of no registry at all knows nothing
		if n := w.sweep(o); n != (Swept{}) {
			t.Fatalf("swept %+v", n)
		}
		there = map[string]Rules{registryUID: {}}
		if n := w.sweep(o); n.Repositories != 2 || n.Blobs != 2 {
			t.Errorf("swept %+v", n)
		}
		w.resolves(repo, tagged("v1"), mine)
		if n, err := w.Usage(w.ctx, uid); err != nil || n != 0 || w.objectsLeft() != 2 {
			t.Errorf("%d bytes and %d objects are left: %v", n, w.objectsLeft(), err)
		}
	})
}

func TestEveryChangeOfAttributesIsRecorded(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 1)
		state := Quarantined
		w.patchRepository(AttributesPatch{List: no()})
		w.patchTag("v1", AttributesPatch{Delete: no()})
		w.patchManifest(m, AttributesPatch{Read: no(), QuarantineState: &state})
		w.patchTag("v1", AttributesPatch{Delete: yes()})
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", week))
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), week))
		must(t, w.Restore(w.ctx, w.owner, repo, sum(m), "", false, week))
		_, _, err := w.DeleteRepository(w.ctx, w.owner, repo, Rules{})
		must(t, err)
		var got []string
		for _, e := range w.events() {
			if e.Operation == PushBlob || e.Operation == PushManifest {
				continue
			}
			if e.Category != ledger.Repository || e.Detail.Repository != repo || e.Who.Name != "breakwater" {
				t.Errorf("%+v", e)
			}
			delete(e.Detail.More, "restorableUntil")
			got = append(got, fmt.Sprint(e.Operation, e.Detail.Tag, e.Detail.Digest == sum(m), e.Detail.More))
		}
		want := []string{
			"PatchRepositoryfalse map[listEnabled:false]",
			"PatchTagv1true map[deleteEnabled:false]",
			"PatchManifesttrue map[quarantineState:Quarantined readEnabled:false]",
			"PatchTagv1true map[deleteEnabled:true]",
			"DeleteTagv1true map[]",
			"DeleteManifesttrue map[]",
			"RestoreManifesttrue map[]",
			"DeleteRepositoryfalse map[]",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%q\nwant\n%q", got, want)
		}
	})
}

// A blob may come between any two statements of the deletion of its repository: the
// push is then in the repository that is made anew, or was deleted with it.
func TestRepositoryIsDeletedUnderItsPushes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config := random(40)
		stop := time.Now().Add(2 * time.Second)
		var pushers sync.WaitGroup
		for range 3 {
			pushers.Go(func() {
				for n := 0; time.Now().Before(stop); n++ {
					b := random(100)
					if _, err := w.PutBlob(w.ctx, w.owner, repo, sum(b), 100, bytes.NewReader(b)); err != nil {
						t.Error(err)
					}
					if _, err := w.PutBlob(w.ctx, w.owner, repo, sum(config), 40, bytes.NewReader(config)); err != nil {
						t.Error(err)
					}
					err := w.pushes(tagged("v1"), text(imageOf(config, b)), Rules{})
					if err != nil && fault.Of(err) != fault.ManifestBlobUnknown { // it was deleted since
						t.Error(err)
					}
				}
			})
		}
		for time.Now().Before(stop) {
			_, _, err := w.DeleteRepository(w.ctx, w.owner, repo, Rules{})
			if err != nil && fault.Of(err) != fault.NameUnknown {
				t.Error(err)
			}
			w.sweep(Sweep{Objects: true})
		}
		pushers.Wait()
		m := w.putImage(repo, "v1", 1)
		w.resolves(repo, tagged("v1"), m)
		_, _, err := w.DeleteRepository(w.ctx, w.owner, repo, Rules{})
		must(t, err)
		w.sweep(Sweep{Objects: true})
		if n := w.objectsLeft(); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}
