package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // what x5t is made with
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/access"
)

// A tampered token is one that somebody made of a genuine one who does not have
// the key that signed it.
type tampered struct{ how, token string }

// tamper makes every token that an attacker tries first. public is what a
// verifier that confuses algorithms would take for a secret.
func tamper(t *testing.T, genuine string, public []byte) []tampered {
	t.Helper()
	parts := strings.Split(genuine, ".")
	if len(parts) != 3 {
		t.Fatalf("a signed token has three parts, this has %d", len(parts))
	}
	var head, claims map[string]any
	for i, into := range []*map[string]any{&head, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	mallory, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(mallory.Public())
	if err != nil {
		t.Fatal(err)
	}
	own := func(input string) []byte {
		sum := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, mallory, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	secret := func(key []byte) func(string) []byte {
		return func(input string) []byte { m := hmac.New(sha256.New, key); m.Write([]byte(input)); return m.Sum(nil) }
	}
	none := func(string) []byte { return nil }
	kept := func(string) []byte { s, _ := base64.RawURLEncoding.DecodeString(parts[2]); return s }
	now := time.Now().Unix()
	jwk := jose.JSONWebKey{Key: mallory.Public(), KeyID: "mallory", Algorithm: "ES256"}
	var all []tampered
	for _, row := range []struct {
		how          string
		head, claims map[string]any // what is set; nil removes
		sign         func(string) []byte
	}{
		{"alg none", map[string]any{"alg": "none"}, nil, none},
		{"alg none, signature kept", map[string]any{"alg": "none"}, nil, kept},
		{"alg nOnE", map[string]any{"alg": "nOnE"}, nil, none},
		{"no alg", map[string]any{"alg": nil}, nil, kept},
		{"signature taken away", nil, nil, none},
		{"RS/HS confusion, DER", map[string]any{"alg": "HS256"}, nil, secret(public)},
		{"HS256, empty secret", map[string]any{"alg": "HS256"}, nil, secret(nil)},
		{"wrong kid, own key", map[string]any{"alg": "ES256", "kid": "mallory"}, nil, own},
		{"same kid, own key", map[string]any{"alg": "ES256"}, nil, own},
		{"no kid, own key", map[string]any{"alg": "ES256", "kid": nil}, nil, own},
		{"embedded jwk", map[string]any{"alg": "ES256", "kid": nil, "jwk": jwk}, nil, own},
		{"embedded jwk under our kid", map[string]any{"alg": "ES256", "jwk": jwk}, nil, own},
		{"jku", map[string]any{"alg": "ES256", "kid": "mallory", "jku": "https://127.0.0.1:1/keys"}, nil, own},
		{"x5u", map[string]any{"alg": "ES256", "kid": "mallory", "x5u": "https://127.0.0.1:1/chain"}, nil, own},
		{"x5c", map[string]any{"alg": "ES256", "kid": "mallory", "x5c": []string{base64.StdEncoding.EncodeToString(der)}}, nil, own},
		{"jku beside the genuine signature", map[string]any{"jku": "https://127.0.0.1:1/keys"}, nil, kept},
		{"crit", map[string]any{"crit": []string{"b64"}, "b64": false}, nil, kept},
		{"another typ", map[string]any{"typ": "dpop+jwt"}, nil, kept},
		{"wrong audience", nil, map[string]any{"aud": "https://elsewhere.example"}, kept},
		{"longer life", nil, map[string]any{"exp": now + 365*24*3600}, kept},
		{"another subject", nil, map[string]any{"sub": "owner"}, kept},
		{"another principal", nil, map[string]any{"principal": "00000000-0000-4000-8000-000000000000", "oid": "00000000-0000-4000-8000-000000000000"}, kept},
		{"wider scope", nil, map[string]any{"access": []map[string]any{{"type": "repository", "name": "*", "actions": []string{"*"}}}, "scp": "*"}, kept},
		{"another registry", nil, map[string]any{"registry": "00000000-0000-4000-8000-000000000000"}, kept},
		{"stronger authentication", nil, map[string]any{"amr": []string{"mfa"}, "authentication": map[string]any{"amr": []string{"mfa"}}}, kept},
		{"a group more", nil, map[string]any{"groups": []string{"00000000-0000-4000-8000-000000000000"}}, kept},
	} {
		part := func(of, change map[string]any, as string) string {
			if change == nil {
				return as
			}
			changed := maps.Clone(of)
			for name, value := range change {
				if changed[name] = value; value == nil {
					delete(changed, name)
				}
			}
			text, err := json.Marshal(changed)
			if err != nil {
				t.Fatal(err)
			}
			return base64.RawURLEncoding.EncodeToString(text)
		}
		input := part(head, row.head, parts[0]) + "." + part(claims, row.claims, parts[1])
		all = append(all, tampered{row.how, input + "." + base64.RawURLEncoding.EncodeToString(row.sign(input))})
	}
	return append(all,
		tampered{"four parts", genuine + "." + parts[2]},
		tampered{"two parts", parts[0] + "." + parts[1]},
		tampered{"another spelling of the signature", parts[0] + "." + parts[1] + "." + parts[2] + "A"},
		tampered{"empty parts", ".."},
		tampered{"a giant", parts[0] + "." + parts[1] + strings.Repeat("A", 12<<10) + "." + parts[2]},
	)
}

// A counter is a place where a token of ours can be shown.
type counter struct {
	name    string
	genuine string
	public  []byte
	show    func(token string) (*http.Response, string)
}

// hostile shows each place its genuine token, which must be let in, and every
// tampered one, which must be refused in the place's own words and recorded.
func (d *desk) hostile(places ...counter) {
	for _, at := range places {
		if r, text := at.show(at.genuine); r.StatusCode >= 300 {
			d.t.Errorf("%s: the genuine token is refused: %d %s", at.name, r.StatusCode, text)
			continue
		}
		refused := map[string]string{} // by correlation
		for _, bad := range tamper(d.t, at.genuine, at.public) {
			r, text := at.show(bad.token)
			if r.StatusCode != http.StatusUnauthorized && r.StatusCode != http.StatusBadRequest {
				d.t.Errorf("%s: %s: %d %s", at.name, bad.how, r.StatusCode, text)
			}
			if strings.Contains(text, bad.token) || strings.Contains(text, at.genuine) {
				d.t.Errorf("%s: %s: the answer repeats the token", at.name, bad.how)
			}
			refused[r.Header.Get("X-Ms-Correlation-Request-Id")] = bad.how
		}
		for _, e := range d.events() {
			if e.Outcome == "refused" {
				delete(refused, e.Correlation)
			}
		}
		for _, how := range refused {
			d.t.Errorf("%s: %s was refused, but not recorded", at.name, how)
		}
	}
}

type eventRow struct {
	Seq                          int64
	Category, Operation, Outcome string
	Reason, Correlation          string
	Status                       int
	Detail                       struct{ More map[string]string }
}

// events is what the ledger says, from its beginning.
func (d *desk) events() (all []eventRow) {
	d.t.Helper()
	for path := "/providers/Breakwater.Ledger/events?$top=1000"; path != ""; {
		var page struct {
			Value    []eventRow
			NextLink string
		}
		r, text := d.ask("GET", path, "")
		if r.StatusCode != http.StatusOK {
			d.t.Fatalf("read events: %d %s", r.StatusCode, text)
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			d.t.Fatal(err)
		}
		all = append(all, page.Value...)
		path = strings.TrimPrefix(page.NextLink, d.client.Server)
	}
	return all
}

// form posts a form without any other credential.
func (d *desk) form(path string, pairs ...string) (*http.Response, string) {
	d.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return d.ask("POST", path, form.Encode(), "Authorization", "", "Content-Type", "application/x-www-form-urlencoded")
}

// member is one member of a JSON object.
func (d *desk) member(text, name string) string {
	d.t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		d.t.Fatalf("%v in %s", err, text)
	}
	s, _ := all[name].(string)
	if s == "" {
		d.t.Fatalf("no %s in %s", name, text)
	}
	return s
}

func TestHostileTokensOfTheRegistryAreRefusedAndRecorded(t *testing.T) {
	d := openDesk(t)
	service := d.client.Registry
	_, text := d.form("/oauth2/token", "grant_type", "password", "service", service, "scope", "registry:catalog:*",
		"username", d.client.Username, "password", d.client.Password, "access_type", "offline")
	access, refresh := d.member(text, "access_token"), d.member(text, "refresh_token")
	d.hostile(
		counter{"bearer at the registry", access, []byte(access), func(token string) (*http.Response, string) {
			return d.ask("GET", "/v2/_catalog", "", "Authorization", "Bearer "+token)
		}},
		counter{"refresh token at its endpoint", refresh, []byte(refresh), func(token string) (*http.Response, string) {
			return d.form("/oauth2/token", "grant_type", "refresh_token", "service", service, "scope", "registry:catalog:*", "refresh_token", token)
		}},
		counter{"refresh token as a password", refresh, []byte(refresh), func(token string) (*http.Response, string) {
			basic := base64.StdEncoding.EncodeToString([]byte("00000000-0000-0000-0000-000000000000:" + token))
			return d.ask("GET", "/v2/", "", "Authorization", "Basic "+basic)
		}},
	)
	for _, elsewhere := range []struct{ what, token string }{{"access", access}, {"refresh", refresh}} {
		if r, text := d.ask("GET", "/subscriptions", "", "Authorization", "Bearer "+elsewhere.token); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("the %s token of a registry opens the control plane: %d %s", elsewhere.what, r.StatusCode, text)
		}
	}
}

