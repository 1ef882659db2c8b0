package content

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/seal"
)

const repo = ref.Repository("team/api")

func TestZeroGrantOpensNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := []byte("x")
		w.push(repo, b)
		w.putImage(repo, "v1", 1)
		var none access.Grant
		id, err := w.StartUpload(w.ctx, w.owner, repo, "")
		must(t, err)
		calls := map[string]func() error{
			"Manifest":     func() error { _, err := w.Manifest(w.ctx, none, repo, tagged("v1")); return err },
			"HeadManifest": func() error { _, err := w.HeadManifest(w.ctx, none, repo, tagged("v1")); return err },
			"PutManifest":  func() error { _, err := w.PutManifest(w.ctx, none, repo, Push{}, Rules{}); return err },
			"DeleteManifest": func() error {
				return w.DeleteManifest(w.ctx, none, repo, sum(b), Rules{})
			},
			"DeleteTag":    func() error { return w.DeleteTag(w.ctx, none, repo, "v1", Rules{}) },
			"Tags":         func() error { _, _, err := w.Tags(w.ctx, none, repo, "", -1); return err },
			"Repositories": func() error { _, _, err := w.Repositories(w.ctx, none, "", -1); return err },
			"Referrers":    func() error { _, err := w.Referrers(w.ctx, none, repo, sum(b), "", ""); return err },
			"StatBlob":     func() error { _, err := w.StatBlob(w.ctx, none, repo, sum(b)); return err },
			"Blob":         func() error { _, err := w.Blob(w.ctx, none, repo, sum(b)); return err },
			"PutBlob":      func() error { _, err := w.PutBlob(w.ctx, none, repo, sum(b), 1, bytes.NewReader(b)); return err },
			"StartUpload":  func() error { _, err := w.StartUpload(w.ctx, none, repo, ""); return err },
			"UploadStatus": func() error { _, err := w.UploadStatus(w.ctx, none, repo, id.ID); return err },
			"AppendUpload": func() error { _, err := w.AppendUpload(w.ctx, none, repo, id.ID, Chunk{}); return err },
			"FinishUpload": func() error { _, err := w.FinishUpload(w.ctx, none, repo, id.ID, Chunk{}, sum(b)); return err },
			"CancelUpload": func() error { return w.CancelUpload(w.ctx, none, repo, id.ID) },
			"Mount":        func() error { _, _, err := w.Mount(w.ctx, none, "other", sum(b), repo); return err },
			"DeleteBlob":   func() error { return w.DeleteBlob(w.ctx, none, repo, sum(b)) },

			"Repository":          func() error { _, err := w.Repository(w.ctx, none, repo); return err },
			"PatchRepository":     func() error { _, err := w.PatchRepository(w.ctx, none, repo, AttributesPatch{}); return err },
			"DeleteRepository":    func() error { _, _, err := w.DeleteRepository(w.ctx, none, repo, Rules{}); return err },
			"TagInfos":            func() error { _, _, err := w.TagInfos(w.ctx, none, repo, Page{}); return err },
			"TagInfo":             func() error { _, err := w.TagInfo(w.ctx, none, repo, "v1"); return err },
			"PatchTag":            func() error { _, err := w.PatchTag(w.ctx, none, repo, "v1", AttributesPatch{}); return err },
			"ManifestInfos":       func() error { _, _, err := w.ManifestInfos(w.ctx, none, repo, Page{}); return err },
			"ManifestInfo":        func() error { _, err := w.ManifestInfo(w.ctx, none, repo, sum(b)); return err },
			"PatchManifest":       func() error { _, err := w.PatchManifest(w.ctx, none, repo, sum(b), AttributesPatch{}); return err },
			"DeletedRepositories": func() error { _, _, err := w.DeletedRepositories(w.ctx, none, Page{}); return err },
			"EraseRepository":     func() error { _, err := w.EraseRepository(w.ctx, none, repo, nil, nil); return err },
			"DeletedManifests":    func() error { _, _, err := w.DeletedManifests(w.ctx, none, repo, Page{}); return err },
			"DeletedTags":         func() error { _, _, err := w.DeletedTags(w.ctx, none, repo, Page{}); return err },
			"Restore":             func() error { return w.Restore(w.ctx, none, repo, sum(b), "v1", false, Rules{}) },
		}
		for name, call := range calls {
			if err := call(); fault.Of(err) != fault.Denied {
				t.Errorf("%s: got %v, want Denied", name, err)
			}
		}
		for i := range reflect.TypeFor[*Store]().NumMethod() {
			if m := reflect.TypeFor[*Store]().Method(i).Name; calls[m] == nil && m != "Sweep" && m != "Scrub" && m != "Usage" && m != "Contents" {
				t.Errorf("%s asks no grant that this test knows", m)
			}
		}
	})
}

