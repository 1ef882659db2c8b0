package arm

import (
	"cmp"
	"context"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/setting"
)

// grouped is the types of what lies in resource groups.
var grouped = []string{registry.Type, identity.ManagedIdentityType}

// groups is the kind of resource groups. A group holds resources and says nothing
// about them; where it is, is for people, because what it holds says where it lies
// itself.
func groups(docs *resource.Store) *setting.Kind[struct{}] {
	return &setting.Kind[struct{}]{
		Type: ResourceGroupType, Called: "resource group", Right: SubscriptionType + "/resourceGroups", Place: setting.Above, Most: 980, // as in Azure
		Name: func(name string) error {
			odd := strings.ContainsFunc(name, func(r rune) bool {
				return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.()", r))
			})
			if odd || len(name) > 90 || strings.HasSuffix(name, ".") {
				return fault.New(fault.NameInvalid, "the name of a resource group has at most 90 letters, digits and characters of -_.(), and does not end with a period")
			}
			return nil
		},
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[struct{}]) error {
			if c.Next != nil && c.Next.Location == "" {
				return fault.New(fault.BadRequest, "a resource group has a location, such as local")
			}
			for _, typ := range grouped {
				if c.Next != nil {
					break
				}
				docs, err := docs.FindTx(ctx, tx, resource.Query{Type: typ, Under: []ref.ID{c.ID}, Limit: 1})
				if err != nil {
					return err
				}
				if len(docs) > 0 {
					return fault.New(fault.Conflict, "%s was made in the meantime; delete the resource group again", docs[0].ID)
				}
			}
			return nil
		},
	}
}

const groupDelete = access.Action(SubscriptionType + "/resourceGroups/delete")

// state is all that is shown of a resource group's properties; it is ignored when
// it is sent back.
type state struct {
	ProvisioningState string `json:"provisioningState"`
}

func resourceGroups(docs *resource.Store, s *setting.Store) Kind {
	k := kept(s, groups(docs), Kind{}, func(setting.Setting[struct{}]) state { return state{succeeded} }, func(state) struct{} { return struct{}{} })
	reads := seen(docs, Kind{Type: k.Type, Read: k.Read})
	k.Place, k.Seen, k.Get, k.List = above, true, reads.Get, reads.List
	k.Where = []string{"tagName", "tagValue", "name", "location"} // az group list --tag
	return k
}

// empties makes the DELETE of a resource group delete what lies in it: kind by kind
// and one by one, so that each is asked its own right and leaves its own event, and
// then the group. Whatever may not go is found before anything goes, if it can be;
// what fails later leaves a group that still holds the rest.
func (a *API) empties(last func(context.Context, access.Grant, ref.ID, string) (resource.Resource, error)) func(context.Context, access.Grant, ref.ID, string) (resource.Resource, error) {
	return func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
		none := resource.Resource{}
		if err := g.Allows(groupDelete, id.Scope()); err != nil {
			return none, err
		}
		doc, err := a.o.Documents.Get(ctx, id)
		if err == nil && ifMatch != resource.Any && ifMatch != resource.Exists && ifMatch != doc.Etag {
			err = fault.New(fault.Stale, "the resource group was changed by somebody else; read it again")
		}
		if err := cmp.Or(err, a.o.Documents.Deletable(ctx, id)); err != nil {
			return none, err
		}
		type item struct {
			of *Kind
			id ref.ID
		}
		var items []item
		for _, k := range a.tracked() {
			docs, err := a.o.Documents.List(ctx, id, k.Type, "", 0)
			if err != nil {
				return none, err
			}
			for _, doc := range docs {
				if k.Delete == "" {
					return none, fault.New(fault.Conflict, "%s cannot be deleted, so its resource group stays", doc.ID)
				}
				if err := g.Allows(k.Delete, doc.ID.Scope()); err != nil {
					return none, err
				}
				if k.Stays != nil {
					if err := k.Stays(doc.ID); err != nil {
						return none, err
					}
				}
				items = append(items, item{k, doc.ID})
			}
		}
		var waits []string
		for _, i := range items {
			if i.of.Ready == nil {
				continue
			}
			switch err := i.of.Ready(ctx, g, i.id); fault.Of(err) {
			case fault.ApprovalRequired: // each is asked for, so that they can be answered together
				waits = append(waits, i.id.Name()+": "+fault.From(err).Message)
			default:
				if err != nil && fault.Of(err) != fault.NotFound {
					return none, err
				}
			}
		}
		if len(waits) > 0 {
			return none, fault.New(fault.ApprovalRequired, "%s", strings.Join(waits, "\n"))
		}
		for _, i := range items {
			if _, err := i.of.Remove(ctx, g, i.id, resource.Any); err != nil && fault.Of(err) != fault.NotFound {
				return none, err
			}
		}
		return last(ctx, g, id, ifMatch)
	}
}
