package directory

import (
	"cmp"
	"context"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// An Object is somebody whom the directory knows, as others see it: by which ids,
// and what it is called. What proves it is not in it.
type Object struct {
	Kind        identity.Kind // User, ServicePrincipal or ManagedIdentity
	ID          string        // of the principal
	ClientID    string        // of a service principal or managed identity
	Document    ref.ID
	Name        string
	DisplayName string // Name, if it has no other
	Enabled     bool
	Created     time.Time
}

// A Search says which objects are meant: all that it says holds. Names are
// compared without regard to case.
type Search struct {
	Clients bool // service principals and managed identities; otherwise users

	ID, ClientID, Name    string
	DisplayName, StartsAs string // how the display name is, and begins

	After ref.ID // the document of the object before; "" is from the first
	Limit int
}

// objectKinds are what objects are documents of, in order of their ids.
var objectKinds = []struct {
	kind
	of   identity.Kind
	read access.Action
	all  ref.Scope
}{
	{users, identity.User, access.UserRead, allUsers.Scope()},
	{servicePrincipals, identity.ServicePrincipal, access.ServicePrincipalRead, allServicePrincipals.Scope()},
	{managedIdentities, identity.ManagedIdentity, access.ManagedIdentityRead, ref.Everything},
}

// Objects lists the principals of these ids that the caller may read, and says
// nothing of the others. Who sees none and may read neither all users nor all
// service principals is refused.
func (s *Store) Objects(ctx context.Context, g access.Grant, ids []string) (all []Object, err error) {
	for _, row := range objectKinds {
		docs, err := s.Documents.Find(ctx, resource.Query{Type: row.typ, Holders: append([]string{}, ids...)})
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if !g.Can(row.read, doc.ID.Scope()) {
				continue
			}
			o, err := object(doc)
			if err != nil {
				return nil, err
			}
			all = append(all, o)
		}
	}
	if len(all) == 0 && !g.Can(access.UserRead, allUsers.Scope()) {
		err = g.Allows(access.ServicePrincipalRead, allServicePrincipals.Scope())
	}
	return all, err
}

// Search finds the objects that q means and the caller may read. Who finds none and
// may not read all of them is refused, so that whether there is one stays unsaid.
func (s *Store) Search(ctx context.Context, g access.Grant, q Search) (all []Object, err error) {
	for i, row := range objectKinds {
		if q.Clients != (i > 0) {
			continue
		}
		more, err := s.candidates(ctx, row.kind, q, func(doc resource.Resource) (bool, error) {
			o, err := object(doc)
			if err == nil && q.means(o) && g.Can(row.read, doc.ID.Scope()) {
				all = append(all, o)
			}
			return len(all) < q.Limit, err
		})
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	if len(all) == 0 {
		row := objectKinds[0]
		if q.Clients {
			row = objectKinds[1]
		}
		err = g.Allows(row.read, row.all)
	}
	return all, err
}

// candidates shows the documents of a kind among which those are that q means, by
// an index if it names one, until show has enough of them.
func (s *Store) candidates(ctx context.Context, k kind, q Search, show func(resource.Resource) (more bool, err error)) (more bool, err error) {
	var id ref.ID
	switch {
	case q.ClientID != "":
		client, err := s.Identity.Client(ctx, q.ClientID)
		if fault.Of(err) == fault.NotFound {
			return true, nil
		} else if err != nil {
			return false, err
		}
		id = client.ID
	case q.Name != "" && !identity.ValidName(q.Name):
		return true, nil
	case q.Name != "" && k.typ == identity.UserType:
		id = identity.UserID(q.Name)
	case q.Name != "" && k.typ == identity.ServicePrincipalType:
		id = identity.ServicePrincipalID(q.Name)
	}
	if id != "" {
		doc, err := s.get(ctx, k, id)
		if fault.Of(err) == fault.NotFound || err == nil && doc.ID.Key() <= q.After.Key() {
			return true, nil
		} else if err != nil {
			return false, err
		}
		return show(doc)
	}
	in := resource.Query{Type: k.typ, After: q.After, Limit: 1000}
	if q.ID != "" {
		in.Holders = []string{q.ID}
	}
	for {
		docs, err := s.Documents.Find(ctx, in)
		if err != nil {
			return false, err
		}
		for _, doc := range docs {
			if more, err := show(doc); err != nil || !more {
				return false, err
			}
			in.After = doc.ID
		}
		if len(docs) < in.Limit {
			return true, nil
		}
	}
}

func (q Search) means(o Object) bool {
	is := func(want, have string) bool { return want == "" || strings.EqualFold(want, have) }
	begins := len(o.DisplayName) >= len(q.StartsAs) && strings.EqualFold(o.DisplayName[:len(q.StartsAs)], q.StartsAs)
	return is(q.ID, o.ID) && is(q.ClientID, o.ClientID) && is(q.DisplayName, o.DisplayName) && begins &&
		(is(q.Name, o.Name) && (q.Name == "" || o.Kind != identity.ManagedIdentity)) // whose name is its group's matter
}

func object(doc resource.Resource) (Object, error) {
	o := Object{ID: doc.System.UID, Document: doc.ID, Name: doc.ID.Name(), Enabled: true, Created: doc.System.CreatedAt}
	for _, row := range objectKinds {
		if strings.EqualFold(row.typ, doc.Type) {
			o.Kind = row.of
		}
	}
	p, err := read[struct{ DisplayName, Status, AppID, ClientID string }](doc)
	if err != nil {
		return o, err
	}
	if o.Kind != identity.ManagedIdentity {
		o.Enabled = p.Status == identity.EnabledStatus
	}
	o.ClientID, o.DisplayName = cmp.Or(p.AppID, p.ClientID), cmp.Or(p.DisplayName, o.Name)
	return o, nil
}
