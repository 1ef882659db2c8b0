package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// How long tokens live. Rights are looked up at each request, so a token's life
// bounds only how long its identity need not be proven again.
const (
	AccessLife  = 75 * time.Minute
	RefreshLife = 3 * time.Hour
	maxToken    = 12 << 10
	leeway      = time.Minute // for clocks that differ: applies to nbf, never to exp
)

const (
	issuer       = "Azure Container Registry"
	accessGrant  = "access_token"
	refreshGrant = "refresh_token"
)

// claims are the payload of a token: those of Azure's registry, and the ids that
// end it when its registry, principal or password is no longer the same.
type claims struct {
	ID          string      `json:"jti"`
	Subject     string      `json:"sub"`
	NotBefore   int64       `json:"nbf"`
	Expiry      int64       `json:"exp"`
	IssuedAt    int64       `json:"iat"`
	Issuer      string      `json:"iss"`
	Audience    string      `json:"aud"`
	Version     string      `json:"version"`
	Tenant      string      `json:"tenant"`
	Grant       string      `json:"grant_type"`
	Access      []Access    `json:"access,omitempty"`
	Permissions permissions `json:"permissions"`
	Roles       []string    `json:"roles"`
	Registry    string      `json:"registry"`             // UID
	Kind        Kind        `json:"kind"`                 //
	Principal   string      `json:"principal,omitempty"`  // ID
	Credential  string      `json:"credential,omitempty"` // what was shown
	Account     ref.ID      `json:"account,omitempty"`    // the issuer of the federated
	Client      string      `json:"client,omitempty"`
	Groups      []string    `json:"groups,omitempty"`
	Key         string      `json:"-"` // kid of the header

	Authentication Authentication `json:"authentication"`
}

type permissions struct {
	Actions    []string `json:"actions"`
	NotActions []string `json:"notActions"`
}

