package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/db"
	"breakwater/fault"
)

// Bounds of an assertion that a client signs itself.
const (
	maxAssertion     = 8 << 10
	maxAssertionLife = time.Hour
)

// assertion proves a client by a token: one that it signed itself, or one of an
// issuer that it trusts.
func (s *Store) assertion(ctx context.Context, r Realm, c Credentials) (Principal, error) {
	j, err := parseJWT(string(c.Secret))
	if err != nil {
		return Principal{}, err
	}
	iss, err := j.claims.text("iss")
	if err != nil {
		return Principal{}, err
	}
	own := c.Name
	if own == "" {
		own = iss // RFC 7521, 4.2: the client id may be left out
	}
	of, err := s.Client(ctx, own)
	if fault.Of(err) == fault.NotFound {
		return Principal{}, doubt("there is no client %.50q", own)
	}
	if err != nil {
		return Principal{}, err
	}
	a, err := s.account(ctx, Holder{of.Kind, ClientID(of.ClientID)}, r)
	if err != nil {
		return Principal{}, err
	}
	if strings.EqualFold(iss, of.ClientID) {
		return s.signedByClient(ctx, a, of, j, c)
	}
	return s.signedByIssuer(ctx, a, of, c)
}

// signedByIssuer proves a client by a token of an external issuer: one of the
// client's federated credentials has its issuer, subject and audience. It can be
// shown as often as its issuer means it to be: that is how workloads get it.
func (s *Store) signedByIssuer(ctx context.Context, a *account, of *Client, c Credentials) (Principal, error) {
	v, err := s.verifyExternal(ctx, string(c.Secret))
	if err != nil {
		return Principal{}, err
	}
	credentials, err := s.federatedCredentials(ctx, of)
	if err != nil {
		return Principal{}, err
	}
	for _, f := range credentials {
		if f.Issuer != v.issuer.Issuer || f.Subject != v.subject || !v.meant(f.Audiences...) {
			continue
		}
		p, err := a.by(f.id)
		if err != nil {
			return Principal{}, err
		}
		if v.unfit != nil {
			return Principal{}, v.unfit
		}
		p.Authentication, p.Until = v.principal.Authentication, time.Now().Add(RefreshLife)
		return p, nil
	}
	return Principal{}, doubt("the client %s has no federated credential for %.200q of %s, meant for %.300q", of.ClientID, v.subject, v.issuer.Issuer, v.audience)
}

// A federatedCredential is one that could prove its client now. Its id follows
// from everything that it says, so that what descends from it ends when that, or
// its issuer, changes.
type federatedCredential struct {
	FederatedCredentialProperties
	name, id string
	created  time.Time
}

// federatedCredentials are those of a client whose issuer is trusted.
func (s *Store) federatedCredentials(ctx context.Context, of *Client) ([]federatedCredential, error) {
	docs, err := s.o.Documents.List(ctx, of.ID, FederatedCredentialType(of.typ()), "", 0)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	trusted, err := s.loadIssuers(ctx)
	if err != nil {
		return nil, err
	}
	var all []federatedCredential
	for _, doc := range docs {
		f := federatedCredential{name: doc.ID.Name(), created: doc.System.CreatedAt}
		if err := json.Unmarshal(doc.Properties, &f.FederatedCredentialProperties); err != nil {
			return nil, fmt.Errorf("read federated credential %s: %w", doc.ID, err)
		}
		if i := trusted.byURL[f.Issuer]; i != nil && i.Status == EnabledStatus {
			f.id = derived(append([]string{doc.System.UID, i.credential, f.Issuer, f.Subject}, f.Audiences...)...)
			all = append(all, f)
		}
	}
	return all, nil
}

// signedByClient proves a client by an assertion that it signed with the key of
// one of its certificates (RFC 7523). The header names the certificate and nothing
// else that matters; the assertion is for this server, for a short time, and good
// once for each resource that a token is wanted for: Microsoft's library for Python
// shows one several times, for one after the other.
func (s *Store) signedByClient(ctx context.Context, a *account, of *Client, j *jwt, c Credentials) (Principal, error) {
	k, err := pick(of.keys, string(c.Secret), j.alg)
	if err != nil {
		return Principal{}, err
	}
	p, err := a.by(k.KeyID)
	if err != nil {
		return Principal{}, err
	}
	certificate, err := readCertificate(k.Certificate)
	if err != nil {
		return Principal{}, fmt.Errorf("read certificate %s of %s: %w", k.KeyID, of.ID, err)
	}
	if !signs(certificate.PublicKey, j.alg) {
		return Principal{}, doubt("the key of the certificate does not sign %s", j.alg)
	}
	signature, err := jose.ParseSignedCompact(string(c.Secret), []jose.SignatureAlgorithm{j.alg})
	if err != nil {
		return Principal{}, doubt("read the signature: %w", err)
	}
	if payload, err := signature.Verify(certificate.PublicKey); err != nil || !bytes.Equal(payload, j.payload) {
		return Principal{}, doubt("the signature is wrong: %w", err)
	}
	id, until, err := judgeAssertion(j.claims, of.ClientID, c.Audience, time.Now())
	if err != nil {
		return Principal{}, err
	}
	first, err := s.once(ctx, derived("assertion", of.ClientID, id, c.Resource), until)
	if err == nil && !first {
		err = doubt("the assertion %.100q was shown before", id)
	}
	if err != nil {
		return Principal{}, err
	}
	return p, nil
}

