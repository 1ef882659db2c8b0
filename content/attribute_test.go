package content

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/ref"
)

func yes() *bool { b := true; return &b }
func no() *bool  { return new(bool) }

func (w *world) patchTag(tag ref.Tag, p AttributesPatch) {
	w.t.Helper()
	_, err := w.PatchTag(w.ctx, w.owner, repo, tag, p)
	must(w.t, err)
}

func (w *world) patchManifest(m []byte, p AttributesPatch) {
	w.t.Helper()
	_, err := w.PatchManifest(w.ctx, w.owner, repo, sum(m), p)
	must(w.t, err)
}

func (w *world) patchRepository(p AttributesPatch) {
	w.t.Helper()
	_, err := w.PatchRepository(w.ctx, w.owner, repo, p)
	must(w.t, err)
}

func (w *world) head(g access.Grant, r ref.Reference) error {
	_, err := w.HeadManifest(w.ctx, g, repo, r)
	_, err2 := w.Manifest(w.ctx, g, repo, r)
	if (err == nil) != (err2 == nil) || err != nil && fault.Of(err) != fault.Of(err2) {
		w.t.Fatalf("HEAD says %v, GET %v", err, err2)
	}
	return err
}

func (w *world) pushes(r ref.Reference, m []byte, rules Rules) error {
	_, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: r, Body: m}, rules)
	return err
}

func TestLockedTagNeitherMovesNorGoes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.putImage(repo, "v1", 1), w.putImage(repo, "other", 1)
		for _, p := range []AttributesPatch{{Write: no()}, {Delete: no()}} {
			w.patchTag("v1", p)
			if p.Write != nil {
				wants(t, w.pushes(tagged("v1"), b, Rules{}), fault.Disallowed)
				must(t, w.pushes(tagged("v1"), a, Rules{})) // which changes nothing
			}
			wants(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", Rules{}), fault.Disallowed)
			wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(a), Rules{}), fault.Disallowed)
			_, _, err := w.DeleteRepository(w.ctx, w.owner, repo, Rules{})
			wants(t, err, fault.Disallowed)
			w.resolves(repo, tagged("v1"), a)
			w.resolves(repo, tagged("other"), b)
			w.patchTag("v1", AttributesPatch{Write: yes(), Delete: yes()})
		}
		// What may not be deleted may be moved, and its attributes with it.
		w.patchTag("v1", AttributesPatch{Delete: no(), List: no()})
		must(t, w.pushes(tagged("v1"), b, Rules{}))
		i, err := w.TagInfo(w.ctx, w.owner, repo, "v1")
		must(t, err)
		if i.Attributes != (Attributes{Write: true, Read: true}) || i.Digest != sum(b) || !i.Created.Before(i.Changed) {
			t.Fatalf("%+v", i)
		}
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(a), Rules{}))
	})
}

func TestLockedManifestAndRepositoryStayAsTheyAre(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 1)
		blob := w.push(repo, random(10))
		w.patchManifest(m, AttributesPatch{Write: no()})
		wants(t, w.pushes(tagged("v2"), m, Rules{}), fault.Disallowed)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), Rules{}), fault.Disallowed)
		_, _, err := w.DeleteRepository(w.ctx, w.owner, repo, Rules{})
		wants(t, err, fault.Disallowed)
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", Rules{}))
		w.patchManifest(m, AttributesPatch{Write: yes()})
		must(t, w.pushes(tagged("v1"), m, Rules{}))

		u, err := w.StartUpload(w.ctx, w.owner, repo, "")
		must(t, err)
		w.patchRepository(AttributesPatch{Write: no()})
		objects := w.objectsLeft()
		late := random(10)
		_, err = w.FinishUpload(w.ctx, w.owner, repo, u.ID, Chunk{At: -1, Size: -1, Reader: bytes.NewReader(late)}, sum(late))
		wants(t, err, fault.Disallowed)
		if w.objectsLeft() != objects {
			t.Error("a refused push left its bytes")
		}
		_, err = w.StartUpload(w.ctx, w.owner, repo, "")
		wants(t, err, fault.Disallowed)
		_, err = w.PutBlob(w.ctx, w.owner, repo, sum(late), -1, bytes.NewReader(late))
		wants(t, err, fault.Disallowed)
		elsewhere := w.push("other", random(10))
		_, _, err = w.Mount(w.ctx, w.owner, repo, elsewhere, "other")
		wants(t, err, fault.Disallowed)
		wants(t, w.pushes(tagged("v2"), m, Rules{}), fault.Disallowed)
		wants(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", Rules{}), fault.Disallowed)
		wants(t, w.DeleteBlob(w.ctx, w.owner, repo, blob), fault.Disallowed)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), Rules{}), fault.Disallowed)
		w.resolves(repo, tagged("v1"), m)
		w.patchRepository(AttributesPatch{Write: yes()})
		must(t, w.pushes(tagged("v2"), m, Rules{}))
	})
}

