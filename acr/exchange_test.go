package acr_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/ledger"
	"breakwater/registry"
	"breakwater/resource"
)

// trust lets a Kubernetes vouch for its workloads.
func (d *desk) trust(audiences ...string) (*identitytest.Issuer, *identity.Issuer) {
	d.t.Helper()
	is := identitytest.Kubernetes(d.t)
	i, err := d.Directory.PutIssuer(d.t.Context(), d.Server(), "cluster", identity.IssuerProperties{
		Issuer: is.URL, CACertificates: is.CA, Audiences: audiences, PrincipalType: identity.PrincipalApplication}, resource.Any)
	if err != nil {
		d.t.Fatal(err)
	}
	return is, i
}

func (d *desk) exchange(form url.Values) (status int, refresh, body string) {
	d.t.Helper()
	r, _ := http.NewRequest("POST", d.url+"/oauth2/exchange?api-version=2021-07-01", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := d.http.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var answer map[string]any
	if res.StatusCode == 200 {
		if err := json.Unmarshal(text, &answer); err != nil || len(answer) != 1 || res.Header.Get("Cache-Control") != "no-store" {
			d.t.Errorf("%s %v %v", text, res.Header, err)
		}
	}
	refresh, _ = answer["refresh_token"].(string)
	return res.StatusCode, refresh, string(text)
}

func TestTokenOfAnIssuerBecomesOneOfTheRegistry(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *db.DB) {
		d := open(t, db)
		is, i := d.trust(identity.RegistryAudience)
		_, err := d.Access.Assign(t.Context(), d.Server(), d.Registry.ID.Scope(), "00000000-0000-0000-0000-0000000000aa", access.AssignmentProperties{
			RoleDefinitionID: access.PushRole, PrincipalID: i.Principal("system:serviceaccount:build:pusher"), PrincipalType: "ServicePrincipal"})
		if err != nil {
			t.Fatal(err)
		}
		token := is.Workload("build", "pusher", identity.RegistryAudience)
		for name, form := range map[string]url.Values{
			"az":         {"grant_type": {"access_token"}, "service": {"localhost"}, "tenant": {"00000000-0000-0000-0000-000000000001"}, "access_token": {token}},
			"the Go SDK": {"grant_type": {"access_token"}, "service": {"localhost"}, "access_token": {token}},
			"old ones":   {"grant_type": {"access_token_refresh_token"}, "service": {"localhost"}, "access_token": {token}, "refresh_token": {"x"}},
		} {
			status, refresh, body := d.exchange(form)
			if status != 200 || refresh == "" {
				t.Fatalf("%s: %d %s", name, status, body)
			}
			if life := time.Until(time.Unix(d.read(refresh).Expires, 0)); life > identity.RefreshLife || life < identity.RefreshLife-time.Minute {
				t.Errorf("%s: the refresh token lives %v", name, life)
			}
			status, g, body := d.post(url.Values{"grant_type": {"refresh_token"}, "service": {"localhost"}, "scope": {"repository:team/api:pull,push,delete"}, "refresh_token": {refresh}})
			if status != 200 {
				t.Fatalf("%s: %d %s", name, status, body)
			}
			if a := d.read(g.Access).Access; len(a) != 1 || strings.Join(a[0].Actions, ",") != "pull,push" {
				t.Errorf("%s: %+v", name, a)
			}
		}
		// In place of a password, as docker and skopeo show it.
		status, g, body := d.get("whoever", token, "repository:team/api:pull")
		if status != 200 || len(d.read(g.Access).Access) != 1 {
			t.Errorf("%d %s", status, body)
		}
		if life := time.Until(time.Unix(d.read(g.Access).Expires, 0)); life < identity.AccessLife-time.Minute {
			t.Errorf("an access token lives %v: pushes that take longer than the issuer's token lives break", life)
		}
		if status, g, body = d.post(url.Values{"grant_type": {"password"}, "username": {"whoever"}, "password": {token}, "access_type": {"offline"}}); status != 200 || g.Refresh == "" {
			t.Errorf("%d %s", status, body)
		}
		exchanged := 0
		for _, e := range d.Events(t) {
			if e.Operation == "Exchange" && e.Category == ledger.Login && e.Who.Kind == string(identity.Federated) && e.Who.ID == i.Principal("system:serviceaccount:build:pusher") && e.Detail.More["issuer"] == is.URL {
				exchanged++
			}
		}
		if exchanged != 3 {
			t.Errorf("%d exchanges are on record", exchanged)
		}
	})
}