// signs reports whether a key of that type makes signatures of that kind.
func signs(key crypto.PublicKey, alg jose.SignatureAlgorithm) bool {
	if _, ok := key.(*ecdsa.PublicKey); ok {
		return alg == jose.ES256
	}
	return alg == jose.RS256 || alg == jose.PS256
}

// pick finds the certificate that the header of an assertion names, by its hash.
// Azure's clients write that in either alphabet of base64, with and without
// padding.
func pick(keys []Key, text string, alg jose.SignatureAlgorithm) (k Key, err error) {
	if len(text) > maxAssertion {
		return k, doubt("the assertion has more than %d bytes", maxAssertion)
	}
	first, _, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return k, doubt("the header of the assertion is not spelled as base64url")
	}
	head, err := parseClaims(raw)
	if err != nil {
		return k, doubt("the header of the assertion cannot be read: %w", err)
	}
	for name := range head {
		if !slices.Contains([]string{"alg", "typ", "kid", "x5t", "x5t#S256"}, name) {
			return k, doubt("the header of the assertion has %.50q", name)
		}
	}
	if typ, err := head.text("typ"); err != nil || !strings.EqualFold(typ, "JWT") && !strings.EqualFold(typ, "client-authentication+jwt") {
		return k, doubt("the assertion has another typ than JWT")
	}
	named := 0
	matches := func(Key) bool { return true }
	for name, sum := range map[string]func(Key) []byte{
		"x5t":      func(k Key) []byte { sum := sha1.Sum(k.Certificate); return sum[:] },
		"x5t#S256": func(k Key) []byte { sum := sha256.Sum256(k.Certificate); return sum[:] },
	} {
		if head[name] == nil {
			continue
		}
		spelled, err := head.text(name)
		if err != nil {
			return k, err
		}
		want, err := anyBase64(spelled)
		if err != nil {
			return k, doubt("%s is not base64", name)
		}
		before := matches
		matches = func(k Key) bool { return before(k) && bytes.Equal(sum(k), want) }
		named++
	}
	at := slices.IndexFunc(keys, matches)
	if named == 0 || at < 0 {
		return k, doubt("the header of the assertion names no certificate of the client")
	}
	return keys[at], nil
}

func anyBase64(text string) ([]byte, error) {
	text = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	return base64.RawURLEncoding.DecodeString(text)
}

// judgeAssertion reads what an assertion of the client says: that it is about the
// client, for one of our audiences alone, and for now.
func judgeAssertion(claims claimSet, client string, audiences []string, now time.Time) (id string, until time.Time, err error) {
	refuse := func(format string, args ...any) (string, time.Time, error) {
		return "", time.Time{}, doubt(format, args...)
	}
	if sub, err := claims.text("sub"); err != nil || !strings.EqualFold(sub, client) {
		return refuse("the assertion is about another than who signed it")
	}
	if aud, err := claims.texts("aud", 1); err != nil || len(aud) != 1 || !slices.Contains(audiences, aud[0]) {
		return refuse("the assertion is for another audience: %.200q", aud)
	}
	if id, err = claims.text("jti"); err != nil {
		return refuse("the assertion has no jti: %w", err)
	}
	until, ok, err := claims.time("exp")
	if err != nil || !ok || !now.Before(until) || until.Sub(now) > maxAssertionLife+leeway {
		return refuse("the assertion has no exp, or has ended, or lives longer than %v", maxAssertionLife)
	}
	for _, name := range []string{"nbf", "iat"} {
		from, ok, err := claims.time(name)
		if err != nil || ok && (from.Sub(now) > leeway || until.Sub(from) > maxAssertionLife+2*leeway) {
			return refuse("the %s of the assertion is from the future, or long ago", name)
		}
	}
	return id, until, nil
}

// once reports whether it is asked about id for the first time, on any node,
// before until.
func (s *Store) once(ctx context.Context, id string, until time.Time) (first bool, err error) {
	err = s.o.DB.Write(ctx, func(tx *db.Tx) error {
		// Another node's clock may be late, and this one's sweep must not help a replay.
		n, err := tx.Exec(ctx, `INSERT INTO signin (id, kind, until, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
			id, assertionRow, until.Add(leeway), []byte{})
		first = n == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("remember an assertion: %w", err)
	}
	return first, nil
}
