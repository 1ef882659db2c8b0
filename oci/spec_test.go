package oci_test

// One test for each heading of the OCI Distribution specification (main branch).
// The comment above a test names the heading; its sentences are those of the
// specification that bind a registry.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"breakwater/content"
	"breakwater/ref"
	"breakwater/registry"
)

// "Pull" › "Pulling manifests"
func TestPullingManifests(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body, d := c.pushImage("spec/pull", "v1")
		for _, reference := range []string{"v1", string(d.Digest)} {
			a := c.do("GET", "/v2/spec/pull/manifests/"+reference, nil, header("Accept", imageType)).want(t, 200)
			if !bytes.Equal(a.body, body) || a.Header.Get("Content-Type") != imageType ||
				a.Header.Get("Docker-Content-Digest") != string(d.Digest) || a.ContentLength != int64(len(body)) {
				t.Errorf("%s: %v", reference, a.Header)
			}
		}
		// Whatever a client accepts, it gets what was pushed: this registry converts nothing.
		for _, accept := range []string{"*/*", "application/json", indexType} {
			a := c.do("GET", "/v2/spec/pull/manifests/v1", nil, header("Accept", accept)).want(t, 200)
			if a.Header.Get("Content-Type") != imageType {
				t.Errorf("Accept %s: %v", accept, a.Header)
			}
		}
		etag := c.do("GET", "/v2/spec/pull/manifests/v1", nil).Header.Get("Etag")
		c.do("GET", "/v2/spec/pull/manifests/v1", nil, header("If-None-Match", etag)).want(t, 304)
		c.do("GET", "/v2/spec/pull/manifests/v2", nil).want(t, 404, "MANIFEST_UNKNOWN")
		c.do("GET", "/v2/spec/pull/manifests/"+string(ref.SHA256.Sum([]byte("x"))), nil).want(t, 404, "MANIFEST_UNKNOWN")
		c.do("GET", "/v2/spec/absent/manifests/v1", nil).want(t, 404)
		c.do("GET", "/v2/spec/pull/manifests/.v1", nil).want(t, 404)
		c.do("GET", "/v2/spec/pull/manifests/"+strings.Repeat("v", 129), nil).want(t, 404)
		c.do("GET", "/v2/spec/pull/manifests/sha256:baddigeststring", nil).want(t, 400, "DIGEST_INVALID")
	})
}

// "Pull" › "Pulling blobs"
func TestPullingBlobs(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, size := range []int{0, 1, 2048, 64 << 10, 300_000} {
			body := random(size)
			d := c.pushBlob("spec/pull", body)
			path := "/v2/spec/pull/blobs/" + string(d.Digest)
			a := c.do("GET", path, nil).want(t, 200)
			if !bytes.Equal(a.body, body) || a.Header.Get("Docker-Content-Digest") != string(d.Digest) || a.ContentLength != int64(size) {
				t.Errorf("%d bytes: %v", size, a.Header)
			}
			c.do("GET", path, nil, header("If-None-Match", a.Header.Get("Etag"))).want(t, 304)
			if size < 2048 {
				continue
			}
			for _, r := range [][3]int{{500, 1499, 1}, {500, size - 1, 2}, {size - 500, size - 1, 3}, {2000, 2 * size, 4}} {
				from, to := r[0], min(r[1], size-1)
				text := fmt.Sprintf("bytes=%d-%d", r[0], r[1])
				switch r[2] {
				case 2:
					text = fmt.Sprintf("bytes=%d-", from)
				case 3:
					text = "bytes=-500"
				}
				a := c.do("GET", path, nil, header("Range", text)).want(t, 206)
				if !bytes.Equal(a.body, body[from:to+1]) || a.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", from, to, size) {
					t.Errorf("%s of %d bytes: %d bytes, %v", text, size, len(a.body), a.Header)
				}
			}
			for _, text := range []string{"bytes=500-0", "bytes=9999999-"} {
				c.do("GET", path, nil, header("Range", text)).want(t, 416)
			}
			a = c.do("GET", path, nil, header("Range", "bytes=0-9,100-109")).want(t, 206)
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/byteranges") || !bytes.Contains(a.body, body[100:110]) {
				t.Errorf("two ranges: %v", a.Header)
			}
			c.do("GET", path, nil, header("Range", "bytes=0-9"), header("If-Range", `"other"`)).want(t, 200)
		}
		c.do("GET", "/v2/spec/pull/blobs/"+string(ref.SHA256.Sum([]byte("nobody pushed this"))), nil).want(t, 404, "BLOB_UNKNOWN") // a random byte may well be any one
		c.do("GET", "/v2/spec/absent/blobs/"+string(ref.SHA256.Sum(nil)), nil).want(t, 404)
		c.do("GET", "/v2/spec/pull/blobs/sha256:x", nil).want(t, 400, "DIGEST_INVALID")
	})
}

