package identity

import (
	"context"
	"crypto/rand"
	"time"

	"breakwater/fault"
	"breakwater/ref"
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
	Through     bool        `json:"through,omitempty"` // Client is an application of ours
	Groups      []string    `json:"groups,omitempty"`

	Authentication Authentication `json:"authentication"`
}

type permissions struct {
	Actions    []string `json:"actions"`
	NotActions []string `json:"notActions"`
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
	c := claims{
		ID: rand.Text(), Subject: p.Name, NotBefore: now.Unix(), Expiry: expiry.Unix(), IssuedAt: now.Unix(),
		Issuer: issuer, Audience: r.Service, Version: "1.0", Tenant: s.o.Tenant, Grant: grant, Access: access,
		Permissions: permissions{[]string{}, []string{}}, Roles: []string{},
		Registry: r.UID, Kind: p.Kind, Principal: p.ID, Credential: p.Credential,
		Client: p.Client, Through: p.Through, Groups: p.Groups, Authentication: p.Authentication,
	}
	if p.Kind == Federated {
		c.Account = p.Account
	}
	if c.Authentication.Time.IsZero() {
		c.Authentication.Time = now.Truncate(time.Second).UTC()
	}
	text, err := s.sign(ctx, registryUse, tokenType, c)
	return text, expiry, err
}

// token proves a bearer token, or a refresh token that stands for a password.
func (s *Store) token(ctx context.Context, r Realm, text, grant string) (Principal, error) {
	return s.proven.Get(ctx, s.o.Documents, s.shown(r.UID, r.Service, grant, text), func(ctx context.Context) (Principal, error) {
		c, err := verify(ctx, s, registryUse, &s.signed, text)
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
	if c.Kind == User && c.Client != "" || c.Through { // else the client of the federated is one of their issuer's
		if err := s.through(ctx, c.Client); err != nil {
			return Principal{}, err
		}
	}
	var h Holder
	switch c.Kind {
	case Token:
		h = TokenHolder(r.ID, c.Subject)
	case Admin:
		h = AdminHolder(r.ID)
	case User:
		h = UserHolder(c.Subject)
	case ServicePrincipal, ManagedIdentity:
		h = Holder{c.Kind, ClientID(c.Client)}
	case Federated:
		return s.federated(ctx, c)
	default:
		return Principal{}, refused()
	}
	a, err := s.account(ctx, h, r)
	if err != nil {
		return Principal{}, err
	}
	p, err := a.by(c.Credential)
	if err != nil || a.ID != c.Principal {
		return Principal{}, refused()
	}
	p.Client, p.Through, p.Groups, p.Authentication = c.Client, c.Through, c.Groups, c.Authentication
	return p, nil
}

// A genuine token is one whose signature was found good: its claims, and which key it was.
type genuine[C any] struct {
	kid    string
	claims *C
}

// verify checks that one of our keys of the use signed the token, whatever it says.
// What was verified lately is kept.
func verify[C any](ctx context.Context, s *Store, u use, kept *recent[shown, genuine[C]], text string) (*C, error) {
	k, err := s.signedBy(ctx, u, text)
	if err != nil {
		return nil, err
	}
	key := s.shown(text)
	if p, ok := kept.get(key); ok && p.kid == k.Kid {
		return p.claims, nil
	}
	c := new(C)
	if err := k.verify(text, c); err != nil {
		return nil, err
	}
	kept.add(key, genuine[C]{k.Kid, c})
	return c, nil
}
