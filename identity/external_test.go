package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity/identitytest"
	"breakwater/resource"
)

const audience = "https://containerregistry.azure.net"

// trust makes the document of an issuer.
func (w *world) trust(name string, p IssuerProperties) *Issuer {
	w.t.Helper()
	if p.Audiences == nil {
		p.Audiences = []string{audience}
	}
	if p.Status == "" {
		p.Status = EnabledStatus
	}
	if p.PrincipalType == "" {
		p.PrincipalType = PrincipalApplication
	}
	if err := p.Check(); err != nil {
		w.t.Fatal(err)
	}
	text := must(json.Marshal(p))
	w.write(func(tx *db.Tx) error {
		_, err := w.docs.Put(w.t.Context(), tx, resource.Resource{ID: IssuerID(name), Type: IssuerType, Properties: text, System: by}, resource.Any)
		return err
	})
	return must(w.loadIssuers(w.t.Context())).byURL[p.Issuer]
}

func trusting(i *identitytest.Issuer) IssuerProperties {
	return IssuerProperties{Issuer: i.URL, CACertificates: i.CA}
}

// shows is the token as Authenticate gets it from the exchange endpoint.
func shows(token string) Credentials {
	return Credentials{Method: ExternalToken, Secret: Secret(token)}
}

// later is as if d had passed for what the process knows of the issuer's keys.
func (i *Issuer) later(d time.Duration) {
	i.source.mu.Lock()
	defer i.source.mu.Unlock()
	i.source.fresh, i.source.again, i.source.kids = i.source.fresh.Add(-d), i.source.again.Add(-d), i.source.kids.Add(-d)
}

func TestPeopleAndApplicationsOfARealProviderAreProven(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, op := open(t, d), identitytest.NewProvider(t)
		people := w.trust("people", IssuerProperties{Issuer: op.URL, CACertificates: op.CA, Audiences: []string{identitytest.Browser, audience},
			PrincipalType: PrincipalUser, Claims: Claims{Name: "preferred_username", Groups: []string{"groups"}, Keep: []string{"email_verified"}}})
		token, err := op.SignIn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := w.known(shop, shows(token))
		groups := []string{people.Group("groups", "developers"), people.Group("groups", "night shift")}
		slices.Sort(groups)
		a := p.Authentication
		if p.Kind != Federated || p.ID != people.Principal(identitytest.PersonID) || p.Name != identitytest.PersonID && p.Name != identitytest.Person || p.Account != people.ID ||
			p.Client != identitytest.Browser || !slices.Equal(p.Groups, groups) || !slices.Equal(a.AMR, []string{"pwd"}) || a.Issuer != op.URL || time.Since(a.Time).Abs() > 2*time.Minute {
			t.Errorf("%+v", p)
		}
		token, err = op.Machine(t.Context(), audience)
		if err != nil {
			t.Fatal(err)
		}
		if p := w.known(shop, shows(token)); p.ID != people.Principal(identitytest.Application) || p.Groups != nil {
			t.Errorf("%+v", p)
		}
		elsewhere, err := op.Machine(t.Context(), "https://elsewhere.example")
		if err != nil {
			t.Fatal(err)
		}
		w.unknown(shop, shows(elsewhere), "it is for somebody else")

		// The sign-in goes on in the registry's own tokens, and they say the same.
		basic := Credentials{Method: Basic, Name: "whoever", Secret: Secret(token)}
		p = w.known(shop, basic)
		bearer := w.known(shop, w.access(shop, w.known(shop, w.refresh(shop, p)), pullAPI))
		if bearer.ID != p.ID || bearer.Kind != Federated || bearer.Name != p.Name || bearer.Account != p.Account || bearer.Ceiling == nil ||
			!bearer.Authentication.Time.Equal(p.Authentication.Time) || bearer.Authentication.Issuer != op.URL {
			t.Errorf("%+v", bearer)
		}
	})
}