// "Pull" › "Checking if content exists in the registry"
func TestCheckingIfContentExists(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body, d := c.pushImage("spec/head", "v1")
		blob := c.pushBlob("spec/head", random(1234))
		for path, size := range map[string]int{
			"manifests/v1": len(body), "manifests/" + string(d.Digest): len(body), "blobs/" + string(blob.Digest): 1234,
		} {
			a := c.do("HEAD", "/v2/spec/head/"+path, nil).want(t, 200)
			if a.ContentLength != int64(size) || len(a.body) != 0 || !strings.HasPrefix(a.Header.Get("Docker-Content-Digest"), "sha256:") {
				t.Errorf("%s: %v", path, a.Header)
			}
		}
		for _, path := range []string{"manifests/v2", "manifests/" + string(blob.Digest), "blobs/" + string(ref.SHA256.Sum([]byte("x")))} {
			c.do("HEAD", "/v2/spec/head/"+path, nil).want(t, 404)
		}
	})
}

// "Push" › "Pushing blobs": an invalid digest, or one of an unknown algorithm, is 400.
func TestPushingBlobs(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, d := range []string{"sha256:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e", "x", "", "sha256:" + strings.Repeat("A", 64)} {
			c.do("POST", "/v2/spec/push/blobs/uploads/?digest="+d, []byte("x")).want(t, 400, "DIGEST_INVALID")
			u := c.do("POST", "/v2/spec/push/blobs/uploads/", nil).want(t, 202)
			c.do("PUT", u.Header.Get("Location")+"?digest="+d, []byte("x")).want(t, 400, "DIGEST_INVALID")
		}
		c.do("POST", "/v2/spec/push/blobs/uploads/?digest-algorithm=md5", nil).want(t, 400, "DIGEST_INVALID")
		for _, algorithm := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
			wrong := string(algorithm.Sum([]byte("other")))
			c.do("POST", "/v2/spec/push/blobs/uploads/?digest="+wrong, []byte("x")).want(t, 400, "DIGEST_INVALID")
			u := c.do("POST", "/v2/spec/push/blobs/uploads/", nil).want(t, 202)
			c.do("PUT", u.Header.Get("Location")+"?digest="+wrong, []byte("x")).want(t, 400, "DIGEST_INVALID")
			c.do("GET", "/v2/spec/push/blobs/"+wrong, nil).want(t, 404)
		}
	})
}

// "Pushing a blob monolithically" › "POST then PUT"
func TestPostThenPut(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, algorithm := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
			for _, size := range []int{0, 100, 200_000} {
				body := random(size)
				d := string(algorithm.Sum(body))
				u := c.do("POST", "/v2/spec/push/blobs/uploads/", nil).want(t, 202)
				at := u.Header.Get("Location")
				if !strings.HasPrefix(at, "/v2/spec/push/blobs/uploads/") || u.Header.Get("Docker-Upload-UUID") == "" || u.Header.Get("Range") != "0-0" {
					t.Errorf("%v", u.Header)
				}
				done := c.do("PUT", at+"?digest="+d, body, header("Content-Type", "application/octet-stream")).want(t, 201)
				if done.Header.Get("Docker-Content-Digest") != d {
					t.Errorf("%v", done.Header)
				}
				if got := c.do("GET", done.Header.Get("Location"), nil).want(t, 200); !bytes.Equal(got.body, body) {
					t.Errorf("%d bytes of %d", len(got.body), size)
				}
				c.do("PUT", at+"?digest="+d, body).want(t, 404, "BLOB_UPLOAD_UNKNOWN") // the session has ended
			}
		}
	})
}

// "Pushing a blob monolithically" › "Single POST"
func TestSinglePost(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, algorithm := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
			for _, size := range []int{0, 100, 200_000} {
				body := random(size)
				d := string(algorithm.Sum(body))
				for range 2 { // what is there already may be pushed again
					done := c.do("POST", "/v2/spec/push/blobs/uploads/?digest="+d, body).want(t, 201)
					if got := c.do("GET", done.Header.Get("Location"), nil).want(t, 200); !bytes.Equal(got.body, body) || done.Header.Get("Docker-Content-Digest") != d {
						t.Errorf("%d bytes of %d, %v", len(got.body), size, done.Header)
					}
				}
			}
		}
	})
}

