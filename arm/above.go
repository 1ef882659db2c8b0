package arm

import (
	"context"
	"encoding/json"
	"strings"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/setting"
)

// Types of what stands above the providers.
const (
	SubscriptionType  = "Microsoft.Resources/subscriptions"
	ResourceGroupType = "Microsoft.Resources/resourceGroups"
	tenantType        = "Microsoft.Resources/tenants"
)

// Above is the kinds above the providers. Whoever signs in asks for them first, so
// that their lists need no right: they have what the caller may see. There is one
// tenant, and its subscriptions are the server's; resource groups are the callers'.
func Above(docs *resource.Store, ids *identity.Store, settings *setting.Store) []Kind {
	subscriptions := seen(docs, Kind{Type: SubscriptionType, Read: SubscriptionType + "/read"})
	subscriptions.Shown = func(v view) any {
		return struct {
			view
			SubscriptionID string            `json:"subscriptionId"`
			TenantID       string            `json:"tenantId"`
			DisplayName    string            `json:"displayName"`
			State          string            `json:"state"`
			Source         string            `json:"authorizationSource"`
			ManagedBy      []string          `json:"managedByTenants"`
			Policies       map[string]string `json:"subscriptionPolicies"`
		}{v, v.Name, ids.Tenant(), "Breakwater", "Enabled", "RoleBased", []string{},
			map[string]string{"locationPlacementId": "Public_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"}}
	}
	tenants := Kind{
		Type: tenantType, Read: tenantType + "/read", Place: above, Seen: true,
		List: func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
			id := ref.ID("/tenants/" + ids.Tenant())
			if id.Key() <= q.After.Key() || !g.Sees(ref.Everything) {
				return nil, nil
			}
			return []resource.Resource{{ID: id}}, nil
		},
		Shown: func(v view) any {
			return struct {
				view
				TenantID    string   `json:"tenantId"`
				DisplayName string   `json:"displayName"`
				Domain      string   `json:"defaultDomain"`
				Category    string   `json:"tenantCategory"`
				Domains     []string `json:"domains"`
			}{v, ids.Tenant(), "Breakwater", "breakwater", "Home", []string{}}
		},
	}
	return []Kind{tenants, subscriptions, resourceGroups(docs, settings)}
}

// seen completes a kind of documents that are shown as they are.
func seen(docs *resource.Store, k Kind) Kind {
	k.Place, k.Seen = above, true
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		if err := g.Allows(k.Read, scope(id)); err != nil {
			return resource.Resource{}, err
		}
		doc, err := docs.Get(ctx, id)
		if err == nil && !strings.EqualFold(doc.Type, k.Type) {
			err = absent(k.Type)
		}
		return shownSucceeded(doc, err)
	}
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		find := resource.Query{Type: k.Type, Under: []ref.ID{q.Under}, After: q.After, Limit: q.Limit}
		some, err := docs.Select(ctx, find, func(doc resource.Resource) bool {
			at := doc.ID.Scope()
			return q.Where.holdsFor(doc) && !g.Hides(k.Read, at) && (g.Can(k.Read, at) || g.Sees(at))
		})
		for i := range some {
			some[i], err = shownSucceeded(some[i], err)
		}
		return some, err
	}
	return k
}

// shownSucceeded adds the state that clients wait for.
func shownSucceeded(doc resource.Resource, err error) (resource.Resource, error) {
	if err == nil && (len(doc.Properties) == 0 || string(doc.Properties) == "{}") {
		doc.Properties, err = json.Marshal(map[string]string{"provisioningState": succeeded})
	}
	return doc, err
}