func TestWorkloadsOfKubernetesAndGitHubAreProven(t *testing.T) {
	w, k8s, gh := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t), identitytest.GitHub(t)
	cluster := w.trust("cluster", IssuerProperties{Issuer: k8s.URL, CACertificates: k8s.CA,
		Claims: Claims{Keep: []string{"/kubernetes.io/namespace", "/kubernetes.io/pod/name", "/kubernetes.io/none"}}})
	jobs := w.trust("jobs", IssuerProperties{Issuer: gh.URL, CACertificates: gh.CA, RequiredClaims: map[string]string{"repository_owner": "acme"},
		Claims: Claims{Subject: "repository", Groups: []string{"environment", "ref"}, Keep: []string{"ref", "event_name"}}})

	p := w.known(shop, shows(k8s.Workload("build", "pusher", audience)))
	if kept := p.Authentication.Claims; p.ID != cluster.Principal("system:serviceaccount:build:pusher") || p.Name != "system:serviceaccount:build:pusher" || len(kept) != 2 ||
		!slices.Equal(kept["/kubernetes.io/namespace"], []string{"build"}) || !slices.Equal(kept["/kubernetes.io/pod/name"], []string{"pusher-7d9c"}) {
		t.Errorf("%+v", p)
	}
	p = w.known(shop, shows(gh.Job("acme/api", "refs/heads/main", audience)))
	if p.ID != jobs.Principal("acme/api") || !slices.Equal(p.Groups, []string{jobs.Group("ref", "refs/heads/main")}) || p.Authentication.Claims["event_name"][0] != "push" {
		t.Errorf("%+v", p)
	}
	w.unknown(shop, shows(gh.Job("mallory/api", "refs/heads/main", audience)), "it is the job of another owner")
	if p := w.known(shop, Credentials{Method: Basic, Name: "ci", Secret: Secret(k8s.Workload("build", "pusher", audience))}); p.ID != cluster.Principal("system:serviceaccount:build:pusher") {
		t.Errorf("%+v", p)
	}
	// On the control plane it is a bearer token, unless it is for registries alone; on
	// the content plane it is none.
	token := Credentials{Method: Bearer, Secret: Secret(k8s.Workload("build", "pusher", audience))}
	if p, err := w.Authenticate(t.Context(), shop, ControlPlane, token, here); fault.Of(err) != fault.Unauthenticated {
		t.Error(p, err)
	}
	own := IssuerProperties{Issuer: k8s.URL, CACertificates: k8s.CA, Audiences: []string{audience, "breakwater"}}
	w.trust("cluster", own)
	token.Secret = Secret(k8s.Workload("build", "pusher", "breakwater"))
	if p, err := w.Authenticate(t.Context(), shop, ControlPlane, token, here); err != nil || p.Kind != Federated {
		t.Error(p, err)
	}
	w.known(shop, shows(string(token.Secret)))
	w.unknown(shop, token, "it is no token of the registry")
	// Nobody signs in to the authority with it: this server is no client of the issuer.
	if p, err := w.Authenticate(t.Context(), shop, AuthorityPlane, shows(string(token.Secret)), here); fault.Of(err) != fault.Unauthenticated {
		t.Error(p, err)
	}
}

func TestKeysInTheDocumentNeedNoNetwork(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	key, next := identitytest.EC("k1"), identitytest.EC("k2")
	claims := map[string]any{"iss": "https://kubernetes.default.svc", "aud": audience, "sub": "s", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60}
	sign := func(k identitytest.Key) Credentials {
		return shows(k.Sign(map[string]any{"alg": "ES256", "kid": k.ID}, claims))
	}
	p := IssuerProperties{Issuer: "https://kubernetes.default.svc", JWKS: identitytest.JWKS(key)}
	w.trust("cluster", p)
	w.known(shop, sign(key))
	w.unknown(shop, sign(next), "its key is not in the document")
	bearer := w.access(shop, w.known(shop, sign(key)))
	w.known(shop, bearer)
	p.JWKS = identitytest.JWKS(next)
	w.trust("cluster", p)
	w.unknown(shop, sign(key), "its key has left the document")
	w.unknown(shop, bearer, "it descends from a key that has left the document")
	w.known(shop, sign(next))
}