func TestWhatMayNotBeReadIsNotPulled(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 1)
		must(t, w.pushes(tagged("v2"), m, Rules{}))
		blob := w.push(repo, random(10))
		w.patchTag("v1", AttributesPatch{Read: no()})
		wants(t, w.head(w.owner, tagged("v1")), fault.Disallowed)
		must(t, w.head(w.owner, tagged("v2")))
		must(t, w.head(w.owner, digested(m)))
		w.patchManifest(m, AttributesPatch{Read: no()})
		wants(t, w.head(w.owner, tagged("v2")), fault.Disallowed)
		wants(t, w.head(w.owner, digested(m)), fault.Disallowed)
		w.patchManifest(m, AttributesPatch{Read: yes()})
		must(t, w.head(w.owner, tagged("v2")))
		w.patchRepository(AttributesPatch{Read: no()})
		wants(t, w.head(w.owner, tagged("v2")), fault.Disallowed)
		_, err := w.StatBlob(w.ctx, w.owner, repo, blob)
		wants(t, err, fault.Disallowed)
		_, err = w.Blob(w.ctx, w.owner, repo, blob)
		wants(t, err, fault.Disallowed)
		for _, from := range []ref.Repository{repo, ""} {
			if _, ok, err := w.Mount(w.ctx, w.owner, "thief", blob, from); ok || err != nil {
				t.Errorf("mounted out of a repository that may not be read: %v %v", ok, err)
			}
		}
		if _, err := w.Repository(w.ctx, w.owner, repo); err != nil {
			t.Error("attributes can be looked at, or nobody could change them:", err)
		}
	})
}

func TestListsDoNotShowWhatIsHidden(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "v1", 1)
		must(t, w.pushes(tagged("v2"), m, Rules{}))
		hidden := indexOf(m)
		hidden["subject"] = describe(ociImage, m)
		must(t, w.pushes(tagged("idx"), text(hidden), Rules{}))
		w.putImage("other", "v1", 1)
		w.patchTag("v2", AttributesPatch{List: no()})
		w.patchManifest(text(hidden), AttributesPatch{List: no()})
		tags, _, err := w.Tags(w.ctx, w.owner, repo, "", -1)
		must(t, err)
		infos, _, err := w.TagInfos(w.ctx, w.owner, repo, Page{N: -1})
		must(t, err)
		manifests, _, err := w.ManifestInfos(w.ctx, w.owner, repo, Page{N: -1})
		must(t, err)
		about, err := w.Referrers(w.ctx, w.owner, repo, sum(m), "", "")
		must(t, err)
		if !slices.Equal(tags, []ref.Tag{"idx", "v1"}) || len(infos) != 2 || len(manifests) != 1 || !slices.Equal(manifests[0].Tags, []ref.Tag{"v1"}) || string(about.Manifests) != "[]" {
			t.Errorf("%v %v %+v %s", tags, infos, manifests, about.Manifests)
		}
		must(t, w.head(w.owner, tagged("v2"))) // hidden, not forbidden
		w.patchRepository(AttributesPatch{List: no()})
		names, _, err := w.Repositories(w.ctx, w.owner, "", -1)
		if must(t, err); !slices.Equal(names, []ref.Repository{"other"}) {
			t.Errorf("the catalog shows %v", names)
		}
	})
}

