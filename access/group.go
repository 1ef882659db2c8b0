package access

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// GroupProperties are the properties of a management group. Its parent is
// another management group, or "" for the top.
type GroupProperties struct {
	DisplayName string `json:"displayName"`
	Parent      ref.ID `json:"parent,omitempty"`
}

// maxGroupDepth is how deep management groups lie in each other, as in Azure.
const maxGroupDepth = 6

func checkGroup(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	action := GroupWrite
	if c.next == nil {
		action = GroupDelete
	}
	if err := g.Allows(action, c.scope); err != nil {
		return err
	}
	groups, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: GroupType})
	if err != nil {
		return err
	}
	parents := map[string]ref.ID{}
	for _, doc := range groups {
		p, err := parse[GroupProperties](doc)
		if err != nil {
			return err
		}
		parents[doc.ID.Key()] = p.Parent
		if c.next == nil && p.Parent.Key() == c.id.Key() {
			return fault.New(fault.Conflict, "the group %s lies in this one; move it first", doc.ID.Name())
		}
	}
	if c.next == nil {
		members, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: MemberType, Under: []ref.ID{c.id}, Limit: 1})
		if err == nil && len(members) > 0 {
			err = fault.New(fault.Conflict, "a subscription lies in the group; move it first")
		}
		return err
	}
	var p GroupProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	if err := identity.CheckName("management group", c.id.Name()); err != nil {
		return err
	}
	if len(p.DisplayName) > 256 {
		return bad("a management group has a displayName of at most 256 characters")
	}
	// Who puts a group into another lets those in who are assigned to the other.
	if before := parents[c.id.Key()]; before.Key() != p.Parent.Key() {
		for _, at := range []ref.ID{before, p.Parent} {
			if at == "" {
				continue
			}
			if err := cmp.Or(g.Allows(GroupWrite, at.Scope()), g.Allows(RoleAssignmentWrite, c.scope)); err != nil {
				return err
			}
		}
	}
	parents[c.id.Key()] = p.Parent
	for child := range parents {
		depth := 0
		for up := parents[child]; up != ""; up = parents[up.Key()] {
			if _, ok := parents[up.Key()]; !ok {
				return bad("there is no management group %s", up.Name())
			}
			if depth++; depth >= maxGroupDepth {
				return bad("management groups lie in each other at most %d deep, and not in themselves", maxGroupDepth)
			}
		}
	}
	return c.store(p)
}

func checkMember(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	// Who puts a subscription into a group lets those in who are assigned to the group,
	// and who takes it out lifts what is denied there.
	subscription := ref.Subscription(c.id.Name())
	if c.next == nil {
		return cmp.Or(g.Allows(MemberDelete, c.scope), g.Allows(RoleAssignmentWrite, subscription.Scope()))
	}
	if err := cmp.Or(g.Allows(MemberWrite, c.scope), g.Allows(RoleAssignmentWrite, subscription.Scope())); err != nil {
		return err
	}
	if err := understand(c.next.Properties, &struct{}{}); err != nil {
		return err
	}
	if err := s.found(ctx, tx, c.id.Parent(), GroupType); err != nil {
		return err
	}
	if _, err := s.Documents.GetTx(ctx, tx, subscription); err != nil {
		return err
	}
	members, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: MemberType})
	if err != nil {
		return err
	}
	for _, doc := range members {
		if doc.ID.Key() == c.id.Key() || !strings.EqualFold(doc.ID.Name(), c.id.Name()) {
			continue
		}
		if err := g.Allows(MemberDelete, doc.ID.Scope()); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, doc.ID, resource.Any); err != nil {
			return err
		}
		c.more["from"] = doc.ID.Parent().Name()
	}
	c.next.Properties = json.RawMessage("{}")
	return nil
}
