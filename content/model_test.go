package content

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"breakwater/fault"
	"breakwater/ref"
)

// A model is what a registry should be, in a few maps.
type model struct {
	repos map[ref.Repository]*modelRepo
}

type modelRepo struct {
	blobs     map[ref.Digest]bool
	manifests map[ref.Digest]modelManifest
	tags      map[ref.Tag]ref.Digest
	locked    map[ref.Tag]bool // it cannot be moved
	hidden    bool             // it was deleted, and the trash has something of it
}

type modelManifest struct {
	body    []byte
	needs   []ref.Digest // blobs and manifests
	subject ref.Digest
	order   int
	locked  bool // it cannot be deleted
	deleted bool // it is in the trash
}

func (m *model) repo(name ref.Repository) *modelRepo {
	if m.repos[name] == nil {
		m.repos[name] = &modelRepo{map[ref.Digest]bool{}, map[ref.Digest]modelManifest{}, map[ref.Tag]ref.Digest{}, map[ref.Tag]bool{}, false}
	}
	return m.repos[name]
}

// needed tells whether manifests that are there name d, and whether some in the
// trash do.
func (r *modelRepo) needed(d ref.Digest) (live, trashed bool) {
	for _, m := range r.manifests {
		if slices.Contains(m.needs, d) {
			live, trashed = live || !m.deleted, trashed || m.deleted
		}
	}
	return live, trashed
}

// remove deletes a manifest, into the trash if it may be restored.
func (r *modelRepo) remove(d ref.Digest, soft bool) {
	m := r.manifests[d]
	_, trashed := r.needed(d)
	if m.deleted = soft || trashed; m.deleted {
		r.manifests[d] = m
	} else {
		delete(r.manifests, d)
	}
	maps.DeleteFunc(r.tags, func(_ ref.Tag, to ref.Digest) bool { return to == d })
}

// held tells whether a lock keeps the manifest.
func (r *modelRepo) held(d ref.Digest) bool {
	for t, to := range r.tags {
		if to == d && r.locked[t] {
			return true
		}
	}
	return r.manifests[d].locked
}

