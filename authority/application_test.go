package authority

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/identity"
	"breakwater/resource"
)

// A client that knows nothing of Azure signs people in, as OpenID Connect says; and
// gets what the person was asked about, for as long as it is an application.
func TestAnOpenIDConnectClientSignsPeopleIn(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		const redirect = "https://wiki.example/callback"
		wiki := w.application("wiki", redirect)
		party, err := rp.NewRelyingPartyOIDC(t.Context(), w.url+"/"+w.tenant+"/v2.0", wiki.AppID, "", redirect,
			[]string{"openid", "profile", "offline_access"}, rp.WithHTTPClient(w.client))
		if err != nil {
			t.Fatal(err)
		}
		b := w.browser()
		to := rp.AuthURL("state", party, rp.WithCodeChallenge(challenge))
		_, body := b.get(to)
		res, _ := b.send("/signin", url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {w.OwnerPassword}})
		back, err := res.Location()
		if err != nil || back.Host != "wiki.example" {
			t.Fatal(back, err)
		}
		tokens, err := rp.CodeExchange[*oidc.IDTokenClaims](t.Context(), back.Query().Get("code"), party, rp.WithCodeVerifier(verifier))
		if err != nil {
			t.Fatal(err)
		}
		if c := tokens.IDTokenClaims; c.Subject == "" || c.PreferredUsername != w.OwnerName || len(c.AuthenticationMethodsReferences) != 1 {
			t.Errorf("%+v", c)
		}
		if claims(t, tokens.AccessToken)["aud"] != wiki.AppID {
			t.Error("the access token is for somebody else than the client")
		}
		next, err := rp.RefreshTokens[*oidc.IDTokenClaims](t.Context(), party, tokens.RefreshToken, "", "")
		if err != nil {
			t.Fatal(err)
		}
		// Nobody was asked whether it may act at the control plane.
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {wiki.AppID}, "refresh_token": {next.RefreshToken}, "scope": {arm + "/.default"}}
		if status, answer := w.post("/adfs/oauth2/token", form); status != 400 || answer["error"] != "invalid_scope" {
			t.Errorf("%d %v", status, answer)
		}
		// A secret of a public client is none, even if the application has one.
		secret, err := w.Directory.AddPassword(t.Context(), w.Server(), "wiki", "", wiki.System.CreatedAt, wiki.System.CreatedAt.AddDate(0, 1, 0))
		if err != nil {
			t.Fatal(err)
		}
		form.Set("client_secret", string(secret.Text))
		form.Del("scope")
		if status, answer := w.post("/adfs/oauth2/token", form); status != 401 || answer["error"] != "invalid_client" {
			t.Errorf("%d %v", status, answer)
		}
		form.Del("client_secret")
		if status, answer := w.post("/adfs/oauth2/token", form); status != 200 {
			t.Errorf("%d %v", status, answer)
		} else {
			form.Set("refresh_token", answer["refresh_token"].(string))
		}
		if _, err := w.Directory.PutServicePrincipal(t.Context(), w.Server(), "wiki", directory.ServicePrincipalSettings{Status: "disabled", RedirectURIs: []string{redirect}}, resource.Any); err != nil {
			t.Fatal(err)
		}
		if status, answer := w.post("/adfs/oauth2/token", form); status != 400 || answer["error"] != "invalid_grant" {
			t.Errorf("a disabled application goes on: %d %v", status, answer)
		}
		if res, _ := b.get(to); res.StatusCode != http.StatusBadRequest {
			t.Errorf("a disabled application asks people: %d", res.StatusCode)
		}
	})
}

// Who guesses is told to wait, and who knows comes in all the same.
func TestGuessingAtTheSignInPageIsSlow(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	b := w.browser()
	_, body := b.get("/adfs/oauth2/authorize?" + authorize())
	form := url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {"x"}}
	last := 0
	for range 15 {
		res, body := b.send("/signin", form)
		if last = res.StatusCode; last == 429 && res.Header.Get("Retry-After") == "" {
			t.Error("nobody says how long to wait")
		}
		form.Set("request", asked(t, body)) // the page asks again
	}
	if last != 429 {
		t.Errorf("fifteen guesses at once: %d", last)
	}
	form.Set("password", w.OwnerPassword)
	if res, _ := b.send("/signin", form); res.StatusCode != 303 {
		t.Errorf("the owner was kept out by guesses: %d", res.StatusCode)
	}
	for range 40 {
		last, _ = w.post("/adfs/oauth2/devicecode", url.Values{"client_id": {identity.AzureCLI}})
	}
	if last != 429 {
		t.Errorf("forty devices of one address at once: %d", last)
	}
}