func TestManifestIsServedByTagAndDigestByteForByte(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := append(w.putImage(repo, "v1", 2), "\n \t"...) // white space is part of what was pushed
		p := w.put(repo, tagged("v2"), m)
		if p.Digest != sum(m) || p.MediaType != ociImage || !slices.Equal(p.Tags, []ref.Tag{"v2"}) {
			t.Fatalf("pushed %+v", p)
		}
		w.resolves(repo, tagged("v2"), m)
		w.resolves(repo, digested(m), m)
		head, err := w.HeadManifest(w.ctx, w.owner, repo, tagged("v2"))
		must(t, err)
		if head.Body != nil || head.Digest != sum(m) || head.Size != int64(len(m)) || head.MediaType != ociImage {
			t.Fatalf("head %+v", head)
		}
		for _, r := range []ref.Reference{tagged("v3"), {Digest: sum([]byte("no"))}} {
			_, err = w.Manifest(w.ctx, w.owner, repo, r)
			if fault.Of(err).Row().OCI != "MANIFEST_UNKNOWN" {
				t.Errorf("%v: %v", r, err)
			}
			_, err = w.Manifest(w.ctx, w.owner, "team/other", r)
			if fault.Of(err).Row().Status != 404 {
				t.Errorf("%v: %v", r, err)
			}
		}
	})
}

func TestManifestIsStoredUnderTheDigestItIsPushedBy(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := text(indexOf())
		long := ref.SHA512.Sum(m)
		p, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: ref.Reference{Digest: long}, Tags: []ref.Tag{"a", "b", "a"}, Body: m}, Rules{})
		must(t, err)
		if p.Digest != long || !slices.Equal(p.Tags, []ref.Tag{"a", "b"}) {
			t.Fatalf("pushed %+v", p)
		}
		got, err := w.Manifest(w.ctx, w.owner, repo, tagged("b"))
		must(t, err)
		if got.Digest != long || !bytes.Equal(got.Body, m) {
			t.Fatalf("b is %v", got.Digest)
		}
		_, err = w.Manifest(w.ctx, w.owner, repo, digested(m))
		wants(t, err, fault.ManifestUnknown)
		_, err = w.PutManifest(w.ctx, w.owner, repo, Push{Reference: digested(m), Body: append(m, ' ')}, Rules{})
		wants(t, err, fault.DigestInvalid)
	})
}