func TestHostileExternalTokensProveNothing(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	i, other := identitytest.NewIssuer(t, "/realms/acme", identitytest.RSA("r1", jose.RS256), identitytest.EC("e1"), identitytest.RSA("r2", jose.RS256)), identitytest.Kubernetes(t)
	w.trust("acme", IssuerProperties{Issuer: i.URL, CACertificates: i.CA, Audiences: []string{audience, "https://management.azure.com/"},
		RequiredClaims: map[string]string{"tid": "acme", "verified": "true"}, Claims: Claims{Groups: []string{"groups", "/realm_access/roles"}, Keep: []string{"kept"}}})
	w.trust("other", trusting(other))
	r1, e1, key := i.Keys()[0], i.Keys()[1], i.Keys()[2]
	mallory := identitytest.RSA("r2", jose.RS256)
	now := time.Now().Unix()
	head := map[string]any{"alg": "RS256", "kid": "r2", "typ": "JWT"}
	claim := i.Claims(map[string]any{"aud": audience, "sub": "somebody", "tid": "acme", "verified": true})
	with := func(of map[string]any, pairs ...any) map[string]any {
		c := maps.Clone(of)
		for n := 0; n < len(pairs); n += 2 {
			if c[pairs[n].(string)] = pairs[n+1]; pairs[n+1] == nil {
				delete(c, pairs[n].(string))
			}
		}
		return c
	}
	h := func(pairs ...any) string { return key.Sign(with(head, pairs...), claim) }
	c := func(pairs ...any) string { return key.Sign(head, with(claim, pairs...)) }
	raw := func(claims string) string { return key.Sign(head, json.RawMessage(claims)) }
	good := c()
	w.known(shop, shows(good)) // the forge works
	w.known(shop, shows(r1.Sign(with(head, "kid", "r1"), claim)))
	w.known(shop, shows(e1.Sign(with(head, "kid", "e1", "alg", "ES256"), claim)))
	w.known(shop, shows(e1.Sign(map[string]any{"alg": "ES256"}, claim))) // no kid, and one key that fits
	w.known(shop, shows(h("typ", "at+JWT")))
	w.known(shop, shows(c("aud", []string{"x", audience})))
	w.known(shop, shows(c("exp", float64(now)+0.5)))
	body := strings.Split(good, ".")
	mac := func(key []byte) string {
		input := identitytest.Part(with(head, "alg", "HS256")) + "." + body[1]
		m := hmac.New(sha256.New, key)
		m.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	der := must(x509.MarshalPKIXPublicKey(key.Private.Public()))
	jwk := mallory.Public()
	long := strings.Repeat("x", 600)
	many := make([]string, maxGroups+1)
	for n := range many {
		many[n] = fmt.Sprint("group ", n)
	}
	claims := string(must(json.Marshal(claim)))
	for name, token := range map[string]string{
		"algorithm none":                       identitytest.Part(with(head, "alg", "none")) + "." + body[1] + ".",
		"algorithm none with a signature":      identitytest.Part(with(head, "alg", "none")) + "." + body[1] + "." + body[2],
		"algorithm nOnE":                       identitytest.Part(with(head, "alg", "nOnE")) + "." + body[1] + "." + body[2],
		"no algorithm":                         h("alg", nil),
		"an algorithm that is a list":          h("alg", []string{"RS256"}),
		"HS256 with the public key (PEM)":      mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with the public key (DER)":      mac(der),
		"HS256 with the public key (JWK)":      mac(must(json.Marshal(key.Public()))),
		"HS256 with an empty key":              mac(nil),
		"an algorithm that is not allowed":     key.Sign(with(head, "alg", jose.RS512), claim),
		"another algorithm of the key":         key.Sign(with(head, "alg", jose.PS256), claim),
		"ES256 under the kid of an RSA key":    e1.Sign(with(head, "alg", "ES256"), claim),
		"another key under the kid":            mallory.Sign(head, claim),
		"an unknown kid":                       h("kid", "r9"),
		"a kid that is a path":                 h("kid", "../../r2"),
		"a kid that is a number":               h("kid", 2),
		"an empty kid":                         h("kid", ""),
		"no kid where two keys fit":            h("kid", nil),
		"an embedded jwk":                      mallory.Sign(with(head, "jwk", jwk), claim),
		"an embedded jwk and no kid":           mallory.Sign(map[string]any{"alg": "RS256", "jwk": jwk}, claim),
		"an embedded jwk, signed rightly":      h("jwk", key.Public()),
		"jku":                                  h("jku", i.URL+"/keys"),
		"x5u":                                  h("x5u", i.URL+"/cert"),
		"x5c":                                  h("x5c", []string{"MIIB"}),
		"crit":                                 h("crit", []string{"exp"}),
		"an empty crit":                        h("crit", []string{}),
		"b64":                                  h("b64", false),
		"b64 and crit":                         h("b64", false, "crit", []string{"b64"}),
		"zip":                                  h("zip", "DEF"),
		"a nested token":                       h("cty", "JWT"),
		"the type of a logout":                 h("typ", "logout+jwt"),
		"the type of a security event":         h("typ", "secevent+jwt"),
		"the type of a key proof":              h("typ", "dpop+jwt"),
		"a type that is a number":              h("typ", 1),
		"two algorithms":                       key.Sign(json.RawMessage(`{"alg":"none","alg":"RS256","kid":"r2"}`), claim),
		"two kids":                             key.Sign(json.RawMessage(`{"alg":"RS256","kid":"x","kid":"r2"}`), claim),
		"a header in another case":             key.Sign(json.RawMessage(`{"ALG":"RS256","kid":"r2"}`), claim),
		"a header with something behind it":    key.Sign(json.RawMessage(`{"alg":"RS256","kid":"r2"}{}`), claim),
		"a header that is a list":              key.Sign(json.RawMessage(`["alg","RS256"]`), claim),
		"a header that is null":                key.Sign(json.RawMessage(`null`), claim),
		"an empty header":                      key.Sign("", claim),
		"a header that is no base64":           key.Sign("=", claim),
		"changed claims":                       body[0] + "." + identitytest.Part(with(claim, "sub", "admin")) + "." + body[2],
		"no signature":                         body[0] + "." + body[1] + ".",
		"a short signature":                    good[:len(good)-8],
		"a signature of zeros":                 body[0] + "." + body[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 256)),
		"another spelling of the signature":    body[0] + "." + body[1] + "." + respelled(body[2]),
		"a line break":                         body[0] + "." + body[1] + "." + body[2][:8] + "\n" + body[2][8:],
		"padding":                              good + "==",
		"four parts":                           good + "." + body[2],
		"two parts":                            body[0] + "." + body[1],
		"JSON serialization":                   `{"payload":"` + body[1] + `","protected":"` + body[0] + `","signature":"` + body[2] + `"}`,
		"much":                                 body[0] + "." + strings.Repeat("A", 1<<20) + "." + body[2],
		"many dots":                            strings.Repeat(".", 10000),
		"deep claims":                          raw(strings.Repeat("[", 8000)),
		"another issuer":                       c("iss", "https://mallory.example"),
		"the iss of another issuer":            c("iss", other.URL),
		"the iss with a slash more":            c("iss", i.URL+"/"),
		"the iss in upper case":                c("iss", strings.ToUpper(i.URL)),
		"the iss of another realm":             c("iss", strings.TrimSuffix(i.URL, "acme")+"evil"),
		"no iss":                               c("iss", nil),
		"an iss that is a list":                c("iss", []string{i.URL}),
		"two issuers":                          raw(`{"iss":"https://mallory.example",` + claims[1:]),
		"two subjects":                         raw(`{"sub":"admin",` + claims[1:]),
		"two audiences, one after the other":   raw(`{"aud":"x",` + claims[1:]),
		"the iss in another case alone":        raw(strings.Replace(claims, `"iss"`, `"ISS"`, 1)),
		"claims with something behind them":    raw(claims + `{}`),
		"claims that are no JSON":              key.Sign(head, "e30x"),
		"claims that are a list":               raw(`[1]`),
		"claims that are null":                 raw(`null`),
		"claims that are not UTF-8":            raw(strings.Replace(claims, "somebody", "some\xffbody", 1)),
		"another audience":                     c("aud", "https://elsewhere.example"),
		"an audience that begins so":           c("aud", audience+".evil.example"),
		"an audience with a slash more":        c("aud", audience+"/"),
		"no audience":                          c("aud", nil),
		"an empty list of audiences":           c("aud", []string{}),
		"an audience that is an object":        c("aud", map[string]any{audience: 1}),
		"an audience that is a list of a list": c("aud", [][]string{{audience}}),
		"many audiences":                       c("aud", append(slices.Clone(many), audience)),
		"the audience of the control plane":    c("aud", "https://management.azure.com/"),
		"another tenant":                       c("tid", "mallory"),
		"no tenant":                            c("tid", nil),
		"a list of tenants":                    c("tid", []string{"acme"}),
		"a claim that is not so":               c("verified", false),
		"a claim that is null":                 c("verified", nil),
		"expired":                              c("iat", now-600, "nbf", now-600, "exp", now-61),
		"no expiry":                            c("exp", nil),
		"an expiry that is text":               c("exp", fmt.Sprint(now+600)),
		"an expiry that is null":               raw(strings.Replace(claims, fmt.Sprintf(`"exp":%d`, claim["exp"]), `"exp":null`, 1)),
		"an expiry without bounds":             raw(strings.Replace(claims, fmt.Sprintf(`"exp":%d`, claim["exp"]), `"exp":1e400`, 1)),
		"an expiry before time":                c("exp", -1),
		"a life of a year":                     c("exp", now+365*86400),
		"a life that has no beginning":         c("iat", nil, "nbf", nil),
		"not yet valid":                        c("nbf", now+90),
		"issued in the future":                 c("iat", now+90),
		"a time of issue that is text":         c("iat", "now"),
		"a sign-in in the future":              c("auth_time", now+90),
		"a sign-in at no time":                 c("auth_time", "yesterday"),
		"no subject":                           c("sub", nil),
		"an empty subject":                     c("sub", ""),
		"a subject that is a number":           c("sub", 7),
		"a subject that is a list":             c("sub", []string{"somebody"}),
		"a subject that is an object":          c("sub", map[string]any{"a": 1}),
		"a subject with a line break":          c("sub", "some\nbody"),
		"a subject with half a character":      raw(strings.Replace(claims, "somebody", `some\ud800body`, 1)),
		"a long subject":                       c("sub", long),
		"a key that it is bound to":            c("cnf", map[string]any{"jkt": "x"}),
		"the events of a logout":               c("events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}),
		"the type of a refresh token":          c("typ", "Refresh"),
		"groups that are elsewhere":            c("_claim_names", map[string]any{"groups": "src1"}),
		"groups that are too many for it":      c("hasgroups", true),
		"too many groups":                      c("groups", many),
		"groups that are numbers":              c("groups", []int{1}),
		"groups that are an object":            c("groups", map[string]any{"a": "b"}),
		"roles that are half a character":      raw(`{"realm_access":{"roles":["\udc00"]},` + claims[1:]),
		"an acr that is a number":              c("acr", 1),
		"an amr that is an object":             c("amr", map[string]any{}),
		"a client that is a list":              c("azp", []string{"x"}),
		"more to keep than fits into a token":  c("kept", slices.Repeat([]string{long[:100]}, 30)),
	} {
		w.unknown(shop, shows(token), "the token has "+name)
		w.unknown(shop, Credentials{Method: Basic, Name: "for " + name, Secret: Secret(token)}, "the token that stands for a password has "+name)
		if p, err := w.Authenticate(t.Context(), shop, ControlPlane, Credentials{Method: Bearer, Secret: Secret(token)}, here); err == nil && name != "the audience of the control plane" {
			t.Errorf("on the control plane the token has %s, and the answer was %+v", name, p)
		}
	}
	arm := shop
	arm.ARMTokens = true
	w.known(arm, shows(c("aud", "https://management.azure.com/")))
	w.known(shop, shows(c("aud", []string{"https://management.azure.com/", audience})))
}

func TestKeysRollOver(t *testing.T) {
	w, op := open(t, dbtest.SQLite(t)), identitytest.NewProvider(t)
	i := w.trust("op", IssuerProperties{Issuer: op.URL, CACertificates: op.CA})
	machine := func() Credentials {
		token, err := op.Machine(t.Context(), audience)
		if err != nil {
			t.Fatal(err)
		}
		return shows(token)
	}
	old := machine()
	w.known(shop, old)
	op.Roll()
	next := machine()
	w.known(shop, next) // its kid was unknown
	w.known(shop, old)  // its key is still published
	op.Swap()
	swapped := machine()
	w.unknown(shop, swapped, "the issuer was asked for an unknown key less than 30 seconds ago")
	w.known(shop, next)
	i.later(askUnknown)
	w.known(shop, swapped)
	w.unknown(shop, next, "its key was removed, although it was proven before")
	w.unknown(shop, old, "its key was removed, although it was proven before")
}

func TestRemovedKeyProvesNothingFromTheNextRefresh(t *testing.T) {
	w, is := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t)
	i := w.trust("is", trusting(is))
	token := shows(is.Workload("build", "pusher", audience))
	w.known(shop, token)
	is.Publish(identitytest.EC("k8s-1")) // the same kid, another key
	w.known(shop, token)
	i.later(10 * time.Minute)
	w.unknown(shop, token, "its key was swapped, although it was proven before")
	w.known(shop, shows(is.Workload("build", "pusher", audience)))
	token = shows(is.Workload("build", "pusher", audience))
	is.Publish()
	i.later(10 * time.Minute)
	w.unknown(shop, token, "the issuer has no keys any more")
}

