package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity/identitytest"
	"breakwater/ref"
	"breakwater/resource"
)

const tokenURL = "https://localhost:8443/adfs/oauth2/token"

// document writes what directory would.
func (w *world) document(id ref.ID, typ string, properties any) resource.Resource {
	w.t.Helper()
	doc := resource.Resource{ID: id, Type: typ, Properties: must(json.Marshal(properties)), System: by}
	w.write(func(tx *db.Tx) (err error) {
		doc, err = w.docs.Put(w.t.Context(), tx, doc, resource.Any)
		return err
	})
	return doc
}

// application makes a service principal with these certificates, or changes it.
func (w *world) application(name, client string, keys ...Key) *Client {
	w.t.Helper()
	w.document(ClientID(client), ClientType, Pointer{ServicePrincipalID(name)})
	w.document(ServicePrincipalID(name), ServicePrincipalType, ServicePrincipalProperties{AppID: client, Status: EnabledStatus, Keys: keys})
	return must(w.Client(w.t.Context(), client))
}

func (w *world) managedIdentity(name, client string) *Client {
	w.t.Helper()
	id := shop.ID.Parent().Parent().Extension(ManagedIdentityType, name)
	w.document(ClientID(client), ClientType, Pointer{id})
	w.document(id, ManagedIdentityType, ManagedIdentityProperties{client})
	return must(w.Client(w.t.Context(), client))
}

func (w *world) federate(of ref.ID, typ, name string, p FederatedCredentialProperties) {
	w.document(FederatedCredentialID(of, name), FederatedCredentialType(typ), p)
}

func (w *world) secret(client string) (Credentials, MadeSecret) {
	w.t.Helper()
	made := must(w.NewSecret(w.t.Context(), client, "ci", time.Time{}, time.Time{}))
	w.write(func(tx *db.Tx) error { return w.PutSecret(w.t.Context(), tx, by, made, 20) })
	return Credentials{Method: ClientSecret, Name: client, Secret: made.Text}, made
}

// at proves c at a plane; the zero Principal if it proves nobody.
func (w *world) at(plane Plane, c Credentials) Principal {
	w.t.Helper()
	p, err := w.Authenticate(w.t.Context(), shop, plane, c, here)
	if err != nil && fault.Of(err) != fault.Unauthenticated && fault.Of(err) != fault.TooManyRequests {
		w.t.Fatal(err)
	}
	return p
}

// A certified is a key with its certificate.
type certified struct {
	Key
	signer identitytest.Key
}

func certificate(t testing.TB, k identitytest.Key, from, to time.Time) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ci"}, NotBefore: from, NotAfter: to}
	return must(x509.CreateCertificate(rand.Reader, template, template, k.Private.Public(), k.Private))
}