func TestManifestNeedsWhatItNames(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config, layer := random(10), random(20)
		m := imageOf(config, layer)
		push := func(d doc, rules Rules) error {
			_, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: tagged("v1"), MediaType: "", Body: text(d)}, rules)
			return err
		}
		w.push(repo, config)
		w.push("team/other", layer) // elsewhere does not count
		wants(t, push(m, Rules{}), fault.ManifestBlobUnknown)
		if _, _, err := w.Tags(w.ctx, w.owner, repo, "", -1); err != nil {
			t.Fatal(err)
		}
		must(t, push(m, Rules{Sparse: true}))
		w.put(repo, tagged("v0"), text(imageOf(config)))

		// What was pushed sparse becomes whole once everything is there.
		w.push(repo, layer)
		must(t, push(m, Rules{}))
		wants(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(layer)), fault.Referenced)

		lies := imageOf(config, layer)
		lies["config"].(doc)["size"] = 11
		wants(t, push(lies, Rules{}), fault.ManifestInvalid)
		wants(t, push(lies, Rules{Sparse: true}), fault.ManifestInvalid)

		foreign := imageOf(config)
		d := describe("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []byte("far away"))
		d["urls"] = []string{"https://example.com/layer"}
		foreign["layers"] = []doc{d, describe("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []byte("far"))}
		must(t, push(foreign, Rules{}))

		wants(t, push(indexOf(text(imageOf(config)), []byte("nowhere")), Rules{}), fault.ManifestBlobUnknown)
		must(t, push(indexOf(text(imageOf(config)), []byte("nowhere")), Rules{Sparse: true}))
		must(t, push(indexOf(), Rules{}))
	})
}

func TestMediaTypeOfFirstPushStays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := imageOf(nil)
		delete(m, "mediaType")
		w.push(repo, nil)
		push := func(mediaType string) error {
			_, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: tagged("v1"), MediaType: mediaType, Body: text(m)}, Rules{})
			return err
		}
		must(t, push("application/vnd.docker.distribution.manifest.v2+json"))
		wants(t, push(ociImage), fault.ManifestInvalid)
		must(t, push("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"))
	})
}

func TestWhatIsNeededCannotGo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config := random(10)
		w.push(repo, config)
		child := text(imageOf(config))
		w.put(repo, digested(child), child)
		parent := text(indexOf(child))
		w.put(repo, tagged("all"), parent)

		wants(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(config)), fault.Referenced)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(child), Rules{}), fault.Referenced)
		w.resolves(repo, digested(child), child)

		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(parent), Rules{}))
		_, err := w.Manifest(w.ctx, w.owner, repo, tagged("all"))
		wants(t, err, fault.TagUnknown)
		wants(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(parent), Rules{}), fault.ManifestUnknown)
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(child), Rules{}))
		must(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(config)))
		wants(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(config)), fault.BlobUnknown)
		wants(t, w.DeleteBlob(w.ctx, w.owner, "no/such", sum(config)), fault.NameUnknown)
		if w.has(repo, sum(config)) {
			t.Fatal("the blob is still there")
		}
	})
}

func TestTagKeepsItsHistory(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.putImage(repo, "v1", 1), w.putImage(repo, "v1", 1)
		w.resolves(repo, tagged("v1"), b)
		w.resolves(repo, digested(a), a)
		w.put(repo, tagged("v1"), b) // no move, no new interval
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", Rules{}))
		wants(t, w.DeleteTag(w.ctx, w.owner, repo, "v1", Rules{}), fault.TagUnknown)
		w.resolves(repo, digested(b), b)
		w.put(repo, tagged("v1"), a)
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(a), Rules{}))

		rows, err := w.db.Query(w.ctx, `SELECT digest, until IS NULL FROM tag ORDER BY since`)
		must(t, err)
		defer rows.Close()
		var history []string
		for rows.Next() {
			var d string
			var open bool
			must(t, rows.Scan(&d, &open))
			history = append(history, fmt.Sprint(d, open))
		}
		if want := []string{fmt.Sprint(sum(a), false), fmt.Sprint(sum(b), false), fmt.Sprint(sum(a), false)}; !slices.Equal(history, want) {
			t.Fatalf("history %v", history)
		}
	})
}

