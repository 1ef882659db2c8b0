package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"breakwater/fault"
	"breakwater/keys"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// IssuerType is the ARM type of an external issuer of tokens (IM-1, IM-3).
const IssuerType = "Breakwater.Identity/issuers"

// IssuerID is the id of an issuer's document.
func IssuerID(name string) ref.ID { return ref.ID("/providers/" + IssuerType + "/" + name) }

// Kinds of principals that an issuer vouches for, as role assignments call them.
const (
	PrincipalUser        = "User"
	PrincipalApplication = "ServicePrincipal"
)

// IssuerProperties say whose tokens are believed, and what is made of them.
type IssuerProperties struct {
	Issuer         string            `json:"issuer"`                   // URL; the iss of its tokens, character by character
	Audiences      []string          `json:"audiences"`                // a token is for one of these
	Algorithms     []string          `json:"algorithms,omitempty"`     // empty: RS256, PS256, ES256, EdDSA
	CACertificates string            `json:"caCertificates,omitempty"` // PEM; "": those of the system
	JWKS           json.RawMessage   `json:"jwks,omitempty"`           // the keys, where the issuer cannot be asked; then it is not
	Status         string            `json:"status"`                   // enabled or disabled
	PrincipalType  string            `json:"principalType"`            // User or ServicePrincipal
	Claims         Claims            `json:"claims,omitzero"`
	RequiredClaims map[string]string `json:"requiredClaims,omitempty"` // a token has these, with these values
	SignIn         *SignIn           `json:"signIn,omitempty"`         // people sign in through it with a browser
}

// Claims are which claims of a token mean what. A name that begins with a slash is
// a JSON pointer (RFC 6901): /realm_access/roles.
type Claims struct {
	Subject string   `json:"subject,omitempty"` // who; "" is sub
	Name    string   `json:"name,omitempty"`    // what people call it; "" is the subject
	Groups  []string `json:"groups,omitempty"`  // which groups
	Keep    []string `json:"keep,omitempty"`    // what conditions may judge
}

// SignIn is this server as a client of the issuer.
type SignIn struct {
	ClientID     string `json:"clientId"`
	ClientSecret Secret `json:"clientSecret,omitempty"` // only ever taken in
	Sealed       []byte `json:"sealed,omitempty"`       // how it is stored
}

// An Issuer is an issuer as its document says.
type Issuer struct {
	ID     ref.ID
	UID    string
	Name   string
	Etag   string
	System resource.SystemData
	IssuerProperties

	source     *source
	algorithms []jose.SignatureAlgorithm
	credential string // of whoever it vouches for
}

// Principal is the id of the principal that the issuer calls subject.
func (i *Issuer) Principal(subject string) string { return FederatedID(i.UID, "sub", subject) }

// Group is the id of the group that the issuer means by a value of a claim.
func (i *Issuer) Group(claim, value string) string { return FederatedID(i.UID, claim, value) }

// algorithms that may be allowed; those that are unless a document says otherwise
// come first.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA,
	jose.RS384, jose.RS512, jose.PS384, jose.PS512, jose.ES384, jose.ES512}

const usualAlgorithms = 4

// Limits of an issuer's document.
const (
	maxAudiences  = 20
	maxNamed      = 20
	maxIssuerText = 512
	maxDocument   = 128 << 10 // CA certificates, and keys
)