// "Pushing a blob in chunks"
func TestPushingABlobInChunks(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, algorithm := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
			for _, said := range []string{"", "?digest-algorithm=" + string(algorithm)} {
				body := random(3000)
				d := string(algorithm.Sum(body))
				u := c.do("POST", "/v2/spec/chunks/blobs/uploads/"+said, nil).want(t, 202)
				patch := func(from, to int, change ...func(*http.Request)) answer {
					r := header("Content-Range", fmt.Sprintf("%d-%d", from, to-1))
					return c.do("PATCH", u.Header.Get("Location"), body[from:to], append(change, r)...)
				}
				patch(1000, 2000).want(t, 416, "BLOB_UPLOAD_INVALID") // the first chunk must begin with 0
				if u = patch(0, 1000).want(t, 202); u.Header.Get("Range") != "0-999" {
					t.Errorf("%v", u.Header)
				}
				patch(0, 1000).want(t, 416)    // again
				patch(2000, 3000).want(t, 416) // ahead
				status := c.do("GET", u.Header.Get("Location"), nil).want(t, 204)
				if status.Header.Get("Range") != "0-999" || status.Header.Get("Location") == "" {
					t.Errorf("%v", status.Header)
				}
				u = status
				if u = patch(1000, 2000, chunked).want(t, 202); u.Header.Get("Range") != "0-1999" {
					t.Errorf("%v", u.Header)
				}
				end := u.Header.Get("Location") + "?digest=" + d
				c.do("PUT", end, body[2500:], header("Content-Range", "2500-2999")).want(t, 416)
				done := c.do("PUT", end, body[2000:], header("Content-Range", "2000-2999")).want(t, 201)
				if got := c.do("GET", done.Header.Get("Location"), nil).want(t, 200); !bytes.Equal(got.body, body) {
					t.Errorf("%d bytes", len(got.body))
				}
				// streamed: no range, no length, and nothing in the closing request
				u = c.do("POST", "/v2/spec/chunks/blobs/uploads/", nil).want(t, 202)
				body = random(70_000)
				u = c.do("PATCH", u.Header.Get("Location"), body[:60_000], chunked).want(t, 202)
				u = c.do("PATCH", u.Header.Get("Location"), body[60_000:], chunked).want(t, 202)
				c.do("PUT", u.Header.Get("Location")+"?digest="+string(algorithm.Sum(body)), []byte{}).want(t, 201)
			}
		}
	})
}

// "Cancel a blob upload"
func TestCancelABlobUpload(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for _, sent := range []int{0, 100} {
			u := c.do("POST", "/v2/spec/cancel/blobs/uploads/", nil).want(t, 202)
			if sent > 0 {
				u = c.do("PATCH", u.Header.Get("Location"), random(sent)).want(t, 202)
			}
			at := u.Header.Get("Location")
			c.do("DELETE", at, nil).want(t, 204)
			c.do("GET", at, nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			c.do("PATCH", at, random(10)).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			c.do("PUT", at+"?digest="+string(ref.SHA256.Sum(nil)), []byte{}).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			c.do("DELETE", at, nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		}
	})
}

// "Mounting a blob from another repository"
func TestMountingABlobFromAnotherRepository(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		for name, query := range map[string]string{"from": "&from=spec/source", "automatic": ""} {
			body := random(500)
			d := string(c.pushBlob("spec/source", body).Digest)
			done := c.do("POST", "/v2/spec/target/blobs/uploads/?mount="+d+query, nil).want(t, 201)
			if at := done.Header.Get("Location"); at != "/v2/spec/target/blobs/"+d || done.Header.Get("Docker-Content-Digest") != d {
				t.Errorf("%s: %v", name, done.Header)
			}
			if got := c.do("GET", done.Header.Get("Location"), nil).want(t, 200); !bytes.Equal(got.body, body) {
				t.Errorf("%s: %d bytes", name, len(got.body))
			}
		}
		// What cannot be mounted becomes an upload, whatever the reason.
		absent := string(ref.SHA256.Sum(random(10)))
		for _, query := range []string{"&from=spec/source", "&from=spec/absent", "&from=-", "&from=", ""} {
			u := c.do("POST", "/v2/spec/target/blobs/uploads/?mount="+absent+query, nil).want(t, 202)
			c.do("GET", u.Header.Get("Location"), nil).want(t, 204)
		}
		c.do("POST", "/v2/spec/target/blobs/uploads/?mount=sha256:x&from=spec/source", nil).want(t, 400, "DIGEST_INVALID")
	})
}

