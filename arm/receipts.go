package arm

import (
	"context"
	"encoding/json"
	"strings"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// Receipts is the kind of what is kept of erased content. A receipt is an extension: at
// every scope there are those about the registries below it, those that are gone too.
// Nobody writes or deletes one.
func Receipts(s *receipt.Store) []Kind {
	shown := func(i receipt.Issued, on ref.ID) (resource.Resource, error) {
		doc := resource.Resource{ID: on + i.ID, Type: receipt.Type}
		var err error
		doc.Properties, err = json.Marshal(i)
		return doc, err
	}
	return []Kind{{
		Type: receipt.Type, Place: extension, Read: access.ReceiptRead,
		Get: func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
			on := id[:strings.LastIndex(strings.ToLower(string(id)), "/providers/")]
			i, err := s.Get(ctx, g, on, id.Name())
			if err != nil {
				return resource.Resource{}, err
			}
			return shown(i, on)
		},
		List: func(ctx context.Context, g access.Grant, q Query) (all []resource.Resource, err error) {
			after := ""
			if q.After != "" {
				after = q.After.Name()
			}
			issued, err := s.List(ctx, g, q.Under, after, q.Limit)
			for _, i := range issued {
				doc, err := shown(i, q.Under)
				if err != nil {
					return nil, err
				}
				all = append(all, doc)
			}
			return all, err
		},
	}}
}

// issued answers an erase.
type issued struct {
	ID string `json:"id"`
	receipt.Issued
}

// eraseRegistry is the action on a registry that destroys all that is in it.
func eraseRegistry(regs *registry.Store) Action {
	return Action{Name: "erase", Right: access.RegistryErase,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var wanted struct{ NewKey string }
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			if wanted.NewKey != "" && wanted.NewKey != "platform" {
				return nil, fault.New(fault.BadRequest, "newKey is platform, or left out: then the new data key is under the customer's key too, if there is one")
			}
			i, err := regs.Erase(ctx, g, id, wanted.NewKey != "")
			if err != nil {
				return nil, err
			}
			return issued{string(i.ID), i}, nil
		},
	}
}

// eraseRepository is the action on a registry that destroys one of its repositories.
func eraseRepository(c *content.Store, s *receipt.Store, approvals *approval.Store) Action {
	return Action{Name: "eraseRepository", Right: access.RepositoryErase,
		Run: func(ctx context.Context, g access.Grant, _ ref.ID, body json.RawMessage) (any, error) {
			var wanted struct{ Repository string }
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			repo, err := ref.ParseRepository(wanted.Repository)
			if err != nil {
				return nil, err
			}
			i, err := c.EraseRepository(ctx, g, repo, s, approvals)
			if err != nil {
				return nil, err
			}
			return issued{string(i.ID), i}, nil
		},
	}
}
