package directory

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// A FederatedCredential says whose tokens, of an external issuer, stand for a
// service principal or managed identity: so that it needs no secret.
type FederatedCredential struct {
	ID     ref.ID
	Name   string
	Etag   string
	System resource.SystemData
	identity.FederatedCredentialProperties
}

// Audience is the audience that a token has which is made to be exchanged for one
// of the authority, where nobody says another.
const Audience = "api://AzureADTokenExchange"

// federations are the two kinds that have federated credentials.
var federations = [...]struct {
	parent, kind        kind
	holds               func(of ref.ID) bool
	read, write, delete access.Action
}{
	{servicePrincipals, kind{identity.FederatedCredentialType(identity.ServicePrincipalType), "federated credential"},
		func(of ref.ID) bool { return of.Key() == identity.ServicePrincipalID(of.Name()).Key() },
		access.ServicePrincipalFederatedRead, access.ServicePrincipalFederatedWrite, access.ServicePrincipalFederatedDelete},
	{managedIdentities, kind{identity.FederatedCredentialType(identity.ManagedIdentityType), "federated credential"},
		func(of ref.ID) bool { _, ok := groupOf(of); return ok },
		access.ManagedIdentityFederatedRead, access.ManagedIdentityFederatedWrite, access.ManagedIdentityFederatedDelete},
}

// federation finds the row of who has this federated credential, or could.
func federation(of, id ref.ID) (int, error) {
	for i, row := range federations {
		if row.holds(of) && (id == "" || id.Key() == identity.FederatedCredentialID(of, id.Name()).Key()) {
			return i, nil
		}
	}
	return 0, absent("service principal or managed identity")
}

// PutFederatedCredential creates or changes a federated credential, if ifMatch
// holds. Tokens that were given for what it said before are unknown from the next
// request on.
func (s *Store) PutFederatedCredential(ctx context.Context, g access.Grant, id ref.ID, p identity.FederatedCredentialProperties, ifMatch string) (FederatedCredential, error) {
	of := id.Parent()
	at, err := federation(of, id)
	if err != nil {
		return FederatedCredential{}, err
	}
	row := federations[at]
	if err := g.Allows(row.write, id.Scope()); err != nil {
		return FederatedCredential{}, err
	}
	if err := identity.CheckName(row.kind.called, id.Name()); err != nil {
		return FederatedCredential{}, err
	}
	if len(p.Audiences) == 0 {
		p.Audiences = []string{Audience}
	}
	if err := cmp.Or(p.Check(), checkText("description", p.Description)); err != nil {
		return FederatedCredential{}, err
	}
	doc := resource.Resource{ID: id, Type: row.kind.typ}
	err = s.write(ctx, func(tx *db.Tx) error {
		if _, err := s.getTx(ctx, tx, row.parent, of); err != nil {
			return err
		}
		others, err := s.Documents.ListTx(ctx, tx, of, row.kind.typ, "", maxCredentials+1)
		if err != nil {
			return err
		}
		others = slices.DeleteFunc(others, func(doc resource.Resource) bool { return doc.ID.Key() == id.Key() })
		if len(others) >= maxCredentials {
			return fault.New(fault.Conflict, "a %s has at most %d federated credentials; delete one first", row.parent.called, maxCredentials)
		}
		for _, doc := range others {
			other, err := read[identity.FederatedCredentialProperties](doc)
			if err != nil {
				return err
			}
			if other.Issuer == p.Issuer && other.Subject == p.Subject {
				return fault.New(fault.Conflict, "the federated credential %s has this issuer and subject already", doc.ID.Name())
			}
		}
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, row.kind.called, id.Name())
		}
		return g.Record(ctx, tx, s.Ledger, row.write, id, map[string]string{"issuer": p.Issuer, "subject": p.Subject, "audiences": strings.Join(p.Audiences, " ")})
	})
	if err != nil {
		return FederatedCredential{}, err
	}
	return s.federated(ctx, doc)
}

// FederatedCredential reads one federated credential.
func (s *Store) FederatedCredential(ctx context.Context, g access.Grant, id ref.ID) (FederatedCredential, error) {
	at, err := federation(id.Parent(), id)
	if err != nil {
		return FederatedCredential{}, err
	}
	return show(ctx, s, g, federations[at].read, federations[at].kind, id, s.federated)
}

// FederatedCredentials lists those of a service principal or managed identity,
// after the one called after.
func (s *Store) FederatedCredentials(ctx context.Context, g access.Grant, of, after ref.ID, limit int) ([]FederatedCredential, error) {
	at, err := federation(of, "")
	if err != nil {
		return nil, err
	}
	row := federations[at]
	if err := g.Allows(row.read, of.Scope()); err != nil {
		return nil, err
	}
	if _, err := s.get(ctx, row.parent, of); err != nil {
		return nil, err
	}
	return each(ctx, s, g, row.read, row.kind, of, after, limit, s.federated)
}

// DeleteFederatedCredential deletes a federated credential.
func (s *Store) DeleteFederatedCredential(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
	at, err := federation(id.Parent(), id)
	if err != nil {
		return err
	}
	return remove(ctx, s, g, federations[at].delete, federations[at].kind, id, ifMatch,
		func(*db.Tx, resource.Resource, identity.FederatedCredentialProperties) (map[string]string, error) {
			return nil, nil
		})
}

func (s *Store) federated(_ context.Context, doc resource.Resource) (FederatedCredential, error) {
	p, err := read[identity.FederatedCredentialProperties](doc)
	return FederatedCredential{ID: doc.ID, Name: doc.ID.Name(), Etag: doc.Etag, System: doc.System, FederatedCredentialProperties: p}, err
}
