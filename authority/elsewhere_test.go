package authority

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/ledger"
)

// An abroad is a browser that has gone to an external issuer, and comes back.
type abroad struct {
	browsing
	to, back *url.URL
}

// provider is a real provider that people may sign in through, as corp.
func (w *town) provider(client, secret string) (*identitytest.Provider, identity.IssuerProperties) {
	w.t.Helper()
	p := identitytest.NewProvider(w.t, w.url+"/signin/from/corp", w.url+"/signin/from/other")
	of := identity.IssuerProperties{Issuer: p.URL, Audiences: []string{"registry"}, CACertificates: p.CA, Status: identity.EnabledStatus, PrincipalType: identity.PrincipalUser,
		Claims: identity.Claims{Groups: []string{"groups"}}, SignIn: &identity.SignIn{ClientID: client}}
	if secret != "" {
		sealed, err := w.Identity.SealSignIn(w.t.Context(), identity.IssuerID("corp"), identity.Secret(secret))
		if err != nil {
			w.t.Fatal(err)
		}
		of.SignIn.Sealed = sealed
	}
	w.issuer("corp", of)
	return p, of
}

// visit goes to the issuer with a browser, signs in there, and does not come back yet.
func (w *town) visit(p *identitytest.Provider) abroad {
	w.t.Helper()
	b := w.browser()
	_, body := b.get("/adfs/oauth2/authorize?" + authorize())
	if !strings.Contains(body, "Sign in with corp") {
		w.t.Fatalf("the page offers no issuer: %s", body)
	}
	res, body := b.get("/signin/to/corp?request=" + asked(w.t, body))
	to, err := res.Location()
	if err != nil || res.StatusCode != 303 || !strings.HasPrefix(to.String(), p.URL) || to.Query().Get("code_challenge_method") != "S256" || to.Query().Get("nonce") == "" {
		w.t.Fatalf("%d %v %s", res.StatusCode, to, body)
	}
	back, err := p.Visit(w.t.Context(), to.String())
	if err != nil {
		w.t.Fatal(err)
	}
	return abroad{b, to, back}
}

func (a abroad) home() (*http.Response, string) {
	a.t.Helper()
	return a.get(a.back.RequestURI())
}

func (w *town) redeem(res *http.Response) map[string]any {
	w.t.Helper()
	to, err := res.Location()
	if err != nil {
		w.t.Fatalf("%d: %v", res.StatusCode, err)
	}
	status, answer := w.post("/adfs/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {identity.AzureCLI}, "code": {to.Query().Get("code")},
		"code_verifier": {verifier}, "redirect_uri": {back}, "scope": {arm + "/.default offline_access openid profile"}})
	if status != 200 {
		w.t.Fatal(answer)
	}
	return answer
}

func TestAPersonSignsInThroughAnExternalIssuer(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for client, secret := range map[string]string{identitytest.Browser: "", identitytest.Web: identitytest.WebSecret} {
			provider, of := w.provider(client, secret)
			res, body := w.visit(provider).home()
			if res.StatusCode != 303 {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			answer := w.redeem(res)
			p := w.known(answer["access_token"])
			if p.Kind != identity.Federated || p.Authentication.Issuer != of.Issuer || p.Client != identity.AzureCLI || len(p.Groups) != len(identitytest.Groups) {
				t.Errorf("%+v", p)
			}
			form := url.Values{"grant_type": {"refresh_token"}, "client_id": {identity.AzureCLI}, "refresh_token": {answer["refresh_token"].(string)}, "scope": {arm + "/.default"}}
			status, answer := w.post("/adfs/oauth2/token", form)
			if status != 200 || w.known(answer["access_token"]).ID != p.ID {
				t.Errorf("%d %v", status, answer)
			}
			// An issuer that is not trusted any more takes along whoever came through it.
			of.Status = "disabled"
			w.issuer("corp", of)
			form.Set("refresh_token", answer["refresh_token"].(string))
			if status, answer := w.post("/adfs/oauth2/token", form); status != 400 || answer["error"] != "invalid_grant" {
				t.Errorf("%d %v", status, answer)
			}
		}
	})
}