// header is the protected header of every token that a key signs. A token is
// ours only if its header is this text: there is no other algorithm and no
// parameter that could name another key.
func header(kid string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"` + kid + `","typ":"JWT"}`))
}

// IssueAccess signs a token whose bearer is p, but under the ceiling of access.
func (s *Store) IssueAccess(ctx context.Context, r Realm, p Principal, access []Access) (string, time.Time, error) {
	return s.issue(ctx, r, p, accessGrant, AccessLife, access)
}

// IssueRefresh signs a token that can be shown to the token endpoint in place of
// the password.
func (s *Store) IssueRefresh(ctx context.Context, r Realm, p Principal) (string, time.Time, error) {
	return s.issue(ctx, r, p, refreshGrant, RefreshLife, nil)
}

// issue signs for at most life, and for no longer than what p showed is valid. A
// bearer gets no token: a ceiling cannot be raised.
func (s *Store) issue(ctx context.Context, r Realm, p Principal, grant string, life time.Duration, access []Access) (string, time.Time, error) {
	anonymous := p.Kind == Anonymous && grant == accessGrant
	if p.Ceiling != nil || (p.Credential == "" && !anonymous) {
		return "", time.Time{}, fault.New(fault.Denied, "a token is issued only to who shows a password or a refresh token")
	}
	now := time.Now()
	expiry := now.Add(life)
	if !p.Until.IsZero() && p.Until.Before(expiry) {
		expiry = p.Until
	}
	expiry = expiry.Truncate(time.Second)
	k, err := s.signer(ctx, now)
	if err != nil {
		return "", time.Time{}, err
	}
	private, err := s.open(ctx, k)
	if err != nil {
		return "", time.Time{}, err
	}
	c := claims{
		ID: rand.Text(), Subject: p.Name, NotBefore: now.Unix(), Expiry: expiry.Unix(), IssuedAt: now.Unix(),
		Issuer: issuer, Audience: r.Service, Version: "1.0", Tenant: s.o.Tenant, Grant: grant, Access: access,
		Permissions: permissions{[]string{}, []string{}}, Roles: []string{},
		Registry: r.UID, Kind: p.Kind, Principal: p.ID, Credential: p.Credential,
		Client: p.Client, Groups: p.Groups, Authentication: p.Authentication,
	}
	if p.Kind == Federated {
		c.Account = p.Account
	}
	if c.Authentication.Time.IsZero() {
		c.Authentication.Time = now.Truncate(time.Second).UTC()
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", time.Time{}, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: k.Kid}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token: %w", err)
	}
	signature, err := signer.Sign(plainASCII(payload))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token: %w", err)
	}
	text, err := signature.CompactSerialize()
	return text, expiry, err
}

// plainASCII is the same JSON in characters whose base64 has neither '-' nor '_':
// the Go SDK for Azure decodes payloads with the alphabet that has '+' and '/'
// instead.
func plainASCII(text []byte) []byte {
	plain := make([]byte, 0, len(text))
	for _, c := range string(text) { // only strings hold what is escaped here
		switch {
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			plain = fmt.Appendf(plain, `\u%04x\u%04x`, high, low)
		case c >= 0x7f || c == '>' || c == '?' || c == '~':
			plain = fmt.Appendf(plain, `\u%04x`, c)
		default:
			plain = append(plain, byte(c))
		}
	}
	return plain
}

// token proves a bearer token, or a refresh token that stands for a password.
func (s *Store) token(ctx context.Context, r Realm, text, grant string) (Principal, error) {
	return s.proven.Get(ctx, s.o.Documents, s.shown(r.UID, r.Service, grant, text), func(ctx context.Context) (Principal, error) {
		c, err := s.verify(ctx, text)
		if err != nil {
			return Principal{}, err
		}
		if c.Issuer != issuer || c.Version != "1.0" || c.Grant != grant || c.Audience != r.Service || c.Registry != r.UID ||
			c.Expiry-c.NotBefore > int64(RefreshLife/time.Second) || time.Until(time.Unix(c.NotBefore, 0)) > leeway {
			return Principal{}, refused()
		}
		p := Principal{Kind: Anonymous}
		if c.Kind != Anonymous {
			if p, err = s.descends(ctx, r, c); err != nil {
				return Principal{}, err
			}
		}
		if end := time.Unix(c.Expiry, 0); p.Until.IsZero() || end.Before(p.Until) {
			p.Until = end
		}
		if grant == accessGrant {
			p.Ceiling = &Ceiling{Access: c.Access, ID: c.ID}
		}
		return p, nil
	})
}

// descends is the principal that the claims name, if it still is who it was, and
// what it showed then is still good.
func (s *Store) descends(ctx context.Context, r Realm, c *claims) (Principal, error) {
	var h Holder
	switch c.Kind {
	case Token:
		h = TokenHolder(r.ID, c.Subject)
	case Admin:
		h = AdminHolder(r.ID)
	case User:
		h = UserHolder(c.Subject)
	case Federated:
		return s.federated(ctx, c)
	default:
		return Principal{}, refused()
	}
	a, err := s.account(ctx, h, r)
	if err != nil {
		return Principal{}, err
	}
	v, ok := a.verifier(c.Credential)
	if !ok || a.ID != c.Principal {
		return Principal{}, refused()
	}
	p := a.principal(v)
	p.Client, p.Groups, p.Authentication = c.Client, c.Groups, c.Authentication
	return p, nil
}

// verify checks that one of our keys signed the token, whatever it says.
func (s *Store) verify(ctx context.Context, text string) (*claims, error) {
	head, _, ok := strings.Cut(text, ".")
	if !ok || len(text) > maxToken {
		return nil, refused()
	}
	ring, err := s.ring(ctx)
	if err != nil {
		return nil, err
	}
	k := ring.byHeader[head]
	if k == nil || !time.Now().Before(k.Verifies) {
		return nil, refused()
	}
	key := s.shown(text)
	if c, ok := s.signed.get(key); ok && c.Key == k.Kid {
		return c, nil
	}
	signature, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, refused()
	}
	// What is signed is the text that was decoded. Another text that decodes to the
	// same would be a second spelling of one token.
	if same, err := signature.CompactSerialize(); err != nil || same != text {
		return nil, refused()
	}
	payload, err := signature.Verify(k.Public.Key)
	if err != nil {
		return nil, refused()
	}
	c := &claims{Key: k.Kid}
	if err := json.Unmarshal(payload, c); err != nil {
		return nil, refused()
	}
	s.signed.add(key, c)
	return c, nil
}

// A signingKey is the document of one key. It signs until Signs, and what it has
// signed is believed until Verifies; then the document goes.
type signingKey struct {
	Kid      string          `json:"kid"`
	Public   jose.JSONWebKey `json:"public"`
	Private  []byte          `json:"private"` // wrapped by the vault
	Signs    time.Time       `json:"signs"`
	Verifies time.Time       `json:"verifies"`
}

type keyring struct {
	byHeader map[string]*signingKey
	newest   *signingKey
}

// ring is the signing keys as the documents say now.
func (s *Store) ring(ctx context.Context) (*keyring, error) {
	return s.keyring.Get(ctx, s.o.Documents, struct{}{}, func(ctx context.Context) (*keyring, error) {
		docs, err := s.o.Documents.List(ctx, "", keyType, "", 1000)
		if err != nil {
			return nil, err
		}
		ring := &keyring{byHeader: make(map[string]*signingKey, len(docs))}
		for _, doc := range docs {
			k := new(signingKey)
			if err := json.Unmarshal(doc.Properties, k); err != nil {
				return nil, fmt.Errorf("read signing key %s: %w", doc.ID, err)
			}
			ring.byHeader[header(k.Kid)] = k
			if ring.newest == nil || k.Signs.After(ring.newest.Signs) {
				ring.newest = k
			}
		}
		return ring, nil
	})
}

// signer is the key that signs now. The first token after the newest key's time
// makes the next key.
func (s *Store) signer(ctx context.Context, now time.Time) (*signingKey, error) {
	ring, err := s.ring(ctx)
	if err != nil || (ring.newest != nil && now.Before(ring.newest.Signs)) {
		if err != nil {
			return nil, err
		}
		return ring.newest, nil
	}
	s.rotating.Lock()
	defer s.rotating.Unlock()
	if ring, err = s.ring(ctx); err != nil {
		return nil, err
	}
	if ring.newest != nil && now.Before(ring.newest.Signs) {
		return ring.newest, nil
	}
	return s.rotate(ctx, ring, now)
}

// rotate makes a key and forgets those that nothing is believed from any more.
func (s *Store) rotate(ctx context.Context, ring *keyring, now time.Time) (*signingKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	k := &signingKey{Kid: rand.Text(), Signs: now.Add(s.o.Rotate).UTC(), Verifies: now.Add(s.o.Rotate + RefreshLife).UTC()}
	k.Public = jose.JSONWebKey{Key: private.Public(), KeyID: k.Kid, Algorithm: string(jose.ES256), Use: "sig"}
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	wrapped, err := s.o.Vault.Wrap(ctx, k.vaultID(), plain)
	if err != nil {
		return nil, fmt.Errorf("wrap signing key: %w", err)
	}
	k.Private = wrapped.Data
	doc := resource.Resource{ID: signingKeyID(k.Kid), Type: keyType}
	if doc.Properties, err = json.Marshal(k); err != nil {
		return nil, err
	}
	who := ThisServer()
	doc.System.LastModifiedBy, doc.System.LastModifiedByType = who.ID, string(who.Kind)
	err = s.o.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := s.o.Documents.Put(ctx, tx, doc, resource.Absent); err != nil {
			return err
		}
		for _, old := range ring.byHeader {
			if now.Before(old.Verifies) {
				continue
			}
			if err := s.o.Documents.Delete(ctx, tx, signingKeyID(old.Kid), resource.Any); err != nil && fault.Of(err) != fault.NotFound {
				return err
			}
		}
		return s.o.Ledger.Append(ctx, tx, ledger.Event{Time: now, Category: ledger.Administrative, Operation: keyType + "/write",
			Scope: doc.ID.Scope(), Who: who.Who(), Outcome: ledger.Success})
	})
	if err != nil {
		return nil, fmt.Errorf("rotate signing key: %w", err)
	}
	return k, nil
}

// open is the private part of k, unwrapped once.
func (s *Store) open(ctx context.Context, k *signingKey) (*ecdsa.PrivateKey, error) {
	if private, ok := s.opened.Load(k.Kid); ok {
		return private.(*ecdsa.PrivateKey), nil
	}
	plain, err := s.o.Vault.Unwrap(ctx, keys.Wrapped{ID: k.vaultID(), Data: k.Private})
	if err != nil {
		return nil, fmt.Errorf("unwrap signing key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s is of another kind", k.Kid)
	}
	s.opened.Store(k.Kid, private)
	return private, nil
}

func (k *signingKey) vaultID() keys.KeyID { return keys.KeyID("signing/" + k.Kid) }
