package oci_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"breakwater/acr"
	"breakwater/content"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/gate/gatetest"
	"breakwater/oci"
	"breakwater/ref"
)

// A server is the OCI and the token dialect over TLS on a whole house.
type server struct {
	*gatetest.House
	url         string
	certificate []byte
	http        *http.Client
	content     *content.Store
}

func serve(t testing.TB, d *db.DB) *server {
	t.Helper()
	h := gatetest.Open(t, d, nil)
	c := content.New(d, h.Objects, h.Rings, h.Ledger, h.Platform.Derive("upload-session"))
	v2 := h.Gate.Serve(&oci.API{Content: c, Registries: h.Registries, Identity: h.Identity})
	data := h.Gate.Serve(&oci.Data{Content: c})
	token := h.Gate.Serve(&acr.API{Identity: h.Identity, Registries: h.Registries})
	s := gatetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.Registries.IsDataHost(r.Host) {
			data.ServeHTTP(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/oauth2/") {
			token.ServeHTTP(w, r)
			return
		}
		v2.ServeHTTP(w, r)
	}))
	hc := s.Client()
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &server{h, s.URL, s.Certificate().Raw, hc, c}
}

// each runs a test against a server on each database, as its owner.
func each(t *testing.T, test func(t *testing.T, s *server, c *client)) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := serve(t, d)
		test(t, s, s.login(t, s.OwnerName, s.OwnerPassword))
	})
}

// A client logs in as Docker's does: it asks for a token when it is challenged.
type client struct {
	t              testing.TB
	s              *server
	user, password string
	tokens         map[string]string // by challenge
	bearer         string
}

func (s *server) login(t testing.TB, user, password string) *client {
	return &client{t: t, s: s, user: user, password: password, tokens: map[string]string{}}
}

type answer struct {
	*http.Response
	body []byte
}

// code is the OCI error code of a refusal.
func (a answer) code() string {
	var e struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return e.Errors[0].Code
}

// header changes a request: header("Range", "bytes=0-1").
func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

// chunked leaves the length of the body unsaid.
func chunked(r *http.Request) { r.ContentLength = -1 }

// once sends a request with the token that the client holds, if any.
func (c *client) once(method, path string, body []byte, change ...func(*http.Request)) answer {
	c.t.Helper()
	target := path
	if !strings.HasPrefix(path, "https://") {
		target = c.s.url + path
	}
	var r *http.Request
	var err error
	if body == nil {
		r, err = http.NewRequest(method, target, nil)
	} else {
		r, err = http.NewRequest(method, target, io.NopCloser(bytes.NewReader(body)))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if body != nil {
		r.ContentLength = int64(len(body))
		if len(body) == 0 {
			r.Body = http.NoBody
		}
	}
	if c.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	for _, f := range change {
		f(r)
	}
	res, err := c.s.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" && !strings.Contains(path, "/oauth2/") {
		c.t.Errorf("%s %s: no version header", method, path)
	}
	return answer{res, got}
}

// do sends a request, and again with a better token if it is challenged.
func (c *client) do(method, path string, body []byte, change ...func(*http.Request)) answer {
	c.t.Helper()
	a := c.once(method, path, body, change...)
	if a.StatusCode != http.StatusUnauthorized {
		return a
	}
	realm, q := challenge(c.t, a.Header.Get("WWW-Authenticate"))
	if !strings.HasPrefix(realm, c.s.url) {
		c.t.Fatalf("the realm is elsewhere: %q", realm)
	}
	token := c.once("GET", realm+"?"+q.Encode(), nil, func(r *http.Request) {
		r.Header.Del("Authorization")
		if c.user != "" {
			r.SetBasicAuth(c.user, c.password)
		}
	}, func(r *http.Request) { r.URL.RawQuery = q.Encode() })
	if token.StatusCode != 200 {
		return a
	}
	var t struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal(token.body, &t); err != nil {
		c.t.Fatal(err)
	}
	c.bearer = t.Access
	return c.once(method, path, body, change...)
}

// challenge reads the header as the narrowest of known clients do.
func challenge(t testing.TB, h string) (realm string, q url.Values) {
	t.Helper()
	rest, ok := strings.CutPrefix(h, "Bearer ")
	if !ok || strings.Contains(rest, ", ") {
		t.Fatalf("challenge %q", h)
	}
	q = url.Values{}
	for _, part := range strings.Split(rest, `",`) {
		kv := strings.Split(strings.TrimSuffix(part, `"`), `=`)
		if len(kv) != 2 {
			t.Fatalf("challenge %q: %q", h, part)
		}
		switch v := strings.TrimPrefix(kv[1], `"`); kv[0] {
		case "realm":
			realm = v
		case "service":
			q.Set("service", v)
		case "scope":
			q["scope"] = strings.Fields(v)
		}
	}
	if realm == "" || q.Get("service") == "" {
		t.Fatalf("challenge %q", h)
	}
	return realm, q
}

// want fails the test unless the answer has this status and, for a refusal, this
// code.
func (a answer) want(t testing.TB, status int, code ...string) answer {
	t.Helper()
	if a.StatusCode != status || len(code) > 0 && a.Request.Method != "HEAD" && a.code() != code[0] {
		t.Errorf("%s %s: %s %.300q, want %d %v", a.Request.Method, a.Request.URL.RequestURI(), a.Status, a.body, status, code)
	}
	if a.StatusCode >= 400 && a.Request.Method != "HEAD" && a.code() == "" && a.StatusCode != 416 && a.StatusCode != 412 {
		t.Errorf("%s %s: no error code in %q", a.Request.Method, a.Request.URL.RequestURI(), a.body)
	}
	return a
}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
	emptyType = "application/vnd.oci.empty.v1+json"
)

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       ref.Digest        `json:"digest"`
	Size         int               `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *descriptor       `json:"config,omitempty"`
	Layers        []descriptor      `json:"layers,omitempty"`
	Manifests     []descriptor      `json:"manifests,omitempty"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

func encode(t testing.TB, m manifest) []byte {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func describe(mediaType string, body []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: ref.SHA256.Sum(body), Size: len(body)}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// pushBlob pushes content in one request.
func (c *client) pushBlob(repo string, body []byte) descriptor {
	c.t.Helper()
	d := describe("application/octet-stream", body)
	c.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+string(d.Digest), body).want(c.t, 201)
	return d
}

// image makes and pushes the blobs of an image, and returns its manifest.
func (c *client) image(repo string, change ...func(*manifest)) []byte {
	c.t.Helper()
	config, layer := c.pushBlob(repo, random(100)), c.pushBlob(repo, random(1000))
	config.MediaType, layer.MediaType = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
	m := manifest{SchemaVersion: 2, MediaType: imageType, Config: &config, Layers: []descriptor{layer}}
	for _, f := range change {
		f(&m)
	}
	return encode(c.t, m)
}

func (c *client) pushManifest(repo, reference, mediaType string, body []byte) answer {
	c.t.Helper()
	return c.do("PUT", "/v2/"+repo+"/manifests/"+reference, body, header("Content-Type", mediaType))
}

// pushImage pushes an image with a tag.
func (c *client) pushImage(repo, tag string, change ...func(*manifest)) (body []byte, d descriptor) {
	c.t.Helper()
	body = c.image(repo, change...)
	c.pushManifest(repo, tag, imageType, body).want(c.t, 201)
	return body, describe(imageType, body)
}