// "Pushing Manifests"
func TestPushingManifests(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body := c.image("spec/push")
		d := string(ref.SHA256.Sum(body))
		a := c.pushManifest("spec/push", "v1", imageType+"; charset=utf-8", body).want(t, 201) // parameters are ignored
		if a.Header.Get("Docker-Content-Digest") != d || len(a.Header.Values("OCI-Tag")) != 0 {
			t.Errorf("%v", a.Header)
		}
		if got := c.do("GET", a.Header.Get("Location"), nil).want(t, 200); !bytes.Equal(got.body, body) || got.Header.Get("Content-Type") != imageType {
			t.Errorf("%v", got.Header)
		}
		// exactly these bytes
		spaced := append([]byte("\n  "), append(body, " \n"...)...)
		c.pushManifest("spec/push", "v1", imageType, spaced).want(t, 201)
		if got := c.do("GET", "/v2/spec/push/manifests/v1", nil).want(t, 200); !bytes.Equal(got.body, spaced) {
			t.Errorf("%q", got.body)
		}
		// by digest, with tags beside it
		var query []string
		var tags []string
		for i := range 12 {
			tags = append(tags, "t"+strconv.Itoa(i))
			query = append(query, "tag=t"+strconv.Itoa(i))
		}
		for _, algorithm := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
			d := string(algorithm.Sum(body))
			a = c.pushManifest("spec/push", d+"?"+strings.Join(query, "&"), imageType, body).want(t, 201)
			if !slices.Equal(a.Header.Values("OCI-Tag"), tags) || a.Header.Get("Docker-Content-Digest") != d {
				t.Errorf("%v", a.Header)
			}
			for _, tag := range tags {
				if got := c.do("HEAD", "/v2/spec/push/manifests/"+tag, nil).want(t, 200); got.Header.Get("Docker-Content-Digest") != d {
					t.Errorf("%s: %v", tag, got.Header)
				}
			}
		}
		long := strings.Repeat("&tag=x", 101)
		c.pushManifest("spec/push", d+"?"+long[1:], imageType, body).want(t, 414)
		c.pushManifest("spec/push", d+"?tag=-", imageType, body).want(t, 400)
		c.pushManifest("spec/push", "v1?tag=v2", imageType, body).want(t, 400)
		c.do("HEAD", "/v2/spec/push/manifests/v2", nil).want(t, 404)
		c.pushManifest("spec/push", string(ref.SHA256.Sum([]byte("x"))), imageType, body).want(t, 400, "DIGEST_INVALID")
		c.pushManifest("spec/push", "sha256:baddigeststring", imageType, body).want(t, 400, "DIGEST_INVALID")
		c.pushManifest("spec/push", ".v1", imageType, body).want(t, 400)
		c.pushManifest("spec/push", "v3", indexType, body).want(t, 400, "MANIFEST_INVALID") // not what its mediaType says
		c.pushManifest("spec/push", "v3", imageType, []byte("{")).want(t, 400, "MANIFEST_INVALID")
		c.pushManifest("spec/push", "v3", imageType, []byte{}).want(t, 400, "MANIFEST_INVALID")
		missing := c.image("spec/push", func(m *manifest) { m.Layers[0].Digest = ref.SHA256.Sum([]byte("x")) })
		c.pushManifest("spec/push", "v3", imageType, missing).want(t, 404, "MANIFEST_BLOB_UNKNOWN")
		lying := c.image("spec/push", func(m *manifest) { m.Layers[0].Size++ })
		c.pushManifest("spec/push", "v3", imageType, lying).want(t, 400)
		c.do("HEAD", "/v2/spec/push/manifests/v3", nil).want(t, 404)
		// 4 MiB fit, one byte more does not
		fits := c.image("spec/push", func(m *manifest) { m.Annotations = map[string]string{"x": ""} })
		fits = bytes.Replace(fits, []byte(`"x":""`), []byte(`"x":"`+strings.Repeat("a", 4<<20-len(fits))+`"`), 1)
		c.pushManifest("spec/push", "large", imageType, fits).want(t, 201)
		if got := c.do("GET", "/v2/spec/push/manifests/large", nil).want(t, 200); !bytes.Equal(got.body, fits) {
			t.Errorf("%d bytes", len(got.body))
		}
		for _, how := range []func(*http.Request){header("X", "y"), chunked} {
			c.do("PUT", "/v2/spec/push/manifests/larger", append(fits, ' '), header("Content-Type", imageType), how).want(t, 413)
		}
	})
}

