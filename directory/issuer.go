package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

var issuers = kind{identity.IssuerType, "issuer"}

const (
	allIssuers = ref.ID("/providers/" + identity.IssuerType)
	maxIssuers = 100 // all of them are in memory
	urlType    = "Breakwater.Identity/issuerUrls"
)

// issuerURL is the id of the document that keeps a URL to one issuer.
func issuerURL(url string) ref.ID {
	sum := sha256.Sum256([]byte(url))
	return ref.ID("/providers/" + urlType + "/" + hex.EncodeToString(sum[:]))
}

// PutIssuer creates or changes an external issuer, if ifMatch holds. Which issuer
// it is, and which claim names its principals, is said once: other people would
// answer to the same ids. A client secret that is not named anew stays.
//
// Whoever came in through the issuer is out at the next request, unless it is still
// trusted with the same.
func (s *Store) PutIssuer(ctx context.Context, g access.Grant, name string, p identity.IssuerProperties, ifMatch string) (*identity.Issuer, error) {
	id := identity.IssuerID(name)
	if err := g.Allows(access.IssuerWrite, id.Scope()); err != nil {
		return nil, err
	}
	if err := identity.CheckName("issuer", name); err != nil {
		return nil, err
	}
	if p.Status == "" {
		p.Status = identity.EnabledStatus
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if p.SignIn != nil {
		in := *p.SignIn
		if p.SignIn = &in; in.Sealed != nil {
			return nil, fault.New(fault.BadRequest, "signIn has a clientId and a clientSecret")
		}
		if in.ClientSecret != "" {
			var err error
			if in.Sealed, err = s.Identity.SealSignIn(ctx, id, in.ClientSecret); err != nil {
				return nil, err
			}
			in.ClientSecret = ""
		}
	}
	others, err := s.Documents.List(ctx, allIssuers, issuers.typ, "", maxIssuers+1)
	if err != nil {
		return nil, err
	}
	var doc resource.Resource
	err = s.write(ctx, func(tx *db.Tx) (err error) {
		doc, err = s.getTx(ctx, tx, issuers, id)
		switch {
		case err == nil:
			was, err := read[identity.IssuerProperties](doc)
			if err != nil {
				return err
			}
			if was.Issuer != p.Issuer || was.Claims.Subject != p.Claims.Subject {
				return fault.New(fault.Conflict, "the issuer and claims.subject of %s stay as they are; delete it and make another", name)
			}
			if p.SignIn != nil && p.SignIn.Sealed == nil && was.SignIn != nil && was.SignIn.ClientID == p.SignIn.ClientID {
				p.SignIn.Sealed = was.SignIn.Sealed
			}
		case fault.Of(err) != fault.NotFound || ifMatch == resource.Exists:
			return err
		case len(others) >= maxIssuers:
			return fault.New(fault.Conflict, "there are at most %d issuers", maxIssuers)
		default:
			doc = resource.Resource{ID: id, Type: issuers.typ}
			pointer := resource.Resource{ID: issuerURL(p.Issuer), Type: urlType}
			if _, err := s.put(ctx, tx, g, pointer, identity.Pointer{ID: id}, resource.Absent); fault.Of(err) == fault.Stale {
				return fault.New(fault.Conflict, "there is an issuer with the URL %s already", p.Issuer)
			} else if err != nil {
				return err
			}
		}
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, issuers.called, name)
		}
		return g.Record(ctx, tx, s.Ledger, access.IssuerWrite, id, map[string]string{"issuer": p.Issuer, "status": p.Status,
			"audiences": strings.Join(p.Audiences, " "), "principalType": p.PrincipalType})
	})
	if err != nil {
		return nil, err
	}
	return issuer(ctx, doc)
}

// Issuer reads one issuer.
func (s *Store) Issuer(ctx context.Context, g access.Grant, name string) (*identity.Issuer, error) {
	return show(ctx, s, g, access.IssuerRead, issuers, identity.IssuerID(name), issuer)
}

// Issuers lists the issuers after the one called after, in order of name.
func (s *Store) Issuers(ctx context.Context, g access.Grant, after string, limit int) ([]*identity.Issuer, error) {
	if err := g.Allows(access.IssuerRead, allIssuers.Scope()); err != nil {
		return nil, err
	}
	return each(ctx, s, g, access.IssuerRead, issuers, allIssuers, start(identity.IssuerID, after), limit, issuer)
}

// DeleteIssuer deletes an issuer. Nobody comes in through it any more, and who has
// is out at the next request; an issuer of the same name vouches for others.
func (s *Store) DeleteIssuer(ctx context.Context, g access.Grant, name, ifMatch string) error {
	return remove(ctx, s, g, access.IssuerDelete, issuers, identity.IssuerID(name), ifMatch,
		func(tx *db.Tx, _ resource.Resource, p identity.IssuerProperties) (map[string]string, error) {
			return map[string]string{"issuer": p.Issuer}, s.forget(ctx, tx, issuerURL(p.Issuer))
		})
}

// A Resolved is who is meant by a claim of an issuer's tokens: what a role can be
// assigned to, also before anybody has signed in.
type Resolved struct {
	PrincipalID   string `json:"principalId"`
	PrincipalType string `json:"principalType"` // User, ServicePrincipal or Group
}

// Resolve tells which principal the issuer means by a subject (claim ""), or which
// group by a value of a claim that names groups.
func (s *Store) Resolve(ctx context.Context, g access.Grant, name, claim, value string) (Resolved, error) {
	i, err := s.Issuer(ctx, g, name)
	switch {
	case err != nil:
		return Resolved{}, err
	case value == "":
		return Resolved{}, fault.New(fault.BadRequest, "say which subject, or which claim and value")
	case claim == "":
		return Resolved{i.Principal(value), i.PrincipalType}, nil
	case !slices.Contains(i.Claims.Groups, claim):
		return Resolved{}, fault.New(fault.BadRequest, "%s names no groups of %s; claims.groups has %s", claim, name, strings.Join(i.Claims.Groups, ", "))
	}
	return Resolved{i.Group(claim, value), "Group"}, nil
}

// issuer is what may be shown of an issuer: not its client secret.
func issuer(_ context.Context, doc resource.Resource) (*identity.Issuer, error) {
	i, err := identity.ReadIssuer(doc)
	if err == nil && i.SignIn != nil {
		i.SignIn = &identity.SignIn{ClientID: i.SignIn.ClientID}
	}
	return i, err
}
