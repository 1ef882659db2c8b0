package acr_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"breakwater/acr"
	"breakwater/content"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/oci"
	"breakwater/registry"
)

type desk struct {
	*gatetest.House
	t    *testing.T
	url  string
	http *http.Client
}

func open(t *testing.T, d *db.DB) *desk {
	h := gatetest.Open(t, d, nil)
	c := content.New(d, h.Objects, h.Rings, h.Ledger, h.Platform.Derive("upload-session"))
	v2, other := h.Gate.Serve(&oci.API{Content: c, Registries: h.Registries}), h.Gate.Serve(&acr.API{Identity: h.Identity, Registries: h.Registries, Content: c})
	s := gatetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			v2.ServeHTTP(w, r)
			return
		}
		other.ServeHTTP(w, r)
	}))
	return &desk{h, t, s.URL, s.Client()}
}

// grant is what the endpoint answers.
type grant struct {
	Access  string `json:"access_token"`
	Token   string `json:"token"`
	Refresh string `json:"refresh_token"`
	Expires int    `json:"expires_in"`
}

// claims are the payload of a token, decoded as the Go SDK for Azure does.
type claims struct {
	Audience string            `json:"aud"`
	Issuer   string            `json:"iss"`
	Expires  int64             `json:"exp"`
	Access   []identity.Access `json:"access"`
}

func (d *desk) do(r *http.Request) (int, grant, string) {
	d.t.Helper()
	res, err := d.http.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var g grant
	if res.StatusCode == 200 {
		if err := json.Unmarshal(body, &g); err != nil || g.Access == "" || g.Token != g.Access || g.Expires < 60 || res.Header.Get("Cache-Control") != "no-store" {
			d.t.Errorf("%s %v %v", body, res.Header, err)
		}
	}
	return res.StatusCode, g, string(body)
}

func (d *desk) get(user, password string, scopes ...string) (int, grant, string) {
	d.t.Helper()
	q := url.Values{"service": {"x"}, "scope": scopes}
	r, _ := http.NewRequest("GET", d.url+"/oauth2/token?"+q.Encode(), nil)
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return d.do(r)
}

func (d *desk) post(form url.Values) (int, grant, string) {
	d.t.Helper()
	r, _ := http.NewRequest("POST", d.url+"/oauth2/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return d.do(r)
}

func (d *desk) read(token string) claims {
	d.t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		d.t.Fatalf("%d parts", len(parts))
	}
	text, err := base64.RawStdEncoding.DecodeString(parts[1])
	if err != nil {
		d.t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(text, &c); err != nil {
		d.t.Fatal(err)
	}
	return c
}

func TestTokenHoldsWhatTheCallerMayOfWhatItAsked(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *db.DB) {
		d := open(t, db)
		user, password := d.Token(t, "ci", "repositories/team/*/content/read", "repositories/team/api/content/write")
		for _, row := range []struct{ scopes, want string }{
			{"", "[]"},
			{"repository:team/api:pull,push", `[{"type":"repository","name":"team/api","actions":["pull","push"]}]`},
			{"repository:team/web:pull,push", `[{"type":"repository","name":"team/web","actions":["pull"]}]`},
			{"repository:team/api:*", `[{"type":"repository","name":"team/api","actions":["pull","push"]}]`},
			{"repository:team/api:pull repository:other:pull", `[{"type":"repository","name":"team/api","actions":["pull"]}]`},
			{"repository:other:pull", "[]"},
			{"registry:catalog:*", "[]"},
			{"registry:None:*", "[]"},
			{"artifact-repository:repo:pull", "[]"},
			{"nonsense", "[]"},
			{"::: repository:X:pull repository:../x:pull \x00", "[]"},
		} {
			status, g, body := d.get(user, password, row.scopes)
			if status != 200 {
				t.Fatalf("%q: %d %s", row.scopes, status, body)
			}
			c := d.read(g.Access)
			got, _ := json.Marshal(append([]identity.Access{}, c.Access...))
			if string(got) != row.want || c.Issuer != "Azure Container Registry" || time.Until(time.Unix(c.Expires, 0)) > 3*time.Hour {
				t.Errorf("%q: %s, want %s; %+v", row.scopes, got, row.want, c)
			}
		}
	})
}