func TestIssuerThatIsDownRefusesItsNewTokensAndNothingElse(t *testing.T) {
	w, down, up := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t), identitytest.Kubernetes(t)
	i := w.trust("down", trusting(down))
	w.trust("up", trusting(up))
	password := w.make(TokenHolder(shop.ID, "ci"))
	down.Break()
	seen := shows(down.Workload("build", "seen", audience))
	refusedNow := func(c Credentials) {
		t.Helper()
		_, err := w.Authenticate(t.Context(), shop, ContentPlane, c, here)
		if f := fault.From(err); f.Code != fault.Unavailable || f.Retry <= 0 || f.Retry > askAgain || strings.Contains(f.Message, down.URL) {
			t.Errorf("%v", err)
		}
	}
	refusedNow(seen)
	down.Answer(nil)
	refusedNow(seen) // it was asked a moment ago
	i.later(askAgain)
	w.known(shop, seen)
	bearer := w.access(shop, w.known(shop, seen), pullAPI)

	down.Break()
	fresh := shows(down.Workload("build", "fresh", audience))
	w.known(shop, fresh) // the keys count as long as the issuer said
	i.later(10 * time.Minute)
	unseen := shows(down.Workload("build", "unseen", audience))
	refusedNow(unseen)
	w.known(shop, seen) // what was proven stays proven a while
	w.known(shop, bearer)
	w.known(shop, password)
	w.known(shop, shows(up.Workload("build", "pusher", audience)))
	i.later(keysGrace)
	refusedNow(seen)
	w.known(shop, bearer)
	down.Answer(nil)
	i.later(askAgain)
	w.known(shop, unseen)
	w.known(shop, seen)
}