func TestQuarantineHoldsWhatIsPushedUntilItPasses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		before := w.putImage(repo, "before", 1)
		q := Rules{Quarantine: true}
		must(t, w.pushes(tagged("before"), before, q)) // was here already
		reader := allow("reader", map[ref.Repository][]access.Action{repo: {access.ContentRead, access.MetadataRead}})
		guard := allow("guard", map[ref.Repository][]access.Action{repo: {access.QuarantineRead, access.QuarantineWrite, access.ContentRead}})
		owner := allow("writer", map[ref.Repository][]access.Action{repo: {access.MetadataWrite}})
		config := random(20)
		w.push(repo, config)
		m := text(imageOf(config))
		must(t, w.pushes(tagged("v1"), m, q))

		held := func() {
			t.Helper()
			wants(t, w.head(reader, tagged("v1")), fault.TagUnknown)
			wants(t, w.head(reader, digested(m)), fault.Disallowed)
			must(t, w.head(guard, tagged("v1")))
			must(t, w.head(guard, digested(m)))
			tags, _, err := w.Tags(w.ctx, reader, repo, "", -1)
			if must(t, err); !slices.Equal(tags, []ref.Tag{"before"}) {
				t.Errorf("tags %v", tags)
			}
		}
		held()
		must(t, w.head(reader, tagged("before")))
		i, err := w.TagInfo(w.ctx, reader, repo, "v1")
		if must(t, err); i.Quarantine != Quarantined {
			t.Errorf("%+v", i)
		}
		must(t, w.pushes(tagged("v1"), m, Rules{})) // nor does a push let it out when the policy is off
		held()
		state := func(s string) AttributesPatch { return AttributesPatch{QuarantineState: &s} }
		_, err = w.PatchManifest(w.ctx, owner, repo, sum(m), state(Passed))
		wants(t, err, fault.Denied)
		_, err = w.PatchManifest(w.ctx, guard, repo, sum(m), AttributesPatch{QuarantineState: state(Passed).QuarantineState, Delete: no()})
		wants(t, err, fault.Denied)
		_, err = w.PatchManifest(w.ctx, guard, repo, sum(m), state("Fine"))
		wants(t, err, fault.BadRequest)
		_, err = w.PatchTag(w.ctx, w.owner, repo, "v1", state(Passed))
		wants(t, err, fault.BadRequest)
		_, err = w.PatchManifest(w.ctx, guard, repo, sum(m), state(Failed))
		must(t, err)
		held()
		details := `{"by":"scanner"}`
		p := state(Passed)
		p.QuarantineDetails = &details
		got, err := w.PatchManifest(w.ctx, guard, repo, sum(m), p)
		if must(t, err); got.QuarantineState != Passed || got.QuarantineDetails != details {
			t.Errorf("%+v", got)
		}
		must(t, w.head(reader, tagged("v1")))
		must(t, w.head(reader, digested(m)))
		must(t, w.pushes(tagged("v1"), m, q)) // it has passed
		must(t, w.head(reader, tagged("v1")))
		w.patchManifest(m, state(Quarantined))
		held()
	})
}

func TestListsByTimeGoOnWhileTheirItemsAreDeleted(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var made []ref.Digest
		config := random(20)
		w.push(repo, config)
		names := rand.Perm(7)
		for i, n := range names {
			d := imageOf(config)
			d["n"] = i
			w.put(repo, tagged(fmt.Sprint("v", n)), text(d))
			made = append(made, sum(text(d)))
			time.Sleep(time.Millisecond)
		}
		for _, o := range []Order{OldestFirst, NewestFirst, ByName} {
			var tags []ref.Tag
			var manifests []ref.Digest
			for p := (Page{N: 2, Order: o}); ; {
				some, more, err := w.TagInfos(w.ctx, w.owner, repo, p)
				must(t, err)
				for _, i := range some {
					tags = append(tags, i.Name)
				}
				if !more {
					break
				}
				p.After = some[len(some)-1].Place(o)
			}
			for p := (Page{N: 3, Order: o}); ; {
				some, more, err := w.ManifestInfos(w.ctx, w.owner, repo, p)
				must(t, err)
				for _, i := range some {
					manifests = append(manifests, i.Digest)
				}
				if !more {
					break
				}
				p.After = string(some[len(some)-1].Digest) // a client that makes up its own link
			}
			wantTags, wantManifests := []ref.Tag{}, slices.Clone(made)
			for _, n := range names {
				wantTags = append(wantTags, ref.Tag(fmt.Sprint("v", n)))
			}
			switch o {
			case NewestFirst:
				slices.Reverse(wantTags)
				slices.Reverse(wantManifests)
			case ByName:
				slices.Sort(wantTags)
				slices.Sort(wantManifests)
			}
			if !slices.Equal(tags, wantTags) || !slices.Equal(manifests, wantManifests) {
				t.Errorf("order %d: %v, not %v; %v, not %v", o, tags, wantTags, manifests, wantManifests)
			}
		}
		one, _, err := w.TagInfos(w.ctx, w.owner, repo, Page{N: -1, Digest: made[2]})
		if must(t, err); len(one) != 1 || one[0].Digest != made[2] {
			t.Errorf("%+v", one)
		}
		_, _, err = w.ManifestInfos(w.ctx, w.owner, repo, Page{N: 1, Order: NewestFirst, After: "sha256:none"})
		wants(t, err, fault.BadRequest)
		// As Azure's own example: all but the newest goes, page by page.
		n := 0
		for p := (Page{N: 2, Order: NewestFirst}); ; {
			some, more, err := w.ManifestInfos(w.ctx, w.owner, repo, p)
			must(t, err)
			for _, i := range some {
				if n++; n > 1 {
					must(t, w.DeleteManifest(w.ctx, w.owner, repo, i.Digest, Rules{}))
				}
			}
			if !more {
				break
			}
			p.After = some[len(some)-1].Place(p.Order)
		}
		left, _, err := w.ManifestInfos(w.ctx, w.owner, repo, Page{N: -1})
		if must(t, err); len(left) != 1 || left[0].Digest != made[6] {
			t.Errorf("%d looked at, %d left", n, len(left))
		}
	})
}

