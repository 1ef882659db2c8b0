package access

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// Types of the documents that this package owns.
const ScopeMapType = "Microsoft.ContainerRegistry/registries/scopeMaps"

// A Store keeps who may do what: role definitions and assignments, denials, rules,
// scope maps and repository tokens. Every change asks a Grant first and commits
// with its event.
type Store struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Identity  *identity.Store

	held resource.Cache[holding, *Held]
	laws resource.Cache[struct{}, *laws]
}

// An account is a principal of this server's directory, as far as it matters who
// is assigned to: where it is, what role assignments call it, and whether it can come in.
type account struct {
	id      ref.ID
	typ     string
	enabled bool
}

// account finds who has a principal's id; the zero account if nobody here has.
func (s *Store) account(ctx context.Context, tx *db.Tx, principal string) (account, error) {
	for _, row := range accountTypes {
		docs, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: row.typ, Holders: []string{principal}, Limit: 1})
		if err != nil {
			return account{}, err
		}
		if len(docs) == 0 {
			continue
		}
		p, err := parse[identity.UserProperties](docs[0]) // service principals have a status as well
		return account{docs[0].ID, row.called, row.typ == identity.ManagedIdentityType || p.Status == identity.EnabledStatus}, err
	}
	return account{}, nil
}

var accountTypes = []struct{ typ, called string }{
	{identity.UserType, "User"}, {identity.ServicePrincipalType, "ServicePrincipal"}, {identity.ManagedIdentityType, "ServicePrincipal"},
}

// holding is what Held depends on, beside the documents.
type holding struct {
	registry  string
	anonymous bool // pull
	principal string
	kind      identity.Kind
	groups    string
}

// LoadAssignments is everything that p is assigned that could matter in r, and the
// denials and rules for it, as the documents say now. The zero Registry is none in
// particular: then all that it is assigned anywhere matters.
func (s *Store) LoadAssignments(ctx context.Context, r Registry, p identity.Principal) (*Held, error) {
	key := holding{r.UID, r.AnonymousPull, p.ID, p.Kind, strings.Join(p.Groups, " ")}
	return s.held.Get(ctx, s.Documents, key, func(ctx context.Context) (*Held, error) {
		l, err := s.laws.Get(ctx, s.Documents, struct{}{}, s.loadLaws)
		if err != nil {
			return nil, err
		}
		h := l.of(&p)
		if r.AnonymousPull {
			h.add(Assignment{Principal: p.ID, Actions: []Action{ContentRead, MetadataRead}, Scope: r.ID.Scope()})
		}
		var more []Assignment
		switch p.Kind {
		case identity.Admin:
			if p.Registry == r.UID {
				h.add(Assignment{Principal: p.ID, Scope: r.ID.Scope(),
					Actions: []Action{ContentRead, ContentWrite, ContentDelete, MetadataRead, MetadataWrite, CatalogRead}})
			}
		case identity.Token:
			if p.Registry == r.UID {
				more, err = s.mapped(ctx, r, p)
			}
		case identity.User, identity.ServicePrincipal, identity.ManagedIdentity, identity.Federated:
			more, err = s.assigned(ctx, r, p, l)
		}
		for _, a := range more {
			h.add(a)
		}
		return h, err
	})
}

// mapped is what the scope map of a repository token gives. A map that is gone
// gives nothing.
func (s *Store) mapped(ctx context.Context, r Registry, p identity.Principal) ([]Assignment, error) {
	doc, err := s.Documents.Get(ctx, p.Account)
	if err != nil {
		return nil, gone(err)
	}
	var t identity.TokenProperties
	if err := json.Unmarshal(doc.Properties, &t); err != nil {
		return nil, fmt.Errorf("read token %s: %w", doc.ID, err)
	}
	if doc.System.UID != p.ID || t.Status != identity.EnabledStatus || !strings.EqualFold(string(t.ScopeMapID.Parent()), string(r.ID)) {
		return nil, nil
	}
	if doc, err = s.Documents.Get(ctx, t.ScopeMapID); err != nil {
		return nil, gone(err)
	}
	var m ScopeMapProperties
	if err := json.Unmarshal(doc.Properties, &m); err != nil {
		return nil, fmt.Errorf("read scope map %s: %w", doc.ID, err)
	}
	as := make([]Assignment, 0, len(m.Actions))
	for _, text := range m.Actions {
		a, err := ParseMapped(r.ID, text)
		if err != nil {
			return nil, fmt.Errorf("read scope map %s: %w", doc.ID, err)
		}
		if a.Actions == nil {
			continue
		}
		a.Principal = p.ID
		as = append(as, a)
	}
	return as, nil
}

// gone is nil if err says that a document does not exist.
func gone(err error) error {
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}

// ParseMapped reads an action of a scope map: "repositories/<repository>/<action>"
// where the repository is a name, "prefix/*" or "*". A prefix covers what lies
// below it, also what does not exist yet, but not itself. Those of a connected
// registry, "gateway/<name>/config/read" and the like, are read and give nothing: it
// comes to no gateway here (azure-contract §3.13).
func ParseMapped(registry ref.ID, text string) (Assignment, error) {
	if name, ok := strings.CutPrefix(text, "gateway/"); ok {
		name, action, _ := strings.Cut(name, "/")
		if identity.CheckName("gateway", name) == nil && slices.Contains(gatewayActions, action) {
			return Assignment{}, nil
		}
	}
	rest, ok := strings.CutPrefix(text, "repositories/")
	for _, row := range content {
		name, found := strings.CutSuffix(rest, "/"+row.ScopeMap)
		if !ok || row.ScopeMap == "" || !found {
			continue
		}
		a := Assignment{Actions: []Action{row.Action}, Scope: registry.Scope()}
		if name == "*" {
			return a, nil
		}
		prefix, star := strings.CutSuffix(name, "/*")
		repo, err := ref.ParseRepository(prefix)
		if err != nil {
			return Assignment{}, err
		}
		if star {
			a.Prefix = prefix + "/"
		} else {
			a.Scope = ref.RepositoryScope(registry, repo)
		}
		return a, nil
	}
	return Assignment{}, fault.New(fault.BadRequest,
		"an action is repositories/<repository, prefix/* or *>/ and content/read, content/write, content/delete, metadata/read or metadata/write")
}

var gatewayActions = []string{"config/read", "config/write", "message/read", "message/write"}

// get reads a document of one type, so that a name cannot lead to another kind.
func (s *Store) get(ctx context.Context, id ref.ID, typ string) (resource.Resource, error) {
	doc, err := s.Documents.Get(ctx, id)
	return doc, typed(doc, typ, err)
}

// found is nil if there is a document of that type.
func (s *Store) found(ctx context.Context, tx *db.Tx, id ref.ID, typ string) error {
	doc, err := s.Documents.GetTx(ctx, tx, id)
	return typed(doc, typ, err)
}

func typed(doc resource.Resource, typ string, err error) error {
	if err == nil && doc.Type != typ {
		return fault.New(fault.NotFound, "there is no such resource")
	}
	return err
}

// put writes a document whose properties are p.
func (s *Store) put(ctx context.Context, tx *db.Tx, g Grant, doc resource.Resource, properties any, ifMatch string) (resource.Resource, error) {
	var err error
	if doc.Properties, err = json.Marshal(properties); err != nil {
		return doc, err
	}
	doc.System = g.Modified()
	return s.Documents.Put(ctx, tx, doc, ifMatch)
}