func TestSlowIssuerKeepsOnlyItsOwnWaiting(t *testing.T) {
	w, slow, quick := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t), identitytest.Kubernetes(t)
	w.trust("slow", trusting(slow))
	w.trust("quick", trusting(quick))
	hold, arrived := make(chan struct{}), make(chan struct{}, 100)
	slow.Answer(func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-hold
		return false
	})
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			c := shows(slow.Workload("build", fmt.Sprint("job", n), audience))
			if _, err := w.Authenticate(t.Context(), shop, ContentPlane, c, here); err != nil {
				t.Error(err)
			}
		})
	}
	<-arrived
	start := time.Now()
	w.known(shop, shows(quick.Workload("build", "pusher", audience)))
	w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.Authenticate(impatient, shop, ContentPlane, shows(slow.Workload("build", "x", audience)), here); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("others waited %v", took)
	}
	close(hold)
	wg.Wait()
	if n := slow.Asked(); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
}

func TestUnknownKeysAreAskedForSeldom(t *testing.T) {
	w, is := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t)
	i := w.trust("is", trusting(is))
	mallory := identitytest.EC("x")
	for n := range 50 {
		mallory.ID = fmt.Sprint("kid ", n)
		w.unknown(shop, shows(mallory.Sign(map[string]any{"alg": "ES256", "kid": mallory.ID}, is.Claims(map[string]any{"aud": audience, "sub": "s"}))), "its key is nobody's")
	}
	if n := is.Asked(); n > 2 {
		t.Errorf("asked %d times", n)
	}
	before := is.Asked()
	i.later(askUnknown)
	w.unknown(shop, shows(mallory.Sign(map[string]any{"alg": "ES256", "kid": "y"}, is.Claims(map[string]any{"aud": audience, "sub": "s"}))), "its key is nobody's")
	if n := is.Asked(); n != before+1 {
		t.Errorf("asked %d times more", n-before)
	}
}

