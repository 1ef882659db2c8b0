package arm

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/ref"
	"breakwater/resource"
)

// Authorization is the kinds of who may do what: all documents of access.
func Authorization(s *access.Store) []Kind {
	return []Kind{
		rule[access.DefinitionProperties](s, Kind{
			Type: access.DefinitionType, Place: extension, Made: true, Filters: []string{atScope, roleNameIs},
			Read: access.RoleDefinitionRead, Write: access.RoleDefinitionWrite, Delete: access.RoleDefinitionDelete,
		}),
		rule[access.AssignmentProperties](s, Kind{
			Type: access.AssignmentType, Place: extension, Made: true, Filters: []string{atScope, principalIs, assignedTo},
			Read: access.RoleAssignmentRead, Write: access.RoleAssignmentWrite, Delete: access.RoleAssignmentDelete,
		}),
		rule[access.DenyProperties](s, Kind{
			Type: access.DenyAssignmentType, Place: extension, Filters: []string{atScope, principalIs, assignedTo},
			Read: access.DenyAssignmentRead, Write: access.DenyAssignmentWrite, Delete: access.DenyAssignmentDelete,
		}),
		rule[access.PolicyProperties](s, Kind{
			Type: access.PolicyType, Place: inTenant,
			Read: access.PolicyRead, Write: access.PolicyWrite, Delete: access.PolicyDelete,
		}),
		rule[access.LocationProperties](s, Kind{
			Type: access.LocationType, Place: inTenant,
			Read: access.LocationRead, Write: access.LocationWrite, Delete: access.LocationDelete,
		}),
		rule[access.GroupProperties](s, Kind{
			Type: access.GroupType, Place: inTenant,
			Read: access.GroupRead, Write: access.GroupWrite, Delete: access.GroupDelete,
		}),
		rule[struct{}](s, Kind{
			Type: access.MemberType, Place: inTenant,
			Read: access.MemberRead, Write: access.MemberWrite, Delete: access.MemberDelete,
		}),
	}
}

// rule completes a kind of documents of access whose properties are a P. Callers
// see beside them who made and changed it, where Azure's clients look for that.
func rule[P any](s *access.Store, k Kind) Kind {
	stamped := strings.HasPrefix(k.Type, "Microsoft.Authorization/")
	shown := func(doc resource.Resource, err error) (resource.Resource, error) {
		if err != nil || !stamped || doc.System.CreatedAt.IsZero() {
			return doc, err // nobody made a built-in role
		}
		members := map[string]any{}
		if err := json.Unmarshal(doc.Properties, &members); err != nil {
			return doc, err
		}
		at := doc.System
		for i, value := range []any{at.CreatedAt, at.LastModifiedAt, at.CreatedBy, at.LastModifiedBy} {
			members[stamps[i]] = value
		}
		doc.Properties, err = json.Marshal(members)
		return doc, err
	}
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		return shown(s.Get(ctx, g, id))
	}
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		docs, err := s.List(ctx, g, k.Type, q.Under, q.After, q.Limit, q.Filter)
		for i := range docs {
			if docs[i], err = shown(docs[i], err); err != nil {
				return nil, err
			}
		}
		return docs, err
	}
	k.Put = func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(next.Properties, &members); err != nil {
			return next, err
		}
		for name := range members {
			if stamped && slices.ContainsFunc(stamps[:], func(s string) bool { return strings.EqualFold(s, name) }) {
				delete(members, name)
			}
		}
		sent, err := json.Marshal(members)
		if err != nil {
			return next, err
		}
		var p P
		if err := understand(sent, &p); err != nil {
			return next, err
		}
		if next.Properties, err = json.Marshal(p); err != nil {
			return next, err
		}
		return shown(s.Put(ctx, g, next, ifMatch))
	}
	k.Remove = func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
		return shown(s.Delete(ctx, g, id, ifMatch))
	}
	return k
}

// stamps are properties of Azure's documents about who may do what that nobody
// sets, but that clients send back.
var stamps = [...]string{"createdOn", "updatedOn", "createdBy", "updatedBy"}