// "Pushing Manifests": of an index, by setting also one that names what is not there.
func TestPushingSparseIndexesIsASetting(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		_, d := c.pushImage("spec/index", "v1")
		index := func(all ...descriptor) []byte {
			return encode(t, manifest{SchemaVersion: 2, MediaType: indexType, Manifests: all})
		}
		absent := descriptor{MediaType: imageType, Digest: ref.SHA256.Sum(random(9)), Size: 1024}
		c.pushManifest("spec/index", "whole", indexType, index(d)).want(t, 201)
		c.pushManifest("spec/index", "empty", indexType, []byte(`{"schemaVersion":2,"mediaType":"`+indexType+`","manifests":[]}`)).want(t, 201)
		c.pushManifest("spec/index", "sparse", indexType, index(d, absent)).want(t, 404, "MANIFEST_BLOB_UNKNOWN")
		s.Update(t, func(r *registry.Registry) { r.Policies.SparseManifests.Status = "enabled" })
		c.pushManifest("spec/index", "sparse", indexType, index(d, absent)).want(t, 201)
	})
}

// "Pushing Manifests with Subject"
func TestPushingManifestsWithSubject(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		later := c.image("spec/subject")
		subject := describe(imageType, later)
		body := c.image("spec/subject", func(m *manifest) { m.Subject = &subject })
		a := c.pushManifest("spec/subject", string(ref.SHA256.Sum(body)), imageType, body).want(t, 201) // before its subject
		if a.Header.Get("OCI-Subject") != string(subject.Digest) {
			t.Errorf("%v", a.Header)
		}
		if a = c.pushManifest("spec/subject", "later", imageType, later).want(t, 201); a.Header.Get("OCI-Subject") != "" {
			t.Errorf("%v", a.Header)
		}
	})
}

// "Content Discovery" › "Listing Tags"
func TestListingTags(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		list := func(query string) (tags []string, link string) {
			t.Helper()
			a := c.do("GET", "/v2/spec/tags/tags/list"+query, nil).want(t, 200)
			var got struct {
				Name string
				Tags []string
			}
			if err := json.Unmarshal(a.body, &got); err != nil || got.Name != "spec/tags" || got.Tags == nil {
				t.Errorf("%s %v", a.body, err)
			}
			return got.Tags, a.Header.Get("Link")
		}
		c.do("GET", "/v2/spec/tags/tags/list", nil).want(t, 404, "NAME_UNKNOWN")
		body := c.image("spec/tags")
		all := []string{"Z", "_x", "a", "a-1", "a.1", "aa", "b", "v1", "v10", "v2"} // as sort.Strings does
		for _, i := range []int{3, 9, 0, 7, 1, 8, 2, 6, 5, 4} {
			c.pushManifest("spec/tags", all[i], imageType, body).want(t, 201)
		}
		if got, link := list(""); !slices.Equal(got, all) || link != "" {
			t.Errorf("%q, link %q", got, link)
		}
		if got, link := list("?n=0"); len(got) != 0 || link != "" {
			t.Errorf("%q, link %q", got, link)
		}
		for _, n := range []int{1, 3, 10, 11, 100} {
			var got []string
			query := "?n=" + strconv.Itoa(n)
			for range 20 {
				page, link := list(query)
				if len(page) > n || len(page) == 0 {
					t.Errorf("n=%d: %q", n, page)
				}
				got = append(got, page...)
				if link == "" {
					break
				}
				next, from := strings.CutPrefix(link, "</v2/spec/tags/tags/list?")
				to := false
				if query, to = strings.CutSuffix("?"+next, `>; rel="next"`); !from || !to || len(page) < n {
					t.Fatalf("n=%d: link %q after %q", n, link, page)
				}
			}
			if !slices.Equal(got, all) {
				t.Errorf("n=%d: %q", n, got)
			}
		}
		if got, _ := list("?last=a.1"); !slices.Equal(got, all[5:]) {
			t.Errorf("%q", got)
		}
		if got, _ := list("?last=a.2&n=2"); !slices.Equal(got, all[5:7]) { // a tag that is not there
			t.Errorf("%q", got)
		}
		if got, link := list("?last=v2"); len(got) != 0 || link != "" {
			t.Errorf("%q, link %q", got, link)
		}
		if got, link := list("?n=99999999999999999999"); !slices.Equal(got, all) || link != "" {
			t.Errorf("%q, link %q", got, link)
		}
		for _, query := range []string{"?n=-1", "?n=x", "?n=1&n=2", "?last=%00", "?last=%ff", "?n=1%20", "?%zz"} {
			c.do("GET", "/v2/spec/tags/tags/list"+query, nil).want(t, 400)
		}
	})
}

