package arm

import (
	"context"
	"encoding/json"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/setting"
)

// Keys is the kind of what keeps customers' keys. One that a registry depends on
// stays: without it nobody could open what the registry has.
func Keys(s *setting.Store, rings *keys.Rings) []Kind {
	return []Kind{kept(s, &setting.Kind[keys.Settings]{
		Type: keys.ProviderType, Called: "key provider", Place: setting.Server, Most: keys.MaxProviders, Name: keys.CheckProviderName,
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[keys.Settings]) error {
			if c.Next == nil {
				user, err := rings.Uses(ctx, tx, c.ID)
				if err == nil && user != "" {
					err = fault.New(fault.Conflict, "the keys of %s depend on this provider; give the registry another key, or none, first", user)
				}
				return err
			}
			if c.Was != nil && c.Was.P.Kind != c.Next.P.Kind {
				return fault.New(fault.BadRequest, "the kind of a provider stays; write another one")
			}
			return c.Next.P.Check()
		},
	}, Kind{},
		func(t setting.Setting[keys.Settings]) providerView { return providerView{t.P, done} },
		func(v providerView) keys.Settings { return v.Settings })}
}

type providerView struct {
	keys.Settings
	settled
}

// rotateDataKey is the action on a registry that gives it a new data key.
func rotateDataKey(regs *registry.Store) Action {
	return Action{Name: "rotateDataKey", Right: access.RotateDataKey,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			if err := understand(body, &struct{}{}); err != nil {
				return nil, err
			}
			r, err := regs.RotateDataKey(ctx, g, id)
			if err != nil {
				return nil, err
			}
			return r.Properties.Filled().Encryption, nil
		},
	}
}