// An application is a service principal that has one secret.
type application struct{ id, name, key, secret string }

func (d *desk) application(name, role string) application {
	d.t.Helper()
	user, secret, ok := (&http.Request{Header: http.Header{"Authorization": {d.holder(name, role)}}}).BasicAuth()
	if !ok {
		d.t.Fatal("a holder has a user name and a password")
	}
	var sp struct {
		Properties struct {
			PasswordCredentials []struct{ KeyID string }
		}
	}
	_, text := d.ask("GET", "/providers/Breakwater.Identity/servicePrincipals/"+name, "")
	if err := json.Unmarshal([]byte(text), &sp); err != nil || len(sp.Properties.PasswordCredentials) != 1 {
		d.t.Fatalf("%v in %s", err, text)
	}
	return application{user, name, sp.Properties.PasswordCredentials[0].KeyID, secret}
}

const (
	armAudience      = "https://management.core.windows.net//.default"
	registryAudience = "https://containerregistry.azure.net/.default"
)

// token is what the authority gives the application.
func (d *desk) token(a application, scope string) string {
	d.t.Helper()
	_, text := d.form("/adfs/oauth2/token", "grant_type", "client_credentials", "client_id", a.id, "client_secret", a.secret, "scope", scope)
	return d.member(text, "access_token")
}