func TestClocksMayDifferByAMinute(t *testing.T) {
	w, is := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t)
	w.trust("is", trusting(is))
	for _, row := range []struct {
		iat, nbf, exp time.Duration
		ok            bool
	}{
		{-time.Hour, -time.Hour, 50 * time.Second, true},
		{-time.Hour, -time.Hour, -50 * time.Second, true},
		{-time.Hour, -time.Hour, -70 * time.Second, false},
		{50 * time.Second, 50 * time.Second, time.Hour, true},
		{70 * time.Second, 0, time.Hour, false},
		{0, 70 * time.Second, time.Hour, false},
		{0, 0, externalLife, true},
		{0, 0, externalLife + time.Minute, false},
	} {
		at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
		c := shows(is.Token(map[string]any{"aud": audience, "sub": "s", "iat": at(row.iat), "nbf": at(row.nbf), "exp": at(row.exp)}))
		if _, err := w.Authenticate(t.Context(), shop, ContentPlane, c, here); (err == nil) != row.ok {
			t.Errorf("%+v: %v", row, err)
		}
	}
	// A token that ends is refused also where it was proven before.
	c := shows(is.Token(map[string]any{"aud": audience, "sub": "s"}))
	w.known(shop, c)
	v, ok := w.outside.proven.get(w.shown("external", string(c.Secret)))
	if !ok {
		t.Fatal("what was proven is forgotten")
	}
	v.end = time.Now().Add(-externalSkew + time.Minute)
	w.known(shop, c)
	v.end = time.Now().Add(-externalSkew) // as if that had been then
	w.unknown(shop, c, "it has ended meanwhile")
}

func TestWhatAnIssuerVouchedForEndsWithIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, is := open(t, d), identitytest.Kubernetes(t)
		p := trusting(is)
		first := w.trust("cluster", p)
		token := shows(is.Workload("build", "pusher", audience))
		was := w.known(shop, token)
		bearer, refresh := w.access(shop, was, pullAPI), w.refresh(shop, was)
		still := func() { t.Helper(); w.known(shop, token); w.known(shop, bearer); w.known(shop, refresh) }
		ended := func(why string) {
			t.Helper()
			w.unknown(shop, bearer, why)
			w.unknown(shop, refresh, why)
		}
		still()
		w.trust("cluster", p)
		still() // it was written again, and is the same
		p.Claims.Keep = []string{"iss"}
		w.trust("cluster", p)
		still()
		p.Status = "disabled"
		w.trust("cluster", p)
		w.unknown(shop, token, "its issuer is disabled")
		ended("its issuer is disabled")
		p.Status = EnabledStatus
		p.RequiredClaims = map[string]string{"/kubernetes.io/namespace": "release"}
		w.trust("cluster", p)
		w.unknown(shop, token, "its issuer is trusted for another namespace alone")
		ended("its issuer is trusted for less")
		p.RequiredClaims = nil
		w.trust("cluster", p)
		still()

		w.delete(first.ID)
		w.unknown(shop, token, "its issuer is gone")
		ended("its issuer is gone")
		w.trust("cluster", p)
		ended("its issuer was made again")
		if now := w.known(shop, token); now.ID == was.ID {
			t.Error("an issuer that was made again vouches for the same principal")
		}
	})
}

func TestIssuersAreAskedWithCare(t *testing.T) {
	w, is, other := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t), identitytest.Kubernetes(t)
	keys := identitytest.JWKS(is.Keys()...)
	known := func(w http.ResponseWriter, jwks string) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, is.URL, jwks)
	}
	asked := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/keys") }
	for why, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		},
		"another name": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, is.URL+"/", is.URL+"/keys")
		},
		"two names": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"issuer":"x","issuer":%q,"jwks_uri":%q}`, is.URL, is.URL+"/keys")
		},
		"no keys": func(w http.ResponseWriter, r *http.Request) { known(w, "") },
		"plain HTTP": func(w http.ResponseWriter, r *http.Request) {
			known(w, "http://"+strings.TrimPrefix(is.URL, "https://")+"/keys")
		},
		"a file":     func(w http.ResponseWriter, r *http.Request) { known(w, "file:///etc/passwd") },
		"metadata":   func(w http.ResponseWriter, r *http.Request) { known(w, "https://169.254.169.254/keys") },
		"another CA": func(w http.ResponseWriter, r *http.Request) { known(w, other.URL+"/keys") },
		"a user's name": func(w http.ResponseWriter, r *http.Request) {
			known(w, strings.Replace(is.URL, "https://", "https://a:b@", 1)+"/keys")
		},
		"an error": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"no JSON":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") },
		"no end": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"issuer":"`+strings.Repeat("x", askBytes))
		},
		"no set of keys": func(w http.ResponseWriter, r *http.Request) {
			if asked(r) {
				fmt.Fprint(w, `{}`)
			} else {
				known(w, is.URL+"/keys")
			}
		},
		"a secret key": func(w http.ResponseWriter, r *http.Request) {
			if asked(r) {
				fmt.Fprintf(w, `{"keys":[{"kty":"oct","kid":"k8s-1","k":"AAAA","alg":"ES256"}]}`)
			} else {
				known(w, is.URL+"/keys")
			}
		},
		"many keys": func(w http.ResponseWriter, r *http.Request) {
			if asked(r) {
				one := string(keys[len(`{"keys":[`) : len(keys)-2])
				fmt.Fprint(w, `{"keys":[`+one+strings.Repeat(","+one, maxKeys)+`]}`)
			} else {
				known(w, is.URL+"/keys")
			}
		},
		"two keys of one name": func(w http.ResponseWriter, r *http.Request) {
			if asked(r) {
				w.Write(identitytest.JWKS(is.Keys()[0], identitytest.EC("k8s-1")))
			} else {
				known(w, is.URL+"/keys")
			}
		},
	} {
		is.Answer(func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true })
		i := w.trust("is", trusting(is))
		_, err := w.Authenticate(t.Context(), shop, ContentPlane, shows(is.Workload("build", "pusher", audience)), here)
		if code := fault.Of(err); code != fault.Unavailable && code != fault.Unauthenticated {
			t.Errorf("the issuer answers with %s: %v", why, err)
		}
		w.delete(i.ID)
	}
	if other.Asked() != 0 {
		t.Error("somebody else was asked")
	}
	is.Answer(nil)
	w.trust("is", trusting(is))
	w.known(shop, shows(is.Workload("build", "pusher", audience)))
	wrong := trusting(other)
	wrong.CACertificates = is.CA
	w.trust("wrong", wrong)
	if _, err := w.Authenticate(t.Context(), shop, ContentPlane, shows(other.Workload("build", "pusher", audience)), here); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
}

