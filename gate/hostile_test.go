package gate_test

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// Tokens that a registry has signed itself, and tokens of an issuer that it
// trusts, in hands or at times that they were not made for: each is refused, and
// each refusal is in the ledger. (What forgers make of tokens is tried on the whole
// binary.)
func TestGenuineTokensOutOfTheirPlaceAreRefusedAndRecorded(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, v, _ := open(t, d, nil)
		ctx, must := t.Context(), func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		refused := map[string]string{} // by correlation
		registries := []string{h.Registry.UID}
		show := func(authorization, host string) (int, string) {
			res, _ := v.get("/read", func(r *http.Request) {
				r.Header.Set("Authorization", authorization)
				r.Host = host
			})
			return res.StatusCode, res.Header.Get("X-Ms-Correlation-Request-Id")
		}
		good := func(what, authorization string) {
			t.Helper()
			if status, _ := show(authorization, "localhost"); status != http.StatusOK {
				t.Fatalf("%s is answered with %d", what, status)
			}
		}
		bad := func(what, authorization, host string) {
			t.Helper()
			status, correlation := show(authorization, host)
			if status != http.StatusUnauthorized && status != http.StatusForbidden {
				t.Errorf("%s is answered with %d", what, status)
			}
			refused[correlation] = what
		}
		realm := func() identity.Realm { return h.Registry.Realm() }
		bearer := func(c identity.Credentials, scopes ...identity.Access) string {
			t.Helper()
			p, err := h.Identity.Authenticate(ctx, realm(), identity.ContentPlane, c, network.Origin{Addr: netip.MustParseAddr("127.0.0.1")})
			must(err)
			token, _, err := h.Identity.IssueAccess(ctx, realm(), p, scopes)
			must(err)
			return "Bearer " + token
		}
		basic := func(name, password string) identity.Credentials {
			return identity.Credentials{Method: identity.Basic, Name: name, Secret: identity.Secret(password)}
		}
		header := func(name, password string) string {
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
		}
		team := identity.Access{Type: "repository", Name: "team/api", Actions: []string{"pull"}}
		other := team
		other.Name = "team/other"

		name, password := h.Token(t, "ci", "repositories/team/api/content/read")
		pull := bearer(basic(name, password), team)
		good("a token", pull)
		bad("a token that was asked for another repository", bearer(basic(name, password), other), "localhost")
		bad("a token that was asked for nothing", bearer(basic(name, password)), "localhost")
		wide, weak := h.Token(t, "weak", "repositories/team/other/content/read")
		bad("a token with a scope that its account has no right to", bearer(basic(wide, weak), team), "localhost")

		second, err := h.Registries.Create(ctx, h.Server(), h.Registry.ID.Parent().Parent().Extension(registry.Type, "second"), "local", nil, registry.Properties{})
		must(err)
		registries = append(registries, second.UID)
		bad("a token at another registry", pull, "second.registries.test")

		// Expired: the token ends with the password that it was given for.
		short, err := h.Access.GenerateCredentials(ctx, h.Server(), "ci", time.Now().Add(3*time.Second), identity.PasswordNames[1])
		must(err)
		brief := bearer(basic("ci", string(short[0].Value)), team)
		good("a brief token", brief)
		time.Sleep(time.Until(short[0].Expiry))
		bad("a token that has expired", brief, "localhost")

		// Revoked, and shown again.
		_, err = h.Access.GenerateCredentials(ctx, h.Server(), "ci", time.Time{}, identity.PasswordNames[0])
		must(err)
		bad("a token whose password was replaced", pull, "localhost")
		name, password = h.Token(t, "ci", "repositories/team/api/content/read")
		pull = bearer(basic(name, password), team)
		good("a new token", pull)
		must(h.Access.DeleteToken(ctx, h.Server(), "ci", resource.Any))
		bad("a token whose account is deleted", pull, "localhost")
		name, password = h.Token(t, "ci", "repositories/team/api/content/read")
		bad("a token whose account was made again", pull, "localhost")

		// Applications.
		assign := func(principal string) {
			t.Helper()
			_, err := h.Access.Assign(ctx, h.Server(), h.Registry.ID.Scope(), ref.NewGUID(), access.AssignmentProperties{
				RoleDefinitionID: access.PullRole, PrincipalID: principal, PrincipalType: "ServicePrincipal"})
			must(err)
		}
		app, err := h.Directory.PutServicePrincipal(ctx, h.Server(), "app", directory.ServicePrincipalSettings{}, resource.Absent)
		must(err)
		assign(app.PrincipalID)
		secret, err := h.Directory.AddPassword(ctx, h.Server(), "app", "", time.Time{}, time.Time{})
		must(err)
		good("an application's secret", header(app.AppID, string(secret.Text)))
		pull = bearer(basic(app.AppID, string(secret.Text)), team)
		good("an application's token", pull)
		must(h.Directory.RemovePassword(ctx, h.Server(), "app", secret.KeyID))
		bad("a token whose secret is removed", pull, "localhost")
		bad("a secret that is removed", header(app.AppID, string(secret.Text)), "localhost")

		hub := identitytest.GitHub(t)
		issuer := identity.IssuerProperties{Issuer: hub.URL, CACertificates: hub.CA, Audiences: []string{"https://elsewhere.example"}, PrincipalType: identity.PrincipalApplication}
		_, err = h.Directory.PutIssuer(ctx, h.Server(), "hub", issuer, resource.Absent)
		must(err)
		_, err = h.Directory.PutFederatedCredential(ctx, h.Server(), identity.FederatedCredentialID(app.ID, "main"),
			identity.FederatedCredentialProperties{Issuer: hub.URL, Subject: "repo:octo/app:ref:refs/heads/main"}, resource.Absent)
		must(err)
		job := hub.Job("octo/app", "refs/heads/main", directory.Audience)
		good("a job's token", header(app.AppID, job))
		bad("the token of another branch's job", header(app.AppID, hub.Job("octo/app", "refs/heads/evil", directory.Audience)), "localhost")
		bad("the token of another repository's job", header(app.AppID, hub.Job("mallory/app", "refs/heads/main", directory.Audience)), "localhost")
		bad("a job's token for somebody else", header(app.AppID, hub.Job("octo/app", "refs/heads/main", "sts.amazonaws.com")), "localhost")
		bad("a job's token under another client id", header(ref.NewGUID(), job), "localhost")
		bad("a job's token as a bearer", "Bearer "+job, "localhost")
		pull = bearer(basic(app.AppID, job), team)
		good("a token that was given for a job's", pull)
		must(h.Directory.DeleteServicePrincipal(ctx, h.Server(), "app", resource.Any))
		again, err := h.Directory.PutServicePrincipal(ctx, h.Server(), "app", directory.ServicePrincipalSettings{}, resource.Absent)
		must(err)
		bad("a token of an application that was made again", pull, "localhost")
		bad("a job's token for an application that is gone", header(app.AppID, job), "localhost")
		bad("a job's token for one that does not trust it", header(again.AppID, job), "localhost")

		// The registry itself.
		pull = bearer(basic(name, password), team)
		good("a token", pull)
		must(d.Write(ctx, func(tx *db.Tx) error { return h.Documents.Delete(ctx, tx, h.Registry.ID, resource.Any) }))
		h.Registry, err = h.Registries.Create(ctx, h.Server(), h.Registry.ID, "local", nil, registry.Properties{})
		must(err)
		registries = append(registries, h.Registry.UID)
		h.Token(t, name, "repositories/team/api/content/read")
		bad("a token of a registry that was made again", pull, "localhost")
		bad("a password of a registry that was made again", header(name, password), "localhost")

		for _, uid := range registries {
			for e, err := range h.Ledger.Events(ctx, ledger.Query{Registry: uid}) {
				if must(err); e.Outcome == ledger.Refused {
					delete(refused, e.Correlation)
				}
			}
		}
		for _, what := range refused {
			t.Errorf("%s was refused, but that is not recorded", what)
		}
	})
}
