package identity

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/fault"
	"breakwater/ref"
)

// TokenLife is how long the authority's access and id tokens live. Rights are
// looked up at each request, and so is what a token descends from.
const TokenLife = time.Hour

// RegistryAudience is what Azure calls every registry.
const RegistryAudience = "https://containerregistry.azure.net"

// Tenant is the GUID of this server's one directory.
func (s *Store) Tenant() string { return s.o.Tenant }

// opens tells where in r a token for the audience is good. Clients spell an
// audience with a slash at its end and without.
func opens(r Realm, audience string) (registry, control bool) {
	control = ARMAudience(audience, r.Service)
	return control || strings.TrimSuffix(audience, "/") == RegistryAudience, control
}

// KnownAudience reports whether the authority issues tokens for the audience.
func KnownAudience(r Realm, audience string) bool {
	registry, control := opens(r, audience)
	return registry || control
}

// A descent is who a token or code stands for, and what was shown for it. What it
// stands for must still be there whenever it is used.
type descent struct {
	Kind       Kind           `json:"kind"`
	ID         string         `json:"principal,omitempty"`
	Name       string         `json:"name,omitempty"`
	Account    ref.ID         `json:"account,omitempty"`
	Client     string         `json:"client,omitempty"`
	Credential string         `json:"credential"`
	Groups     []string       `json:"groups,omitempty"`
	How        Authentication `json:"authentication"`
}

// descended is where p comes from. It refuses who is none of the directory's: a
// repository token, an admin user, and who holds a token with a ceiling.
func descended(p Principal) (descent, error) {
	switch p.Kind {
	case User, ServicePrincipal, ManagedIdentity, Federated:
	default:
		return descent{}, refused()
	}
	if p.Ceiling != nil || p.ID == "" || p.Credential == "" {
		return descent{}, refused()
	}
	how := p.Authentication
	if how.Time.IsZero() {
		how.Time = time.Now().UTC().Truncate(time.Second)
	}
	return descent{p.Kind, p.ID, p.Name, p.Account, p.Client, p.Credential, p.Groups, how}, nil
}

// again is the principal of d, if it is still who it was, and what it showed is
// still good.
func (s *Store) again(ctx context.Context, r Realm, d descent) (Principal, error) {
	p, err := s.descends(ctx, r, &claims{
		Subject: d.Name, Kind: d.Kind, Principal: d.ID, Credential: d.Credential, Account: d.Account,
		Client: d.Client, Through: d.Kind == User || d.Kind == Federated, Groups: d.Groups, Authentication: d.How,
	})
	if err == nil && (p.ID != d.ID || p.Kind != d.Kind) {
		err = refused()
	}
	return p, err
}

// issuedClaims are the payload of the authority's tokens: Azure's claims for whoever reads
// them elsewhere, and the descent for ourselves.
type issuedClaims struct {
	ID        string   `json:"uti"`
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	Object    string   `json:"oid"`
	Tenant    string   `json:"tid"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expiry    int64    `json:"exp"`
	SignedIn  int64    `json:"auth_time"`
	ACR       string   `json:"acr,omitempty"`
	AMR       []string `json:"amr,omitempty"`
	Version   string   `json:"ver"`
	Name      string   `json:"name,omitempty"`

	// of access tokens
	Application string   `json:"appid,omitempty"`
	Party       string   `json:"azp,omitempty"`
	Type        string   `json:"idtyp,omitempty"` // app or user
	UPN         string   `json:"upn,omitempty"`
	UniqueName  string   `json:"unique_name,omitempty"`
	Groups      []string `json:"groups,omitempty"`
	Managed     string   `json:"xms_mirid,omitempty"`
	Scope       string   `json:"scp,omitempty"`
	Descent     *descent `json:"breakwater,omitempty"`

	// of id tokens
	Preferred string `json:"preferred_username,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
}

// A Want is what a client asks the authority for.
type Want struct {
	Issuer   string // URL of the authority, as the client knows it
	Audience string // of the access token; "" is the client itself: such a token opens nothing here
	ID       bool   // an id token too
	Refresh  bool   // and a refresh token
}

// Tokens are what a client gets.
type Tokens struct {
	Access, ID, Refresh Secret
	Expires             time.Time // of Access and ID
}

