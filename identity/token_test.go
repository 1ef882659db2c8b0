package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/ledger"
)

var pullAPI = Access{Type: "repository", Name: "team/api", Actions: []string{"pull"}}

func TestTokensProveTheirPrincipal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for _, h := range []Holder{TokenHolder(shop.ID, "ci"), UserHolder("owner"), AdminHolder(shop.ID)} {
			shown := w.known(shop, w.make(h))
			refresh := w.refresh(shop, shown)
			p := w.known(shop, refresh)
			if p.ID != shown.ID || p.Ceiling != nil || p.Until.IsZero() {
				t.Errorf("a refresh token proves %+v", p)
			}
			bearer := w.access(shop, p, pullAPI)
			b := w.known(shop, bearer)
			if b.ID != shown.ID || b.Kind != shown.Kind || b.Account != shown.Account || b.Ceiling == nil || len(b.Ceiling.Access) != 1 || b.Ceiling.Access[0].Name != "team/api" {
				t.Errorf("an access token proves %+v", b)
			}
			if b.Until.After(p.Until) {
				t.Errorf("an access token outlives the refresh token that it was given for")
			}
			if _, _, err := w.IssueAccess(t.Context(), shop, b, nil); fault.Of(err) != fault.Denied {
				t.Errorf("a bearer got a token: %v", err)
			}
			if _, _, err := w.IssueRefresh(t.Context(), shop, b); fault.Of(err) != fault.Denied {
				t.Errorf("a bearer got a refresh token: %v", err)
			}
			w.unknown(shop, Credentials{Method: Bearer, Secret: refresh.Secret}, "a refresh token is no access token")
			w.unknown(shop, Credentials{Method: Basic, Name: RefreshUser, Secret: bearer.Secret}, "an access token is no refresh token")
		}
		anyone := w.known(shop, w.access(shop, Principal{Kind: Anonymous}, pullAPI))
		if anyone.Kind != Anonymous || anyone.ID != "" || !anyone.Proven() {
			t.Errorf("an anonymous token proves %+v", anyone)
		}
		for _, p := range []Principal{{}, {Kind: Anonymous}, {Kind: Server, ID: "server"}, {Kind: User, ID: "u1"}} {
			if _, _, err := w.IssueRefresh(t.Context(), shop, p); fault.Of(err) != fault.Denied {
				t.Errorf("%+v got a refresh token: %v", p, err)
			}
		}
	})
}

func TestTokensAreAsAzuresClientsReadThem(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	p := w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
	for _, row := range []struct {
		text  Secret
		life  time.Duration
		grant string
	}{{w.access(shop, p, pullAPI).Secret, AccessLife, "access_token"}, {w.refresh(shop, p).Secret, RefreshLife, "refresh_token"}} {
		parts := strings.Split(string(row.text), ".")
		if len(parts) != 3 || strings.ContainsAny(parts[1], "-_") {
			t.Fatalf("%s", string(row.text))
		}
		payload, err := base64.RawStdEncoding.DecodeString(parts[1]) // the wrong alphabet, as the Go SDK has it
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]any
		if err := json.Unmarshal(payload, &c); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{"iss": "Azure Container Registry", "aud": "localhost:8443", "version": "1.0", "grant_type": row.grant, "sub": "ci", "tenant": RefreshUser} {
			if c[name] != want {
				t.Errorf("%s is %v", name, c[name])
			}
		}
		exp, iat, nbf := c["exp"].(float64), c["iat"].(float64), c["nbf"].(float64)
		if time.Duration(exp-iat)*time.Second != row.life || nbf != iat || c["jti"] == "" {
			t.Errorf("lives from %v to %v", iat, exp)
		}
	}
	odd := shop
	odd.Service = "what?:8443/~\u00e9\U0001f433"
	text, _, err := w.IssueAccess(t.Context(), odd, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	var read struct{ Aud string }
	if payload, err := base64.RawStdEncoding.DecodeString(strings.Split(text, ".")[1]); err != nil {
		t.Errorf("the Go SDK cannot read %s: %v", text, err)
	} else if err := json.Unmarshal(payload, &read); err != nil || read.Aud != odd.Service {
		t.Errorf("the audience %q became %q, %v", odd.Service, read.Aud, err)
	}
}

// forge builds a token from any header and claims, signed by sign.
func forge(header, claims any, sign func(input []byte) []byte) Credentials {
	part := func(v any) string {
		if raw, ok := v.(string); ok {
			return raw
		}
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	input := part(header) + "." + part(claims)
	return Credentials{Method: Bearer, Secret: Secret(input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input))))}
}

