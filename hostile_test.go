package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
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
		{"another typ", map[string]any{"typ": "at+jwt"}, nil, kept},
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
