package authority

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
)

func s256(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Both forms say where everything is, in words that MSAL compares.
func TestTheAuthoritySaysWhereItIs(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	for path, want := range map[string]struct{ issuer, token string }{
		"/adfs/.well-known/openid-configuration":                                   {"/adfs", "/adfs/oauth2/token"},
		"/ADFS/.well-known/openid-configuration":                                   {"/adfs", "/adfs/oauth2/token"},
		"/" + w.tenant + "/v2.0/.well-known/openid-configuration":                  {"/" + w.tenant + "/v2.0", "/" + w.tenant + "/oauth2/v2.0/token"},
		"/organizations/v2.0/.well-known/openid-configuration":                     {"/" + w.tenant + "/v2.0", "/" + w.tenant + "/oauth2/v2.0/token"},
		"/common/v2.0/.well-known/openid-configuration":                            {"/" + w.tenant + "/v2.0", "/" + w.tenant + "/oauth2/v2.0/token"},
		"/" + strings.ToUpper(w.tenant) + "/v2.0/.well-known/openid-configuration": {"/" + w.tenant + "/v2.0", "/" + w.tenant + "/oauth2/v2.0/token"},
	} {
		res, body := w.do(w.client, w.request("GET", path, nil))
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %s", path, res.StatusCode, body)
		}
		if doc["issuer"] != w.url+want.issuer || doc["token_endpoint"] != w.url+want.token {
			t.Errorf("%s: %v, %v", path, doc["issuer"], doc["token_endpoint"])
		}
		for _, name := range []string{"jwks_uri", "authorization_endpoint", "device_authorization_endpoint"} {
			r := w.request("GET", doc[name].(string), nil)
			if res, body := w.do(w.client, r); res.StatusCode == 404 {
				t.Errorf("%s: there is no %s: %s", path, name, body)
			} else if name == "jwks_uri" && (!strings.Contains(body, `"kty":"RSA"`) || strings.Contains(body, `"d":`)) {
				t.Errorf("%s", body)
			}
		}
	}
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"/11111111-1111-1111-1111-111111111111/v2.0/.well-known/openid-configuration":                                                      {404, w.tenant},
		"/common/discovery/instance?api-version=1.1&authorization_endpoint=" + url.QueryEscape(w.url+"/x/oauth2/v2.0/authorize"):           {200, `"tenant_discovery_endpoint":"` + w.url},
		"/common/discovery/instance?api-version=1.1&authorization_endpoint=https%3A%2F%2Flogin.evil.example%2Fcommon%2Foauth2%2Fauthorize": {400, "invalid_instance"},
		"/common/userrealm/ann@example.com?api-version=1.0":                                                                                {200, `"account_type":"Managed"`},
		"/common/UserRealm/nobody?api-version=1.0":                                                                                         {200, `"cloud_audience_urn"`},
		"/adfs/oauth2/token":  {405, ""},
		"/adfs/nothing":       {404, ""},
		"/adfs//oauth2/token": {404, ""},
	} {
		if res, body := w.do(w.client, w.request("GET", path, nil)); res.StatusCode != want.status || !strings.Contains(body, want.says) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	for _, e := range w.events() {
		if e.Operation == opPublic && e.Outcome == ledger.Success {
			t.Errorf("a look at a public document is an event: %+v", e)
		}
	}
}

func TestTheAuthorityAnswersToNamesOfItsCertificate(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	for host, want := range map[string]int{"127.0.0.1": 200, "localhost": 200, "localhost:1": 200, "evil.example": 400, "127.0.0.1.evil.example": 400} {
		r := w.request("GET", "/adfs/.well-known/openid-configuration", nil)
		r.Host = host
		if res, body := w.do(w.client, r); res.StatusCode != want {
			t.Errorf("%q: %d %s", host, res.StatusCode, body)
		}
	}
}

