package arm

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/setting"
	"breakwater/transit"
)

// controlPlane is the kind of the one document that says which networks may manage
// the server. A change that would keep its own caller out is refused: nobody could
// tell it from a mistake.
func controlPlane(s *setting.Store) Kind {
	return kept(s, &setting.Kind[network.ControlPlane]{
		Type: network.ControlPlaneType, Called: "control plane rule set", Place: setting.Server, Most: 1,
		Name: func(name string) error {
			if !strings.EqualFold(name, network.ControlPlaneID.Name()) {
				return fault.New(fault.BadRequest, "the rules of the control plane are called %s", network.ControlPlaneID.Name())
			}
			return nil
		},
		Check: func(_ context.Context, _ *db.Tx, g access.Grant, c *setting.Change[network.ControlPlane]) error {
			next := network.ControlPlane{}
			if c.Next != nil {
				next = c.Next.P
			}
			if err := next.Check(); err != nil {
				return err
			}
			from := g.Event("", "", "").From
			o := network.Origin{Addr: from.Address, Listener: from.Listener, Endpoint: from.Endpoint, Told: from.Told}
			if v := next.Decide(o); !v.Allowed {
				return fault.New(fault.Conflict, "these rules (%s) would keep you out, who come from %s by the listener %s: name yourself first", v.Rule, o, o.Listener)
			}
			if c.Was != nil {
				was, err := json.Marshal(c.Was.P)
				if err != nil {
					return err
				}
				c.More["before"] = string(was)
			}
			after, err := json.Marshal(next)
			c.More["after"] = string(after)
			return err
		},
	}, Kind{Whole: []string{"ipRules", "listeners"}},
		func(t setting.Setting[network.ControlPlane]) network.ControlPlane { return t.P },
		func(c network.ControlPlane) network.ControlPlane { return c })
}

// explained says which rule decides about a request, and how it came to that.
type explained struct {
	Allowed bool           `json:"allowed"`
	Outcome string         `json:"outcome"`
	Rule    string         `json:"rule"`
	Reason  string         `json:"reason"`
	Plane   string         `json:"plane"`
	Address string         `json:"address,omitempty"` // of an outbound connection, where it was looked up
	Steps   []network.Step `json:"steps"`
}

// contentOperations are what a caller can want of a registry's content. The networks
// decide about all of them alike; what is asked decides about the plane.
var contentOperations = []string{"login", "pull", "push", "delete", "list"}

// explainNetwork tells what the networks of a registry would say of a request, by
// asking those who decide.
func explainNetwork(regs *registry.Store, docs *resource.Store, border *network.Border) Action {
	return Action{Name: "explainNetwork", Right: access.RegistryRead, Reads: true,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			if err := g.Allows(access.RegistryRead, id.Scope()); err != nil {
				return nil, err
			}
			var asked struct {
				Address, Operation, Listener string
				Destination                  netip.Addr // which of the server's it comes to
				Port                         uint16
				Endpoint                     ref.ID
			}
			if err := understand(body, &asked); err != nil {
				return nil, err
			}
			address, err := netip.ParseAddr(asked.Address)
			if err != nil || address.Zone() != "" {
				return nil, fault.New(fault.BadRequest, "address is an IP address")
			}
			if asked.Endpoint != "" {
				if asked.Endpoint, err = ref.ParseID(string(asked.Endpoint)); err != nil {
					return nil, err
				}
			}
			if asked.Listener == "" {
				asked.Listener = "registry"
			}
			r, err := regs.ByID(ctx, id)
			if err != nil {
				return nil, err
			}
			o := network.Origin{Addr: address.Unmap(), Listener: asked.Listener, Endpoint: asked.Endpoint, Told: network.IsLink(asked.Endpoint)}
			first, asks, err := atAccept(ctx, g, border, o, netip.AddrPortFrom(asked.Destination, asked.Port))
			if err != nil {
				return nil, err
			}
			e := explained{Plane: "content"}
			var v network.Verdict
			var steps []network.Step
			switch operation := strings.ToLower(asked.Operation); {
			case slices.Contains(contentOperations, operation):
				v, steps = r.Explain(o, r.Endpoints)
			case operation == "manage" || strings.Contains(operation, "/"):
				e.Plane = "control"
				var rules network.ControlPlane
				doc, err := docs.Get(ctx, network.ControlPlaneID)
				if err == nil {
					err = json.Unmarshal(doc.Properties, &rules)
				}
				if err != nil && fault.Of(err) != fault.NotFound {
					return nil, err
				}
				v, steps = rules.Explain(o)
			default:
				return nil, fault.New(fault.BadRequest, "operation is %s, manage, or a right such as %s", strings.Join(contentOperations, ", "), access.RegistryWrite)
			}
			e.Allowed, e.Rule, e.Reason, e.Steps = v.Allowed, v.Rule, v.Reason, append(asks, steps...)
			if !first.Allowed { // and nobody else was asked
				e.Allowed, e.Rule, e.Reason, e.Steps = false, first.Rule, first.Reason, asks
			}
			e.Outcome = e.Steps[len(e.Steps)-1].Outcome
			return e, nil
		},
	}
}

// atAccept is what the security rules say of a connection, and what they were asked.
// Who may not read them learns what comes of them, and no more.
func atAccept(ctx context.Context, g access.Grant, border *network.Border, o network.Origin, to netip.AddrPort) (network.Ruling, []network.Step, error) {
	rules, err := border.Rules(ctx)
	if err != nil {
		return network.Ruling{}, nil, err
	}
	r, steps := rules.ExplainInbound(transit.Arrival{Listener: o.Listener, Endpoint: o.Endpoint, From: netip.AddrPortFrom(o.Addr, 0), Told: o.Told}, to)
	last := &steps[len(steps)-1]
	if !g.Can(network.SecurityRuleType+"/read", ref.Everything) {
		r.Rule, r.Reason = "securityRules", "the server's security rules, which are its operator's matter"
		last.Rule, last.Reason = r.Rule, r.Reason
		steps = steps[len(steps)-1:]
		last = &steps[0]
	}
	if r.Allowed {
		last.Outcome = network.Continue
	}
	return r, steps, nil
}