func (d *desk) subscriptions(token string) (*http.Response, string) {
	d.t.Helper()
	return d.ask("GET", "/subscriptions", "", "Authorization", "Bearer "+token)
}

func (d *desk) exchange(token string) (*http.Response, string) {
	d.t.Helper()
	return d.form("/oauth2/exchange", "grant_type", "access_token", "service", d.client.Registry, "access_token", token)
}

func TestHostileTokensOfTheAuthorityAreRefusedAndRecorded(t *testing.T) {
	d := openDesk(t)
	a := d.application("ci", access.OwnerRole)
	_, keys := d.ask("GET", "/adfs/discovery/keys", "", "Authorization", "")
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(keys), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("the authority shows its key: %v in %s", err, keys)
	}
	public, err := x509.MarshalPKIXPublicKey(set.Keys[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	plain := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, plain, plain, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if r, text := d.ask("POST", "/providers/Breakwater.Identity/servicePrincipals/ci/addKey",
		`{"keyCredential":{"key":"`+base64.StdEncoding.EncodeToString(der)+`"}}`); r.StatusCode >= 300 {
		t.Fatalf("add a certificate: %d %s", r.StatusCode, text)
	}
	thumb := sha1.Sum(der)
	assertion := func() string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key},
			(&jose.SignerOptions{}).WithType("JWT").WithHeader("x5t", base64.RawURLEncoding.EncodeToString(thumb[:])))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		claims, _ := json.Marshal(map[string]any{"aud": d.client.Server + "/adfs/oauth2/token", "iss": a.id, "sub": a.id, "jti": rand.Text(),
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()})
		s, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := s.CompactSerialize()
		return text
	}
	d.hostile(
		counter{"bearer at the control plane", d.token(a, armAudience), public, d.subscriptions},
		counter{"access token at the exchange", d.token(a, registryAudience), public, d.exchange},
		counter{"client assertion", assertion(), own, func(token string) (*http.Response, string) {
			return d.form("/adfs/oauth2/token", "grant_type", "client_credentials", "client_id", a.id, "scope", armAudience,
				"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", token)
		}},
	)
	for name, r := range map[string]*http.Response{
		"the audience of registries at the control plane":  first(d.subscriptions(d.token(a, registryAudience))),
		"an assertion as a bearer":                         first(d.subscriptions(assertion())),
		"an access token of the authority at the registry": first(d.ask("GET", "/v2/", "", "Authorization", "Bearer "+d.token(a, registryAudience))),
	} {
		if r.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, r.StatusCode)
		}
	}
	used := assertion()
	for _, want := range []int{200, 401} {
		if r, text := d.form("/adfs/oauth2/token", "grant_type", "client_credentials", "client_id", a.id, "scope", armAudience,
			"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", used); r.StatusCode != want {
			t.Errorf("an assertion is shown for the first and then for the second time: %d, want %d %s", r.StatusCode, want, text)
		}
	}
}