func TestManifestShowsWhatItIs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config, layer := []byte(`{"architecture":"arm64","os":"linux","rootfs":{}}`), random(1000)
		w.push(repo, config)
		w.push(repo, layer)
		m := text(imageOf(config, layer))
		w.put(repo, tagged("v1"), m)
		w.put(repo, tagged("a"), m)
		idx := text(indexOf(m))
		w.put(repo, tagged("all"), idx)
		i, err := w.ManifestInfo(w.ctx, w.owner, repo, sum(m))
		must(t, err)
		if i.Architecture != "arm64" || i.OS != "linux" || i.Size != int64(len(m)+len(config)+len(layer)) || !slices.Equal(i.Tags, []ref.Tag{"a", "v1"}) ||
			i.MediaType != ociImage || i.ConfigMediaType != "application/vnd.oci.image.config.v1+json" || i.Attributes != (Attributes{true, true, true, true}) || i.References != nil {
			t.Errorf("%+v", i)
		}
		of, err := w.ManifestInfo(w.ctx, w.owner, repo, sum(idx))
		must(t, err)
		if of.Size != i.Size+int64(len(idx)) || !slices.Equal(of.References, []Platform{{sum(m), "arm64", "linux"}}) || of.Architecture != "" {
			t.Errorf("%+v", of)
		}
		r, err := w.Repository(w.ctx, w.owner, repo)
		must(t, err)
		if r.Name != repo || r.Manifests != 2 || r.Tags != 3 || r.Created.IsZero() || r.Changed.Before(r.Created) || r.Attributes != (Attributes{true, true, true, true}) {
			t.Errorf("%+v", r)
		}
		n, err := w.Usage(w.ctx, registryUID)
		if must(t, err); n != of.Size {
			t.Errorf("%d bytes, not %d", n, of.Size)
		}
		_, err = w.ManifestInfo(w.ctx, w.owner, repo, sum(layer))
		wants(t, err, fault.ManifestUnknown)
		_, err = w.TagInfo(w.ctx, w.owner, repo, "no")
		wants(t, err, fault.TagUnknown)
		for _, call := range []func() error{
			func() error { _, err := w.Repository(w.ctx, w.owner, "no"); return err },
			func() error { _, err := w.PatchRepository(w.ctx, w.owner, "no", AttributesPatch{}); return err },
			func() error { _, _, err := w.TagInfos(w.ctx, w.owner, "no", Page{}); return err },
			func() error { _, _, err := w.ManifestInfos(w.ctx, w.owner, "no", Page{}); return err },
			func() error { _, _, err := w.DeleteRepository(w.ctx, w.owner, "no", Rules{}); return err },
			func() error { return w.Restore(w.ctx, w.owner, "no", sum(m), "v1", false, Rules{}) },
		} {
			wants(t, call(), fault.NameUnknown)
		}
	})
}

func FuzzPlatform(f *testing.F) {
	f.Add([]byte(`{"architecture":"amd64","os":"linux"}`))
	f.Add([]byte(`{"architecture":7,"os":"a b|c"}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		a, o := platform(config)
		if strings.ContainsAny(a+o, " |\n\x00") || len(a) > maxPlatform || len(o) > maxPlatform {
			t.Fatalf("%q %q", a, o)
		}
	})
}
