package network

import (
	"slices"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/transit"
)

// ControlPlaneType is the ARM type of ControlPlaneID, the one document of its kind.
const (
	ControlPlaneType        = "Breakwater.Network/controlPlane"
	ControlPlaneID   ref.ID = "/providers/" + ControlPlaneType + "/default"
)

// A ControlPlane says which networks may manage the server: its resources, and the
// authority where people sign in for that. The rules of a registry are for its
// content alone, so that a registry that is closed to everybody stays manageable.
// The zero ControlPlane is open to every network that comes the public way.
type ControlPlane struct {
	DefaultAction    string   `json:"defaultAction,omitempty"` // Allow (default) or Deny
	IPRules          []IPRule `json:"ipRules,omitzero"`
	Listeners        []string `json:"listeners,omitempty"`        // that it is served by; none are all
	PrivateEndpoints string   `json:"privateEndpoints,omitempty"` // Allow or Deny (default): whether private endpoints lead to it
}

// access is c in the words of a registry, so that there is one order and one set of
// rules for what is certain.
func (c ControlPlane) access() Access {
	return Access{RuleSet: RuleSet{DefaultAction: c.DefaultAction, IPRules: c.IPRules}, Listeners: c.Listeners}
}

// Check refuses settings whose meaning is not certain.
func (c ControlPlane) Check() error {
	if len(c.IPRules) > few*32 {
		return fault.New(fault.BadRequest, "the control plane has at most %d IP rules", few*32)
	}
	if !slices.Contains([]string{"", Allow, Deny}, c.PrivateEndpoints) {
		return fault.New(fault.BadRequest, "privateEndpoints is %s or %s", Allow, Deny)
	}
	if !slices.Contains([]string{"", Allow, Deny}, c.DefaultAction) {
		return fault.New(fault.BadRequest, "defaultAction is %s or %s", Allow, Deny)
	}
	return c.access().Check()
}

// Decide is whether o may reach the control plane. The machine itself, which is who
// it is for security rules too, always may: whoever holds it holds the server, and can
// undo what keeps others out.
func (c ControlPlane) Decide(o Origin) Verdict {
	v, _ := c.decide(o, false)
	return v
}

// Explain is Decide with the questions that were asked.
func (c ControlPlane) Explain(o Origin) (Verdict, []Step) { return c.decide(o, true) }

func (c ControlPlane) decide(o Origin, explain bool) (Verdict, []Step) {
	private := Verdict{Allowed: c.PrivateEndpoints == Allow, Rule: "controlPlane.privateEndpoints", Reason: "private endpoints lead to content alone"}
	if private.Allowed {
		private.Reason = "private endpoints lead to the control plane"
	}
	machine := Verdict{Allowed: true, Rule: "controlPlane", Reason: "the machine itself is never kept out"}
	for _, row := range []struct {
		decides bool
		v       Verdict
	}{
		{o.Endpoint != "", private},
		{!o.Told && transit.IsMachine(o.Addr), machine},
	} {
		if row.decides {
			return row.v, []Step{{row.v.Rule, outcome(row.v), row.v.Reason}}
		}
	}
	if !explain {
		return c.access().Decide(o, nil), nil
	}
	return c.access().Explain(o, nil)
}

func outcome(v Verdict) string {
	switch {
	case v.Allowed:
		return Allow
	case v.Bypass:
		return Bypass
	}
	return Deny
}
