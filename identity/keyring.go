package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/resource"
)

// A use is what a signing key is for. No key has two: what one of the authority
// has signed is nothing to a registry, whatever it says.
type use string

const (
	registryUse  use = ""          // the tokens of registries
	authorityUse use = "authority" // access and id tokens (RFC 9068, OpenID Connect)
	receiptUse   use = "receipt"   // receipts of what was destroyed
)

// Types in the protected header of tokens: one is never taken for the other.
const (
	tokenType  = "JWT"    // of registries, and id tokens
	accessType = "at+jwt" // access tokens of the authority

	// ReceiptType is that of receipts, which are no tokens.
	ReceiptType = "breakwater-receipt+jws"
)

// The rest of what a use means: ES256 where tokens are many and the only reader is this
// server; RS256 for what others read.
func (u use) algorithm() jose.SignatureAlgorithm {
	if u == authorityUse {
		return jose.RS256
	}
	return jose.ES256
}

// typ is the type of the tokens that come back.
func (u use) typ() string {
	switch u {
	case authorityUse:
		return accessType
	case receiptUse:
		return ReceiptType
	}
	return tokenType
}

// life is the longest that a token lives. Receipts are for good: a key that has signed
// one is published for as long as there is this server.
func (u use) life() time.Duration {
	switch u {
	case authorityUse:
		return TokenLife
	case receiptUse:
		return 100 * year
	}
	return RefreshLife
}

const year = 365 * 24 * time.Hour

// signs is how long a key signs, where keys of tokens do for so long.
func (u use) signs(tokens time.Duration) time.Duration {
	if u == receiptUse {
		return year // receipts are few, and their keys stay
	}
	return tokens
}

func (u use) generate() (crypto.Signer, error) {
	if u == authorityUse {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// A signingKey is the document of one key. It signs until Signs, and what it has
// signed is believed until Verifies; then the document goes.
type signingKey struct {
	Kid      string          `json:"kid"`
	Use      use             `json:"use,omitempty"`
	Public   jose.JSONWebKey `json:"public"`
	Private  []byte          `json:"private"` // wrapped by the vault
	Signs    time.Time       `json:"signs"`
	Verifies time.Time       `json:"verifies"`
}

// header is the protected header of every token that comes back and that k has
// signed. A token is ours only if its header is this text: there is no other
// algorithm, no other type and no parameter that could name another key.
func (k *signingKey) header() string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + string(k.Use.algorithm()) + `","kid":"` + k.Kid + `","typ":"` + k.Use.typ() + `"}`))
}

func (k *signingKey) vaultID() keys.KeyID { return keys.KeyID("signing/" + k.Kid) }

// verify reads into claims what k has signed.
func (k *signingKey) verify(text string, claims any) error {
	signature, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{k.Use.algorithm()})
	if err != nil {
		return refused()
	}
	// What is signed is the text that was decoded. Another text that decodes to the
	// same would be a second spelling of one token.
	if same, err := signature.CompactSerialize(); err != nil || same != text {
		return refused()
	}
	payload, err := signature.Verify(k.Public.Key)
	if err != nil {
		return refused()
	}
	if err := json.Unmarshal(payload, claims); err != nil {
		return refused()
	}
	return nil
}

// sign makes a token of the claims.
func (s *Store) sign(ctx context.Context, u use, typ string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signer, err := s.pen(ctx, u, typ)
	if err != nil {
		return "", err
	}
	signature, err := signer.Sign(plainASCII(payload))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	text, err := signature.CompactSerialize()
	if err == nil && len(text) > maxToken {
		return "", fault.New(fault.Denied, "the token would be too long: the caller is in too many groups")
	}
	return text, err
}

// pen signs with the key of the moment.
func (s *Store) pen(ctx context.Context, u use, typ string) (jose.Signer, error) {
	k, err := s.signer(ctx, u, time.Now())
	if err != nil {
		return nil, err
	}
	private, err := s.open(ctx, k)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: u.algorithm(), Key: jose.JSONWebKey{Key: private, KeyID: k.Kid}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	return signer, nil
}

// ReceiptPen signs receipts, in a transaction too: the key is open.
func (s *Store) ReceiptPen(ctx context.Context) (jose.Signer, error) {
	return s.pen(ctx, receiptUse, ReceiptType)
}

type keyring struct {
	byHeader map[string]*signingKey
	newest   *signingKey
}

// ring is the signing keys for u as the documents say now.
func (s *Store) ring(ctx context.Context, u use) (*keyring, error) {
	return s.keyring.Get(ctx, s.o.Documents, u, func(ctx context.Context) (*keyring, error) {
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
			if k.Use != u {
				continue
			}
			ring.byHeader[k.header()] = k
			if ring.newest == nil || k.Signs.After(ring.newest.Signs) {
				ring.newest = k
			}
		}
		return ring, nil
	})
}

// signedBy is the key whose header text has, if what it signed is still believed.
func (s *Store) signedBy(ctx context.Context, u use, text string) (*signingKey, error) {
	head, _, ok := strings.Cut(text, ".")
	if !ok || len(text) > maxToken {
		return nil, refused()
	}
	ring, err := s.ring(ctx, u)
	if err != nil {
		return nil, err
	}
	k := ring.byHeader[head]
	if k == nil || !time.Now().Before(k.Verifies) {
		return nil, refused()
	}
	return k, nil
}

// signer is the key that signs now. The first token after the newest key's time
// makes the next key.
func (s *Store) signer(ctx context.Context, u use, now time.Time) (*signingKey, error) {
	ring, err := s.ring(ctx, u)
	if err != nil || (ring.newest != nil && now.Before(ring.newest.Signs)) {
		if err != nil {
			return nil, err
		}
		return ring.newest, nil
	}
	s.rotating.Lock()
	defer s.rotating.Unlock()
	if ring, err = s.ring(ctx, u); err != nil {
		return nil, err
	}
	if ring.newest != nil && now.Before(ring.newest.Signs) {
		return ring.newest, nil
	}
	return s.rotate(ctx, u, ring, now)
}

// rotate makes a key and forgets those that nothing is believed from any more.
func (s *Store) rotate(ctx context.Context, u use, ring *keyring, now time.Time) (*signingKey, error) {
	private, err := u.generate()
	if err != nil {
		return nil, err
	}
	k := &signingKey{Kid: rand.Text(), Use: u, Signs: now.Add(u.signs(s.o.Rotate)).UTC(), Verifies: now.Add(u.signs(s.o.Rotate) + u.life()).UTC()}
	k.Public = jose.JSONWebKey{Key: private.Public(), KeyID: k.Kid, Algorithm: string(u.algorithm()), Use: "sig"}
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
func (s *Store) open(ctx context.Context, k *signingKey) (crypto.Signer, error) {
	if private, ok := s.opened.Load(k.Kid); ok {
		return private.(crypto.Signer), nil
	}
	plain, err := s.o.Vault.Unwrap(ctx, keys.Wrapped{ID: k.vaultID(), Data: k.Private})
	if errors.Is(err, keys.ErrDamaged) {
		e := ledger.Event{Who: ThisServer().Who(), Scope: signingKeyID(k.Kid).Scope()}
		s.o.Ledger.Alarm(ctx, ledger.Damage(e, "key", string(k.vaultID())), err, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("unwrap signing key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key %s is of another kind", k.Kid)
	}
	s.opened.Store(k.Kid, private)
	return private, nil
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
