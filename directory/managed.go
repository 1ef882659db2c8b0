package directory

import (
	"context"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// A ManagedIdentity is a workload that has no secret: its host, or the tokens of
// an external issuer, stand for it.
type ManagedIdentity struct {
	ID          ref.ID
	Name        string
	Location    string
	Tags        map[string]string
	PrincipalID string
	ClientID    string
	Etag        string
	System      resource.SystemData
}

var managedIdentities = kind{identity.ManagedIdentityType, "managed identity"}

// PutManagedIdentity creates a managed identity in a resource group, or changes
// its tags, if ifMatch holds.
func (s *Store) PutManagedIdentity(ctx context.Context, g access.Grant, id ref.ID, location string, tags map[string]string, ifMatch string) (ManagedIdentity, error) {
	if err := g.Allows(access.ManagedIdentityWrite, id.Scope()); err != nil {
		return ManagedIdentity{}, err
	}
	group, ok := groupOf(id)
	if !ok || !validManaged(id.Name()) {
		return ManagedIdentity{}, fault.New(fault.BadRequest, "a managed identity lies in a resource group, and its name has 3 to 128 letters, digits, '-' or '_', and starts with a letter or digit")
	}
	var doc resource.Resource
	err := s.write(ctx, func(tx *db.Tx) (err error) {
		var p identity.ManagedIdentityProperties
		doc, err = s.getTx(ctx, tx, managedIdentities, id)
		switch {
		case err == nil:
			if p, err = read[identity.ManagedIdentityProperties](doc); err != nil {
				return err
			}
		case fault.Of(err) == fault.NotFound:
			if _, err := s.Documents.GetTx(ctx, tx, group); err != nil {
				return err
			}
			p.ClientID = ref.NewGUID()
			doc = resource.Resource{ID: id, Type: identity.ManagedIdentityType, Location: location}
			pointer := resource.Resource{ID: identity.ClientID(p.ClientID), Type: identity.ClientType}
			if _, err := s.put(ctx, tx, g, pointer, identity.Pointer{ID: id}, resource.Absent); err != nil {
				return err
			}
		default:
			return err
		}
		doc.Tags = tags
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, managedIdentities.called, id.Name())
		}
		return g.Record(ctx, tx, s.Ledger, access.ManagedIdentityWrite, id, nil)
	})
	if err != nil {
		return ManagedIdentity{}, err
	}
	return managedIdentity(ctx, doc)
}

// ManagedIdentity reads one managed identity.
func (s *Store) ManagedIdentity(ctx context.Context, g access.Grant, id ref.ID) (ManagedIdentity, error) {
	return show(ctx, s, g, access.ManagedIdentityRead, managedIdentities, id, managedIdentity)
}

// ManagedIdentities lists those below a subscription or resource group ("" is
// everywhere), after the one called after.
func (s *Store) ManagedIdentities(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]ManagedIdentity, error) {
	scope := ref.Everything
	if under != "" {
		scope = under.Scope()
	}
	if err := g.Allows(access.ManagedIdentityRead, scope); err != nil {
		return nil, err
	}
	return each(ctx, s, g, access.ManagedIdentityRead, managedIdentities, under, after, limit, managedIdentity)
}

// DeleteManagedIdentity deletes a managed identity with its federated
// credentials.
func (s *Store) DeleteManagedIdentity(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
	return remove(ctx, s, g, access.ManagedIdentityDelete, managedIdentities, id, ifMatch,
		func(tx *db.Tx, doc resource.Resource, p identity.ManagedIdentityProperties) (map[string]string, error) {
			return s.forgetClient(ctx, tx, doc, p.ClientID)
		})
}

func managedIdentity(_ context.Context, doc resource.Resource) (ManagedIdentity, error) {
	p, err := read[identity.ManagedIdentityProperties](doc)
	return ManagedIdentity{ID: doc.ID, Name: doc.ID.Name(), Location: doc.Location, Tags: doc.Tags, PrincipalID: doc.System.UID,
		ClientID: p.ClientID, Etag: doc.Etag, System: doc.System}, err
}

// groupOf is the resource group that a managed identity of this id lies in.
func groupOf(id ref.ID) (group ref.ID, ok bool) {
	if _, err := ref.ParseID(string(id)); err != nil {
		return "", false
	}
	part := strings.Split(string(id), "/") // "", subscriptions, guid, resourceGroups, name, providers, namespace, type, name
	if len(part) != 9 || !strings.EqualFold(part[1], "subscriptions") || !strings.EqualFold(part[3], "resourceGroups") ||
		!strings.EqualFold(part[5], "providers") || !strings.EqualFold(part[6]+"/"+part[7], identity.ManagedIdentityType) {
		return "", false
	}
	return ref.ID(strings.Join(part[:5], "/")), true
}

// validManaged is Azure's rule.
func validManaged(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return 3 <= len(s) && len(s) <= 128
}
