package arm

import (
	"context"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/resource"
	"breakwater/setting"
)

// lock is the kind of locks; resource heeds them. They lie in subscriptions only: of
// what lies above, such as its own signing keys and rules, the server must always be
// able to take its leave.
var lock = setting.Kind[resource.Lock]{
	Type: resource.LockType, Called: "lock", Place: setting.Anywhere, Most: 20,
	Name: func(name string) error {
		if len(name) > 260 || strings.ContainsAny(name, "<>&:?/") {
			return fault.New(fault.NameInvalid, "the name of a lock has at most 260 characters, and none of <>&:?/")
		}
		return nil
	},
	Check: func(_ context.Context, _ *db.Tx, _ access.Grant, c *setting.Change[resource.Lock]) error {
		switch {
		case c.Next == nil:
			return nil
		case !strings.HasPrefix(c.On.ID.Key(), "/subscriptions/") || strings.EqualFold(c.On.Type, resource.LockType):
			return fault.New(fault.BadRequest, "a lock lies on a subscription, a resource group or a resource in one")
		}
		return c.Next.P.Check()
	},
}

// Locks is the kind of what cannot be deleted or changed, whoever asks.
func Locks(s *setting.Store) []Kind {
	same := func(l resource.Lock) resource.Lock { return l }
	k := kept(s, &lock, Kind{Filters: []string{atScope}}, func(l setting.Setting[resource.Lock]) resource.Lock { return l.P }, same)
	list := k.List
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		q.Filter.Above = false // as Azure: those of the scope and below
		return list(ctx, g, q)
	}
	return []Kind{k}
}