// A person signs in with a browser, in both forms, and the client with the code
// that comes back.
func TestAPersonSignsInWithABrowser(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for _, base := range []string{"/adfs/oauth2/", "/" + w.tenant + "/oauth2/v2.0/", "/organizations/oauth2/v2.0/"} {
			b := w.browser()
			res, body := b.get(base + "authorize?" + authorize())
			if res.StatusCode != 200 || !strings.Contains(body, "Azure CLI") || !strings.Contains(body, "http://localhost:8400") {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			for name, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
				if !strings.Contains(res.Header.Get(name), want) {
					t.Errorf("%s: %s", name, res.Header.Get(name))
				}
			}
			if c := res.Header.Get("Set-Cookie"); !strings.HasPrefix(c, "__Host-") || !strings.Contains(c, "Secure") || !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Lax") {
				t.Errorf("%s", c)
			}
			form := url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {"wrong"}}
			res, body = b.send("/signin", form)
			if res.StatusCode != 401 || !strings.Contains(body, `role="alert"`) || strings.Contains(body, "wrong\"") {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			form.Set("request", asked(t, body)) // it asks again
			form.Set("password", w.OwnerPassword)
			res, _ = b.send("/signin", form)
			to, err := res.Location()
			if err != nil || res.StatusCode != 303 || to.Host != "localhost:8400" || to.Query().Get("state") != "s t&a=te" || !strings.HasPrefix(to.Query().Get("iss"), w.url) {
				t.Fatalf("%d %v %v", res.StatusCode, to, err)
			}
			status, answer := w.post(base+"token", url.Values{"grant_type": {"authorization_code"}, "client_id": {identity.AzureCLI}, "code": {to.Query().Get("code")},
				"code_verifier": {verifier}, "redirect_uri": {back}, "client_info": {"1"}, "scope": {arm + "/.default offline_access openid profile"},
				"claims": {`{"access_token":{"xms_cc":{"values":["CP1"]}}}`}})
			if status != 200 {
				t.Fatal(answer)
			}
			p := w.known(answer["access_token"])
			id, access := claims(t, answer["id_token"]), claims(t, answer["access_token"])
			if p.Name != w.OwnerName || id["iss"] != to.Query().Get("iss") || id["aud"] != identity.AzureCLI || id["nonce"] != "n" || id["tid"] != w.tenant ||
				id["preferred_username"] != w.OwnerName || id["oid"] != p.ID || access["aud"] != arm || access["idtyp"] != "user" || access["appid"] != identity.AzureCLI {
				t.Errorf("%v %v", id, access)
			}
			info, _ := base64.RawURLEncoding.DecodeString(answer["client_info"].(string))
			if string(info) != `{"uid":"`+p.ID+`","utid":"`+w.tenant+`"}` {
				t.Errorf("%s", info)
			}
			// az asks for another resource with the same refresh token.
			status, answer = w.post(base+"token", url.Values{"grant_type": {"refresh_token"}, "client_id": {identity.AzureCLI}, "refresh_token": {answer["refresh_token"].(string)},
				"scope": {identity.RegistryAudience + "/.default openid"}})
			if status != 200 || claims(t, answer["access_token"])["aud"] != identity.RegistryAudience {
				t.Errorf("%d %v", status, answer)
			}
		}
	})
}

func TestASignInBelongsToTheBrowserThatBeganIt(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	b, other := w.browser(), w.browser()
	_, body := b.get("/adfs/oauth2/authorize?" + authorize())
	other.get("/adfs/oauth2/authorize?" + authorize())
	form := url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {w.OwnerPassword}}
	if res, _ := other.send("/signin", form); res.StatusCode != 400 {
		t.Errorf("another browser finished the sign-in: %d", res.StatusCode)
	}
	if res, _ := w.do(w.client, w.request("POST", "/signin", form)); res.StatusCode != 400 {
		t.Errorf("no browser finished the sign-in: %d", res.StatusCode)
	}
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		r := w.request("POST", "/signin", form)
		r.Header.Set(name, value)
		if res, _ := w.do(b.Client, r); res.StatusCode != 400 {
			t.Errorf("a page of another site signed in, with %s: %d", name, res.StatusCode)
		}
	}
	twice := w.request("POST", "/signin", url.Values{})
	twice.Body, twice.ContentLength = nopCloser{strings.NewReader(form.Encode() + "&username=mallory")}, -1
	if res, _ := w.do(b.Client, twice); res.StatusCode != 400 {
		t.Errorf("a form with two users was read: %d", res.StatusCode)
	}
	if res, _ := b.send("/signin", form); res.StatusCode != 303 {
		t.Errorf("the browser itself: %d", res.StatusCode)
	}
	refused := 0
	for _, e := range w.events() {
		if e.Operation == opSignIn && e.Outcome == ledger.Refused {
			refused++
		}
	}
	if refused < 4 {
		t.Errorf("%d refusals are recorded", refused)
	}
}

