package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"breakwater/ref"
)

// A street is a server with several registries, each by its host name.
type street struct {
	t      *testing.T
	owner  *client
	port   string
	client *http.Client
	log    string // file
}

const streetDomain = "registries.test"

func openStreet(t *testing.T, flags ...string) *street {
	t.Helper()
	return newPatient(t, filepath.Join(t.TempDir(), "data"), append(flags, "--domain", streetDomain)...).street()
}

// street starts a server that has the domain of streets.
func (p *patient) street() *street {
	t := p.t
	t.Helper()
	p.start()
	c, err := dial(filepath.Join(p.data, "owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(c.Registry)
	transport := c.http.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &street{t, c, port, &http.Client{Transport: transport}, p.log.Name()}
}

// host is the registry's, with the port.
func (s *street) host(name string) string { return name + "." + streetDomain + ":" + s.port }

// ask sends a request to a host; auth is user:password, or a bearer token.
func (s *street) ask(host, method, path, body, auth string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+host+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	switch user, password, basic := strings.Cut(auth, ":"); {
	case basic:
		r.SetBasicAuth(user, password)
	case auth != "":
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	if strings.HasPrefix(body, `{"schemaVersion"`) {
		r.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	} else if strings.HasPrefix(body, "{") {
		r.Header.Set("Content-Type", "application/json")
	}
	a, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return a, string(text)
}

// want asks, and returns the body if the status is this one.
func (s *street) want(status int, host, method, path, body, auth string) (*http.Response, string) {
	s.t.Helper()
	a, text := s.ask(host, method, path, body, auth)
	if a.StatusCode != status {
		s.t.Fatalf("%s %s%s: %d, want %d\n%s", method, host, path, a.StatusCode, status, text)
	}
	return a, text
}

func (s *street) member(text, name string) string { return (&desk{t: s.t}).member(text, name) }

// secret is the password that generateCredentials answers.
func (s *street) secret(text string) string {
	s.t.Helper()
	_, rest, _ := strings.Cut(text, `"value":"`)
	secret, _, ok := strings.Cut(rest, `"`)
	if !ok {
		s.t.Fatalf("there is no password in %s", text)
	}
	return secret
}

// create makes a registry beside the default one.
func (s *street) create(name string) (id string) {
	s.t.Helper()
	first, err := s.owner.registry(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	id = first[:strings.LastIndexByte(first, '/')+1] + name
	if a, text := s.ask(s.owner.Registry, "PUT", id, `{"location":"local","sku":{"name":"Premium"},"properties":{}}`, s.login()); a.StatusCode >= 300 {
		s.t.Fatalf("create %s: %d %s", name, a.StatusCode, text)
	}
	return id
}

func (s *street) login() string { return s.owner.Username + ":" + s.owner.Password }

// image pushes one layer and its manifest, and is the digests of both.
func (s *street) image(host, repo, layer, auth string) (manifest, blob string) {
	s.t.Helper()
	push := func(body string) string {
		d := string(ref.SHA256.Sum([]byte(body)))
		s.want(201, host, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, body, auth)
		return d
	}
	blob = push(layer)
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, push("{}"), blob, len(layer))
	s.want(201, host, "PUT", "/v2/"+repo+"/manifests/v1", text, auth)
	return string(ref.SHA256.Sum([]byte(text))), blob
}

// What is in one registry is nobody's in another: names, bytes, tokens, uploads,
// mounts and events.
func TestTwoRegistriesShareNothing(t *testing.T) {
	s := openStreet(t)
	one, two := s.owner.Registry, s.host("second")
	s.create("second")
	digest, blob := s.image(one, "team/api", "bytes of the first registry", s.login())

	// Listings and content.
	for _, path := range []string{"/v2/_catalog", "/acr/v1/_catalog"} {
		if _, text := s.want(200, two, "GET", path, "", s.login()); strings.Contains(text, "team") {
			t.Errorf("%s of the second registry: %s", path, text)
		}
		if _, text := s.want(200, one, "GET", path, "", s.login()); !strings.Contains(text, "team/api") {
			t.Errorf("%s of the first registry: %s", path, text)
		}
	}
	for _, path := range []string{"/v2/team/api/tags/list", "/v2/team/api/manifests/v1", "/v2/team/api/manifests/" + digest, "/v2/team/api/blobs/" + blob,
		"/acr/v1/team/api", "/acr/v1/team/api/_tags", "/acr/v1/team/api/_tags/v1", "/acr/v1/team/api/_manifests", "/acr/v1/team/api/_manifests/" + digest} {
		s.want(404, two, "GET", path, "", s.login())
		s.want(200, one, "GET", path, "", s.login())
	}
	s.want(404, two, "DELETE", "/acr/v1/team/api", "", s.login())

	// A mount finds nothing elsewhere, and no upload goes on elsewhere.
	s.want(202, two, "POST", "/v2/team/web/blobs/uploads/?mount="+blob+"&from=team/api", "", s.login())
	s.want(202, two, "POST", "/v2/team/web/blobs/uploads/?mount="+blob, "", s.login())
	begun, _ := s.want(202, one, "POST", "/v2/team/api/blobs/uploads/", "", s.login())
	at := begun.Header.Get("Location")
	s.want(404, two, "PATCH", at, "chunk", s.login())
	sent, _ := s.want(202, one, "PATCH", at, "chunk", s.login())
	s.want(404, two, "GET", sent.Header.Get("Location"), "", s.login())
	s.want(404, two, "PUT", sent.Header.Get("Location")+"?digest="+string(ref.SHA256.Sum([]byte("chunk"))), "", s.login())
	s.want(404, two, "DELETE", sent.Header.Get("Location"), "", s.login())
	s.want(204, one, "GET", sent.Header.Get("Location"), "", s.login())

	// A token of one is nobody in the other, in every form.
	_, text := s.want(200, one, "GET", "/oauth2/token?scope=repository:team/api:pull,push", "", s.login())
	access := s.member(text, "access_token")
	s.want(200, one, "GET", "/v2/team/api/tags/list", "", access)
	s.want(401, two, "GET", "/v2/team/api/tags/list", "", access)
	s.want(401, two, "GET", "/v2/", "", access)
	first, err := s.owner.registry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.want(201, one, "PUT", first+"/scopeMaps/all", `{"properties":{"actions":["repositories/*/content/read"]}}`, s.login())
	s.want(201, one, "PUT", first+"/tokens/reader", `{"properties":{"scopeMapId":"`+first+`/scopeMaps/all"}}`, s.login())
	_, text = s.want(200, one, "POST", first+"/generateCredentials", `{"tokenId":"`+first+`/tokens/reader","name":"password1"}`, s.login())
	reader := "reader:" + s.secret(text)
	s.want(200, one, "GET", "/v2/team/api/manifests/v1", "", reader)
	s.want(401, two, "GET", "/v2/", "", reader)
	s.want(401, two, "GET", "/oauth2/token?scope=repository:team/api:pull", "", reader)
	form := "grant_type=password&access_type=offline&username=" + s.owner.Username + "&password=" + s.owner.Password
	refresh := s.member(s.post(one, form), "refresh_token")
	if got := s.post(one, "grant_type=refresh_token&refresh_token="+refresh); !strings.Contains(got, "access_token") {
		t.Error(got)
	}
	if got := s.post(two, "grant_type=refresh_token&refresh_token="+refresh); !strings.Contains(got, "UNAUTHORIZED") {
		t.Errorf("a refresh token of the first registry at the second: %s", got)
	}

	// The same names and bytes in both are two things: what is done to one is not
	// done to the other, and each ledger has its own.
	s.image(two, "team/api", "bytes of the first registry", s.login())
	s.want(202, one, "DELETE", "/v2/team/api/manifests/"+digest, "", s.login())
	s.want(200, two, "GET", "/v2/team/api/manifests/"+digest, "", s.login())
	s.want(200, two, "GET", "/v2/team/api/blobs/"+blob, "", s.login())
	s.image(two, "only/here", "of the second", s.login())
	const events = "/providers/Breakwater.Ledger/events?category=ContainerRegistryRepositoryEvents"
	if _, text := s.want(200, one, "GET", events, "", s.login()); strings.Contains(text, "only/here") || !strings.Contains(text, "DeleteManifest") {
		t.Errorf("the ledger of the first registry: %s", text)
	}
	if _, text := s.want(200, two, "GET", events, "", s.login()); !strings.Contains(text, "only/here") || strings.Contains(text, "DeleteManifest") {
		t.Errorf("the ledger of the second registry: %s", text)
	}
}

// A registry that is made again under its name is another one.
func TestARegistryMadeAgainIsAnother(t *testing.T) {
	s := openStreet(t)
	two, id := s.host("second"), s.create("second")
	_, blob := s.image(two, "team/api", "bytes of the old one", s.login())
	_, text := s.want(200, two, "GET", "/oauth2/token?scope=repository:team/api:pull", "", s.login())
	access := s.member(text, "access_token")
	begun, _ := s.want(202, two, "POST", "/v2/team/api/blobs/uploads/", "", s.login())
	s.want(201, s.owner.Registry, "PUT", id+"/scopeMaps/all", `{"properties":{"actions":["repositories/*/content/read"]}}`, s.login())
	s.want(201, s.owner.Registry, "PUT", id+"/tokens/reader", `{"properties":{"scopeMapId":"`+id+`/scopeMaps/all"}}`, s.login())
	_, text = s.want(200, s.owner.Registry, "POST", id+"/generateCredentials", `{"tokenId":"`+id+`/tokens/reader","name":"password1"}`, s.login())
	reader := "reader:" + s.secret(text)
	s.want(200, two, "GET", "/v2/team/api/blobs/"+blob, "", reader)
	s.want(200, two, "GET", "/v2/team/api/blobs/"+blob, "", access)

	s.want(200, s.owner.Registry, "DELETE", id, "", s.login())
	s.want(404, two, "GET", "/v2/", "", s.login())
	s.create("second")
	for _, auth := range []string{reader, access} {
		s.want(401, two, "GET", "/v2/team/api/blobs/"+blob, "", auth)
		s.want(401, two, "GET", "/v2/", "", auth)
	}
	s.want(404, two, "GET", "/v2/team/api/blobs/"+blob, "", s.login())
	s.want(404, two, "PATCH", begun.Header.Get("Location"), "chunk", s.login())
	if _, text := s.want(200, two, "GET", "/v2/_catalog", "", s.login()); strings.Contains(text, "team") {
		t.Error(text)
	}
	s.want(404, s.owner.Registry, "GET", id+"/tokens/reader", "", s.login())
}

// post sends a form to the token endpoint and returns the answer.
func (s *street) post(host, form string) string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), "POST", "https://"+host+"/oauth2/token", strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}