// Without a way out no issuer is asked, and nobody is let in for want of an answer.
func TestWithoutAWayOutNoIssuerIsAsked(t *testing.T) {
	w, is := open(t, dbtest.SQLite(t)), identitytest.Kubernetes(t)
	w.o.Egress = nil
	w.trust("is", trusting(is))
	if _, err := w.Authenticate(t.Context(), shop, ContentPlane, shows(is.Workload("build", "pusher", audience)), here); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	if is.Asked() != 0 {
		t.Error("it was asked")
	}
}

func TestAnswersCountAsLongAsTheySay(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"": keysUsual, "public": keysUsual, "max-age=120": 2 * time.Minute, "public, MAX-AGE=120, must-revalidate": 2 * time.Minute, `max-age="120"`: 2 * time.Minute,
		"max-age=0": keysLeast, "max-age=1": keysLeast, "no-store": keysLeast, "no-cache, max-age=300": keysLeast, "max-age=86400": keysMost, "max-age=99999999999999999999": keysUsual,
		"max-age=-1": keysUsual, "max-age": keysUsual, "s-maxage=5": keysUsual,
	} {
		if got := life(http.Header{"Cache-Control": {line}}); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestDocumentsOfIssuersSayOneThing(t *testing.T) {
	ca := identitytest.Kubernetes(t).CA
	key, again := identitytest.EC("a"), identitytest.EC("a")
	private := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Private, KeyID: "a"}}}))
	good := func() IssuerProperties {
		return IssuerProperties{Issuer: "https://issuer.example/realms/acme", Audiences: []string{audience}, Status: EnabledStatus, PrincipalType: PrincipalUser}
	}
	for name, change := range map[string]func(*IssuerProperties){
		"nothing":               func(p *IssuerProperties) {},
		"a port":                func(p *IssuerProperties) { p.Issuer = "https://issuer.example:8443/" },
		"algorithms":            func(p *IssuerProperties) { p.Algorithms = []string{"ES512", "EdDSA"} },
		"a CA":                  func(p *IssuerProperties) { p.CACertificates = ca + "\n" + ca },
		"keys":                  func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(key, identitytest.EC("b")) },
		"keys of Ed25519":       func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(ed25519Key("a"), ed25519Key("b")) },
		"one key without a kid": func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(identitytest.EC("")) },
		"claims": func(p *IssuerProperties) {
			p.Claims = Claims{Subject: "oid", Name: "upn", Groups: []string{"groups", "/a/b"}, Keep: []string{"x"}}
			p.RequiredClaims = map[string]string{"tid": "some tenant"}
		},
		"sign-in": func(p *IssuerProperties) { p.SignIn = &SignIn{ClientID: "registry", ClientSecret: "s"} },
	} {
		p := good()
		if change(&p); p.Check() != nil {
			t.Errorf("%s: %v", name, p.Check())
		}
	}
	for name, change := range map[string]func(*IssuerProperties){
		"no URL":                   func(p *IssuerProperties) { p.Issuer = "" },
		"plain HTTP":               func(p *IssuerProperties) { p.Issuer = "http://issuer.example" },
		"no host":                  func(p *IssuerProperties) { p.Issuer = "https:///x" },
		"a query":                  func(p *IssuerProperties) { p.Issuer += "?" },
		"a fragment":               func(p *IssuerProperties) { p.Issuer += "#" },
		"a password":               func(p *IssuerProperties) { p.Issuer = "https://a:b@issuer.example" },
		"a space":                  func(p *IssuerProperties) { p.Issuer += " " },
		"a long URL":               func(p *IssuerProperties) { p.Issuer += strings.Repeat("x", 600) },
		"no audience":              func(p *IssuerProperties) { p.Audiences = nil },
		"an empty audience":        func(p *IssuerProperties) { p.Audiences = []string{""} },
		"an audience twice":        func(p *IssuerProperties) { p.Audiences = []string{"a", "a"} },
		"algorithm none":           func(p *IssuerProperties) { p.Algorithms = []string{"none"} },
		"algorithm HS256":          func(p *IssuerProperties) { p.Algorithms = []string{"RS256", "HS256"} },
		"an empty algorithm":       func(p *IssuerProperties) { p.Algorithms = []string{""} },
		"an algorithm twice":       func(p *IssuerProperties) { p.Algorithms = []string{"RS256", "RS256"} },
		"a CA that is none":        func(p *IssuerProperties) { p.CACertificates = "x" },
		"a CA with text behind it": func(p *IssuerProperties) { p.CACertificates = ca + "x" },
		"a private key for a CA": func(p *IssuerProperties) {
			p.CACertificates = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
		},
		"private keys":               func(p *IssuerProperties) { p.JWKS = private },
		"no keys":                    func(p *IssuerProperties) { p.JWKS = json.RawMessage(`{"keys":[]}`) },
		"a null for keys":            func(p *IssuerProperties) { p.JWKS = json.RawMessage(`null`) },
		"secret keys":                func(p *IssuerProperties) { p.JWKS = json.RawMessage(`{"keys":[{"kty":"oct","k":"AAAA"}]}`) },
		"two keys of one name":       func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(key, again) },
		"two Ed25519 of one name":    func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(ed25519Key("a"), ed25519Key("a")) },
		"two keys without names":     func(p *IssuerProperties) { p.JWKS = identitytest.JWKS(identitytest.EC(""), identitytest.EC("")) },
		"another status":             func(p *IssuerProperties) { p.Status = "on" },
		"another kind of principal":  func(p *IssuerProperties) { p.PrincipalType = "Group" },
		"a group that is the person": func(p *IssuerProperties) { p.Claims.Groups = []string{"sub"} },
		"a claim without a name":     func(p *IssuerProperties) { p.Claims.Keep = []string{""} },
		"a requirement of nothing":   func(p *IssuerProperties) { p.RequiredClaims = map[string]string{"tid": ""} },
		"keys and sign-in":           func(p *IssuerProperties) { p.JWKS, p.SignIn = identitytest.JWKS(key), &SignIn{ClientID: "x"} },
		"sign-in of nobody":          func(p *IssuerProperties) { p.SignIn = &SignIn{} },
	} {
		p := good()
		if change(&p); fault.Of(p.Check()) != fault.BadRequest {
			t.Errorf("an issuer with %s: %v", name, p.Check())
		}
	}
}