// Check refuses what could be read in two ways, or would believe anybody.
func (p *IssuerProperties) Check() error {
	bad := func(format string, args ...any) error { return fault.New(fault.BadRequest, format, args...) }
	if !validIssuer(p.Issuer) {
		return bad("issuer is the https URL that stands in the iss claim of its tokens")
	}
	if len(p.Audiences) == 0 || len(p.Audiences) > maxAudiences || !eachOnce(p.Audiences) {
		return bad("audiences are 1 to %d different texts: whom the tokens are for", maxAudiences)
	}
	for _, a := range p.Algorithms {
		if !slices.Contains(algorithms, jose.SignatureAlgorithm(a)) {
			return bad("algorithms are some of %s", joined(algorithms))
		}
	}
	if !eachOnce(p.Algorithms) {
		return bad("an algorithm stands in algorithms once")
	}
	if len(p.CACertificates) > maxDocument || len(p.JWKS) > maxDocument {
		return bad("caCertificates and jwks have at most %d bytes", maxDocument)
	}
	if _, err := pool(p.CACertificates); err != nil {
		return bad("caCertificates: %v", err)
	}
	if p.JWKS != nil {
		set, err := parseKeys(p.JWKS, true)
		if err != nil {
			return bad("jwks is a set of public keys: %v", err)
		}
		if len(set.keys) == 0 {
			return bad("jwks has no key; leave it out if the issuer publishes them")
		}
		kids := map[string]bool{}
		for _, k := range set.keys {
			if len(set.keys) > 1 && (k.KeyID == "" || kids[k.KeyID]) {
				return bad("jwks: each of several keys has a kid of its own")
			}
			kids[k.KeyID] = true
		}
	}
	if p.Status != EnabledStatus && p.Status != "disabled" {
		return bad("the status of an issuer is enabled or disabled")
	}
	if p.PrincipalType != PrincipalUser && p.PrincipalType != PrincipalApplication {
		return bad("principalType is %s or %s", PrincipalUser, PrincipalApplication)
	}
	c := p.Claims
	names := slices.Concat(c.Groups, c.Keep, slices.Collect(maps.Keys(p.RequiredClaims)))
	if c.Subject != "" {
		names = append(names, c.Subject)
	}
	if c.Name != "" {
		names = append(names, c.Name)
	}
	if len(c.Groups) > maxNamed || len(c.Keep) > maxNamed || len(p.RequiredClaims) > maxNamed || !eachOnce(c.Groups) || !eachOnce(c.Keep) {
		return bad("claims.groups, claims.keep and requiredClaims name at most %d claims, each once", maxNamed)
	}
	for _, n := range names {
		if !plain(n) || n == "/" {
			return bad("a claim is called by a name of at most %d visible characters, or by a JSON pointer", maxIssuerText)
		}
	}
	if slices.Contains(c.Groups, "sub") || slices.Contains(c.Groups, c.Subject) {
		return bad("the claim that names the principal names no group")
	}
	for _, v := range p.RequiredClaims {
		if v == "" || len(v) > maxIssuerText {
			return bad("a value of requiredClaims has 1 to %d bytes", maxIssuerText)
		}
	}
	if p.SignIn != nil {
		switch {
		case p.JWKS != nil:
			return bad("nobody signs in with a browser through an issuer that is never asked: signIn and jwks exclude each other")
		case !plain(p.SignIn.ClientID):
			return bad("signIn.clientId is the id that the issuer gave this server")
		case len(p.SignIn.ClientSecret) > maxIssuerText:
			return bad("signIn.clientSecret has at most %d bytes", maxIssuerText)
		}
	}
	return nil
}

// validIssuer reports whether the text can be the iss of an issuer: an https URL
// that every program reads alike.
func validIssuer(text string) bool {
	_, err := secureURL(text)
	return err == nil && plain(text) && !strings.ContainsAny(text, "#?\\")
}

// plain reports whether the text is not empty, not long, and all of it can be seen.
func plain(s string) bool {
	return s != "" && len(s) <= maxIssuerText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == utf8.RuneError })
}

func eachOnce(list []string) bool {
	seen := map[string]bool{}
	for _, v := range list {
		if !plain(v) || seen[v] {
			return false
		}
		seen[v] = true
	}
	return true
}

func joined(list []jose.SignatureAlgorithm) string {
	var b strings.Builder
	for _, a := range list {
		b.WriteString(" " + string(a))
	}
	return strings.TrimSpace(b.String())
}

// pool reads CA certificates, and nothing else; nil for none.
func pool(text string) (*x509.CertPool, error) {
	if text == "" {
		return nil, nil
	}
	roots := x509.NewCertPool()
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("this is not PEM with certificates alone")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate cannot be read")
		}
		roots.AddCert(c)
	}
	return roots, nil
}