// "Content Discovery" › "Listing Referrers"
func TestListingReferrers(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		type index struct {
			SchemaVersion int
			MediaType     string
			Manifests     []descriptor
		}
		list := func(repo string, d ref.Digest, query string) (index, http.Header) {
			t.Helper()
			a := c.do("GET", "/v2/"+repo+"/referrers/"+string(d)+query, nil).want(t, 200)
			var got index
			if err := json.Unmarshal(a.body, &got); err != nil || got.SchemaVersion != 2 || got.MediaType != indexType ||
				got.Manifests == nil || a.Header.Get("Content-Type") != indexType {
				t.Errorf("%s %v %v", a.body, a.Header, err)
			}
			return got, a.Header
		}
		subject := describe(imageType, c.image("spec/referrers"))
		if got, _ := list("spec/referrers", subject.Digest, ""); len(got.Manifests) != 0 {
			t.Errorf("%+v", got)
		}
		if got, _ := list("spec/absent", subject.Digest, ""); len(got.Manifests) != 0 {
			t.Errorf("%+v", got)
		}
		c.do("GET", "/v2/spec/referrers/referrers/sha256:x", nil).want(t, 400)
		notes := map[string]string{"org.example": "x"}
		push := func(change func(*manifest)) descriptor {
			body := c.image("spec/referrers", func(m *manifest) { m.Subject, m.Annotations = &subject, notes; change(m) })
			d := describe(imageType, body)
			if bytes.Contains(body, []byte(`"mediaType":"`+indexType)) {
				d.MediaType = indexType
			}
			c.pushManifest("spec/referrers", string(d.Digest), d.MediaType, body).want(t, 201)
			d.Annotations = notes
			return d
		}
		typed := push(func(m *manifest) { m.ArtifactType = "application/vnd.example.sbom" })
		typed.ArtifactType = "application/vnd.example.sbom"
		untyped := push(func(m *manifest) {}) // of the config's type
		untyped.ArtifactType = "application/vnd.oci.image.config.v1+json"
		list1 := push(func(m *manifest) {
			m.MediaType, m.Config, m.Layers = indexType, nil, nil
			m.Manifests = []descriptor{typed}
			m.Manifests[0].Annotations, m.Manifests[0].ArtifactType = nil, ""
		})
		same := func(a, b descriptor) bool { return fmt.Sprint(a) == fmt.Sprint(b) }
		got, h := list("spec/referrers", subject.Digest, "")
		if len(got.Manifests) != 3 || h.Get("OCI-Filters-Applied") != "" {
			t.Errorf("%+v", got)
		}
		for _, d := range []descriptor{typed, untyped, list1} {
			if !slices.ContainsFunc(got.Manifests, func(x descriptor) bool { return same(x, d) }) {
				t.Errorf("no %+v in %+v", d, got.Manifests)
			}
		}
		got, h = list("spec/referrers", subject.Digest, "?artifactType=application/vnd.example.sbom")
		if len(got.Manifests) != 1 || !same(got.Manifests[0], typed) || h.Get("OCI-Filters-Applied") != "artifactType" {
			t.Errorf("%+v %v", got, h)
		}
		if got, _ = list("spec/referrers", subject.Digest, "?artifactType=none"); len(got.Manifests) != 0 {
			t.Errorf("%+v", got)
		}
		if got, _ = list("spec/other", subject.Digest, ""); len(got.Manifests) != 0 {
			t.Errorf("referrers of another repository: %+v", got)
		}
		for _, query := range []string{"?artifactType=%00", "?artifactType=a&artifactType=b", "?last=%ff"} {
			c.do("GET", "/v2/spec/referrers/referrers/"+string(subject.Digest)+query, nil).want(t, 400)
		}
	})
}

