package authority

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/resource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	arm      = "https://management.core.windows.net/"
	verifier = "0123456789-0123456789-0123456789-0123456789"
	back     = "http://localhost:8400"
)

var challenge = s256(verifier)

// A town is an authority that listens, with its house.
type town struct {
	t *testing.T
	*gatetest.House
	url    string
	client *http.Client // follows no redirect
	tenant string
}

func open(t *testing.T, d *db.DB) *town {
	t.Helper()
	h := gatetest.Open(t, d, nil)
	api := New(Options{Identity: h.Identity, Registries: h.Registries, Key: h.Platform.Derive("sign-in"),
		Named: func(host string) bool { return host == "127.0.0.1" || strings.HasSuffix(host, "localhost") }})
	s := gatetest.Serve(t, h.Gate.Serve(api))
	w := &town{t, h, s.URL, s.Client(), h.Identity.Tenant()}
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return w
}

// do sends a request, and reads the answer.
func (w *town) do(c *http.Client, r *http.Request) (*http.Response, string) {
	w.t.Helper()
	res, err := c.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(body)
}

func (w *town) request(method, path string, form url.Values) *http.Request {
	w.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = w.url + path
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

// post sends a form and reads the JSON of the answer.
func (w *town) post(path string, form url.Values) (int, map[string]any) {
	w.t.Helper()
	res, body := w.do(w.client, w.request("POST", path, form))
	answer := map[string]any{}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		w.t.Fatalf("%s: %v", body, err)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		w.t.Errorf("%s may be kept", path)
	}
	return res.StatusCode, answer
}

// A browser has cookies.
type browsing struct {
	*town
	*http.Client
}

func (w *town) browser() browsing {
	jar, _ := cookiejar.New(nil)
	c := *w.client
	c.Jar = jar
	return browsing{w, &c}
}

func (b browsing) get(path string) (*http.Response, string) {
	b.t.Helper()
	return b.do(b.Client, b.request("GET", path, nil))
}

func (b browsing) send(path string, form url.Values) (*http.Response, string) {
	b.t.Helper()
	r := b.request("POST", path, form)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(b.Client, r)
}

var hidden = regexp.MustCompile(`name="request" value="([^"]+)"`)

// asked is what a page carries from this page to the next.
func asked(t *testing.T, body string) string {
	t.Helper()
	found := hidden.FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("this is no page that asks who it is: %s", body)
	}
	return found[1]
}

func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if q.Set(pairs[i], pairs[i+1]); pairs[i+1] == "-" {
			q.Del(pairs[i])
		}
	}
	return q.Encode()
}

// authorize is the query of az, with changes.
func authorize(change ...string) string {
	return query(append([]string{"client_id", identity.AzureCLI, "response_type", "code", "redirect_uri", back, "scope", arm + "/.default offline_access openid profile",
		"state", "s t&a=te", "nonce", "n", "code_challenge", challenge, "code_challenge_method", "S256", "client_info", "1", "prompt", "select_account"}, change...)...)
}

// known is whom a token of the authority proves, at the control plane.
func (w *town) known(token any) identity.Principal {
	w.t.Helper()
	text, _ := token.(string)
	p, err := w.Identity.Authenticate(context.Background(), w.Registry.Realm(), identity.ControlPlane,
		identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(text)}, network.Origin{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// claims are what a token says.
func claims(t *testing.T, token any) map[string]any {
	t.Helper()
	text, _ := token.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%v is no token", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

// issuer makes an external issuer a trusted one.
func (w *town) issuer(name string, p identity.IssuerProperties) {
	w.t.Helper()
	properties, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	err = w.DB.Write(w.t.Context(), func(tx *db.Tx) error {
		_, err := w.Documents.Put(w.t.Context(), tx, resource.Resource{ID: identity.IssuerID(name), Type: identity.IssuerType, Properties: properties}, resource.Any)
		return err
	})
	if err != nil && fault.Of(err) != fault.Stale {
		w.t.Fatal(err)
	}
}

// events are all that the ledger has.
func (w *town) events() (all []ledger.Event) {
	w.t.Helper()
	for e, err := range w.Ledger.Events(w.t.Context(), ledger.Query{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, e)
	}
	for e, err := range w.Ledger.Events(w.t.Context(), ledger.Query{Registry: w.Registry.UID}) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}