func TestTagsAndRepositoriesArePagedInByteOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, _, err := w.Tags(w.ctx, w.owner, repo, "", -1)
		wants(t, err, fault.NameUnknown)
		m := text(indexOf())
		names := []ref.Tag{"A", "B-1", "_x", "a", "a.b", "ab", "b", "v1", "v10", "v2"}
		for _, n := range names {
			w.put(repo, tagged(string(n)), m)
		}
		var all []ref.Tag
		for after, more := "", true; more; after = string(all[len(all)-1]) {
			var tags []ref.Tag
			tags, more, err = w.Tags(w.ctx, w.owner, repo, after, 3)
			must(t, err)
			if len(tags) != 3 && more {
				t.Fatalf("a short page of %d", len(tags))
			}
			all = append(all, tags...)
		}
		if !slices.Equal(all, names) {
			t.Fatalf("got %v", all)
		}
		if tags, more, err := w.Tags(w.ctx, w.owner, repo, "", 0); err != nil || len(tags) > 0 || !more {
			t.Fatal(tags, more, err)
		}
		if tags, more, err := w.Tags(w.ctx, w.owner, repo, "not there", -1); err != nil || !slices.Equal(tags, []ref.Tag{"v1", "v10", "v2"}) || more {
			t.Fatal(tags, more, err)
		}
		for i := range 3 {
			w.push(name(i), nil)
		}
		repos, more, err := w.Repositories(w.ctx, w.owner, string(repo), 2)
		if err != nil || !more || !slices.Equal(repos, []ref.Repository{"team/r0", "team/r1"}) {
			t.Fatal(repos, more, err)
		}
	})
}

// TestTheCatalogHasWhatTheCallerMaySee: what is hidden takes no place on a page,
// and nothing tells that it is there.
func TestTheCatalogHasWhatTheCallerMaySee(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, repo := range []ref.Repository{"a", "b", "hidden/1", "hidden/2", "m", "hidden/3", "z"} {
			w.push(repo, nil)
		}
		team, err := access.ParseCondition("@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringStartsWith 'hidden/'")
		must(t, err)
		p := identity.Principal{ID: "reader", Kind: identity.User}
		g := access.NewGrant(theRegistry, p, access.NewHeld(
			access.Assignment{Principal: "reader", Role: access.PullRole, Scope: theRegistry.ID.Scope()},
			access.Assignment{Principal: access.Everybody, Deny: true, Permissions: []access.Permission{{Actions: []string{"*"}}}, Scope: theRegistry.ID.Scope(), Condition: team},
		), access.Call{})
		for _, page := range []struct {
			after string
			n     int
			want  string
			more  bool
		}{{"", -1, "[a b m z]", false}, {"", 2, "[a b]", true}, {"b", 1, "[m]", true}, {"b", 2, "[m z]", false}, {"hidden/1", 5, "[m z]", false}, {"z", 1, "[]", false}, {"", 0, "[]", true}} {
			names, more, err := w.Repositories(w.ctx, g, page.after, page.n)
			if err != nil || fmt.Sprint(names) != page.want || more != page.more {
				t.Errorf("%d after %q: %v, %v, %v", page.n, page.after, names, more, err)
			}
		}
		if _, mounted, err := w.Mount(w.ctx, g, "a", sum(nil), "hidden/1"); mounted || fault.Of(err) != fault.Denied { // it may not push
			t.Errorf("%v, %v", mounted, err)
		}
		_, _, err = w.Tags(w.ctx, g, "hidden/1", "", -1)
		wants(t, err, fault.Denied)
		_, _, err = w.Repositories(w.ctx, allow("nobody", nil), "", -1)
		wants(t, err, fault.Denied)
	})
}