func certify(t testing.TB, k identitytest.Key) certified {
	t.Helper()
	der := certificate(t, k, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	return certified{must(NewKey("ci", der)), k}
}

var rsaKey = sync.OnceValue(func() identitytest.Key { return identitytest.RSA("client", jose.RS256) })

// header is what Azure's library for Python writes.
func (k certified) header() map[string]any {
	sum := sha1.Sum(k.Certificate)
	return map[string]any{"alg": k.signer.Alg, "typ": "JWT", "x5t": base64.RawURLEncoding.EncodeToString(sum[:])}
}

func claimsOf(client string) map[string]any {
	now := float64(time.Now().UnixNano()) / 1e9 // as Python has it
	return map[string]any{"aud": tokenURL, "iss": client, "sub": client, "exp": now + 600, "iat": now, "jti": rand.Text()}
}

func asserts(client, text string) Credentials {
	return Credentials{Method: ClientAssertion, Name: client, Secret: Secret(text), Audience: []string{"https://localhost:8443/x", tokenURL}}
}

func TestClientSecretsProveServicePrincipals(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		client := ref.NewGUID()
		app := w.application("ci", client)
		c, made := w.secret(client)
		other, _ := w.secret(client)
		basic := Credentials{Method: Basic, Name: strings.ToUpper(client), Secret: c.Secret}

		if !ref.IsGUID(made.KeyID) || made.Hint != string(c.Secret[:3]) || made.End.Sub(made.Start) != SecretLife {
			t.Errorf("made %+v", made.SecretInfo)
		}
		for name, p := range map[string]Principal{"the authority": w.at(AuthorityPlane, c), "content": w.at(ContentPlane, basic), "resources": w.at(ControlPlane, basic)} {
			if p.ID != app.PrincipalID || p.Kind != ServicePrincipal || p.Name != "ci" || p.Client != client || p.Account != app.ID ||
				p.Credential != made.KeyID || !p.Until.Equal(made.End) || p.Registry != "" || fmt.Sprint(p.Authentication.AMR) != "[pwd]" {
				t.Errorf("at %s it is %+v", name, p)
			}
		}
		if p := w.at(AuthorityPlane, basic); p.Kind != "" {
			t.Errorf("the authority signs in applications as people: %+v", p)
		}
		for _, plane := range []Plane{ContentPlane, ControlPlane} {
			if p := w.at(plane, c); p.Kind != "" {
				t.Errorf("only the authority takes client secrets as such: %+v", p)
			}
		}

		// A registry's token descends from the secret.
		bearer, refresh := w.access(shop, w.known(shop, basic), pullAPI), w.refresh(shop, w.known(shop, basic))
		for _, c := range []Credentials{bearer, refresh} {
			if p := w.known(shop, c); p.ID != app.PrincipalID || p.Kind != ServicePrincipal || p.Client != client || p.Credential != made.KeyID || p.Account != app.ID {
				t.Errorf("the token proves %+v", p)
			}
		}
		infos := must(w.Secrets(t.Context(), client))
		if len(infos) != 2 || infos[0].KeyID != made.KeyID || time.Since(infos[0].Used) > time.Minute || !infos[1].Used.IsZero() || infos[0].DisplayName != "ci" {
			t.Errorf("the secrets are %+v", infos)
		}
		gone := func(why string) {
			t.Helper()
			for _, c := range []Credentials{basic, bearer, refresh} {
				w.unknown(shop, c, why)
			}
			if p := w.at(AuthorityPlane, c); p.Kind != "" {
				t.Errorf("%s, and it is %+v", why, p)
			}
		}
		status := func(status string) {
			w.document(app.ID, ServicePrincipalType, ServicePrincipalProperties{AppID: client, Status: status})
		}
		status("disabled")
		gone("the service principal is disabled")
		status(EnabledStatus)
		w.known(shop, bearer)

		w.document(ClientID(client), ClientType, Pointer{ServicePrincipalID("another")})
		gone("its pointer points elsewhere")
		w.application("another", ref.NewGUID())
		gone("its pointer points to somebody else")
		w.document(ClientID(client), ClientType, Pointer{app.ID})
		w.known(shop, bearer)

		w.write(func(tx *db.Tx) error { return w.RemoveSecret(t.Context(), tx, by, client, made.KeyID) })
		gone("the secret is removed")
		if p := w.at(AuthorityPlane, other); p.ID != app.PrincipalID {
			t.Errorf("the other secret proves %+v", p)
		}

		bearer = w.access(shop, w.known(shop, Credentials{Method: Basic, Name: client, Secret: other.Secret}))
		w.delete(app.ID)
		w.unknown(shop, bearer, "the service principal is deleted")
		w.document(app.ID, ServicePrincipalType, ServicePrincipalProperties{AppID: client, Status: EnabledStatus})
		w.unknown(shop, bearer, "the service principal was made again") // even with the secrets of the first
	})
}

func TestSecretsHaveTheirTime(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client, now := ref.NewGUID(), time.Now()
	w.application("ci", client)
	for name, row := range map[string]struct{ start, end time.Time }{
		"ends in the past":       {time.Time{}, now},
		"ends before it begins":  {now.Add(2 * time.Hour), now.Add(time.Hour)},
		"lives too long":         {time.Time{}, now.Add(MaxSecretLife + time.Hour)},
		"begins long after that": {now.Add(MaxSecretLife), time.Time{}},
	} {
		if _, err := w.NewSecret(t.Context(), client, "", row.start, row.end); fault.Of(err) != fault.BadRequest {
			t.Errorf("a secret that %s: %v", name, err)
		}
	}
	made := must(w.NewSecret(t.Context(), client, "", now.Add(2*time.Second), now.Add(4*time.Second)))
	w.write(func(tx *db.Tx) error { return w.PutSecret(t.Context(), tx, by, made, 20) })
	c := Credentials{Method: Basic, Name: client, Secret: made.Text}
	w.unknown(shop, c, "its time has not come")
	time.Sleep(time.Until(made.Start))
	bearer := w.access(shop, w.known(shop, c))
	time.Sleep(time.Until(made.End))
	w.unknown(shop, c, "its time is over")
	w.unknown(shop, bearer, "its secret's time is over")
	for range 19 {
		w.write(func(tx *db.Tx) error {
			made.proof.ID = ref.NewGUID()
			return w.PutSecret(t.Context(), tx, by, made, 20)
		})
	}
	err := w.d.Write(t.Context(), func(tx *db.Tx) error { return w.PutSecret(t.Context(), tx, by, made, 20) })
	if fault.Of(err) != fault.Conflict {
		t.Errorf("there are twenty secrets: %v", err)
	}
}