func TestADeviceIsAnsweredThroughAnExternalIssuer(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	provider, _ := w.provider(identitytest.Browser, "")
	_, device := w.post("/adfs/oauth2/devicecode", url.Values{"client_id": {identity.AzureCLI}, "scope": {arm + "/.default"}})
	b := w.browser()
	_, body := b.send("/devicelogin", url.Values{"user_code": {device["user_code"].(string)}})
	res, _ := b.get("/signin/to/corp?request=" + asked(t, body))
	back, err := provider.Visit(t.Context(), res.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	if res, body := b.get(back.RequestURI()); res.StatusCode != 200 || !strings.Contains(body, "signed in on the other device") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	status, answer := w.post("/adfs/oauth2/token", url.Values{"grant_type": {"device_code"}, "client_id": {identity.AzureCLI}, "device_code": {device["device_code"].(string)}})
	if status != 200 || w.known(answer["access_token"]).Kind != identity.Federated {
		t.Errorf("%d %v", status, answer)
	}
}

// An answer of an issuer is good in the browser that asked, once, from the issuer
// that was asked, for what was asked.
func TestAnAnswerOfAnIssuerIsForTheBrowserThatAsked(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	provider, of := w.provider(identitytest.Browser, "")
	other := of
	other.Issuer, other.SignIn = "https://other.example", &identity.SignIn{ClientID: "x"}
	w.issuer("other", other)

	a := w.visit(provider)
	if res, _ := w.browser().get(a.back.RequestURI()); res.StatusCode != 400 {
		t.Errorf("another browser took the answer: %d", res.StatusCode)
	}
	if res, _ := a.home(); res.StatusCode != 303 {
		t.Errorf("%d", res.StatusCode)
	}
	if res, _ := a.home(); res.StatusCode != 401 {
		t.Errorf("an answer was good twice: %d", res.StatusCode)
	}

	change := func(why string, change func(q url.Values), path string, want int) {
		a := w.visit(provider)
		q := a.back.Query()
		change(q)
		if res, body := a.get(path + "?" + q.Encode()); res.StatusCode != want || strings.Contains(body, "evil") {
			t.Errorf("%s: %d %s", why, res.StatusCode, body)
		}
	}
	nothing := func(url.Values) {}
	change("nothing is wrong", nothing, "/signin/from/corp", 303)
	change("another issuer answers", nothing, "/signin/from/other", 401)
	change("it says that it is another issuer", func(q url.Values) { q.Set("iss", "https://evil.example") }, "/signin/from/corp", 401)
	change("the state is another", func(q url.Values) { q.Set("state", "AAAA"+q.Get("state")[4:]) }, "/signin/from/corp", 400)
	change("there is no state", func(q url.Values) { q.Del("state") }, "/signin/from/corp", 400)
	change("there is no code", func(q url.Values) { q.Del("code"); q.Set("error", "evil"); q.Set("error_description", "evil") }, "/signin/from/corp", 401)
	change("the code is another", func(q url.Values) { q.Set("code", "x") }, "/signin/from/corp", 401)

	// A code that somebody else got, for another question, in the browser of a victim.
	mine, theirs := w.visit(provider), w.visit(provider)
	q := mine.back.Query()
	q.Set("code", theirs.back.Query().Get("code"))
	if res, _ := mine.get("/signin/from/corp?" + q.Encode()); res.StatusCode != 401 {
		t.Errorf("another's code was taken: %d", res.StatusCode)
	}

	// A page's own seal is no state, and the other way round.
	b := w.browser()
	_, body := b.get("/adfs/oauth2/authorize?" + authorize())
	if res, _ := b.get("/signin/from/corp?code=x&state=" + asked(t, body)); res.StatusCode != 400 {
		t.Errorf("a page was taken for an answer: %d", res.StatusCode)
	}

	refused := 0
	for _, e := range w.events() {
		if e.Operation == opSignIn && e.Outcome == ledger.Refused {
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("%d refusals are recorded", refused)
	}
}

// An issuer that is down takes nothing along but the way through itself.
func TestAnIssuerThatIsDownIsNoOtherWayIn(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	provider, _ := w.provider(identitytest.Browser, "")
	a := w.visit(provider)
	provider.Close()
	if res, _ := a.home(); res.StatusCode < 400 {
		t.Errorf("%d", res.StatusCode)
	}
	b := w.browser()
	_, body := b.get("/adfs/oauth2/authorize?" + authorize())
	res, _ := b.send("/signin", url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {w.OwnerPassword}})
	if text, _ := json.Marshal(w.redeem(res)); len(text) == 0 {
		t.Error("no tokens")
	}
}