// TestStoreIsLikeItsModel does random things to a store and to the model, and
// compares all that can be seen after each. Sweeps run in between and must not
// be seen at all.
func TestStoreIsLikeItsModel(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		round := 0
		receipts := w.receipts()
		rapid.Check(t, func(t *rapid.T) {
			round++
			before := w.objectsLeft()
			names := []ref.Repository{ref.Repository(fmt.Sprintf("a%d", round)), ref.Repository(fmt.Sprintf("a%d/b", round)), ref.Repository(fmt.Sprintf("c%d", round))}
			var blobs [][]byte
			for i := range 5 {
				blobs = append(blobs, fmt.Appendf(nil, "%d/%d %s", round, i, random(10*i*i*i)))
			}
			var known [][]byte // manifests that were made in this round
			m := &model{map[ref.Repository]*modelRepo{}}
			order := 0

			aRepo := func(t *rapid.T) ref.Repository { return rapid.SampledFrom(names).Draw(t, "repo") }
			aBlob := func(t *rapid.T) []byte { return rapid.SampledFrom(blobs).Draw(t, "blob") }
			aTag := func(t *rapid.T) ref.Tag { return rapid.SampledFrom([]ref.Tag{"x", "y", "Z"}).Draw(t, "tag") }
			is := func(t *rapid.T, err error, c fault.Code) {
				t.Helper()
				if c < 0 && err != nil || c >= 0 && (err == nil || fault.Of(err) != c) {
					t.Fatalf("got %v, want %v", err, c)
				}
			}
			const fine = fault.Code(-1)

			put := func(t *rapid.T, name ref.Repository, body []byte, tags []ref.Tag) {
				doc, err := decode(body, "")
				if err != nil {
					t.Fatal(err)
				}
				r := m.repo(name)
				if r.manifests[sum(body)].deleted {
					_, err = w.PutManifest(w.ctx, w.owner, name, Push{Reference: digested(body), Body: body}, Rules{})
					is(t, err, fault.Conflict)
					return
				}
				missing := slices.ContainsFunc(doc.blobs, func(b reference) bool { return !r.blobs[b.digest] }) ||
					slices.ContainsFunc(doc.manifests, func(b reference) bool { m, ok := r.manifests[b.digest]; return !ok || m.deleted })
				stuck := slices.ContainsFunc(tags, func(t ref.Tag) bool { to, ok := r.tags[t]; return ok && to != sum(body) && r.locked[t] })
				_, err = w.PutManifest(w.ctx, w.owner, name, Push{Reference: digested(body), Tags: tags, Body: body}, Rules{})
				if missing {
					is(t, err, fault.ManifestBlobUnknown)
					return
				}
				if stuck {
					is(t, err, fault.Disallowed)
					return
				}
				is(t, err, fine)
				r.hidden = false
				if _, again := r.manifests[sum(body)]; !again {
					order++
					mm := modelManifest{body: body, subject: doc.subject, order: order}
					for _, b := range append(doc.blobs, doc.manifests...) {
						mm.needs = append(mm.needs, b.digest)
					}
					r.manifests[sum(body)] = mm
				}
				for _, tag := range tags {
					if _, ok := r.tags[tag]; !ok {
						r.locked[tag] = false
					}
					r.tags[tag] = sum(body)
				}
			}
			have := func(name ref.Repository, b []byte) {
				m.repo(name).blobs[sum(b)], m.repo(name).hidden = true, false
			}
			rules := func(t *rapid.T) Rules {
				return rapid.SampledFrom([]Rules{{}, {SoftDelete: time.Hour}}).Draw(t, "rules")
			}

			t.Repeat(map[string]func(*rapid.T){
				"push blob": func(t *rapid.T) {
					name, b := aRepo(t), aBlob(t)
					_, err := w.PutBlob(w.ctx, w.owner, name, sum(b), int64(len(b)), bytes.NewReader(b))
					is(t, err, fine)
					have(name, b)
				},
				"push blob in chunks": func(t *rapid.T) {
					name, b := aRepo(t), aBlob(t)
					u, err := w.StartUpload(w.ctx, w.owner, name, "")
					is(t, err, fine)
					at := 0
					for range rapid.IntRange(0, 3).Draw(t, "chunks") {
						next := rapid.IntRange(at, len(b)).Draw(t, "to")
						got, err := w.AppendUpload(w.ctx, w.owner, name, u.ID, Chunk{At: int64(at), Size: -1, Reader: bytes.NewReader(b[at:next])})
						is(t, err, fine)
						if at = next; got.Offset != int64(at) {
							t.Fatalf("at %d, not %d", got.Offset, at)
						}
					}
					if rapid.Bool().Draw(t, "cancel") {
						is(t, w.CancelUpload(w.ctx, w.owner, name, u.ID), fine)
						return
					}
					_, err = w.FinishUpload(w.ctx, w.owner, name, u.ID, Chunk{At: -1, Size: -1, Reader: bytes.NewReader(b[at:])}, sum(b))
					is(t, err, fine)
					have(name, b)
				},
				"mount": func(t *rapid.T) {
					name, b, from := aRepo(t), aBlob(t), rapid.SampledFrom(append(names, "")).Draw(t, "from")
					want := false
					for _, other := range names {
						want = want || (from == "" || from == other) && m.repo(other).blobs[sum(b)] && !m.repo(other).hidden
					}
					_, ok, err := w.Mount(w.ctx, w.owner, name, sum(b), from)
					is(t, err, fine)
					if ok != want {
						t.Fatalf("mounted: %v", ok)
					}
					if ok {
						have(name, b)
					}
				},
				"push image": func(t *rapid.T) {
					d := imageOf(aBlob(t), rapid.SliceOfN(rapid.SampledFrom(blobs), 0, 3).Draw(t, "layers")...)
					if len(known) > 0 && rapid.Bool().Draw(t, "about") {
						d["subject"] = describe(ociImage, rapid.SampledFrom(known).Draw(t, "subject"))
					}
					body := text(d)
					known = append(known, body)
					put(t, aRepo(t), body, rapid.SliceOfN(rapid.SampledFrom([]ref.Tag{"x", "y", "Z"}), 0, 2).Draw(t, "tags"))
				},
				"push index": func(t *rapid.T) {
					if len(known) == 0 {
						t.Skip()
					}
					body := text(indexOf(rapid.SliceOfN(rapid.SampledFrom(known), 0, 2).Draw(t, "manifests")...))
					known = append(known, body)
					put(t, aRepo(t), body, []ref.Tag{aTag(t)})
				},
				"push again": func(t *rapid.T) {
					if len(known) == 0 {
						t.Skip()
					}
					put(t, aRepo(t), rapid.SampledFrom(known).Draw(t, "manifest"), []ref.Tag{aTag(t)})
				},
				"delete tag": func(t *rapid.T) {
					name, tag := aRepo(t), aTag(t)
					err := w.DeleteTag(w.ctx, w.owner, name, tag, rules(t))
					if _, ok := m.repo(name).tags[tag]; !ok {
						is(t, err, fault.Of(err))
						return
					}
					if m.repo(name).locked[tag] {
						is(t, err, fault.Disallowed)
						return
					}
					is(t, err, fine)
					delete(m.repo(name).tags, tag)
				},
				"delete manifest": func(t *rapid.T) {
					if len(known) == 0 {
						t.Skip()
					}
					name, d := aRepo(t), sum(rapid.SampledFrom(known).Draw(t, "manifest"))
					r, how := m.repo(name), rules(t)
					err := w.DeleteManifest(w.ctx, w.owner, name, d, how)
					live, _ := r.needed(d)
					switch mm, ok := r.manifests[d]; {
					case !ok || mm.deleted:
						is(t, err, fault.Of(err))
					case r.held(d):
						is(t, err, fault.Disallowed)
					case live:
						is(t, err, fault.Referenced)
					default:
						is(t, err, fine)
						r.remove(d, how.SoftDelete > 0)
					}
				},
				"restore": func(t *rapid.T) {
					if len(known) == 0 {
						t.Skip()
					}
					name, d := aRepo(t), sum(rapid.SampledFrom(known).Draw(t, "manifest"))
					r := m.repo(name)
					err := w.Restore(w.ctx, w.owner, name, d, "", false, Rules{})
					mm := r.manifests[d]
					switch {
					case !mm.deleted:
						is(t, err, fault.Of(err))
					case slices.ContainsFunc(mm.needs, func(d ref.Digest) bool { return r.manifests[d].deleted }):
						is(t, err, fault.Conflict)
					default:
						is(t, err, fine)
						mm.deleted, r.hidden = false, false
						r.manifests[d] = mm
					}
				},
				"delete repository": func(t *rapid.T) {
					name, how := aRepo(t), rules(t)
					r := m.repo(name)
					manifests, tags, err := w.DeleteRepository(w.ctx, w.owner, name, how)
					if r.hidden || len(r.blobs)+len(r.manifests) == 0 && err != nil {
						is(t, err, fault.NameUnknown)
						return
					}
					var live []ref.Digest
					some := false
					for d, mm := range r.manifests {
						if !mm.deleted {
							live, some = append(live, d), some || r.held(d)
						}
					}
					if some {
						is(t, err, fault.Disallowed)
						return
					}
					is(t, err, fine)
					if slices.Sort(live); !slices.Equal(manifests, live) || !slices.Equal(tags, slices.Sorted(maps.Keys(r.tags))) {
						t.Fatalf("deleted %v %v", manifests, tags)
					}
					// Parents first: what is in the trash keeps what it names.
					for len(live) > 0 {
						live = slices.DeleteFunc(live, func(d ref.Digest) bool {
							if named, _ := r.needed(d); named {
								return false
							}
							r.remove(d, how.SoftDelete > 0)
							return true
						})
					}
					if r.hidden = len(r.manifests) > 0; !r.hidden {
						delete(m.repos, name)
					}
				},
				"erase repository": func(t *rapid.T) {
					name := aRepo(t)
					r := m.repo(name)
					_, err := w.erase(w.owner, name, receipts)
					some := false
					for d, mm := range r.manifests {
						some = some || !mm.deleted && r.held(d)
					}
					switch {
					case some:
						is(t, err, fault.Disallowed)
					case err != nil:
						if is(t, err, fault.NameUnknown); len(r.blobs)+len(r.manifests) > 0 {
							t.Fatal("it is there")
						}
					default:
						delete(m.repos, name)
					}
				},
				"lock or unlock tag": func(t *rapid.T) {
					name, tag, to := aRepo(t), aTag(t), rapid.Bool().Draw(t, "may be moved")
					if _, err := w.PatchTag(w.ctx, w.owner, name, tag, AttributesPatch{Write: &to}); m.repo(name).tags[tag] == "" {
						is(t, err, fault.Of(err))
					} else {
						is(t, err, fine)
						m.repo(name).locked[tag] = !to
					}
				},
				"lock or unlock manifest": func(t *rapid.T) {
					if len(known) == 0 {
						t.Skip()
					}
					name, d, to := aRepo(t), sum(rapid.SampledFrom(known).Draw(t, "manifest")), rapid.Bool().Draw(t, "may be deleted")
					_, err := w.PatchManifest(w.ctx, w.owner, name, d, AttributesPatch{Delete: &to})
					if mm, ok := m.repo(name).manifests[d]; !ok || mm.deleted {
						is(t, err, fault.Of(err))
					} else {
						is(t, err, fine)
						mm.locked = !to
						m.repo(name).manifests[d] = mm
					}
				},
				"delete blob": func(t *rapid.T) {
					name, d := aRepo(t), sum(aBlob(t))
					r := m.repo(name)
					err := w.DeleteBlob(w.ctx, w.owner, name, d)
					switch {
					case !r.blobs[d] || r.hidden:
						is(t, err, fault.Of(err))
					case needs(r, d):
						is(t, err, fault.Referenced)
					default:
						is(t, err, fine)
						delete(r.blobs, d)
					}
				},
				"sweep": func(t *rapid.T) {
					_, err := w.Sweep(w.ctx, Sweep{Objects: true})
					is(t, err, fine)
				},
				"restart": func(*rapid.T) { w = w.restarted() },
				"": func(t *rapid.T) {
					for name, r := range m.repos {
						compare(t, w, name, r, blobs, known)
					}
				},
			})

			// Take everything away, parents first: nothing may be left.
			for _, statement := range []string{`UPDATE manifest SET off = 0`, `UPDATE tag SET off = 0`, runOut} {
				w.pass(statement)
			}
			if _, err := w.Sweep(w.ctx, Sweep{}); err != nil {
				t.Fatal(err)
			}
			for name, r := range m.repos {
				maps.DeleteFunc(r.manifests, func(_ ref.Digest, m modelManifest) bool { return m.deleted })
				if r.hidden {
					delete(m.repos, name)
				}
			}
			for name, r := range m.repos {
				for len(r.manifests) > 0 {
					for d := range r.manifests {
						if !needs(r, d) {
							is(t, w.DeleteManifest(w.ctx, w.owner, name, d, Rules{}), fine)
							delete(r.manifests, d)
						}
					}
				}
				for d := range r.blobs {
					is(t, w.DeleteBlob(w.ctx, w.owner, name, d), fine)
				}
			}
			if _, err := w.Sweep(w.ctx, Sweep{Objects: true}); err != nil {
				t.Fatal(err)
			}
			if n := w.objectsLeft(); n != before {
				t.Fatalf("%d objects are left", n-before)
			}
		})
	})
}