func first(r *http.Response, _ string) *http.Response { return r }

// Whatever descends from a credential ends with it, from the next request on.
func TestTokensEndWithWhatTheyDescendFrom(t *testing.T) {
	d := openDesk(t)
	do := func(method, path, body string) {
		t.Helper()
		if r, text := d.ask(method, path, body); r.StatusCode >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, r.StatusCode, text)
		}
	}
	principal := func(a application) string { return "/providers/Breakwater.Identity/servicePrincipals/" + a.name }
	for _, row := range []struct {
		how string
		end func(a application)
	}{
		{"the secret is removed", func(a application) { do("POST", principal(a)+"/removePassword", `{"keyId":"`+a.key+`"}`) }},
		{"the principal is disabled", func(a application) { do("PATCH", principal(a), `{"properties":{"status":"disabled"}}`) }},
		{"the principal is deleted", func(a application) { do("DELETE", principal(a), "") }},
		{"the principal is deleted and made again", func(a application) {
			do("DELETE", principal(a), "")
			do("PUT", principal(a), `{"properties":{}}`)
		}},
	} {
		t.Run(row.how, func(t *testing.T) {
			a := d.application(strings.ReplaceAll(row.how, " ", "-"), access.OwnerRole)
			arm, acr := d.token(a, armAudience), d.token(a, registryAudience)
			_, text := d.exchange(acr)
			refresh := d.member(text, "refresh_token")
			use := func(refresh string) (*http.Response, string) {
				return d.form("/oauth2/token", "grant_type", "refresh_token", "service", d.client.Registry, "scope", "registry:catalog:*", "refresh_token", refresh)
			}
			_, text = use(refresh)
			bearer := d.member(text, "access_token")
			all := map[string]func() (*http.Response, string){
				"the control plane":  func() (*http.Response, string) { return d.subscriptions(arm) },
				"the exchange":       func() (*http.Response, string) { return d.exchange(acr) },
				"the token endpoint": func() (*http.Response, string) { return use(refresh) },
				"the registry": func() (*http.Response, string) {
					return d.ask("GET", "/v2/_catalog", "", "Authorization", "Bearer "+bearer)
				},
				"the authority": func() (*http.Response, string) {
					return d.form("/adfs/oauth2/token", "grant_type", "client_credentials", "client_id", a.id, "client_secret", a.secret, "scope", armAudience)
				},
			}
			for name, show := range all {
				if r, text := show(); r.StatusCode != http.StatusOK {
					t.Fatalf("%s refuses at first: %d %s", name, r.StatusCode, text)
				}
			}
			row.end(a)
			for name, show := range all {
				if r, text := show(); r.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %d %s", name, r.StatusCode, text)
				}
			}
		})
	}
}
