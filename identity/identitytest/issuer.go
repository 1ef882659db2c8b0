// Package identitytest runs issuers of tokens: a real OpenID provider, and ones
// that are shaped like Kubernetes and GitHub, whose tokens and answers a test can
// bend. Each listens with TLS under a CA of its own.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// An Issuer is one that signs what a test wants. Its methods may be called while
// it answers.
type Issuer struct {
	URL string
	CA  string // PEM

	server server
	mu     sync.Mutex
	path   string
	keys   []Key // the last one signs
	asked  int   // for keys
	answer func(w http.ResponseWriter, r *http.Request) bool
	maxAge string
}

// A Key signs tokens.
type Key struct {
	Private crypto.Signer
	ID      string
	Alg     jose.SignatureAlgorithm
}

// RSA makes a key for RS256 (or the algorithm).
func RSA(kid string, alg jose.SignatureAlgorithm) Key {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return Key{k, kid, alg}
}

// EC makes a key for ES256.
func EC(kid string) Key {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return Key{k, kid, jose.ES256}
}

// Public is the key as a JWK set shows it.
func (k Key) Public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(k.Alg), Use: "sig"}
}

// NewIssuer runs an issuer at a path of its host ("" for none) with these keys,
// until the test ends.
func NewIssuer(t testing.TB, path string, keys ...Key) *Issuer {
	i := OpenIssuer(path, keys...)
	t.Cleanup(i.Close)
	return i
}

// OpenIssuer is NewIssuer where there is no test.
func OpenIssuer(path string, keys ...Key) *Issuer {
	i := &Issuer{path: path, keys: keys, maxAge: "max-age=600"}
	i.server = serve(i)
	i.URL, i.CA = i.server.URL+path, i.server.CA
	return i
}

// Close ends the issuer: nobody answers any more.
func (i *Issuer) Close() { i.server.Close() }

// A server listens with TLS on the loopback; its certificate is of a CA that
// nothing else has.
type server struct {
	*httptest.Server
	CA string // PEM
}

func serve(h http.Handler) server {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	now := time.Now()
	sign := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		check(err)
		return der
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "CA of an issuer in a test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := sign(ca, ca, key, key)
	leaf := sign(&x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca, key, key)
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}}}
	s.StartTLS()
	return server{s, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}))}
}

// Kubernetes is an issuer as an API server is one: ES256, no path.
func Kubernetes(t testing.TB) *Issuer { return NewIssuer(t, "", KubernetesKeys()...) }

// KubernetesKeys are the keys of such an issuer.
func KubernetesKeys() []Key { return []Key{EC("k8s-1")} }

// GitHub is an issuer as GitHub Actions has one: RS256, and two keys at a time.
func GitHub(t testing.TB) *Issuer { return NewIssuer(t, "", GitHubKeys()...) }

// GitHubKeys are the keys of such an issuer.
func GitHubKeys() []Key {
	return []Key{RSA("38826b17-6a30-5f9b-b169-8beb8202f723", jose.RS256), RSA("cc413527-173f-5a05-976e-9c52b1d7b431", jose.RS256)}
}

func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	answer, keys, maxAge := i.answer, i.keys, i.maxAge
	i.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", maxAge)
	switch r.URL.Path {
	case i.path + "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"response_types_supported":["id_token"],"subject_types_supported":["public"]}`, i.URL, i.URL+"/keys")
	case i.path + "/keys":
		i.mu.Lock()
		i.asked++
		i.mu.Unlock()
		w.Write(JWKS(keys...))
	default:
		http.NotFound(w, r)
	}
}

// JWKS is the set of the public parts.
func JWKS(keys ...Key) []byte {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.Public())
	}
	text, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return text
}

// Publish replaces the keys; the last one signs.
func (i *Issuer) Publish(keys ...Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Keys are those that are published.
func (i *Issuer) Keys() []Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys
}

// MaxAge is what the issuer says of how long its answers count.
func (i *Issuer) MaxAge(cacheControl string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.maxAge = cacheControl
}

// Answer lets the test answer instead, if its function says so; nil is as before.
func (i *Issuer) Answer(f func(http.ResponseWriter, *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// Break lets the issuer answer everything with 503.
func (i *Issuer) Break() {
	i.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return true
	})
}

// Asked is how often somebody asked for its keys.
func (i *Issuer) Asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// Token signs the claims with the newest key; iss, iat and exp are added where the
// claims have none, and a nil claim is left out.
func (i *Issuer) Token(claims map[string]any) string {
	keys := i.Keys()
	k := keys[len(keys)-1]
	return k.Sign(map[string]any{"alg": k.Alg, "kid": k.ID, "typ": "JWT"}, i.Claims(claims))
}

// Claims completes the claims as Token does.
func (i *Issuer) Claims(claims map[string]any) map[string]any {
	now := time.Now().Unix()
	all := map[string]any{"iss": i.URL, "iat": now, "nbf": now, "exp": now + 600}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// Workload is the token of a service account, as a pod finds it in its volume.
func (i *Issuer) Workload(namespace, account, audience string) string {
	return i.Token(map[string]any{
		"aud": []string{audience}, "sub": "system:serviceaccount:" + namespace + ":" + account, "jti": rand.Text(),
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"pod":            map[string]any{"name": account + "-7d9c", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
			"serviceaccount": map[string]any{"name": account, "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
		},
	})
}

// Job is the token of a job of GitHub Actions.
func (i *Issuer) Job(repository, git, audience string) string {
	owner, _, _ := strings.Cut(repository, "/")
	return i.Token(map[string]any{
		"aud": audience, "sub": "repo:" + repository + ":ref:" + git, "jti": rand.Text(),
		"repository": repository, "repository_owner": owner, "repository_visibility": "private", "ref": git, "ref_type": "branch",
		"event_name": "push", "actor": "octocat", "workflow": "release", "runner_environment": "github-hosted",
		"job_workflow_ref": repository + "/.github/workflows/release.yml@" + git, "run_id": "1234567890",
	})
}

// Sign makes a token of any header and claims; text is put in as it is.
func (k Key) Sign(header, claims any) string {
	input := Part(header) + "." + Part(claims)
	alg := k.Alg
	if m, ok := header.(map[string]any); ok {
		if a, ok := m["alg"].(jose.SignatureAlgorithm); ok {
			alg = a
		}
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(k.Signature(alg, input))
}

// Signature is the bare signature of the text.
func (k Key) Signature(alg jose.SignatureAlgorithm, input string) []byte {
	var hash crypto.Hash
	switch alg[2:] {
	case "256":
		hash = crypto.SHA256
	case "384":
		hash = crypto.SHA384
	case "512":
		hash = crypto.SHA512
	}
	sum := []byte(input)
	if hash != 0 {
		h := hash.New()
		h.Write(sum)
		sum = h.Sum(nil)
	}
	switch key := k.Private.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			panic(err)
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		s.FillBytes(out[size:])
		return out
	case *rsa.PrivateKey:
		var opts crypto.SignerOpts = hash
		if alg[:2] == "PS" {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		}
		out, err := key.Sign(rand.Reader, sum, opts)
		if err != nil {
			panic(err)
		}
		return out
	}
	out, err := k.Private.Sign(rand.Reader, sum, crypto.Hash(0))
	if err != nil {
		panic(err)
	}
	return out
}

// Part is one part of a token: text as it is, anything else as JSON in base64url.
func Part(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, ok := v.(json.RawMessage)
	if !ok {
		var err error
		if text, err = json.Marshal(v); err != nil {
			panic(err)
		}
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// Pool trusts the PEM.
func Pool(ca string) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		panic("identitytest: no certificate")
	}
	return pool
}