func TestAnswersGoOnlyWhereTheApplicationIs(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	here := func(change ...string) (int, *url.URL) {
		res, _ := w.browser().get("/adfs/oauth2/authorize?" + authorize(change...))
		to, _ := res.Location()
		return res.StatusCode, to
	}
	for _, to := range []string{"https://evil.example", "http://localhost.evil.example", "http://localhost:8400@evil.example", "http://localhost:8400/path", "http://127.0.0.1:99999",
		"http://localhost:08400", "//localhost:8400", "http://localhost:8400#x", "http:localhost:8400", "javascript:alert(1)", "http://localhost:8400\\@evil.example",
		"https://localhost:8400", "http://LOCALHOST:8400", "http://localhost:", "http://localhost:8400?", "-", w.url + "/portal/signin"} {
		if status, _ := here("redirect_uri", to); status != 400 {
			t.Errorf("%q: %d", to, status)
		}
	}
	for _, to := range []string{"http://localhost", "http://localhost/", "http://127.0.0.1:1", "http://[::1]:65535/", "http://localhost:8400/"} {
		if status, _ := here("redirect_uri", to); status != 200 {
			t.Errorf("%q: %d", to, status)
		}
	}
	if status, _ := here("client_id", identity.Portal, "redirect_uri", w.url+"/portal/signin"); status != 200 {
		t.Errorf("the portal: %d", status)
	}
	if status, _ := here("client_id", identity.Portal); status != 400 {
		t.Errorf("the portal has no loopback: %d", status)
	}
	for _, to := range []string{"http://localhost:8400/", "-", w.url + "/portal/signin"} {
		if status, _ := here("client_id", identity.Command, "redirect_uri", to); status != 400 {
			t.Errorf("nobody sends the command line a code, to %q: %d", to, status)
		}
	}
	for _, client := range []string{"-", "11111111-1111-1111-1111-111111111111", "../users/owner"} {
		if status, _ := here("client_id", client); status != 400 {
			t.Errorf("%q: %d", client, status)
		}
	}
	// Where the answer may go is known, so what is wrong goes there.
	for change, want := range map[[2]string]string{
		{"response_type", "token"}:                          "unsupported_response_type",
		{"response_type", "-"}:                              "unsupported_response_type",
		{"response_mode", "form_post"}:                      "invalid_request",
		{"request_uri", "https://evil.example"}:             "request_not_supported",
		{"code_challenge_method", "plain"}:                  "invalid_request",
		{"code_challenge_method", "-"}:                      "invalid_request",
		{"code_challenge", "-"}:                             "invalid_request",
		{"scope", "https://graph.microsoft.com/.default"}:   "invalid_resource",
		{"scope", arm + "/.default https://other/.default"}: "invalid_scope",
		{"prompt", "none"}:                                  "login_required",
	} {
		status, to := here(change[0], change[1])
		if status != 303 || to == nil || to.Host != "localhost:8400" || to.Query().Get("error") != want || to.Query().Get("state") != "s t&a=te" {
			t.Errorf("%v: %d %v", change, status, to)
		}
	}
	res, body := w.browser().get("/adfs/oauth2/authorize?" + authorize() + "&client_id=x")
	if res.StatusCode != 400 || strings.Contains(body, "<script") {
		t.Errorf("a parameter twice: %d %s", res.StatusCode, body)
	}
}