func TestReferrersAreListedWithTypeAndAnnotations(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		config := []byte("{}")
		w.push(repo, config)
		subject := text(imageOf(config))
		about := func(d doc, artifact string, annotations map[string]string) []byte {
			d["subject"] = describe(ociImage, subject)
			if artifact != "" {
				d["artifactType"] = artifact
			}
			if annotations != nil {
				d["annotations"] = annotations
			}
			return text(d)
		}
		list := func(artifact string) []doc {
			t.Helper()
			var all []doc
			for next := "first"; next != ""; {
				r, err := w.Referrers(w.ctx, w.owner, repo, sum(subject), artifact, strings.TrimPrefix(next, "first"))
				must(t, err)
				var page []doc
				must(t, json.Unmarshal(r.Manifests, &page))
				all, next = append(all, page...), r.Next
			}
			return all
		}
		if all := list(""); len(all) != 0 {
			t.Fatal(all)
		}
		// Before the subject is there.
		sbom := about(imageOf(config), "application/vnd.example.sbom", map[string]string{"a": "1", "A": "ä \"2\""})
		plain := about(imageOf(config), "", nil)
		bundle := about(indexOf(), "", nil)
		for _, m := range [][]byte{sbom, plain, bundle} {
			if p := w.put(repo, digested(m), m); p.Subject != sum(subject) {
				t.Fatalf("subject %q", p.Subject)
			}
		}
		w.put(repo, tagged("v1"), subject)
		w.put(repo, tagged("sbom"), sbom) // again
		all := list("")
		if len(all) != 3 {
			t.Fatal(all)
		}
		for i, want := range []doc{
			{"mediaType": ociImage, "digest": sum(sbom), "size": len(sbom), "artifactType": "application/vnd.example.sbom", "annotations": map[string]any{"a": "1", "A": "ä \"2\""}},
			{"mediaType": ociImage, "digest": sum(plain), "size": len(plain), "artifactType": "application/vnd.oci.image.config.v1+json"},
			{"mediaType": ociIndex, "digest": sum(bundle), "size": len(bundle)},
		} {
			if got, want := string(text(all[i])), string(text(want)); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
		if some := list("application/vnd.example.sbom"); len(some) != 1 || some[0]["digest"] != string(sum(sbom)) {
			t.Fatal(some)
		}
		if none := list("application/none"); len(none) != 0 {
			t.Fatal(none)
		}
		// A subject may go; who is about it stays listed.
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(subject), Rules{}))
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(sbom), Rules{}))
		if all := list(""); len(all) != 2 {
			t.Fatal(all)
		}
		for i := range 2 * referrersPage {
			m := about(indexOf(), fmt.Sprintf("application/n%d", i%2), map[string]string{"n": fmt.Sprint(i)})
			w.put(repo, digested(m), m)
		}
		if all := list(""); len(all) != 2+2*referrersPage {
			t.Fatal(len(all))
		}
		if all := list("application/n1"); len(all) != referrersPage {
			t.Fatal(len(all))
		}
		_, err := w.Referrers(w.ctx, w.owner, repo, sum(subject), "", "x")
		wants(t, err, fault.BadRequest)
	})
}

func TestReferrersPageStaysUnderFourMebibytes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		subject := []byte("somewhere")
		for i := range 3 {
			d := indexOf()
			d["subject"], d["annotations"] = describe(ociImage, subject), map[string]string{"a": strings.Repeat(fmt.Sprint(i), 3<<20)}
			w.put(repo, digested(text(d)), text(d))
		}
		next := ""
		for range 3 {
			r, err := w.Referrers(w.ctx, w.owner, repo, sum(subject), "", next)
			must(t, err)
			if len(r.Manifests) > 4<<20 {
				t.Fatalf("%d bytes", len(r.Manifests))
			}
			next = r.Next
		}
		if next != "" {
			t.Fatal("more than three pages")
		}
	})
}

func TestBlobIsReadFromAnyPlaceOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, size := range []int{0, 1, 65_000, 65_536, 1 << 20} {
			w.push(repo, random(size)[:size])
		}
		b := random(300_000)
		w.push(repo, b)
		blob, err := w.Blob(w.ctx, w.owner, repo, sum(b))
		must(t, err)
		defer blob.Close()
		if end, err := blob.Seek(0, io.SeekEnd); end != blob.Size || err != nil {
			t.Fatal(end, err)
		}
		for _, at := range []int64{0, 1, 65_535, 65_536, 299_999} {
			_, err := blob.Seek(at, io.SeekStart)
			must(t, err)
			got, err := io.ReadAll(io.LimitReader(blob, 70_000))
			if err != nil || !bytes.Equal(got, b[at:min(at+70_000, 300_000)]) {
				t.Fatalf("from %d: %v", at, err)
			}
		}
	})
}

func TestContentThatIsNotItsDigestIsRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(100_000)
		_, err := w.PutBlob(w.ctx, w.owner, repo, sum([]byte("else")), -1, bytes.NewReader(b))
		wants(t, err, fault.DigestInvalid)
		_, err = w.PutBlob(w.ctx, w.owner, repo, sum(b), 100_001, bytes.NewReader(b))
		wants(t, err, fault.SizeInvalid)
		_, err = w.PutBlob(w.ctx, w.owner, repo, sum(b), 100_000, io.MultiReader(bytes.NewReader(b[:70_000]), failing{}))
		wants(t, err, fault.UploadInvalid)
		if n := w.objectsLeft(); n != 0 {
			t.Fatalf("%d objects are left", n)
		}
		if w.has(repo, sum(b)) || len(w.events()) != 0 {
			t.Fatal("something was named")
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestDamagedBytesAreAnErrorAndNeverWrongContent(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(200_000)
		w.push(repo, b)
		var path string
		for info, err := range w.disk.List(w.ctx, "") {
			must(t, err)
			path = filepath.Join(w.dir, info.Key)
		}
		stored, err := os.ReadFile(path)
		must(t, err)
		if bytes.Contains(stored, b[:32]) {
			t.Fatal("the content can be read in the store")
		}
		for _, damage := range []func([]byte) []byte{
			func(s []byte) []byte { return s[:len(s)-1] },
			func(s []byte) []byte { s[len(s)/2] ^= 1; return s },
			func(s []byte) []byte { return append(s, 0) },
			func(s []byte) []byte { return nil },
		} {
			must(t, os.WriteFile(path, damage(bytes.Clone(stored)), 0o600))
			got, err := w.pull(repo, sum(b))
			if !errors.Is(err, seal.ErrDamaged) || fault.Of(err) != fault.Damaged || !bytes.HasPrefix(b, got) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			w.later()
		}
		must(t, os.Remove(path))
		_, err = w.Blob(w.ctx, w.owner, repo, sum(b))
		wants(t, err, fault.Damaged)
		if w.has(repo, sum(b)) {
			t.Error("who asks before a push is told that it is there")
		}
		if told := w.alarms(); len(told) != 1 || told[0] != "blob "+string(sum(b)) {
			t.Errorf("on record: %q", told)
		}
		must(t, os.WriteFile(path, stored, 0o600))
		w.later()
		w.reads(repo, b) // the operator has restored it
	})
}

func TestPushOfADamagedBlobHealsIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(200_000)
		w.push(repo, b)
		again := map[string]func(){
			"one request": func() { w.push("another/one", b) },
			"a session": func() {
				u := w.start()
				_, err := w.add(u.ID, 0, b[:150_000])
				must(t, err)
				must(t, w.end(u.ID, -1, b[150_000:], sum(b)))
			},
		}
		for what, damage := range map[string]func(path string) error{
			"vanished": os.Remove,
			"cut":      func(path string) error { return os.Truncate(path, 1000) },
			"flipped": func(path string) error {
				stored, err := os.ReadFile(path)
				must(t, err)
				stored[len(stored)/2] ^= 1
				return os.WriteFile(path, stored, 0o600)
			},
		} {
			for how, push := range again {
				for info, err := range w.disk.List(w.ctx, "") {
					must(t, err)
					must(t, damage(filepath.Join(w.dir, info.Key)))
				}
				push()
				if got, err := w.pull(repo, sum(b)); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s, pushed again by %s: %d bytes, %v", what, how, len(got), err)
				}
				w.sweep(Sweep{Objects: true})
				w.reads(repo, b)
				if n := w.objectsLeft(); n > 2 {
					t.Errorf("%s: %d objects left", what, n)
				}
			}
		}
	})
}