func es256(k *ecdsa.PrivateKey) func([]byte) []byte {
	return func(input []byte) []byte {
		sum := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			panic(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	}
}

func TestForgedTokensProveNothing(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	good := w.access(shop, w.known(shop, w.make(TokenHolder(shop.ID, "ci"))), pullAPI)
	parts := strings.Split(string(good.Secret), ".")
	var head, claim map[string]any
	for i, v := range []*map[string]any{&head, &claim} {
		text, _ := base64.RawURLEncoding.DecodeString(parts[i])
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := w.ring(t.Context(), registryUse)
	if err != nil {
		t.Fatal(err)
	}
	private, err := w.open(t.Context(), ring.newest)
	if err != nil {
		t.Fatal(err)
	}
	ours := private.(*ecdsa.PrivateKey)
	with := func(of map[string]any, name string, value any) map[string]any {
		c := maps.Clone(of)
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	w.known(shop, forge(parts[0], claim, es256(ours))) // the forge works

	mallory, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	jwk := jose.JSONWebKey{Key: mallory.Public(), KeyID: head["kid"].(string), Algorithm: "ES256"}
	public, _ := x509.MarshalPKIXPublicKey(ring.newest.Public.Key)
	point, _ := ring.newest.Public.Key.(*ecdsa.PublicKey).Bytes()
	hs := func(key []byte) func([]byte) []byte {
		return func(input []byte) []byte { m := hmac.New(sha256.New, key); m.Write(input); return m.Sum(nil) }
	}
	nothing := func([]byte) []byte { return nil }
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	rs := func(input []byte) []byte {
		s, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: rsaKey}, nil)
		o, _ := s.Sign(input)
		return o.Signatures[0].Signature
	}
	now := time.Now().Unix()
	hostile := map[string]Credentials{
		"algorithm none":                     forge(with(head, "alg", "none"), claim, nothing),
		"algorithm None":                     forge(with(head, "alg", "None"), claim, nothing),
		"no algorithm":                       forge(with(head, "alg", nil), claim, es256(ours)),
		"algorithm none under our header":    forge(parts[0], claim, nothing),
		"HS256 with the public key (DER)":    forge(with(head, "alg", "HS256"), claim, hs(public)),
		"HS256 with the public key (point)":  forge(with(head, "alg", "HS256"), claim, hs(point)),
		"HS256 with an empty key":            forge(with(head, "alg", "HS256"), claim, hs(nil)),
		"HS256 under our header":             forge(parts[0], claim, hs(public)),
		"RS256":                              forge(with(head, "alg", "RS256"), claim, rs),
		"ES384":                              forge(with(head, "alg", "ES384"), claim, es256(ours)),
		"another key under our kid":          forge(parts[0], claim, es256(mallory)),
		"another spelling of the payload":    {Method: Bearer, Secret: Secret(parts[0] + "." + respelled(parts[1]) + "." + parts[2])},
		"another spelling of the signature":  {Method: Bearer, Secret: Secret(parts[0] + "." + parts[1] + "." + respelled(parts[2]))},
		"an unknown kid":                     forge(with(head, "kid", "x"), claim, es256(mallory)),
		"an unknown kid, signed by our key":  forge(with(head, "kid", "x"), claim, es256(ours)),
		"a kid that is a path":               forge(with(head, "kid", "../../platform.key"), claim, es256(mallory)),
		"no kid":                             forge(with(head, "kid", nil), claim, es256(ours)),
		"an embedded jwk":                    forge(with(head, "jwk", jwk), claim, es256(mallory)),
		"an embedded jwk, signed by our key": forge(with(head, "jwk", jwk), claim, es256(ours)),
		"jku":                                forge(with(head, "jku", "https://mallory.example/keys"), claim, es256(ours)),
		"x5u":                                forge(with(head, "x5u", "https://mallory.example/cert"), claim, es256(ours)),
		"x5c":                                forge(with(head, "x5c", []string{"MIIB"}), claim, es256(ours)),
		"crit":                               forge(with(head, "crit", []string{"b64"}), claim, es256(ours)),
		"b64":                                forge(with(with(head, "crit", []string{"b64"}), "b64", false), claim, es256(ours)),
		"zip":                                forge(with(head, "zip", "DEF"), claim, es256(ours)),
		"another typ":                        forge(with(head, "typ", "at+jwt"), claim, es256(ours)),
		"no typ":                             forge(with(head, "typ", nil), claim, es256(ours)),
		"a header that is not JSON":          forge("e30x", claim, es256(ours)),
		"an empty header":                    forge("", claim, es256(ours)),

		"another audience":              forge(parts[0], with(claim, "aud", "other.example"), es256(ours)),
		"no audience":                   forge(parts[0], with(claim, "aud", nil), es256(ours)),
		"a list of audiences":           forge(parts[0], with(claim, "aud", []string{"localhost:8443", "x"}), es256(ours)),
		"another issuer":                forge(parts[0], with(claim, "iss", "Azure Container Registry "), es256(ours)),
		"no issuer":                     forge(parts[0], with(claim, "iss", nil), es256(ours)),
		"another version":               forge(parts[0], with(claim, "version", "2.0"), es256(ours)),
		"another grant":                 forge(parts[0], with(claim, "grant_type", "refresh_token"), es256(ours)),
		"no grant":                      forge(parts[0], with(claim, "grant_type", nil), es256(ours)),
		"expired":                       forge(parts[0], with(with(claim, "exp", now-1), "nbf", now-4000), es256(ours)),
		"no expiry":                     forge(parts[0], with(claim, "exp", nil), es256(ours)),
		"an expiry that is text":        forge(parts[0], with(claim, "exp", "tomorrow"), es256(ours)),
		"a life of a year":              forge(parts[0], with(claim, "exp", now+365*86400), es256(ours)),
		"not yet":                       forge(parts[0], with(with(claim, "nbf", now+120), "exp", now+3600), es256(ours)),
		"another registry":              forge(parts[0], with(claim, "registry", "registry-2"), es256(ours)),
		"no registry":                   forge(parts[0], with(claim, "registry", nil), es256(ours)),
		"another principal":             forge(parts[0], with(claim, "principal", "somebody"), es256(ours)),
		"no principal":                  forge(parts[0], with(claim, "principal", nil), es256(ours)),
		"another account":               forge(parts[0], with(claim, "sub", "owner"), es256(ours)),
		"an account that is a path":     forge(parts[0], with(claim, "sub", "../tokens/ci"), es256(ours)),
		"another kind":                  forge(parts[0], with(claim, "kind", "admin"), es256(ours)),
		"the kind of the server":        forge(parts[0], with(claim, "kind", "server"), es256(ours)),
		"a kind that there is not":      forge(parts[0], with(claim, "kind", "god"), es256(ours)),
		"another password":              forge(parts[0], with(claim, "credential", "x"), es256(ours)),
		"no password":                   forge(parts[0], with(claim, "credential", nil), es256(ours)),
		"claims that are not an object": forge(parts[0], []int{1}, es256(ours)),
		"claims that are not JSON":      forge(parts[0], "e30x", es256(ours)),

		"changed claims":       {Method: Bearer, Secret: Secret(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"owner"}`)) + "." + parts[2])},
		"no signature":         {Method: Bearer, Secret: Secret(parts[0] + "." + parts[1] + ".")},
		"two parts":            {Method: Bearer, Secret: Secret(parts[0] + "." + parts[1])},
		"four parts":           {Method: Bearer, Secret: good.Secret + "." + Secret(parts[2])},
		"a short signature":    {Method: Bearer, Secret: good.Secret[:len(good.Secret)-4]},
		"a signature of zeros": {Method: Bearer, Secret: Secret(parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)))},
		"JSON serialization":   {Method: Bearer, Secret: Secret(`{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`)},
		"dots":                 {Method: Bearer, Secret: ".."},
		"much":                 {Method: Bearer, Secret: Secret(parts[0] + "." + strings.Repeat("A", 1<<20) + "." + parts[2])},
		"many dots":            {Method: Bearer, Secret: Secret(parts[0] + strings.Repeat(".", 10000))},
	}
	for name, c := range hostile {
		w.unknown(shop, c, "the token has "+name)
	}
	other := shop
	other.UID, other.Service = "registry-2", "other.example"
	w.unknown(other, good, "the token was issued for another registry")
	again := shop
	again.UID = "registry-3"
	w.unknown(again, good, "the registry was deleted and made again")
	w.known(shop, good)
}

func TestSigningKeysRotate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		p := w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
		old := w.access(shop, p)
		must(w.ring(t.Context(), registryUse)).newest.Signs = time.Now() // its time has come
		next := w.access(shop, p)
		if kid(old) == kid(next) {
			t.Error("an old key signed")
		}
		w.known(shop, old)
		w.known(shop, next)

		// A second process on the same database believes what the first has signed.
		twin, err := New(w.o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []Credentials{old, next} {
			if _, err := twin.Authenticate(t.Context(), shop, ContentPlane, c, here); err != nil {
				t.Error(err)
			}
		}
		// When the tokens of a key have ended, so does the key.
		if _, err := w.rotate(t.Context(), registryUse, must(w.ring(t.Context(), registryUse)), time.Now().Add(w.o.Rotate+RefreshLife+time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n := len(must(w.ring(t.Context(), registryUse)).byHeader); n != 1 {
			t.Errorf("%d keys are left", n)
		}
		w.unknown(shop, old, "its key is gone")
		n := 0
		for e, err := range w.o.Ledger.Events(t.Context(), ledger.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Operation == keyType+"/write" && e.Who.Kind == string(Server) {
				n++
			}
		}
		if n != 3 {
			t.Errorf("%d rotations are recorded", n)
		}
	})
}

func TestFirstTokensAtOnceMakeOneKey(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	p := w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, _, err := w.IssueAccess(t.Context(), shop, p, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(must(w.ring(t.Context(), registryUse)).byHeader); n != 1 {
		t.Errorf("%d keys", n)
	}
}

func TestStoredKeysDoNotSign(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	w.access(shop, w.known(shop, w.make(TokenHolder(shop.ID, "ci"))))
	docs, err := w.docs.List(t.Context(), "", keyType, "", 10)
	if err != nil || len(docs) != 1 {
		t.Fatal(docs, err)
	}
	var k signingKey
	if err := json.Unmarshal(docs[0].Properties, &k); err != nil {
		t.Fatal(err)
	}
	if !k.Public.IsPublic() {
		t.Error("the stored JWK is not a public key")
	}
	if _, err := x509.ParsePKCS8PrivateKey(k.Private); err == nil {
		t.Error("the private key is stored as it is")
	}
}

func kid(c Credentials) string { head, _, _ := strings.Cut(string(c.Secret), "."); return head }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzToken(f *testing.F) {
	w := open(f, dbtest.SQLite(f))
	good := string(w.access(shop, w.known(shop, w.make(TokenHolder(shop.ID, "ci"))), pullAPI).Secret)
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add(parts[0] + ".." + parts[2])
	f.Add("a.b.c")
	f.Add("")
	for _, head := range []string{`{"alg":"none"}`, `{"alg":"HS256","kid":"x","typ":"JWT"}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + parts[1] + "." + parts[2])
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range []Credentials{{Method: Bearer, Secret: Secret(text)}, {Method: Basic, Name: RefreshUser, Secret: Secret(text)}} {
			if c.None() {
				continue
			}
			p, err := w.Authenticate(context.Background(), shop, ContentPlane, c, here)
			if err == nil && !sameToken(text, good) {
				t.Fatalf("%q proves %+v", text, p)
			}
			if code := fault.Of(err); err != nil && code != fault.Unauthenticated && code != fault.TooManyRequests {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}

// sameToken allows for the spare bits of base64 and for the second signature that
// ECDSA has for each.
func sameToken(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	return len(x) == 3 && slices.Equal(x[:2], y[:2])
}

// BenchmarkBearer is the hot path: a token that was shown before, among ten
// thousand of them.
func BenchmarkBearer(b *testing.B) {
	for _, n := range []int{1, 10000} {
		b.Run(fmt.Sprintf("tokens=%d", n), func(b *testing.B) {
			w := open(b, dbtest.SQLite(b))
			p := w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
			shown := make([]Credentials, n)
			for i := range shown {
				shown[i] = w.access(shop, p, pullAPI)
				w.known(shop, shown[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := w.Authenticate(context.Background(), shop, ContentPlane, shown[i%n], here); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkFirstSightOfABearer(b *testing.B) {
	w := open(b, dbtest.SQLite(b))
	c := w.access(shop, w.known(shop, w.make(TokenHolder(shop.ID, "ci"))), pullAPI)
	for b.Loop() {
		w.signed = recent[shown, genuine[claims]]{}
		if _, err := verify(context.Background(), w.Store, registryUse, &w.signed, string(c.Secret)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	w := open(b, dbtest.SQLite(b))
	p := w.known(shop, w.make(TokenHolder(shop.ID, "ci")))
	b.ReportAllocs()
	for b.Loop() {
		w.access(shop, p, pullAPI)
	}
}

func BenchmarkPassword(b *testing.B) {
	w := open(b, dbtest.SQLite(b))
	c := w.make(TokenHolder(shop.ID, "ci"))
	b.ReportAllocs()
	for b.Loop() {
		w.known(shop, c)
	}
}

// respelled is text in base64 with the bits that say nothing set.
func respelled(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, text[len(text)-1])
	return text[:len(text)-1] + alphabet[last|1:][:1]
}