func TestSomebodySignsInForAnotherDevice(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for _, base := range []string{"/adfs/oauth2/", "/" + w.tenant + "/oauth2/v2.0/"} {
			r := w.request("POST", base+"devicecode", url.Values{"client_id": {identity.AzureCLI}, "scope": {arm + "/.default offline_access openid profile"}})
			r.Header.Set("User-Agent", `az <script>alert(1)</script>`)
			_, text := w.do(w.client, r)
			var device map[string]any
			if err := json.Unmarshal([]byte(text), &device); err != nil || device["interval"] != 5.0 || device["expires_in"] != 900.0 {
				t.Fatal(text)
			}
			form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {identity.AzureCLI}, "device_code": {device["device_code"].(string)}, "client_info": {"1"}}
			status, answer := w.post(base+"token", form)
			if status != 400 || answer["error"] != "authorization_pending" {
				t.Errorf("%d %v", status, answer)
			}
			b := w.browser()
			if res, body := b.get(device["verification_uri"].(string)); res.StatusCode != 200 || !strings.Contains(body, "user_code") {
				t.Fatal(body)
			}
			if res, body := b.send("/devicelogin", url.Values{"user_code": {"BCDF-GHJK"}}); res.StatusCode != 404 || !strings.Contains(body, "user_code") {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			_, body := b.send("/devicelogin", url.Values{"user_code": {strings.ToLower(device["user_code"].(string))}})
			for _, says := range []string{"Azure CLI", "127.0.0.1", "&lt;script&gt;", "Go on only if you started this yourself"} {
				if !strings.Contains(body, says) {
					t.Errorf("the page does not say %s: %s", says, body)
				}
			}
			res, body := b.send("/signin", url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {w.OwnerPassword}})
			if res.StatusCode != 200 || !strings.Contains(body, "signed in on the other device") {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			status, answer = w.post(base+"token", form)
			if status != 200 || w.known(answer["access_token"]).Name != w.OwnerName || answer["refresh_token"] == nil || answer["id_token"] == nil {
				t.Fatalf("%d %v", status, answer)
			}
			if status, answer = w.post(base+"token", form); status != 400 || answer["error"] != "expired_token" {
				t.Errorf("%d %v", status, answer)
			}
		}
		_, device := w.post("/adfs/oauth2/devicecode", url.Values{"client_id": {identity.AzureCLI}})
		b := w.browser()
		b.get("/devicelogin")
		_, body := b.send("/devicelogin", url.Values{"user_code": {device["user_code"].(string)}})
		if res, body := b.send("/signin", url.Values{"request": {asked(t, body)}, "cancel": {"yes"}}); res.StatusCode != 200 {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		status, answer := w.post("/adfs/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {identity.AzureCLI}, "device_code": {device["device_code"].(string)}})
		if status != 400 || answer["error"] != "authorization_declined" {
			t.Errorf("%d %v", status, answer)
		}
	})
}

// What az prints is an error of Entra ID, and a wrong secret is 401: MSAL keeps a
// 400 for a minute.
func TestRefusalsAreThoseThatClientsKnow(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client := "11111111-1111-1111-1111-111111111111"
	for name, row := range map[string]struct {
		form   url.Values
		status int
		code   string
		number float64
	}{
		"no grant":                  {url.Values{}, 400, "unsupported_grant_type", 70003},
		"password":                  {url.Values{"grant_type": {"password"}, "client_id": {identity.AzureCLI}, "username": {w.OwnerName}, "password": {w.OwnerPassword}}, 400, "unsupported_grant_type", 70003},
		"no client":                 {url.Values{"grant_type": {"client_credentials"}, "client_secret": {"x"}}, 400, "unauthorized_client", 700016},
		"no secret":                 {url.Values{"grant_type": {"client_credentials"}, "client_id": {client}}, 400, "invalid_request", 900144},
		"wrong secret":              {url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {"x"}, "scope": {arm + "/.default"}}, 401, "invalid_client", 7000215},
		"two credentials":           {url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {"x"}, "client_assertion": {"a.b.c"}, "client_assertion_type": {assertionType}}, 400, "invalid_request", 900144},
		"wrong assertion":           {url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_assertion": {"a.b.c"}, "client_assertion_type": {assertionType}}, 401, "invalid_client", 7000215},
		"a secret of nobody's":      {url.Values{"grant_type": {"refresh_token"}, "client_id": {identity.AzureCLI}, "refresh_token": {"x"}, "client_secret": {"x"}}, 401, "invalid_client", 700025},
		"wrong refresh token":       {url.Values{"grant_type": {"refresh_token"}, "client_id": {identity.AzureCLI}, "refresh_token": {"x"}}, 400, "invalid_grant", 70000},
		"wrong code":                {url.Values{"grant_type": {"authorization_code"}, "client_id": {identity.AzureCLI}, "code": {"x"}, "code_verifier": {verifier}}, 400, "invalid_grant", 70000},
		"wrong device code":         {url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {identity.AzureCLI}, "device_code": {"x"}}, 400, "expired_token", 70020},
		"an issuer's token to keep": {url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"a.b.c"}}, 400, "unsupported_grant_type", 70003},
	} {
		for _, path := range []string{"/adfs/oauth2/token", "/" + w.tenant + "/oauth2/v2.0/token"} {
			status, answer := w.post(path, row.form)
			codes, _ := answer["error_codes"].([]any)
			if status != row.status || answer["error"] != row.code || !slices.Equal(codes, []any{row.number}) || !strings.HasPrefix(answer["error_description"].(string), "AADSTS") {
				t.Errorf("%s: %d %v", name, status, answer)
			}
		}
	}
	for name, change := range map[string]func(*http.Request){
		"no form":     func(r *http.Request) { r.Header.Set("Content-Type", "application/json") },
		"two headers": func(r *http.Request) { r.Header["Authorization"] = []string{"Basic YTpi", "Basic YTpi"} },
		"bearer":      func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") },
		"named twice": func(r *http.Request) { r.SetBasicAuth(client, "x") },
	} {
		r := w.request("POST", "/adfs/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {identity.AzureCLI}, "client_secret": {"x"}})
		change(r)
		if res, body := w.do(w.client, r); res.StatusCode != 400 && res.StatusCode != 401 {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
	big := url.Values{"grant_type": {"refresh_token"}, "client_id": {identity.AzureCLI}, "refresh_token": {strings.Repeat("x", gate.MaxForm)}}
	if status, answer := w.post("/adfs/oauth2/token", big); status != 413 {
		t.Errorf("%d %v", status, answer)
	}
	for _, secret := range []string{w.OwnerPassword} {
		for _, e := range w.events() {
			if text, _ := json.Marshal(e); strings.Contains(string(text), secret) {
				t.Errorf("an event tells a secret: %s", text)
			}
		}
	}
}

func FuzzRedirect(f *testing.F) {
	app := identity.Application{Loopback: true, Portal: true, Redirects: []string{"https://app.example/cb", "http://localhost/cb"}}
	for _, s := range []string{back, "https://app.example/cb", "http://[::1]:1/", "http://localhost:8400@evil.example", "https://app.example/cb#x", "http://localhost/cb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !mayReturn(app, "https://here.example", text) {
			return
		}
		to, err := url.Parse(returned(text, url.Values{"code": {"c"}, "state": {"&x=\n#"}}))
		if err != nil || to.Query().Get("code") != "c" || to.Query().Get("state") != "&x=\n#" || to.Fragment != "" || to.User != nil {
			t.Fatalf("%q: %v %v", text, to, err)
		}
		switch host := to.Hostname(); {
		case to.Scheme == "https" && (host == "app.example" || host == "here.example"):
		case to.Scheme == "http" && (host == "localhost" || host == "127.0.0.1" || host == "::1"):
		default:
			t.Fatalf("%q leads to %s", text, to)
		}
		if strings.ContainsAny(formAction(text), ";,\"\n") {
			t.Fatalf("%q makes the policy %s", text, formAction(text))
		}
	})
}