// "Content Management" › "Deleting tags"
func TestDeletingTags(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		_, d := c.pushImage("spec/delete", "v1")
		c.do("DELETE", "/v2/spec/delete/manifests/v1", nil).want(t, 202)
		c.do("GET", "/v2/spec/delete/manifests/v1", nil).want(t, 404, "MANIFEST_UNKNOWN")
		c.do("GET", "/v2/spec/delete/manifests/"+string(d.Digest), nil).want(t, 200)
		c.do("DELETE", "/v2/spec/delete/manifests/v1", nil).want(t, 404)
		c.do("DELETE", "/v2/spec/absent/manifests/v1", nil).want(t, 404)
	})
}

// "Content Management" › "Deleting Manifests"
func TestDeletingManifests(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		_, d := c.pushImage("spec/delete", "v1")
		c.do("DELETE", "/v2/spec/delete/manifests/"+string(d.Digest), nil).want(t, 202)
		for _, reference := range []string{"v1", string(d.Digest)} {
			c.do("GET", "/v2/spec/delete/manifests/"+reference, nil).want(t, 404, "MANIFEST_UNKNOWN")
		}
		c.do("DELETE", "/v2/spec/delete/manifests/"+string(d.Digest), nil).want(t, 404)
		c.do("DELETE", "/v2/spec/absent/manifests/"+string(d.Digest), nil).want(t, 404)
		if a := c.do("GET", "/v2/spec/delete/tags/list", nil).want(t, 200); strings.Contains(string(a.body), "v1") {
			t.Errorf("%s", a.body)
		}
		c.pushImage("spec/delete", "v1") // and the tag can be used again
	})
}

// "Content Management" › "Deleting Blobs"
func TestDeletingBlobs(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body := random(100)
		d := c.pushBlob("spec/delete", body)
		c.pushBlob("spec/keep", body)
		path := "/v2/spec/delete/blobs/" + string(d.Digest)
		c.do("DELETE", path, nil).want(t, 202)
		c.do("GET", path, nil).want(t, 404, "BLOB_UNKNOWN")
		c.do("HEAD", path, nil).want(t, 404)
		c.do("DELETE", path, nil).want(t, 404, "BLOB_UNKNOWN")
		if a := c.do("GET", "/v2/spec/keep/blobs/"+string(d.Digest), nil).want(t, 200); !bytes.Equal(a.body, body) {
			t.Error("the blob of another repository is damaged")
		}
		c.pushBlob("spec/delete", body)
		c.do("GET", path, nil).want(t, 200)
	})
}

// "Registry Proxying": a registry may ignore ns.
func TestRegistryProxying(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		c.pushImage("spec/proxy", "v1")
		a := c.do("GET", "/v2/spec/proxy/manifests/v1?ns=docker.io", nil).want(t, 200)
		if a.Header.Get("OCI-Namespace") != "" {
			t.Errorf("%v", a.Header)
		}
	})
}

// "Backwards Compatibility" › "Unavailable Referrers API", "Referrers Tag Schema":
// a client that knows no referrers API finds nothing in its way.
func TestReferrersTagSchema(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		_, d := c.pushImage("spec/fallback", "v1")
		tag := strings.Replace(string(d.Digest), ":", "-", 1)
		c.do("GET", "/v2/spec/fallback/manifests/"+tag, nil).want(t, 404)
		index := encode(t, manifest{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{d}})
		c.pushManifest("spec/fallback", tag, indexType, index).want(t, 201)
		c.do("GET", "/v2/spec/fallback/manifests/"+tag, nil).want(t, 200)
		c.do("DELETE", "/v2/spec/fallback/manifests/"+tag, nil).want(t, 202)
	})
}

// "API" › "Determining Support"
func TestDeterminingSupport(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		a := c.once("GET", "/v2/", nil).want(t, 401, "UNAUTHORIZED")
		if h := a.Header.Get("WWW-Authenticate"); strings.Contains(h, "scope") {
			t.Errorf("%q", h)
		}
		c.do("GET", "/v2/", nil).want(t, 200)
		s.login(t, s.OwnerName, "wrong").do("GET", "/v2/", nil).want(t, 401)
		s.login(t, "", "").do("GET", "/v2/", nil).want(t, 401)
		s.login(t, "", "").do("GET", "/v2/", nil, func(r *http.Request) { r.SetBasicAuth(s.OwnerName, s.OwnerPassword) }).want(t, 200)
	})
}