func ed25519Key(kid string) identitytest.Key {
	_, private, err := ed25519.GenerateKey(nil)
	return identitytest.Key{Private: must(private, err), ID: kid, Alg: jose.EdDSA}
}

// Whatever is shown, what comes out is the one token that the issuer signed, or a
// refusal.
func FuzzExternalToken(f *testing.F) {
	w := open(f, dbtest.SQLite(f))
	key := identitytest.EC("k1")
	w.trust("cluster", IssuerProperties{Issuer: "https://kubernetes.default.svc", JWKS: identitytest.JWKS(key), Claims: Claims{Groups: []string{"groups", "/a/b"}, Keep: []string{"k"}}})
	now := time.Now().Unix()
	header, claims := `{"alg":"ES256","kid":"k1"}`, fmt.Sprintf(`{"iss":"https://kubernetes.default.svc","aud":%q,"sub":"s","iat":%d,"exp":%d}`, audience, now, now+3600)
	f.Add(header, claims, true)
	f.Add(header, claims, false)
	f.Add(`{"alg":"none"}`, claims, false)
	f.Add(`{"alg":"ES256","jwk":{}}`, `{"iss":1,"iss":2}`, true)
	f.Add(header, strings.Replace(claims, "{", `{"a":{"b":["x"]},"groups":"g","k":[1,true,null,{}],`, 1), true)
	f.Fuzz(func(t *testing.T, header, claims string, signed bool) {
		token := key.Sign(json.RawMessage(header), json.RawMessage(claims))
		if !signed {
			token = token[:strings.LastIndexByte(token, '.')+1] + "AAAA"
		}
		p, err := w.Authenticate(context.Background(), shop, ContentPlane, shows(token), here)
		if err != nil {
			if fault.Of(err) != fault.Unauthenticated || p.Kind != "" {
				t.Fatalf("%+v %v", p, err)
			}
			return
		}
		var c struct {
			Subject string `json:"sub"`
			Issuer  string `json:"iss"`
		}
		if !signed || json.Unmarshal([]byte(claims), &c) != nil || p.Kind != Federated || c.Issuer != "https://kubernetes.default.svc" || p.Name != c.Subject ||
			p.ID != must(w.loadIssuers(context.Background())).byURL[c.Issuer].Principal(c.Subject) {
			t.Fatalf("%s proves %+v", claims, p)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(identitytest.JWKS(identitytest.EC("a"), identitytest.RSA("b", jose.RS256)))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"EC"},null,1]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parseKeys(text, false)
		if err != nil {
			return
		}
		for i := range set.keys {
			if !set.keys[i].IsPublic() || usable(&set.keys[i]) != nil {
				t.Fatalf("%s: %+v", text, set.keys[i])
			}
		}
	})
}

// BenchmarkExternal is a token that was shown before.
func BenchmarkExternal(b *testing.B) {
	w, is := open(b, dbtest.SQLite(b)), identitytest.Kubernetes(b)
	w.trust("is", trusting(is))
	c := shows(is.Workload("build", "pusher", audience))
	b.ReportAllocs()
	for b.Loop() {
		w.known(shop, c)
	}
}