func TestOwnerGetsATokenByEveryGrant(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	scope := []string{"repository:team/api:pull,push,delete"}
	status, g, body := d.post(url.Values{"grant_type": {"password"}, "username": {d.OwnerName}, "password": {d.OwnerPassword}, "scope": scope, "access_type": {"offline"}})
	if status != 200 || g.Refresh == "" || len(d.read(g.Access).Access) != 1 {
		t.Fatalf("%d %s", status, body)
	}
	if time.Until(time.Unix(d.read(g.Refresh).Expires, 0)) > 3*time.Hour {
		t.Error("the refresh token lives longer than 3 hours")
	}
	for name, answer := range map[string]func() (int, grant, string){
		"refresh_token": func() (int, grant, string) {
			return d.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.Refresh}, "scope": scope, "service": {"x"}})
		},
		"Basic with a refresh token": func() (int, grant, string) { return d.get(identity.RefreshUser, g.Refresh, scope...) },
		"Basic with a password":      func() (int, grant, string) { return d.get(d.OwnerName, d.OwnerPassword, scope...) },
		"two scopes": func() (int, grant, string) {
			return d.get(d.OwnerName, d.OwnerPassword, "repository:team/api:pull,push", "repository:team/api:delete")
		},
	} {
		status, g, body := answer()
		if status != 200 || g.Refresh != "" {
			t.Fatalf("%s: %d %s", name, status, body)
		}
		if a := d.read(g.Access).Access; len(a) != 1 || strings.Join(a[0].Actions, ",") != "pull,push,delete" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	logins := 0
	for _, e := range d.Events(t) {
		if e.Operation == "Login" && e.Category == ledger.Login && e.Who.Name == "owner" && e.Outcome == ledger.Success {
			logins++
		}
	}
	if logins != 5 {
		t.Errorf("%d logins", logins)
	}
}

func TestNobodyGetsATokenForNothing(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	_, g, _ := d.get(d.OwnerName, d.OwnerPassword)
	nobody := url.Values{"grant_type": {"password"}, "refresh_token": {""}, "scope": {"repository:team/api:pull,push"}}
	for name, answer := range map[string]func() (int, grant, string){
		"nothing shown":            func() (int, grant, string) { return d.get("", "") },
		"password grant of nobody": func() (int, grant, string) { return d.post(nobody) },
		"wrong password":           func() (int, grant, string) { return d.get(d.OwnerName, "wrong") },
		"unknown user":             func() (int, grant, string) { return d.get("nobody", d.OwnerPassword) },
		"access token as refresh":  func() (int, grant, string) { return d.get(identity.RefreshUser, g.Access) },
		"no refresh token":         func() (int, grant, string) { return d.post(url.Values{"grant_type": {"refresh_token"}}) },
		"garbage for refresh token": func() (int, grant, string) {
			return d.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"a.b.c"}})
		},
	} {
		if status, _, body := answer(); status != 401 || !strings.Contains(body, "UNAUTHORIZED") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	r, _ := http.NewRequest("GET", d.url+"/oauth2/token", nil)
	r.Header.Set("Authorization", "Bearer "+g.Access)
	if status, _, body := d.do(r); status != 403 { // a ceiling cannot be raised
		t.Errorf("a bearer token: %d %s", status, body)
	}
	d.Update(t, func(r *registry.Registry) { r.AnonymousPullEnabled = true })
	status, g, body := d.post(nobody)
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if a := d.read(g.Access).Access; len(a) != 1 || strings.Join(a[0].Actions, ",") != "pull" {
		t.Errorf("%+v", a)
	}
	if status, _, body := d.get(d.OwnerName, "wrong"); status != 401 {
		t.Errorf("a wrong password became anonymous: %d %s", status, body)
	}
}

func TestFormThatCannotBeReadIsRefused(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	for body, want := range map[string]int{
		"": 400, "grant_type=client_credentials": 400, "grant_type=password&grant_type=refresh_token": 400,
		"grant_type=password&username=a&username=b": 400, "%zz": 400, "grant_type=password&x=" + strings.Repeat("x", 70<<10): 413,
	} {
		r, _ := http.NewRequest("POST", d.url+"/oauth2/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if status, _, got := d.do(r); status != want {
			t.Errorf("%.60q: %d %s, want %d", body, status, got, want)
		}
	}
	for _, contentType := range []string{"", "application/json", "multipart/form-data"} {
		r, _ := http.NewRequest("POST", d.url+"/oauth2/token", strings.NewReader("grant_type=password"))
		r.Header.Set("Content-Type", contentType)
		if status, _, got := d.do(r); status != 400 {
			t.Errorf("%q: %d %s", contentType, status, got)
		}
	}
	for line, want := range map[string]int{"PUT /oauth2/token": 405, "GET /oauth2/token/": 404, "GET /oauth2//token": 404, "GET /oauth2/exchange": 404, "PUT /oauth2/exchange": 404, "POST /oauth2/exchange": 400, "GET /oauth2/%74oken": 404} {
		method, path, _ := strings.Cut(line, " ")
		r, _ := http.NewRequest(method, d.url+path, nil)
		if status, _, got := d.do(r); status != want {
			t.Errorf("%s: %d %s", line, status, got)
		}
	}
}