// ReadIssuer reads the document of an issuer.
func ReadIssuer(doc resource.Resource) (*Issuer, error) {
	i := &Issuer{ID: doc.ID, UID: doc.System.UID, Name: doc.ID.Name(), Etag: doc.Etag, System: doc.System}
	if err := json.Unmarshal(doc.Properties, &i.IssuerProperties); err != nil {
		return nil, fmt.Errorf("read issuer %s: %w", doc.ID, err)
	}
	i.algorithms = algorithms[:usualAlgorithms]
	if len(i.Algorithms) > 0 {
		i.algorithms = nil
		for _, a := range i.Algorithms {
			i.algorithms = append(i.algorithms, jose.SignatureAlgorithm(a))
		}
	}
	// Whoever has come in through the issuer stays as long as all this is the same.
	trust := i.IssuerProperties
	trust.Status, trust.CACertificates, trust.SignIn, trust.Claims.Keep = "", "", nil, nil
	text, err := json.Marshal(trust)
	if err != nil {
		return nil, fmt.Errorf("read issuer %s: %w", doc.ID, err)
	}
	sum := sha256.Sum256(text)
	i.credential = i.UID + "." + base64.RawURLEncoding.EncodeToString(sum[:12])
	return i, nil
}

// issuers are all external issuers as the documents say now.
type issuers struct {
	byURL map[string]*Issuer
	byID  map[string]*Issuer // by the key of the document's id
}

func (s *Store) loadIssuers(ctx context.Context) (*issuers, error) {
	return s.outside.issuers.Get(ctx, s.o.Documents, struct{}{}, func(ctx context.Context) (*issuers, error) {
		docs, err := s.o.Documents.List(ctx, "/providers/"+IssuerType, IssuerType, "", 0)
		if err != nil {
			return nil, err
		}
		all := &issuers{make(map[string]*Issuer, len(docs)), make(map[string]*Issuer, len(docs))}
		for _, doc := range docs {
			i, err := ReadIssuer(doc)
			if err != nil {
				return nil, err
			}
			all.byURL[i.Issuer], all.byID[i.ID.Key()] = i, i
		}
		return all, s.outside.connect(all, s.o.Egress)
	})
}

// connect gives each issuer its source. One that was made from the same stays, with
// what it knows; those of issuers that are gone go.
func (o *outside) connect(all *issuers, out *network.Egress) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	sources := make(map[string]*source, len(all.byID))
	for _, i := range all.byID {
		made := sha256.Sum256([]byte(i.Issuer + "\x00" + i.CACertificates + "\x00" + string(i.JWKS)))
		if i.source = o.sources[i.UID]; i.source == nil || i.source.made != made {
			roots, err := pool(i.CACertificates)
			if err != nil {
				return fmt.Errorf("read issuer %s: caCertificates: %w", i.ID, err)
			}
			i.source = &source{made: made, url: i.Issuer, out: out, roots: roots}
			if i.JWKS != nil {
				if i.source.keys, err = parseKeys(i.JWKS, true); err != nil {
					return fmt.Errorf("read issuer %s: %w", i.ID, err)
				}
				i.source.fixed = true
			}
		}
		sources[i.UID] = i.source
	}
	o.sources = sources
	return nil
}

// vouches finds the issuer with that id, if it still vouches for who came in with
// that credential: it is the same issuer, enabled, and trusted with the same.
func (s *Store) vouches(ctx context.Context, id ref.ID, credential string) (*Issuer, error) {
	all, err := s.loadIssuers(ctx)
	if err != nil {
		return nil, err
	}
	i := all.byID[id.Key()]
	if i == nil || i.Status != EnabledStatus || i.credential != credential || credential == "" {
		return nil, doubt("the issuer %s does not vouch for this any more", id)
	}
	return i, nil
}

// SealSignIn is how the client secret of the issuer with that id is stored.
func (s *Store) SealSignIn(ctx context.Context, id ref.ID, secret Secret) ([]byte, error) {
	wrapped, err := s.o.Vault.Wrap(ctx, signInKey(id), []byte(secret))
	if err != nil {
		return nil, fmt.Errorf("wrap the client secret of %s: %w", id, err)
	}
	return wrapped.Data, nil
}

// openSignIn is the client secret that SealSignIn sealed; "" if there is none.
func (s *Store) openSignIn(ctx context.Context, i *Issuer) (Secret, error) {
	if i.SignIn == nil || i.SignIn.Sealed == nil {
		return "", nil
	}
	plain, err := s.o.Vault.Unwrap(ctx, keys.Wrapped{ID: signInKey(i.ID), Data: i.SignIn.Sealed})
	if err != nil {
		return "", fmt.Errorf("unwrap the client secret of %s: %w", i.ID, err)
	}
	return Secret(plain), nil
}

func signInKey(id ref.ID) keys.KeyID { return keys.KeyID("issuer/" + id.Key()) }