func TestWhatIsNoTokenForTheRegistryIsNotExchanged(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	is, _ := d.trust(identity.RegistryAudience)
	good := is.Workload("build", "pusher", identity.RegistryAudience)
	status, refresh, body := d.exchange(url.Values{"grant_type": {"access_token"}, "access_token": {good}})
	if status != 200 {
		t.Fatal(status, body)
	}
	_, g, _ := d.get(identity.RefreshUser, refresh)
	key := is.Keys()[0]
	forged := identitytest.EC(key.ID)
	claims := is.Claims(map[string]any{"aud": identity.RegistryAudience, "sub": "s"})
	for name, token := range map[string]string{
		"nothing":                      "",
		"a word":                       "token",
		"a password":                   d.OwnerPassword,
		"algorithm none":               identitytest.Part(map[string]any{"alg": "none"}) + "." + identitytest.Part(claims) + ".",
		"another key":                  forged.Sign(map[string]any{"alg": "ES256", "kid": key.ID}, claims),
		"an embedded key":              forged.Sign(map[string]any{"alg": "ES256", "kid": key.ID, "jwk": forged.Public()}, claims),
		"another audience":             is.Workload("build", "pusher", "elsewhere"),
		"another issuer":               is.Token(map[string]any{"iss": "https://mallory.example", "aud": identity.RegistryAudience, "sub": "s"}),
		"one that has ended":           is.Token(map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix(), "iat": time.Now().Add(-time.Hour).Unix(), "aud": identity.RegistryAudience, "sub": "s"}),
		"a giant":                      good + strings.Repeat("A", 20<<10),
		"a refresh token of ours":      refresh,
		"an access token of ours":      g.Access,
		"the token of another cluster": identitytest.Kubernetes(t).Workload("build", "pusher", identity.RegistryAudience),
	} {
		before := len(d.Events(t))
		status, _, body := d.exchange(url.Values{"grant_type": {"access_token"}, "access_token": {token}})
		if status != 401 || !strings.Contains(body, "UNAUTHORIZED") {
			t.Errorf("%s: %d %s", name, status, body)
		}
		events := d.Events(t)
		if !slices.ContainsFunc(events[before:], func(e ledger.Event) bool {
			return e.Operation == "Exchange" && e.Category == ledger.Login && e.Outcome == ledger.Refused && e.Status == 401
		}) {
			t.Errorf("%s is not on record", name)
		}
		if text, _ := json.Marshal(events); token != "" && len(token) > 8 && strings.Contains(string(text), token) {
			t.Errorf("%s is in the ledger as it was shown", name)
		}
	}
	for name, want := range map[string]int{"grant_type=refresh_token&refresh_token=x": 401, "grant_type=password": 400, "": 400, "access_token=x": 400,
		"grant_type=access_token&access_token=a&access_token=b": 400} {
		form, _ := url.ParseQuery(name)
		if status, _, body := d.exchange(form); status != want {
			t.Errorf("%q: %d %s", name, status, body)
		}
	}
	// The token of an issuer is no bearer token of the registry.
	r, _ := http.NewRequest("GET", d.url+"/oauth2/token", nil)
	r.Header.Set("Authorization", "Bearer "+good)
	if status, _, body := d.do(r); status != 401 {
		t.Errorf("%d %s", status, body)
	}
}

func TestTokensForTheControlPlaneAreExchangedUnlessTheRegistrySaysNo(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	is, _ := d.trust(identity.RegistryAudience, "https://management.azure.com/", "https://management.core.windows.net/")
	statuses := func() (all []int) {
		for _, audience := range []string{identity.RegistryAudience, "https://management.azure.com/", "https://management.core.windows.net/"} {
			status, _, _ := d.exchange(url.Values{"grant_type": {"access_token"}, "access_token": {is.Workload("build", "pusher", audience)}})
			all = append(all, status)
		}
		return all
	}
	if got := statuses(); !slices.Equal(got, []int{200, 200, 200}) {
		t.Error(got)
	}
	d.Update(t, func(r *registry.Registry) { r.Policies.AuthenticationAsARM.Status = "disabled" })
	if got := statuses(); !slices.Equal(got, []int{200, 401, 401}) {
		t.Error(got)
	}
	d.Update(t, func(r *registry.Registry) { r.Policies.AuthenticationAsARM.Status = "enabled" })
	if got := statuses(); !slices.Equal(got, []int{200, 200, 200}) {
		t.Error(got)
	}
}
