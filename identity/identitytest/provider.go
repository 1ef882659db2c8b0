package identitytest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// What the provider knows.
const (
	Person         = "test-user2" // a person, in the groups Groups
	PersonID       = "id2"        // sub of the person's tokens
	PersonPassword = "verysecure"
	Browser        = "registry" // client id of a public client with PKCE
	Web            = "portal"   // client id of a client with a secret
	WebSecret      = "portal-secret"
	Application    = "sid1" // client id of an application that signs in by itself, and sub of its tokens
	AppSecret      = "verysecret"
)

// Groups of the person.
var Groups = []string{"developers", "night shift"}

// A Provider is the OpenID provider of zitadel/oidc: people sign in on its page,
// applications at its token endpoint.
type Provider struct {
	URL string
	CA  string // PEM

	close    func()
	store    *store
	redirect string
}

// NewProvider runs a provider until the test ends. redirects are where the clients
// Browser and Web may send people back to.
func NewProvider(t testing.TB, redirects ...string) *Provider {
	p, err := OpenProvider(redirects...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// OpenProvider is NewProvider where there is no test.
func OpenProvider(redirects ...string) (*Provider, error) {
	var handler http.Handler
	s := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	p := &Provider{URL: s.URL, CA: s.CA, close: s.Close, redirect: s.URL + "/back"}
	redirects = append(redirects, p.redirect)
	p.store = &store{
		Storage: storage.NewStorageWithClients(storage.NewUserStore(s.URL), map[string]*storage.Client{
			Browser: storage.NativeClient(Browser, redirects...),
			Web:     storage.WebClient(Web, WebSecret, redirects...),
		}),
		keys: []Key{RSA(rand.Text(), jose.RS256)},
	}
	provider, err := op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte(rand.Text())), CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true},
		p.store, op.StaticIssuer(s.URL), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		s.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `<!doctype html><form method="post" action="/login/username"><input type="hidden" name="id" value=%q><input name="username"><input name="password" type="password"><button>Sign in</button></form>`,
			r.FormValue("authRequestID"))
	})
	back := op.AuthCallbackURL(provider)
	mux.HandleFunc("POST /login/username", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("id")
		if err := p.store.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), id); err != nil {
			http.Error(w, "wrong", http.StatusForbidden)
			return
		}
		http.Redirect(w, r, back(r.Context(), id), http.StatusFound)
	}))
	handler = mux
	return p, nil
}

// Close ends the provider: nobody answers any more.
func (p *Provider) Close() { p.close() }

// Roll makes a new key sign; the one before is still published.
func (p *Provider) Roll() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.store.keys = []Key{p.store.keys[len(p.store.keys)-1], RSA(rand.Text(), jose.RS256)}
}

// Swap publishes a new key and no other.
func (p *Provider) Swap() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.store.keys = []Key{RSA(rand.Text(), jose.RS256)}
}

// Visit signs the person in: from is an authorization request, and the result is
// the URL that the provider sends the browser back to.
func (p *Provider) Visit(ctx context.Context, from string) (*url.URL, error) {
	c, done := p.client()
	defer done()
	res, err := get(ctx, c, from)
	if err != nil {
		return nil, err
	}
	login, err := res.Location()
	if err != nil {
		return nil, fmt.Errorf("the provider answers %s", res.Status)
	}
	form := url.Values{"id": {login.Query().Get("authRequestID")}, "username": {Person}, "password": {PersonPassword}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+"/login/username", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if res, err = c.Do(r); err != nil {
		return nil, err
	}
	res.Body.Close()
	next, err := res.Location()
	if err != nil {
		return nil, fmt.Errorf("the login page answers %s", res.Status)
	}
	if res, err = get(ctx, c, next.String()); err != nil {
		return nil, err
	}
	return res.Location()
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(r)
	if err == nil {
		res.Body.Close()
	}
	return res, err
}

// SignIn is an ID token of the person, as a command-line client gets one: with a
// code and PKCE.
func (p *Provider) SignIn(ctx context.Context) (string, error) {
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	back, err := p.Visit(ctx, p.URL+"/authorize?"+url.Values{
		"client_id": {Browser}, "redirect_uri": {p.redirect}, "response_type": {"code"}, "scope": {"openid profile email"}, "state": {"s"}, "nonce": {"n"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	if err != nil {
		return "", err
	}
	return p.token(ctx, "id_token", url.Values{"grant_type": {"authorization_code"}, "client_id": {Browser}, "redirect_uri": {p.redirect},
		"code": {back.Query().Get("code")}, "code_verifier": {verifier}})
}

// Machine is an access token of the application for that audience.
func (p *Provider) Machine(ctx context.Context, audience string) (string, error) {
	return p.token(ctx, "access_token", url.Values{"grant_type": {"client_credentials"}, "client_id": {Application}, "client_secret": {AppSecret},
		"scope": {audiencePrefix + audience}})
}

func (p *Provider) token(ctx context.Context, which string, form url.Values) (string, error) {
	c, done := p.client()
	defer done()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	var answer map[string]any
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	token, ok := answer[which].(string)
	if err != nil || !ok {
		return "", fmt.Errorf("the provider answers %s %s: %v", res.Status, body, err)
	}
	return token, nil
}

func (p *Provider) client() (*http.Client, func()) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: Pool(p.CA)}}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, transport.CloseIdleConnections
}

// store is the example's, with groups, with tokens for an audience, and with keys
// that change.
type store struct {
	*storage.Storage
	mu   sync.Mutex
	keys []Key // the last one signs
}

type signing struct{ k Key }

func (s signing) ID() string                                  { return s.k.ID }
func (s signing) Key() any                                    { return s.k.Private }
func (s signing) SignatureAlgorithm() jose.SignatureAlgorithm { return s.k.Alg }

type public struct{ k Key }

func (p public) ID() string                         { return p.k.ID }
func (p public) Key() any                           { return p.k.Private.Public() }
func (p public) Algorithm() jose.SignatureAlgorithm { return p.k.Alg }
func (p public) Use() string                        { return "sig" }

func (s *store) SigningKey(context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return signing{s.keys[len(s.keys)-1]}, nil
}

func (s *store) KeySet(context.Context) ([]op.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []op.Key
	for _, k := range s.keys {
		all = append(all, public{k})
	}
	return all, nil
}

func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// SetUserinfoFromRequest adds the groups to ID tokens.
func (s *store) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, r, scopes); err != nil {
		return err
	}
	if r.GetSubject() == PersonID {
		info.AppendClaims("groups", Groups)
	}
	return nil
}

const audiencePrefix = "audience:"

// application gets access tokens that others can verify.
type application struct{ op.Client }

func (application) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (s *store) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	c, err := s.Storage.ClientCredentials(ctx, id, secret)
	return application{c}, err
}

func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	r := &oidc.JWTTokenRequest{Subject: id, Scopes: scopes}
	for _, scope := range scopes {
		if audience, ok := strings.CutPrefix(scope, audiencePrefix); ok {
			r.Audience = append(r.Audience, audience)
		}
	}
	return r, nil
}