func needs(r *modelRepo, d ref.Digest) bool {
	live, trashed := r.needed(d)
	return live || trashed
}

// compare looks at a repository with every method that looks.
func compare(t *rapid.T, w *world, name ref.Repository, r *modelRepo, blobs, known [][]byte) {
	for _, b := range blobs {
		got, err := w.pull(name, sum(b))
		if (r.blobs[sum(b)] && !r.hidden) != (err == nil) || err == nil && !bytes.Equal(got, b) || err != nil && fault.Of(err) != fault.BlobUnknown {
			t.Fatalf("blob: %v", err)
		}
	}
	for _, body := range known {
		got, err := w.Manifest(w.ctx, w.owner, name, digested(body))
		m, ok := r.manifests[sum(body)]
		if ok = ok && !m.deleted; ok != (err == nil) || ok && !bytes.Equal(got.Body, body) {
			t.Fatalf("manifest: %v", err)
		}
		var about []modelManifest
		for _, m := range r.manifests {
			if m.subject == sum(body) && !m.deleted {
				about = append(about, m)
			}
		}
		slices.SortFunc(about, func(a, b modelManifest) int { return a.order - b.order })
		want := []doc{}
		for _, m := range about {
			want = append(want, doc{"mediaType": ociImage, "digest": sum(m.body), "size": len(m.body), "artifactType": "application/vnd.oci.image.config.v1+json"})
		}
		refs, err := w.Referrers(w.ctx, w.owner, name, sum(body), "", "")
		if err != nil || !sameJSON(refs.Manifests, want) {
			t.Fatalf("referrers %s: %v", refs.Manifests, err)
		}
	}
	tags, _, err := w.Tags(w.ctx, w.owner, name, "", -1)
	if err != nil && fault.Of(err) != fault.NameUnknown || !slices.Equal(tags, slices.Sorted(maps.Keys(r.tags))) {
		t.Fatalf("tags %v: %v", tags, err)
	}
	for tag, d := range r.tags {
		if got, err := w.HeadManifest(w.ctx, w.owner, name, ref.Reference{Tag: tag}); err != nil || got.Digest != d {
			t.Fatalf("tag %s: %v", tag, err)
		}
	}
}

func sameJSON(got []byte, want []doc) bool {
	var v []doc
	return json.Unmarshal(got, &v) == nil && slices.EqualFunc(v, want, func(a, b doc) bool { return bytes.Equal(text(a), text(b)) })
}