// Whatever is wrong, the words are the same, no guess is hashed, and too many of
// them are slowed down; the right secret always comes in.
func TestGuessesAtClientsAreAllTheSame(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client, off := ref.NewGUID(), ref.NewGUID()
	w.application("ci", client)
	w.application("off", off)
	c, _ := w.secret(client)
	disabled, _ := w.secret(off)
	w.document(ServicePrincipalID("off"), ServicePrincipalType, ServicePrincipalProperties{AppID: off, Status: "disabled"})
	w.at(AuthorityPlane, c)
	w.hashing <- struct{}{} // as if two others were hashing
	w.hashing <- struct{}{}
	words := map[string]bool{}
	for _, guess := range []Credentials{
		{Method: ClientSecret, Name: client, Secret: Secret(strings.Repeat("A", 48))},
		{Method: ClientSecret, Name: client, Secret: "secret"},
		{Method: ClientSecret, Name: client},
		{Method: ClientSecret, Name: ref.NewGUID(), Secret: c.Secret},
		{Method: ClientSecret, Name: "", Secret: c.Secret},
		{Method: ClientSecret, Name: "../" + client, Secret: c.Secret},
		{Method: ClientSecret, Name: off, Secret: c.Secret},
		disabled,
	} {
		_, err := w.Authenticate(t.Context(), shop, AuthorityPlane, guess, here)
		words[fault.From(err).Message] = true
	}
	if len(words) != 1 {
		t.Errorf("what is said to guesses: %v", words)
	}
	slowed := 0
	for range 3 * guessBurst {
		_, err := w.Authenticate(t.Context(), shop, AuthorityPlane, Credentials{Method: ClientSecret, Name: client, Secret: "x"}, here)
		if fault.Of(err) == fault.TooManyRequests {
			slowed++
		}
		if p := w.at(AuthorityPlane, c); p.Client != client {
			t.Fatal("the right secret is locked out")
		}
	}
	if slowed < guessBurst {
		t.Errorf("%d guesses were slowed down", slowed)
	}
}

func TestCertificatesProveServicePrincipals(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		client := ref.NewGUID()
		r, e := certify(t, rsaKey()), certify(t, identitytest.EC("client"))
		app := w.application("ci", client, r.Key, e.Key)
		s256 := func(k certified, alg jose.SignatureAlgorithm, spell *base64.Encoding) map[string]any {
			sum := sha256.Sum256(k.Certificate)
			return map[string]any{"alg": alg, "typ": "JWT", "x5t#S256": spell.EncodeToString(sum[:])}
		}
		both := s256(r, jose.PS256, base64.StdEncoding)
		both["x5t"], both["kid"] = r.header()["x5t"], "anything"
		for name, row := range map[string]struct {
			k      certified
			header map[string]any
			claims map[string]any
		}{
			"RS256, x5t, as Python has it": {r, r.header(), claimsOf(client)},
			"PS256, x5t#S256, as Go has":   {r, s256(r, jose.PS256, base64.StdEncoding), claimsOf(client)},
			"base64url":                    {r, s256(r, jose.PS256, base64.RawURLEncoding), claimsOf(client)},
			"both names":                   {r, both, claimsOf(client)},
			"ES256":                        {e, s256(e, jose.ES256, base64.URLEncoding), claimsOf(client)},
			"a list of one audience":       {r, r.header(), with(claimsOf(client), "aud", []string{tokenURL})},
			"no iat":                       {r, r.header(), with(claimsOf(client), "iat", nil)},
		} {
			c := asserts(client, row.k.signer.Sign(row.header, row.claims))
			p := w.at(AuthorityPlane, c)
			if p.ID != app.PrincipalID || p.Kind != ServicePrincipal || p.Client != client || p.Credential != row.k.KeyID || !p.Until.Equal(row.k.End) || fmt.Sprint(p.Authentication.AMR) != "[swk]" {
				t.Errorf("%s: %+v", name, p)
			}
			if p := w.at(AuthorityPlane, c); p.Kind != "" {
				t.Errorf("%s: shown twice, it is %+v", name, p)
			}
			c.Resource = "https://containerregistry.azure.net" // another one; Python's library shows the same assertion
			if first, again := w.at(AuthorityPlane, c), w.at(AuthorityPlane, c); first.ID != app.PrincipalID || again.Kind != "" {
				t.Errorf("%s: for another resource it is %+v, and then %+v", name, first, again)
			}
			c.Name = ""
			if p := w.at(AuthorityPlane, c); p.Kind != "" {
				t.Errorf("%s: without a client id it is another assertion: %+v", name, p)
			}
		}
		nameless := asserts("", r.signer.Sign(r.header(), claimsOf(client)))
		p := w.at(AuthorityPlane, nameless)
		if p.ID != app.PrincipalID {
			t.Errorf("the client id may be left out: %+v", p)
		}
		if p := w.at(ContentPlane, Credentials{Method: Basic, Name: client, Secret: nameless.Secret}); p.Kind != "" {
			t.Errorf("an assertion for the authority opens content: %+v", p)
		}

		bearer := w.access(shop, p, pullAPI)
		if p := w.known(shop, bearer); p.Credential != r.KeyID || fmt.Sprint(p.Authentication.AMR) != "[swk]" {
			t.Errorf("the token proves %+v", p)
		}
		w.application("ci", client, e.Key)
		w.unknown(shop, bearer, "the certificate is removed")
		if p := w.at(AuthorityPlane, asserts(client, r.signer.Sign(r.header(), claimsOf(client)))); p.Kind != "" {
			t.Errorf("the certificate is removed: %+v", p)
		}
		w.application("ci", client, e.Key, must(NewKey("again", r.Certificate)))
		w.unknown(shop, bearer, "the certificate was registered again")
	})
}