func FuzzScope(f *testing.F) {
	f.Add(arm+"/.default offline_access openid profile", "")
	f.Add("", arm)
	f.Add("https://a/b https://a/c", "https://a")
	f.Fuzz(func(t *testing.T, text, resource string) {
		s, err := parseScope(text, resource)
		if err == nil && s.audience != "" && s.audience != resource && !strings.Contains(text, s.audience+"/") {
			t.Fatalf("%q %q is %q", text, resource, s.audience)
		}
	})
}

func FuzzForm(f *testing.F) {
	api := New(Options{Identity: new(identity.Store), Named: func(string) bool { return true }, Key: make([]byte, 32)})
	f.Add("POST", "/adfs/oauth2/token", "grant_type=client_credentials&client_id=11111111-1111-1111-1111-111111111111&client_secret=x", "")
	f.Add("POST", "/common/oauth2/v2.0/token", "grant_type=refresh_token&refresh_token=1.a.1.b&client_id=04b07795-8ddb-461a-bbee-02f9e1bf7b46", "Basic YTpi")
	f.Add("POST", "/signin", "request=x&username=a&password=b", "")
	f.Add("GET", "/signin/from/x?code=a&state=b", "", "")
	f.Fuzz(func(t *testing.T, method, target, body, authorization string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, URL: u, Host: "here.example", Body: http.NoBody, Header: http.Header{
			"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {authorization}, "Cookie": {cookieName + "=ABCDEFGHIJKLMNOPQRSTUVWXYZ"}}}
		r.Body = nopCloser{strings.NewReader(body)}
		call, err := api.Route(r)
		if err == nil && call.Handler == nil {
			t.Fatal("a call without a handler")
		}
		if err == nil && !call.Anyone && call.Credentials.None() {
			t.Fatalf("%s %s: nobody showed anything, and somebody is expected", method, target)
		}
		if call.Credentials != nil && call.Anyone && !call.Credentials.None() {
			t.Fatalf("%s %s: a credential need not be good", method, target)
		}
	})
}

type nopCloser struct{ *strings.Reader }

func (nopCloser) Close() error { return nil }
