package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"breakwater/access"
)

// A courier fetches what it is sent for from one of this machine's addresses, and goes
// nowhere by itself.
type courier struct {
	s      *street
	client *http.Client
}

func (s *street) courier(address string) courier {
	t := s.client.Transport.(*http.Transport).Clone()
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext(ctx, network, "127.0.0.1:"+s.port)
	}
	s.t.Cleanup(t.CloseIdleConnections)
	return courier{s, &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (c courier) do(method, url, auth string, change ...func(*http.Request)) (*http.Response, string) {
	c.s.t.Helper()
	r, err := http.NewRequestWithContext(c.s.t.Context(), method, url, nil)
	if err != nil {
		c.s.t.Fatal(err)
	}
	if user, password, ok := strings.Cut(auth, ":"); ok {
		r.SetBasicAuth(user, password)
	} else if auth != "" {
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	for _, f := range change {
		f(r)
	}
	a, err := c.client.Do(r)
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return a, string(text)
}

// sent is where a login server sends the courier for a blob.
func (c courier) sent(host, repo, blob, auth string) string {
	c.s.t.Helper()
	a, text := c.do("GET", "https://"+host+"/v2/"+repo+"/blobs/"+blob, auth)
	if a.StatusCode != http.StatusTemporaryRedirect || text != "" || a.Header.Get("Cache-Control") != "no-store" {
		c.s.t.Fatalf("a blob is answered with %s %v %.200s", a.Status, a.Header, text)
	}
	return a.Header.Get("Location")
}

// dataEndpoint switches the data endpoint of a registry.
func (s *street) dataEndpoint(id string, on bool) {
	s.t.Helper()
	s.patch(id, `"dataEndpointEnabled":`+map[bool]string{true: "true", false: "false"}[on])
}

func (s *street) patch(id, properties string) {
	s.t.Helper()
	s.want(200, s.owner.Registry, "PATCH", id, `{"properties":{`+properties+`}}`, s.login())
}

// reader makes a repository token that may pull, and is its login.
func (s *street) reader(id, name string) string {
	s.t.Helper()
	s.want(201, s.owner.Registry, "PUT", id+"/tokens/"+name, `{"properties":{"scopeMapId":"`+id+`/scopeMaps/_repositories_pull"}}`, s.login())
	_, text := s.want(200, s.owner.Registry, "POST", id+"/generateCredentials", `{"tokenId":"`+id+`/tokens/`+name+`","name":"password1"}`, s.login())
	return name + ":" + s.secret(text)
}

// NS-2: blobs come from a host of their own, to who was sent there for them.
func TestBlobsComeFromTheDataEndpointWhereItIsSwitchedOn(t *testing.T) {
	s := openStreet(t, "--log-level", "debug")
	const layer = "bytes that are pulled from elsewhere"
	host, id := s.host("second"), s.create("second")
	_, blob := s.image(host, "team/api", layer, s.login())
	c := s.courier("127.0.0.1")
	data := s.host("second.local.data")
	at := "https://" + data + "/v2/team/api/blobs/" + blob

	// Off, the host is unknown, and blobs come from the login server.
	s.want(200, host, "GET", "/v2/team/api/blobs/"+blob, "", s.login())
	if _, err := c.client.Get(at); err == nil {
		t.Error("the server's certificate is for a data endpoint that is off")
	}
	s.dataEndpoint(id, true)
	to := c.sent(host, "team/api", blob, s.login())
	if !strings.HasPrefix(to, at+"?ticket=") || strings.ContainsAny(to[len(at):], "%&#") {
		t.Errorf("a blob is at %s", to)
	}

	// There the ticket is enough, for the whole, for ranges, and to ask what it is.
	if a, text := c.do("GET", to, ""); a.StatusCode != 200 || text != layer || a.Header.Get("Docker-Content-Digest") != blob {
		t.Errorf("%s %v %q", a.Status, a.Header, text)
	}
	if a, text := c.do("GET", to, "", func(r *http.Request) { r.Header.Set("Range", "bytes=6-9") }); a.StatusCode != 206 || text != layer[6:10] {
		t.Errorf("%s %q", a.Status, text)
	}
	if a, _ := c.do("HEAD", to, ""); a.StatusCode != 200 || a.ContentLength != int64(len(layer)) {
		t.Errorf("%s %d", a.Status, a.ContentLength)
	}
	if a, _ := c.do("GET", to, "", func(r *http.Request) { r.Header.Set("If-None-Match", `"`+blob+`"`) }); a.StatusCode != 304 {
		t.Errorf("%s", a.Status)
	}
	// Clients bring their login along to what looks like a part of the host they know.
	if a, _ := c.do("GET", to, "some:body"); a.StatusCode != 200 {
		t.Errorf("%s", a.Status)
	}
	// The rest is at the login server still, which tells nobody where a blob is that is not there.
	for _, path := range []string{"/v2/", "/v2/team/api/manifests/v1", "/v2/_catalog"} {
		s.want(200, host, "GET", path, "", s.login())
	}
	s.want(200, host, "HEAD", "/v2/team/api/blobs/"+blob, "", s.login())
	s.want(404, host, "GET", "/v2/team/api/blobs/"+strings.Replace(blob, blob[7:15], "00000000", 1), "", s.login())
	s.want(401, host, "GET", "/v2/team/api/blobs/"+blob, "", "")
	// By the name of private endpoints it is the data endpoint's of those.
	private := c.sent(s.host("second.privatelink"), "team/api", blob, s.login())
	if !strings.HasPrefix(private, "https://"+s.host("second.local.data.privatelink")+"/v2/") {
		t.Errorf("privately a blob is at %s", private)
	}
	if a, _ := c.do("GET", private, ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	// Anonymous callers come there too.
	s.patch(id, `"anonymousPullEnabled":true`)
	anonymous := c.sent(host, "team/api", blob, "")
	if a, text := c.do("GET", anonymous, ""); a.StatusCode != 200 || text != layer {
		t.Error(a.Status, text)
	}
	s.patch(id, `"anonymousPullEnabled":false`)
	if a, _ := c.do("GET", anonymous, ""); a.StatusCode != 403 {
		t.Errorf("a stranger still pulls: %s", a.Status)
	}

	// Nothing else is answered there: no other method, no other path, no login.
	for _, path := range []string{"/", "/v2/", "/v2/_catalog", "/v2/team/api/manifests/v1", "/v2/team/api/tags/list", "/v2/team/api/blobs/uploads/", "/healthz", "/oauth2/token",
		"/acr/v1/_catalog", "/subscriptions", id, "/adfs/.well-known/openid-configuration", "/v1.0/me", "/v2/team/api/blobs/" + blob + "/"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if a, _ := c.do(method, "https://"+data+path+"?"+to[len(at)+1:], s.login()); a.StatusCode != 404 {
				t.Errorf("%s %s at the data endpoint: %s", method, path, a.Status)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		if a, _ := c.do(method, to, s.login()); a.StatusCode != 404 {
			t.Errorf("%s of a blob at the data endpoint: %s", method, a.Status)
		}
	}

	// A ticket stands in no log, no event and no answer to a mistake.
	_, text := c.do("GET", to[:len(to)-1]+"A", "")
	ticket := to[len(at)+len("?ticket="):]
	log, err := os.ReadFile(s.log)
	if err != nil || !bytes.Contains(log, []byte("PullBlob")) {
		t.Fatalf("%v: the log says nothing of what was refused\n%s", err, log)
	}
	_, events := s.want(200, host, "GET", "/providers/Breakwater.Ledger/events?$top=1000", "", s.login())
	for name, where := range map[string]string{"the log": string(log), "the ledger": events, "an answer": text} {
		if strings.Contains(where, ticket[:40]) || strings.Contains(where, "ticket=") {
			t.Errorf("%s has the ticket", name)
		}
	}
	// The ledger has who was sent and who was served, and where.
	for _, want := range []string{`"status":307`, `"host":"` + data, `"reason":"Denied"`} {
		if !strings.Contains(events, want) {
			t.Errorf("the ledger has no %s", want)
		}
	}

	s.dataEndpoint(id, false)
	s.want(200, host, "GET", "/v2/team/api/blobs/"+blob, "", s.login())
	if a, _ := c.do("GET", to, ""); a.StatusCode != 404 {
		t.Errorf("off, the data endpoint answers %s", a.Status)
	}
}

func TestATicketIsForOneBlobOfOneRegistryFromOnePlaceAndForAShortWhile(t *testing.T) {
	s := openStreet(t)
	host, other := s.host("second"), s.host("third1")
	id, third := s.create("second"), s.create("third1")
	s.dataEndpoint(id, true)
	s.dataEndpoint(third, true)
	_, blob := s.image(host, "team/api", "layer", s.login())
	s.image(host, "team/web", "layer", s.login())
	s.image(other, "team/api", "layer", s.login())
	_, secret := s.image(host, "team/api", "another layer", s.login())
	c := s.courier("127.0.0.1")
	reader := s.reader(id, "reader")
	to := c.sent(host, "team/api", blob, reader)
	refused := func(why string, c courier, method, url string, change ...func(*http.Request)) {
		t.Helper()
		a, text := c.do(method, url, s.login(), change...)
		if a.StatusCode != 403 || a.Header.Get("Www-Authenticate") != "" || strings.Contains(text, "layer") {
			t.Errorf("%s: %s %v %.200s", why, a.Status, a.Header, text)
		}
		var e struct {
			Errors []struct{ Code, Message string }
		}
		if method != "HEAD" && (json.Unmarshal([]byte(text), &e) != nil || len(e.Errors) != 1 || e.Errors[0].Code != "DENIED") {
			t.Errorf("%s: %.300s", why, text)
		}
	}
	works := func(why string) {
		t.Helper()
		if a, text := c.do("GET", to, ""); a.StatusCode != 200 || text != "layer" {
			t.Errorf("%s: %s %.200s", why, a.Status, text)
		}
	}
	works("at first")
	refused("another registry", c, "GET", strings.Replace(to, "second.", "third1.", 1))
	refused("another repository", c, "GET", strings.Replace(to, "team/api", "team/web", 1))
	refused("another digest", c, "GET", strings.Replace(to, blob, secret, 1))
	refused("another digest, asked about", c, "HEAD", strings.Replace(to, blob, secret, 1))
	refused("another address", s.courier("127.0.0.2"), "GET", to)
	refused("an address that only a header says", s.courier("127.0.0.2"), "GET", to, func(r *http.Request) {
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		r.Header.Set("Forwarded", "for=127.0.0.1")
	})
	at, ticket, _ := strings.Cut(to, "?ticket=")
	refused("none", c, "GET", at)
	refused("an empty one", c, "GET", at+"?ticket=")
	refused("nothing but the ticket", c, "GET", at+"?"+ticket)
	refused("two", c, "GET", to+"&ticket="+ticket)
	refused("two, joined", c, "GET", to+ticket)
	refused("something beside", c, "GET", at+"?a=b&ticket="+ticket)
	refused("something behind", c, "GET", to+"&a=b")
	refused("padded", c, "GET", to+"=")
	refused("another name", c, "GET", at+"?Ticket="+ticket)
	refused("escaped", c, "GET", at+"?ticket=%"+"41"+ticket[1:])
	refused("very long", c, "GET", to+strings.Repeat("A", 20_000))
	for i := 0; i < len(ticket); i += 7 {
		changed := []byte(ticket)
		changed[i] ^= 1
		refused("changed", c, "GET", at+"?ticket="+string(changed))
		refused("shortened", c, "GET", at+"?ticket="+ticket[:i])
	}
	_, text := s.want(200, host, "GET", "/oauth2/token?scope=repository:team/api:pull", "", reader)
	refused("a token in its place", c, "GET", at+"?ticket="+s.member(text, "access_token"))
	for _, length := range []int64{3, -1} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", to, io.NopCloser(strings.NewReader("abc")))
		r.ContentLength = length
		a, err := c.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != 400 {
			t.Errorf("with a body: %s", a.Status)
		}
	}
	works("after all that")
	// Nor does it open anything where credentials are shown.
	for _, auth := range []string{ticket, "reader:" + ticket, "00000000-0000-0000-0000-000000000000:" + ticket} {
		if a, _ := c.do("GET", "https://"+host+"/v2/", auth); a.StatusCode != 401 {
			t.Errorf("a ticket at the login server: %s", a.Status)
		}
	}
	// A bearer token that was asked for no more than this leads there as well, and for
	// less leads nowhere.
	c.sent(host, "team/api", blob, s.member(text, "access_token"))
	_, text = s.want(200, host, "GET", "/oauth2/token?scope=repository:team/web:pull", "", reader)
	if a, _ := c.do("GET", "https://"+host+"/v2/team/api/blobs/"+blob, s.member(text, "access_token")); a.StatusCode != 401 {
		t.Errorf("a token for another repository: %s", a.Status)
	}

	// Where nobody may knock any more a ticket is none.
	s.patch(id, `"publicNetworkAccess":"Disabled"`)
	refused("no public access", c, "GET", to)
	s.patch(id, `"publicNetworkAccess":"Enabled","networkRuleSet":{"defaultAction":"Deny","ipRules":[{"value":"127.0.0.2"}]}`)
	refused("no rule", c, "GET", to)
	s.patch(id, `"networkRuleSet":{"defaultAction":"Deny","ipRules":[{"value":"127.0.0.1"}]}`)
	works("a rule")
	s.patch(id, `"networkRuleSet":{"defaultAction":"Allow","ipRules":[]}`)

	// Nor for whom may not pull any more, in whichever way that was taken away.
	scope := func(name string) {
		s.want(200, s.owner.Registry, "PUT", id+"/tokens/reader", `{"properties":{"scopeMapId":"`+id+`/scopeMaps/`+name+`"}}`, s.login())
	}
	s.want(201, s.owner.Registry, "PUT", id+"/scopeMaps/none", `{"properties":{"actions":["repositories/team/web/content/read"]}}`, s.login())
	scope("none")
	refused("another scope map", c, "GET", to)
	scope("_repositories_pull")
	works("the old scope map")
	s.want(200, s.owner.Registry, "PATCH", id+"/tokens/reader", `{"properties":{"status":"disabled"}}`, s.login())
	refused("a disabled account", c, "GET", to)
	s.want(200, s.owner.Registry, "PATCH", id+"/tokens/reader", `{"properties":{"status":"enabled"}}`, s.login())
	works("an enabled account")
	s.want(200, s.owner.Registry, "POST", id+"/generateCredentials", `{"tokenId":"`+id+`/tokens/reader","name":"password1"}`, s.login())
	refused("another password", c, "GET", to)
	s.want(200, s.owner.Registry, "DELETE", id+"/tokens/reader", "", s.login())
	refused("a deleted account", c, "GET", to)
	s.reader(id, "reader")
	refused("an account that was made again", c, "GET", to)

	// A registry that is made again is another one, with the same bytes under the same name.
	to = c.sent(host, "team/api", blob, s.login())
	works("the owner's")
	s.want(200, s.owner.Registry, "DELETE", id, "", s.login())
	if a, _ := c.do("GET", to, ""); a.StatusCode != 404 {
		t.Errorf("of a deleted registry: %s", a.Status)
	}
	s.create("second")
	s.dataEndpoint(id, true)
	s.image(host, "team/api", "layer", s.login())
	refused("a registry that was made again", c, "GET", to)
}

// A pull from a data endpoint ends like any other when its registry is closed.
func TestWhatADataEndpointSendsIsCutWhenTheRegistryIsClosed(t *testing.T) {
	s := openStreet(t)
	host, id := s.host("second"), s.create("second")
	s.dataEndpoint(id, true)
	_, blob := s.image(host, "team/api", strings.Repeat("layer", 12<<20), s.login())
	c := s.courier("127.0.0.1")
	r, err := http.NewRequestWithContext(t.Context(), "GET", c.sent(host, "team/api", blob, s.login()), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.client.Do(r)
	if err != nil || a.StatusCode != 200 {
		t.Fatal(a, err)
	}
	defer a.Body.Close()
	if _, err := io.CopyN(io.Discard, a.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	s.patch(id, `"publicNetworkAccess":"Disabled"`)
	n := int64(0)
	for end := time.Now().Add(30 * time.Second); err == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var some int64
		some, err = io.CopyN(io.Discard, a.Body, 256<<10)
		n += some
	}
	if err == nil || err == io.EOF {
		t.Errorf("the answer went on for %d bytes: %v", n, err)
	}
}

// Without a domain there is no host name for it, and nobody is told that there is.
func TestWithoutADomainThereIsNoDataEndpoint(t *testing.T) {
	d := openDesk(t)
	r, text := d.ask("PATCH", d.id, `{"properties":{"dataEndpointEnabled":true}}`)
	if r.StatusCode != http.StatusConflict || !strings.Contains(text, "--domain") {
		t.Errorf("%s %s", r.Status, text)
	}
	if _, text := d.ask("GET", d.id, ""); !strings.Contains(text, `"dataEndpointEnabled":false`) || !strings.Contains(text, `"dataEndpointHostNames":[]`) {
		t.Error(text)
	}
}

// Azure's SDK for Go follows as it is.
func TestAzuresBlobClientPullsFromADataEndpoint(t *testing.T) {
	s := openStreet(t)
	id, err := s.owner.registry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.dataEndpoint(id, true)
	_, blob := s.image(s.owner.Registry, "team/api", "bytes for the SDK", s.login())
	owner := *s.owner
	owner.http = s.client
	d := &desk{t: t, client: &owner, id: id}
	c := d.clients(d.sdkCredential("puller", access.PullRole))
	whole, err := c.blobs.GetBlob(t.Context(), "team/api", blob, nil)
	d.is(err, 0, "")
	if text, err := io.ReadAll(whole.BlobData); err != nil || string(text) != "bytes for the SDK" {
		t.Errorf("%q, %v", text, err)
	}
	part, err := c.blobs.GetChunk(t.Context(), "team/api", blob, "bytes=6-8", nil)
	d.is(err, 0, "")
	if text, err := io.ReadAll(part.ChunkData); err != nil || string(text) != "for" {
		t.Errorf("%q, %v", text, err)
	}
	_, text := s.want(200, s.owner.Registry, "GET", "/providers/Breakwater.Ledger/events?$top=1000", "", s.login())
	if n := strings.Count(text, `"host":"`+s.host("breakwater.local.data")); n != 2 {
		t.Errorf("the data endpoint served %d requests", n)
	}
}