func TestAnAssertionIsShownOnceAtMostWhereverItIsShown(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		client := ref.NewGUID()
		k := certify(t, identitytest.EC("client"))
		w.application("ci", client, k.Key)
		twin := must(New(w.o)) // a second process on the same database
		c := asserts(client, k.signer.Sign(k.header(), claimsOf(client)))
		var mu sync.Mutex
		var wg sync.WaitGroup
		proven := 0
		for i := range 8 {
			wg.Go(func() {
				s := w.Store
				if i%2 == 1 {
					s = twin
				}
				if _, err := s.Authenticate(t.Context(), shop, AuthorityPlane, c, here); err == nil {
					mu.Lock()
					proven++
					mu.Unlock()
				} else if fault.Of(err) != fault.Unauthenticated {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if proven != 1 {
			t.Errorf("it was believed %d times", proven)
		}
	})
}

func TestHostileAssertionsProveNothing(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client, victim := ref.NewGUID(), ref.NewGUID()
	k, e, mallory := certify(t, rsaKey()), certify(t, identitytest.EC("client")), certify(t, identitytest.RSA("mallory", jose.RS256))
	old := certify(t, identitytest.EC("old"))
	old.End = time.Now().Add(-time.Second)
	soon := certify(t, identitytest.EC("soon"))
	soon.Start = time.Now().Add(time.Hour)
	w.application("ci", client, k.Key, e.Key, old.Key, soon.Key)
	w.application("victim", victim, certify(t, identitytest.EC("victim")).Key)
	now := float64(time.Now().Unix())
	c := func() map[string]any { return claimsOf(client) }
	signed := func(header, claims any) string { return k.signer.Sign(header, claims) }
	head := k.header()
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate})
	jwk := json.RawMessage(must(mallory.signer.Public().MarshalJSON()))
	good := signed(head, c())
	parts := strings.Split(good, ".")

	for name, text := range map[string]string{
		"no algorithm":                            identitytest.Part(with(head, "alg", "none")) + "." + identitytest.Part(c()) + ".",
		"none, and a signature":                   signed(with(head, "alg", "none"), c()),
		"HS256 of the public key":                 hs256(with(head, "alg", "HS256"), c(), public),
		"RS384":                                   signed(with(head, "alg", jose.RS384), c()),
		"an algorithm that the key has not":       e.signer.Sign(with(e.header(), "alg", "RS256"), c()),
		"ES256 of an RSA key":                     signed(with(head, "alg", "ES256"), c()),
		"another's key under our hash":            mallory.signer.Sign(head, c()),
		"another's certificate":                   mallory.signer.Sign(mallory.header(), c()),
		"an embedded key":                         mallory.signer.Sign(with(head, "jwk", jwk), c()),
		"an embedded certificate":                 mallory.signer.Sign(with(head, "x5c", []string{base64.StdEncoding.EncodeToString(mallory.Certificate)}), c()),
		"an embedded certificate, rightly signed": signed(with(head, "x5c", []string{base64.StdEncoding.EncodeToString(k.Certificate)}), c()),
		"jku":                                   signed(with(head, "jku", "https://mallory.example/keys"), c()),
		"x5u":                                   signed(with(head, "x5u", "https://mallory.example/cert"), c()),
		"crit":                                  signed(with(head, "crit", []string{"exp"}), c()),
		"b64":                                   signed(with(head, "b64", false), c()),
		"a parameter that nobody knows":         signed(with(head, "x", "y"), c()),
		"alg twice":                             signed(json.RawMessage(`{"alg":"none","alg":"RS256","typ":"JWT","x5t":"`+head["x5t"].(string)+`"}`), c()),
		"alg in another case too":               signed(json.RawMessage(`{"ALG":"none","alg":"RS256","typ":"JWT","x5t":"`+head["x5t"].(string)+`"}`), c()),
		"no typ":                                signed(with(head, "typ", nil), c()),
		"another typ":                           signed(with(head, "typ", "at+jwt"), c()),
		"no hash":                               signed(with(head, "x5t", nil), c()),
		"an empty hash":                         signed(with(head, "x5t", ""), c()),
		"a hash of nothing":                     signed(with(head, "x5t", "AAAA"), c()),
		"hashes of two certificates":            signed(with(head, "x5t#S256", base64.StdEncoding.EncodeToString(make([]byte, 32))), c()),
		"a hash that is a list":                 signed(with(head, "x5t", []string{head["x5t"].(string)}), c()),
		"a certificate whose time is over":      old.signer.Sign(old.header(), c()),
		"a certificate whose time has not come": soon.signer.Sign(soon.header(), c()),
		"another audience":                      signed(head, with(c(), "aud", "https://login.microsoftonline.com/x/oauth2/v2.0/token")),
		"no audience":                           signed(head, with(c(), "aud", nil)),
		"two audiences":                         signed(head, with(c(), "aud", []string{tokenURL, "https://elsewhere.example"})),
		"no audience in a list":                 signed(head, with(c(), "aud", []string{})),
		"an audience that goes on":              signed(head, with(c(), "aud", tokenURL+"/")),
		"another subject":                       signed(head, with(c(), "sub", victim)),
		"no subject":                            signed(head, with(c(), "sub", nil)),
		"another issuer":                        signed(head, with(c(), "iss", victim)),
		"no issuer":                             signed(head, with(c(), "iss", nil)),
		"an issuer that nobody knows":           signed(head, with(c(), "iss", "https://issuer.example")),
		"no jti":                                signed(head, with(c(), "jti", nil)),
		"a jti that is a number":                signed(head, with(c(), "jti", 7)),
		"an endless jti":                        signed(head, with(c(), "jti", strings.Repeat("x", 4096))),
		"expired":                               signed(head, with(c(), "exp", now-1)),
		"no expiry":                             signed(head, with(c(), "exp", nil)),
		"an expiry that is text":                signed(head, with(c(), "exp", "tomorrow")),
		"an infinite expiry":                    signed(head, with(c(), "exp", json.RawMessage("1e400"))),
		"a life of a day":                       signed(head, with(c(), "exp", now+86400)),
		"not yet":                               signed(head, with(c(), "nbf", now+300)),
		"issued in the future":                  signed(head, with(c(), "iat", now+300)),
		"issued yesterday":                      signed(head, with(c(), "iat", now-86400)),
		"claims that are a list":                signed(head, []int{1}),
		"claims twice":                          signed(head, json.RawMessage(`{"sub":"`+victim+`","sub":"`+client+`"}`)),
		"changed claims":                        parts[0] + "." + identitytest.Part(with(c(), "sub", victim)) + "." + parts[2],
		"another spelling of the signature":     parts[0] + "." + parts[1] + "." + respelled(parts[2]),
		"no signature":                          parts[0] + "." + parts[1] + ".",
		"four parts":                            good + "." + parts[2],
		"no parts":                              "",
		"much":                                  parts[0] + "." + strings.Repeat("A", 1<<20) + "." + parts[2],
		"many dots":                             strings.Repeat(".", 10000),
		"JSON":                                  `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
		"a header that is much, and rightly signed": signed(with(head, "kid", strings.Repeat("x", 9000)), c()),
	} {
		for _, shown := range []Credentials{asserts(client, text), asserts("", text), {Method: Basic, Name: client, Secret: Secret(text)}} {
			for _, plane := range []Plane{ContentPlane, ControlPlane, AuthorityPlane} {
				if p := w.at(plane, shown); p.Kind != "" {
					t.Errorf("an assertion with %s proves %+v", name, p)
				}
			}
		}
	}
	for name, shown := range map[string]Credentials{
		"another client":               asserts(victim, good),
		"a client that there is not":   asserts(ref.NewGUID(), good),
		"a client that is a path":      asserts("../servicePrincipals/ci", good),
		"no audience that is expected": {Method: ClientAssertion, Name: client, Secret: Secret(good)},
	} {
		if p := w.at(AuthorityPlane, shown); p.Kind != "" {
			t.Errorf("an assertion for %s proves %+v", name, p)
		}
	}
	if p := w.at(AuthorityPlane, asserts(client, good)); p.Client != client {
		t.Errorf("nothing of that has used up the assertion, and it proves %+v", p)
	}
}

// hs256 takes a public key for a shared secret.
func hs256(header, claims any, key []byte) string {
	input := identitytest.Part(header) + "." + identitytest.Part(claims)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// with is a copy of m with one member changed; nil leaves it out.
func with(m map[string]any, name string, value any) map[string]any {
	m = maps.Clone(m)
	if m[name] = value; value == nil {
		delete(m, name)
	}
	return m
}

func TestTokensOfIssuersStandForClients(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, hub, cluster := open(t, d), identitytest.GitHub(t), identitytest.Kubernetes(t)
		const exchange = "api://AzureADTokenExchange"
		w.trust("hub", trusting(hub))
		client, managed := ref.NewGUID(), ref.NewGUID()
		app, identity := w.application("ci", client), w.managedIdentity("web", managed)
		job := FederatedCredentialProperties{Issuer: hub.URL, Subject: "repo:octo/app:ref:refs/heads/main", Audiences: []string{exchange}}
		w.federate(app.ID, ServicePrincipalType, "main", job)
		w.federate(identity.ID, ManagedIdentityType, "pod", FederatedCredentialProperties{Issuer: cluster.URL, Subject: "system:serviceaccount:shop:web", Audiences: []string{"other", exchange}})
		main := hub.Job("octo/app", "refs/heads/main", exchange)
		pod := cluster.Workload("shop", "web", exchange)

		for name, c := range map[string]Credentials{
			"another branch":                   asserts(client, hub.Job("octo/app", "refs/heads/evil", exchange)),
			"another repository":               asserts(client, hub.Job("mallory/app", "refs/heads/main", exchange)),
			"another audience":                 asserts(client, hub.Job("octo/app", "refs/heads/main", audience)),
			"another client":                   asserts(managed, main),
			"no client":                        asserts("", main),
			"an issuer that is not trusted":    asserts(managed, pod),
			"another's key":                    asserts(client, identitytest.RSA("mallory", jose.RS256).Sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "x"}, hub.Claims(map[string]any{"sub": job.Subject, "aud": exchange}))),
			"an end that has come":             asserts(client, hub.Token(map[string]any{"sub": job.Subject, "aud": exchange, "iat": time.Now().Unix() - 900, "nbf": time.Now().Unix() - 900, "exp": time.Now().Unix() - 300})),
			"a subject in another case":        asserts(client, hub.Token(map[string]any{"sub": strings.ToUpper(job.Subject), "aud": exchange})),
			"a subject that only begins so":    asserts(client, hub.Token(map[string]any{"sub": job.Subject + "-2", "aud": exchange})),
			"a token that is for a user":       {Method: Basic, Name: "ci", Secret: Secret(main)},
			"a token in place of a secret":     {Method: ClientSecret, Name: client, Secret: Secret(main)},
			"a token at the control plane":     {Method: Bearer, Secret: Secret(main)},
			"a token that is to be exchanged":  {Method: ExternalToken, Secret: Secret(main)},
			"a name of a client, and of no id": {Method: Basic, Name: ref.NewGUID(), Secret: Secret(main)},
		} {
			for _, plane := range []Plane{ContentPlane, ControlPlane, AuthorityPlane} {
				if p := w.at(plane, c); p.Kind != "" {
					t.Errorf("%s: %+v", name, p)
				}
			}
		}
		w.trust("cluster", trusting(cluster))

		basic := Credentials{Method: Basic, Name: client, Secret: Secret(main)}
		p := w.at(AuthorityPlane, asserts(client, main))
		if p.ID != app.PrincipalID || p.Kind != ServicePrincipal || p.Client != client || p.Authentication.Issuer != hub.URL || p.Until.IsZero() {
			t.Errorf("the job is %+v", p)
		}
		if again, content := w.at(AuthorityPlane, asserts(client, main)), w.known(shop, basic); again.ID != p.ID || content.ID != p.ID || content.Credential != p.Credential {
			t.Errorf("shown again, the job is %+v; at content %+v", again, content)
		}
		m := w.at(AuthorityPlane, asserts(strings.ToUpper(managed), pod))
		if m.ID != identity.PrincipalID || m.Kind != ManagedIdentity || m.Client != managed || m.Account != identity.ID {
			t.Errorf("the pod is %+v", m)
		}

		bearer, podBearer := w.access(shop, p, pullAPI), w.access(shop, m, pullAPI)
		if p := w.known(shop, bearer); p.Kind != ServicePrincipal || p.Authentication.Issuer != hub.URL || p.Client != client {
			t.Errorf("the token proves %+v", p)
		}
		changed := job
		changed.Subject = "repo:octo/app:ref:refs/heads/other"
		w.federate(app.ID, ServicePrincipalType, "main", changed)
		w.unknown(shop, bearer, "the credential has another subject now")
		w.unknown(shop, basic, "the credential has another subject now")
		w.federate(app.ID, ServicePrincipalType, "main", job)
		w.known(shop, bearer)
		w.delete(FederatedCredentialID(app.ID, "main"))
		w.unknown(shop, bearer, "the credential is deleted")
		w.federate(app.ID, ServicePrincipalType, "main", job)
		w.unknown(shop, bearer, "the credential was made again")

		off := trusting(cluster)
		off.Status = "disabled"
		w.known(shop, podBearer)
		w.trust("cluster", off)
		w.unknown(shop, podBearer, "the issuer is disabled")
		w.trust("cluster", trusting(cluster))
		w.known(shop, podBearer)
		w.delete(IssuerID("cluster"))
		w.unknown(shop, podBearer, "the issuer is deleted")
		w.trust("cluster", trusting(cluster))
		w.unknown(shop, podBearer, "the issuer was made again")
		podBearer = w.access(shop, w.at(AuthorityPlane, asserts(managed, pod)))
		w.delete(identity.ID)
		w.unknown(shop, podBearer, "the managed identity is deleted")
	})
}

func TestClientsAreFoundByWhateverTheyAreCalled(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client, managed := ref.NewGUID(), ref.NewGUID()
	app, web := w.application("ci", client), w.managedIdentity("web", managed)
	for name, row := range map[string]struct {
		got  *Client
		err  error
		want *Client
	}{
		"client id":             found(w.Client(t.Context(), strings.ToUpper(client)))(app),
		"client id of managed":  found(w.Client(t.Context(), managed))(web),
		"document":              found(w.ClientAt(t.Context(), web.ID))(web),
		"principal":             found(w.ManagedIdentity(t.Context(), strings.ToUpper(web.PrincipalID)))(web),
		"principal of no host":  found(w.ManagedIdentity(t.Context(), app.PrincipalID))(nil),
		"no id":                 found(w.Client(t.Context(), "ci"))(nil),
		"a path":                found(w.Client(t.Context(), client+"/servicePrincipalPasswords/all"))(nil),
		"an id that is none's":  found(w.Client(t.Context(), ref.NewGUID()))(nil),
		"a document of a user":  found(w.ClientAt(t.Context(), UserID("owner")))(nil),
		"a document of nothing": found(w.ClientAt(t.Context(), ""))(nil),
	} {
		if row.want == nil {
			if fault.Of(row.err) != fault.NotFound {
				t.Errorf("%s: %+v, %v", name, row.got, row.err)
			}
		} else if row.err != nil || row.got.PrincipalID != row.want.PrincipalID || !row.got.Enabled {
			t.Errorf("%s: %+v, %v", name, row.got, row.err)
		}
	}
}

type foundClient = struct {
	got  *Client
	err  error
	want *Client
}

func found(c *Client, err error) func(*Client) foundClient {
	return func(want *Client) foundClient { return foundClient{c, err, want} }
}

func TestCertificatesAreReadAndNothingElse(t *testing.T) {
	now, hour := time.Now(), time.Hour
	r := rsaKey()
	der := certificate(t, r, now.Add(-hour), now.Add(hour))
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"DER": der, "PEM": block, "PEM with text before": append([]byte("Bag Attributes\n    friendlyName: ci\n"), block...)} {
		k, err := NewKey("ci", text)
		sum := sha1.Sum(der)
		if err != nil || !bytes.Equal(k.Certificate, der) || k.Thumbprint != strings.ToUpper(fmt.Sprintf("%x", sum)) || !ref.IsGUID(k.KeyID) || k.End.Sub(k.Start) != 2*hour {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(r.Private))})
	short := must(rsa.GenerateKey(rand.Reader, 1024))
	large := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	of := func(k crypto.Signer) []byte {
		return certificate(t, identitytest.Key{Private: k}, now.Add(-hour), now.Add(hour))
	}
	for name, text := range map[string][]byte{
		"nothing":                         nil,
		"text":                            []byte("certificate"),
		"half":                            der[:len(der)/2],
		"more behind it":                  append(bytes.Clone(der), 0),
		"a private key":                   private,
		"a certificate and a private key": append(bytes.Clone(block), private...),
		"two certificates":                append(bytes.Clone(block), block...),
		"a public key":                    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(r.Private.Public()))}),
		"a short RSA key":                 of(short),
		"P-384":                           of(large),
		"Ed25519":                         of(edwards),
		"expired":                         certificate(t, r, now.Add(-2*hour), now.Add(-hour)),
		"much":                            bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\n"), 10000),
	} {
		k, err := NewKey("ci", text)
		if fault.Of(err) != fault.BadRequest {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
		if strings.Contains(fmt.Sprint(err), string(private[40:80])) {
			t.Errorf("%s: the error says what the key is", name)
		}
	}
}

func FuzzCertificate(f *testing.F) {
	now := time.Now()
	der := certificate(f, identitytest.EC("fuzz"), now.Add(-time.Hour), now.Add(10000*time.Hour))
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := NewKey("x", text)
		if err != nil {
			if fault.Of(err) != fault.BadRequest {
				t.Fatal(err)
			}
			return
		}
		again, err := NewKey("x", k.Certificate)
		if err != nil || again.Thumbprint != k.Thumbprint || !again.End.Equal(k.End) {
			t.Fatalf("what was stored is read as %+v, %v", again, err)
		}
	})
}

func FuzzAssertion(f *testing.F) {
	w := open(f, dbtest.SQLite(f))
	client := ref.NewGUID()
	k := certify(f, identitytest.EC("client"))
	w.application("ci", client, k.Key)
	head := string(must(json.Marshal(k.header())))
	claims := string(must(json.Marshal(claimsOf(client))))
	f.Add(head, claims)
	f.Add(`{"alg":"none"}`, claims)
	f.Add(head, `{"iss":"`+client+`","sub":"`+client+`","aud":["`+tokenURL+`"],"exp":1e10,"jti":"x"}`)
	f.Add(`{"alg":"ES256","typ":"JWT","x5t#S256":"////+===","kid":null}`, `[]`)
	// Whatever is signed: who is believed has said who it is, for whom, and until when.
	f.Fuzz(func(t *testing.T, head, claims string) {
		text := k.signer.Sign(json.RawMessage(head), json.RawMessage(claims))
		c := asserts(client, text)
		c.Resource = rand.Text()
		p, err := w.Authenticate(t.Context(), shop, AuthorityPlane, c, here)
		if err != nil {
			if fault.Of(err) != fault.Unauthenticated {
				t.Fatal(err)
			}
			return
		}
		var said struct {
			Iss, Sub, Jti string
			Aud           any
			Exp           float64
		}
		if err := json.Unmarshal([]byte(claims), &said); err != nil {
			t.Fatal(err)
		}
		if p.Client != client || !strings.EqualFold(said.Iss, client) || !strings.EqualFold(said.Sub, client) || said.Jti == "" ||
			!strings.Contains(fmt.Sprint(said.Aud), tokenURL) || time.Until(time.Unix(int64(said.Exp), 0)) > maxAssertionLife+2*leeway || !strings.Contains(head, "x5t") {
			t.Fatalf("%q %q proves %+v", head, claims, p)
		}
	})
}

func TestARegistryTokenEndsWithTheApplicationThatItsUserSignedInThrough(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	client := ref.NewGUID()
	p := w.known(shop, w.make(UserHolder("alice")))
	app := func(status string) {
		w.document(ServicePrincipalID("app"), ServicePrincipalType, ServicePrincipalProperties{AppID: client, Status: status, RedirectURIs: []string{"https://app.example/"}})
	}
	w.application("app", client)
	app(EnabledStatus)
	p.Client = client
	bearer := w.access(shop, p, pullAPI)
	if b := w.known(shop, bearer); b.Client != client || b.ID != p.ID {
		t.Errorf("the token proves %+v", b)
	}
	app("disabled")
	w.unknown(shop, bearer, "the application is disabled")
	app(EnabledStatus)
	w.known(shop, bearer)
	w.delete(ServicePrincipalID("app"))
	w.unknown(shop, bearer, "the application is deleted")
}

// The client of somebody from elsewhere may be one that only the issuer knows; but
// who signed in here, through one of our applications, goes with it as well.
func TestARegistryTokenOfSomebodyFromElsewhereEndsWithTheApplication(t *testing.T) {
	w, i := open(t, dbtest.SQLite(t)), identitytest.GitHub(t)
	w.trust("hub", trusting(i))
	client := ref.NewGUID()
	w.application("app", client)
	app := func(status string) {
		w.document(ServicePrincipalID("app"), ServicePrincipalType, ServicePrincipalProperties{AppID: client, Status: status, RedirectURIs: []string{back}})
	}
	app(EnabledStatus)
	p := w.known(shop, shows(i.Job("acme/api", "refs/heads/main", audience)))
	own := w.access(shop, p, pullAPI)
	text, err := w.NewCode(t.Context(), p, Authorization{Session: Session{Client: client, Scope: audience + "/.default"}, Redirect: back, Challenge: challenge(pkce)})
	if err != nil {
		t.Fatal(err)
	}
	in := w.in(AuthorityPlane, Credentials{Method: AuthorizationCode, Name: client, Secret: text, Verifier: pkce, Redirect: back})
	tokens, err := w.IssueTokens(t.Context(), shop, in, Want{Issuer: "https://localhost:8443/adfs", Audience: audience})
	if err != nil {
		t.Fatal(err)
	}
	refresh := w.refresh(shop, w.known(shop, shows(string(tokens.Access))))
	bearer := w.access(shop, w.known(shop, refresh), pullAPI)
	w.known(shop, bearer)
	app("disabled")
	for _, c := range []Credentials{shows(string(tokens.Access)), refresh, bearer} {
		w.unknown(shop, c, "the application is disabled")
	}
	w.known(shop, own)
}

func TestLastUseIsWrittenNowAndThen(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		h := UserHolder("alice")
		c := w.make(h)
		if infos := must(w.Passwords(t.Context(), h)); !infos[0].Used.IsZero() {
			t.Errorf("a password that nobody has shown was used: %+v", infos)
		}
		p := w.known(shop, c)
		first := must(w.Passwords(t.Context(), h))[0].Used
		if time.Since(first) > time.Minute {
			t.Errorf("used %v", first)
		}
		w.known(shop, c)
		if again := must(w.Passwords(t.Context(), h))[0].Used; again != first {
			t.Errorf("each request writes: %v, %v", first, again)
		}
		w.used.add(p.Credential, time.Now().Add(-useEvery)) // as if that had been then
		w.known(shop, w.access(shop, p))
		if again := must(w.Passwords(t.Context(), h))[0].Used; !again.After(first) {
			t.Errorf("a token that descends from the password is no use of it: %v, %v", first, again)
		}
		w.unknown(shop, Credentials{Method: Basic, Name: "alice", Secret: c.Secret[1:] + "x"}, "it is wrong")
		if used := must(w.lastUses(t.Context())); len(used) != 1 {
			t.Errorf("used are %v", used)
		}
		if all := must(w.Credentials(t.Context())); len(all) != 1 || all[0].Account != h.id || all[0].Sort != "password" || all[0].Name != PasswordNames[0] || all[0].Used.IsZero() {
			t.Errorf("the credentials are %+v", all)
		}
	})
}
