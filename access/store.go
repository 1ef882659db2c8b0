package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// Types of the documents that this package owns.
const (
	ScopeMapType = "Microsoft.ContainerRegistry/registries/scopeMaps"
	pointerType  = "Breakwater.Access/assigned"
)

// A Store keeps who may do what: role assignments, scope maps, repository tokens
// and users. Every change asks a Grant first and commits with its event.
type Store struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Identity  *identity.Store

	loaded resource.Cache[holding, []Assignment]
}

type holding struct {
	registry  string
	anonymous bool // pull
	principal string
	kind      identity.Kind
}

// LoadAssignments is everything that p is assigned that could matter in r, as the
// documents say now. Callers do not change the slice.
func (s *Store) LoadAssignments(ctx context.Context, r Registry, p identity.Principal) ([]Assignment, error) {
	return s.loaded.Get(ctx, s.Documents, holding{r.UID, r.AnonymousPull, p.ID, p.Kind}, func(ctx context.Context) ([]Assignment, error) {
		var as []Assignment
		if r.AnonymousPull {
			as = append(as, Assignment{Principal: p.ID, Actions: []Action{ContentRead, MetadataRead}, Scope: r.ID.Scope()})
		}
		var more []Assignment
		var err error
		switch p.Kind {
		case identity.Admin:
			if p.Registry == r.UID {
				more = []Assignment{{Principal: p.ID, Scope: r.ID.Scope(),
					Actions: []Action{ContentRead, ContentWrite, ContentDelete, MetadataRead, MetadataWrite, CatalogRead}}}
			}
		case identity.Token:
			if p.Registry == r.UID {
				more, err = s.mapped(ctx, r, p)
			}
		case identity.User:
			more, err = s.assigned(ctx, r, p)
		}
		return append(as, more...), err
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
// below it, also what does not exist yet, but not itself.
func ParseMapped(registry ref.ID, text string) (Assignment, error) {
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

// AssignmentProperties are the stored properties of a role assignment.
type AssignmentProperties struct {
	RoleDefinitionID string    `json:"roleDefinitionId"`
	PrincipalID      string    `json:"principalId"`
	PrincipalType    string    `json:"principalType"`
	Scope            ref.Scope `json:"scope"`
	Until            time.Time `json:"until,omitzero"`
}

// assigned is the role assignments of a user at scopes that cover r or lie in it.
//
// Assignments lie below their scope. So that those of one principal are found
// without reading all, a pointer lies below the principal; it says where to look
// and nothing else, so one that points nowhere gives nothing.
func (s *Store) assigned(ctx context.Context, r Registry, p identity.Principal) ([]Assignment, error) {
	var as []Assignment
	for after := ref.ID(""); ; {
		pointers, err := s.Documents.List(ctx, pointers(p.ID), pointerType, after, 1000)
		if err != nil || len(pointers) == 0 {
			return as, err
		}
		for _, pointer := range pointers {
			after = pointer.ID
			var to struct{ ID ref.ID }
			if err := json.Unmarshal(pointer.Properties, &to); err != nil {
				return nil, fmt.Errorf("read %s: %w", pointer.ID, err)
			}
			if scope := scopeOf(to.ID); r.ID != "" && !scope.Covers(r.ID.Scope()) && !r.ID.Scope().Covers(scope) {
				continue
			}
			doc, err := s.Documents.Get(ctx, to.ID)
			if fault.Of(err) == fault.NotFound {
				continue
			}
			if err != nil {
				return nil, err
			}
			var a AssignmentProperties
			if err := json.Unmarshal(doc.Properties, &a); err != nil {
				return nil, fmt.Errorf("read %s: %w", doc.ID, err)
			}
			if a.PrincipalID == p.ID {
				as = append(as, Assignment{Principal: p.ID, Role: a.RoleDefinitionID[strings.LastIndexByte(a.RoleDefinitionID, '/')+1:],
					Scope: scopeOf(doc.ID), Until: a.Until})
			}
		}
	}
}

const extension = "/providers/" + AssignmentType + "/"

// scopeOf is the scope at which the role assignment with that id holds.
func scopeOf(assignment ref.ID) ref.Scope {
	at := strings.LastIndex(assignment.Key(), strings.ToLower(extension))
	if at < 0 {
		return ""
	}
	if at == 0 {
		return ref.Everything
	}
	return ref.ID(assignment[:at]).Scope()
}

func assignmentID(scope ref.Scope, name string) ref.ID {
	return ref.ID(strings.TrimSuffix(string(scope), "/") + extension + name)
}

func pointers(principal string) ref.ID { return ref.ID("/providers/" + pointerType + "/" + principal) }

func pointerID(principal string, assignment ref.ID) ref.ID {
	sum := sha256.Sum256([]byte(assignment.Key()))
	return pointers(principal).Child("to", hex.EncodeToString(sum[:16]))
}

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

// record appends the event of a change at the end of its transaction.
func (s *Store) record(ctx context.Context, tx *db.Tx, g Grant, a Action, id ref.ID, more map[string]string) error {
	e := g.Event(ledger.Administrative, string(a), id.Scope())
	e.Detail.More = more
	return s.Ledger.Append(ctx, tx, e)
}

// Assign gives a principal a role at a scope and below. name is the GUID of the
// assignment; one that is taken is Conflict.
func (s *Store) Assign(ctx context.Context, g Grant, scope ref.Scope, name string, a AssignmentProperties) (resource.Resource, error) {
	if err := g.Allows(RoleAssignmentWrite, scope); err != nil {
		return resource.Resource{}, err
	}
	if _, err := ref.ParseID(string(assignmentID(scope, name))); err != nil {
		return resource.Resource{}, err
	}
	r, err := RoleByName(a.RoleDefinitionID)
	if err != nil {
		return resource.Resource{}, err
	}
	if _, err := ref.ParseID(string(pointers(a.PrincipalID))); err != nil || a.PrincipalID == "" || strings.Contains(a.PrincipalID, "/") {
		return resource.Resource{}, fault.New(fault.BadRequest, "principalId is the id of a principal")
	}
	a.RoleDefinitionID, a.Scope = "/providers/Microsoft.Authorization/roleDefinitions/"+r.ID, scope
	doc := resource.Resource{ID: assignmentID(scope, name), Type: AssignmentType}
	err = s.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if doc, err = s.put(ctx, tx, g, doc, a, resource.Absent); err != nil {
			return exists(resource.Absent, err, "role assignment", name)
		}
		pointer := resource.Resource{ID: pointerID(a.PrincipalID, doc.ID), Type: pointerType}
		if _, err := s.put(ctx, tx, g, pointer, struct{ ID ref.ID }{doc.ID}, resource.Any); err != nil {
			return err
		}
		return s.record(ctx, tx, g, RoleAssignmentWrite, doc.ID, map[string]string{"principal": a.PrincipalID, "role": r.Name})
	})
	return doc, err
}

// Unassign takes the assignment away.
func (s *Store) Unassign(ctx context.Context, g Grant, scope ref.Scope, name string) error {
	if err := g.Allows(RoleAssignmentDelete, scope); err != nil {
		return err
	}
	id := assignmentID(scope, name)
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		doc, err := s.Documents.GetTx(ctx, tx, id)
		if err = typed(doc, AssignmentType, err); err != nil {
			return err
		}
		var a AssignmentProperties
		if err := json.Unmarshal(doc.Properties, &a); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, id, resource.Any); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, pointerID(a.PrincipalID, id), resource.Any); gone(err) != nil {
			return err
		}
		return s.record(ctx, tx, g, RoleAssignmentDelete, id, map[string]string{"principal": a.PrincipalID})
	})
}

func badName(kind string) error {
	return fault.New(fault.BadRequest, "the name of a %s has 1 to 64 letters, digits, '-', '_', '.' or '@', and starts with a letter or digit", kind)
}

// exists makes the Conflict of a creation whose name is taken.
func exists(ifMatch string, err error, kind, name string) error {
	if ifMatch == resource.Absent && fault.Of(err) == fault.Stale {
		return fault.New(fault.Conflict, "there is a %s called %s already", kind, name)
	}
	return err
}
