package gate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"breakwater/fault"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/registry"
)

// called is the registry that a host means at a plane: no name means one as a login
// server and as a data endpoint.
func (g *Gate) called(ctx context.Context, at identity.Plane, host string) (*registry.Registry, error) {
	if at == identity.DataPlane {
		return g.o.Registries.ByDataHost(ctx, host)
	}
	return g.o.Registries.ByHost(ctx, host)
}

// trusted reports whether the caller has proven to be one of the services that no
// network rule of the registry has to name.
func (v *visit) trusted() bool {
	return v.principal.Proven() && v.registry.Trusts(v.principal.ID)
}

// shut refuses who comes from a network that may not knock. Which rule decided is for
// the record, where the owner looks, and not for the answer.
func (g *Gate) shut(v *visit, by network.Verdict) error {
	v.more = map[string]string{"rule": by.Rule}
	return g.stranger(v, network.Refused(v.origin))
}

// distrust refuses who comes from a network where only trusted services may, and is
// none. What was wrong with the credential, or that it was right, is for the record
// alone: the answer is the one of a registry that trusts nobody. Who shows none and
// asks only to be known is challenged, as clients want to be before they show one.
func (g *Gate) distrust(v *visit, because error) error {
	if because == nil && !v.shown && len(v.call.Needs) == 0 && !v.call.Anyone {
		return g.stranger(v, fault.New(fault.Unauthenticated, "authentication required"))
	}
	return g.shut(v, network.Verdict{Rule: "trustedServices"})
}

// watch makes a body or an answer that takes its time ask again, about once a
// second, whether its registry may still be reached: withdrawn approval, a registry
// that is closed (NS-2) and a customer's key that was taken away (DP-5) break what is
// under way. What stands still asks before it moves again.
func (g *Gate) watch(ctx context.Context, v *visit, r *http.Request) {
	still := func() error {
		is, err := g.called(ctx, v.call.Plane, r.Host)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil && fault.Of(err) != fault.NotFound:
			return err
		case err != nil || is.UID != v.registry.UID:
			return network.Refused(v.origin).(*fault.Error).Because(errors.New("the registry is not at this host any more"))
		}
		verdict := is.Reach(v.origin)
		if verdict.Allowed || verdict.Bypass && v.principal.Proven() && is.Trusts(v.principal.ID) {
			return g.o.Registries.Usable(ctx, is.UID)
		}
		v.more = map[string]string{"rule": verdict.Rule}
		return network.Refused(v.origin).(*fault.Error).Because(errors.New(verdict.Rule + ": " + verdict.Reason))
	}
	v.outlet.still, v.outlet.asked = still, v.start
	if b, ok := r.Body.(*body); ok {
		b.still, b.asked = still, v.start
	}
}

// control is the rules for who may reach the control plane and the authority.
func (g *Gate) control(ctx context.Context) (network.ControlPlane, error) {
	return g.kept.Get(ctx, g.o.Documents, "", func(ctx context.Context) (c network.ControlPlane, err error) {
		doc, err := g.o.Documents.Get(ctx, network.ControlPlaneID)
		if fault.Of(err) == fault.NotFound {
			return c, nil
		}
		if err == nil {
			err = json.Unmarshal(doc.Properties, &c)
		}
		return c, err
	})
}