func TestMountNeedsThePullRightOnTheSource(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push("a", b)
		read, write := []access.Action{access.ContentRead}, []access.Action{access.ContentWrite}
		both := append(slices.Clone(read), write...)
		mount := func(g access.Grant, to, from ref.Repository, d ref.Digest) bool {
			t.Helper()
			got, ok, err := w.Mount(w.ctx, g, to, d, from)
			must(t, err)
			if ok && (got.Digest != d || got.Size != int64(len(b))) {
				t.Fatalf("mounted %+v", got)
			}
			return ok
		}
		blind := allow("blind", map[ref.Repository][]access.Action{"b": both, "a": write})
		if mount(blind, "b", "a", sum(b)) || mount(blind, "b", "", sum(b)) {
			t.Fatal("mounted without the right to pull")
		}
		seeing := allow("seeing", map[ref.Repository][]access.Action{"b": both, "c": write, "a": read})
		if mount(seeing, "b", "a", sum([]byte("not there"))) || mount(seeing, "b", "", sum([]byte("not there"))) || mount(seeing, "b", "b", sum(b)) {
			t.Fatal("mounted what is not there")
		}
		if !mount(seeing, "b", "a", sum(b)) || !mount(seeing, "c", "", sum(b)) {
			t.Fatal("not mounted")
		}
		_, _, err := w.Mount(w.ctx, seeing, "d", sum(b), "a")
		wants(t, err, fault.Denied)
		w.reads("b", b)
		must(t, w.DeleteBlob(w.ctx, w.owner, "a", sum(b)))
		if w.has("a", sum(b)) {
			t.Fatal("deleted, but there")
		}
		w.sweep(Sweep{Objects: true})
		w.reads("c", b)
	})
}

func TestEachChangeHasOneEvent(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(10)
		w.push(repo, b)
		m := text(imageOf(b))
		w.put(repo, digested(m), m)
		_, err := w.PutManifest(w.ctx, w.owner, repo, Push{Reference: digested(m), Tags: []ref.Tag{"x", "y"}, Body: m}, Rules{})
		must(t, err)
		_, _, err = w.Mount(w.ctx, w.owner, "b", sum(b), repo)
		must(t, err)
		must(t, w.DeleteTag(w.ctx, w.owner, repo, "x", Rules{}))
		must(t, w.DeleteManifest(w.ctx, w.owner, repo, sum(m), Rules{}))
		must(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(b)))
		wants(t, w.DeleteBlob(w.ctx, w.owner, repo, sum(b)), fault.BlobUnknown)
		must(t, w.CancelUpload(w.ctx, w.owner, repo, w.start().ID))
		w.sweep(Sweep{Unused: 1})
		var got []string
		for _, e := range w.events() {
			if e.Outcome != ledger.Success || e.Who.ID != "server" || e.Category != ledger.Repository {
				t.Errorf("%+v", e)
			}
			got = append(got, fmt.Sprintln(e.Operation, e.Detail.Repository, e.Detail.Tag, e.Detail.Digest))
		}
		want := []string{
			fmt.Sprintln(PushBlob, repo, "", sum(b)),
			fmt.Sprintln(PushManifest, repo, "", sum(m)),
			fmt.Sprintln(PushManifest, repo, "x", sum(m)),
			fmt.Sprintln(PushManifest, repo, "y", sum(m)),
			fmt.Sprintln(mountBlob, "b", "", sum(b)),
			fmt.Sprintln(DeleteTag, repo, "x", sum(m)),
			fmt.Sprintln(DeleteManifest, repo, "", sum(m)),
			fmt.Sprintln(DeleteBlob, repo, "", sum(b)),
			fmt.Sprintln(CancelUpload, repo, "", ""),
			fmt.Sprintln(purgeBlob, "b", "", sum(b)),
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	})
}