// IssueTokens signs tokens for p, which live no longer than what p showed. p was
// proven at the authority; who came with a refresh token gets the next one.
func (s *Store) IssueTokens(ctx context.Context, r Realm, p Principal, w Want) (t Tokens, err error) {
	d, err := descended(p)
	if err != nil {
		return Tokens{}, err
	}
	if w.Audience != "" && !KnownAudience(r, w.Audience) {
		return Tokens{}, fault.New(fault.BadRequest, "the resource is not known here")
	}
	now := time.Now()
	t.Expires = now.Add(TokenLife)
	if !p.Until.IsZero() && p.Until.Before(t.Expires) {
		t.Expires = p.Until
	}
	t.Expires = t.Expires.Truncate(time.Second)
	c := issuedClaims{
		ID: rand.Text(), Issuer: w.Issuer, Audience: w.Audience, Subject: d.ID, Object: d.ID, Tenant: s.o.Tenant,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: t.Expires.Unix(),
		SignedIn: d.How.Time.Unix(), ACR: d.How.ACR, AMR: d.How.AMR, Version: "2.0", Name: d.Name,
		Application: d.Client, Party: d.Client, Type: "app", Groups: d.Groups, Descent: &descent{Kind: d.Kind, Account: d.Account, Credential: d.Credential, How: d.How},
	}
	if c.Audience == "" {
		c.Audience = d.Client
	}
	switch d.Kind {
	case User, Federated:
		c.Type, c.UPN, c.UniqueName, c.Scope = "user", d.Name, d.Name, "user_impersonation"
	case ManagedIdentity:
		c.Managed = string(d.Account)
	}
	access, err := s.sign(ctx, authorityUse, accessType, c)
	if err != nil {
		return Tokens{}, err
	}
	t.Access = Secret(access)
	if w.ID && p.Session != nil {
		c.ID, c.Audience, c.Nonce, c.Preferred = rand.Text(), p.Session.Client, p.Session.Nonce, d.Name
		c.Application, c.Party, c.Type, c.UniqueName, c.Scope, c.Descent = "", "", "", "", "", nil
		id, err := s.sign(ctx, authorityUse, tokenType, c)
		if err != nil {
			return Tokens{}, err
		}
		t.ID = Secret(id)
	}
	if w.Refresh && p.Session != nil {
		if t.Refresh, err = s.next(ctx, d, p.Session); err != nil {
			return Tokens{}, err
		}
	}
	return t, nil
}

// Keys are the public keys of the authority: the one that signs, and those whose
// tokens still live.
func (s *Store) Keys(ctx context.Context) (jose.JSONWebKeySet, error) {
	return s.published(ctx, authorityUse)
}

// ReceiptKeys are the public keys of receipts: all that there ever were.
func (s *Store) ReceiptKeys(ctx context.Context) (jose.JSONWebKeySet, error) {
	return s.published(ctx, receiptUse)
}

func (s *Store) published(ctx context.Context, u use) (jose.JSONWebKeySet, error) {
	if _, err := s.signer(ctx, u, time.Now()); err != nil { // there is one from the first look on
		return jose.JSONWebKeySet{}, err
	}
	ring, err := s.ring(ctx, u)
	if err != nil {
		return jose.JSONWebKeySet{}, err
	}
	var set jose.JSONWebKeySet
	for _, k := range ring.byHeader {
		if time.Now().Before(k.Verifies) {
			set.Keys = append(set.Keys, k.Public)
		}
	}
	slices.SortFunc(set.Keys, func(a, b jose.JSONWebKey) int { return strings.Compare(a.KeyID, b.KeyID) })
	return set, nil
}

// issued proves an access token of our own authority; ok is false if it is not
// one of its tokens at all.
func (s *Store) issued(ctx context.Context, r Realm, at Plane, token Secret) (_ Principal, ok bool, _ error) {
	head, _, _ := strings.Cut(string(token), ".")
	ring, err := s.ring(ctx, authorityUse)
	if err != nil {
		return Principal{}, false, err
	}
	if ring.byHeader[head] == nil {
		return Principal{}, false, nil
	}
	p, err := s.proven.Get(ctx, s.o.Documents, s.shown("issued", r.UID, r.Service, fmt.Sprint(at), fmt.Sprint(r.ARMTokens), string(token)), func(ctx context.Context) (Principal, error) {
		c, err := verify(ctx, s, authorityUse, &s.verified, string(token))
		if err != nil {
			return Principal{}, err
		}
		registry, control := opens(r, c.Audience)
		good := at == ControlPlane && control || at == ContentPlane && registry && (r.ARMTokens || !control)
		if !good || c.Tenant != s.o.Tenant || c.Descent == nil || c.Expiry-c.NotBefore > int64(TokenLife/time.Second) ||
			time.Until(time.Unix(c.NotBefore, 0)) > leeway {
			return Principal{}, refused()
		}
		d := *c.Descent
		d.ID, d.Name, d.Client, d.Groups = c.Object, c.Name, c.Application, c.Groups
		p, err := s.again(ctx, r, d)
		if err != nil {
			return Principal{}, err
		}
		if end := time.Unix(c.Expiry, 0); p.Until.IsZero() || end.Before(p.Until) {
			p.Until = end
		}
		return p, nil
	})
	return p, true, err
}