// "API" › "Endpoints": every row is there, and no other method is.
func TestEndpoints(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		d := string(ref.SHA256.Sum([]byte("x")))
		for path, methods := range map[string]string{
			"/v2/":                            "GET HEAD",
			"/v2/_catalog":                    "GET",
			"/v2/spec/api/manifests/v1":       "GET HEAD PUT DELETE",
			"/v2/spec/api/blobs/" + d:         "GET HEAD DELETE",
			"/v2/spec/api/blobs/uploads/":     "POST",
			"/v2/spec/api/blobs/uploads/none": "GET PATCH PUT DELETE",
			"/v2/spec/api/tags/list":          "GET",
			"/v2/spec/api/referrers/" + d:     "GET",
		} {
			for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"} {
				a := c.do(m, path, nil)
				if there := slices.Contains(strings.Fields(methods), m); there == (a.StatusCode == 405) || a.StatusCode >= 500 {
					t.Errorf("%s %s: %s", m, path, a.Status)
				}
				if a.StatusCode == 405 && a.Header.Get("Allow") == "" {
					t.Errorf("%s %s: no Allow", m, path)
				}
			}
		}
	})
}

// "API" › "Error Codes": the form, and no code but those of the table.
func TestErrorCodes(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		known := strings.Fields(`BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN
			MANIFEST_INVALID MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS`)
		for _, path := range []string{"/v2/x/manifests/v1", "/v2/X/manifests/v1", "/v2/x/blobs/y", "/v2/x/tags/list", "/v2/x", "/v2/x/blobs/uploads/y"} {
			a := c.do("GET", path, nil)
			var e struct {
				Errors []struct {
					Code, Message string
					Detail        any
				}
			}
			if err := json.Unmarshal(a.body, &e); err != nil || len(e.Errors) == 0 || a.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%s: %s %v", path, a.body, err)
			}
			if !slices.Contains(known, e.Errors[0].Code) || e.Errors[0].Message == "" {
				t.Errorf("%s: %+v", path, e)
			}
		}
	})
}

// "API" › "Warnings": this registry has none to give.
func TestWarnings(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		c.pushImage("spec/warn", "v1")
		if a := c.do("GET", "/v2/spec/warn/manifests/v1", nil).want(t, 200); a.Header.Get("Warning") != "" {
			t.Errorf("%v", a.Header)
		}
	})
}

// What Azure adds: locks, quarantine and a trash are heard here too (azure-contract
// §2.6, §2.8).
func TestLocksQuarantineAndTrashHoldForEveryClient(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		const repo = "spec/locked"
		owner := s.Server()
		_, d := c.pushImage(repo, "v1")
		digest := "/v2/" + repo + "/manifests/" + string(d.Digest)
		patch := func(p content.AttributesPatch) {
			t.Helper()
			if _, err := s.content.PatchManifest(t.Context(), owner, repo, d.Digest, p); err != nil {
				t.Fatal(err)
			}
		}
		off, on := false, true
		patch(content.AttributesPatch{Delete: &off, Read: &off})
		if a := c.do("DELETE", digest, nil).want(t, 405, "REGISTRY_DISALLOWED_OPERATION"); a.Header.Get("Allow") == "" {
			t.Error("405 says no methods")
		}
		c.do("GET", "/v2/"+repo+"/manifests/v1", nil).want(t, 405, "REGISTRY_DISALLOWED_OPERATION")
		c.do("HEAD", digest, nil).want(t, 405)
		patch(content.AttributesPatch{Delete: &on, Read: &on})
		s.Update(t, func(r *registry.Registry) { r.Policies.SoftDelete.Status = "enabled" })
		c.do("DELETE", digest, nil).want(t, 202)
		c.do("GET", digest, nil).want(t, 404, "MANIFEST_UNKNOWN")
		if err := s.content.Restore(t.Context(), owner, repo, d.Digest, "v1", false, content.Rules{}); err != nil {
			t.Fatal(err)
		}
		c.do("GET", "/v2/"+repo+"/manifests/v1", nil).want(t, 200)
		s.Update(t, func(r *registry.Registry) { r.Policies.Quarantine.Status = "enabled" })
		_, d = c.pushImage(repo, "v2")
		i, err := s.content.ManifestInfo(t.Context(), owner, repo, d.Digest)
		if err != nil || i.QuarantineState != content.Quarantined {
			t.Errorf("%+v: %v", i, err)
		}
	})
}
