package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/setting"
	"breakwater/transit"
)

// Borders is the kinds of documents that say which connections may be (NS-1), and
// what can be asked about them.
func Borders(s *setting.Store, border *network.Border, out *network.Egress) []Kind {
	return []Kind{securityRules(s, border, out), ipGroups(s), flowLogs(s)}
}

type securityRuleView struct {
	network.SecurityRule
	settled
}

// securityRules are those that were made, and those that count after them.
func securityRules(s *setting.Store, border *network.Border, out *network.Egress) Kind {
	k := kept(s, &setting.Kind[network.SecurityRule]{
		Type: network.SecurityRuleType, Called: "security rule", Place: setting.Server, Most: network.MaxSecurityRules, Name: network.RuleName,
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[network.SecurityRule]) error {
			if c.Next != nil && c.Next.P.Protocol == "" {
				c.Next.P.Protocol = "*"
			}
			return becomes(ctx, tx, s, network.SecurityRuleType, c)
		},
	}, Kind{
		Whole: []string{"sourceAddressPrefixes", "sourcePortRanges", "destinationAddressPrefixes", "destinationPortRanges", "listeners", "purposes", "destinationNames"},
		Asks:  []Action{explainOutbound(border, out)},
	},
		func(t setting.Setting[network.SecurityRule]) securityRuleView { return securityRuleView{t.P, done} },
		func(v securityRuleView) network.SecurityRule { return v.SecurityRule })
	get, list := k.Get, k.List
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		if err := g.Allows(k.Read, id.Scope()); err != nil {
			return resource.Resource{}, err
		}
		defaults, err := defaultRules(out)
		for _, doc := range defaults {
			if doc.ID.Key() == id.Key() {
				return doc, err
			}
		}
		return get(ctx, g, id)
	}
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		made, err := list(ctx, g, q)
		if err != nil {
			return nil, err
		}
		all, err := defaultRules(out)
		all = slices.DeleteFunc(all, func(doc resource.Resource) bool { return doc.ID.Key() <= q.After.Key() })
		all = append(all, made...)
		slices.SortFunc(all, func(a, b resource.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
		return all[:min(len(all), q.Limit)], err
	}
	return k
}

func defaultRules(out *network.Egress) (docs []resource.Resource, err error) {
	for _, r := range out.Defaults() {
		doc := resource.Resource{ID: ref.ID("").Extension(network.SecurityRuleType, r.Name), Type: network.SecurityRuleType}
		if doc.Properties, err = json.Marshal(securityRuleView{r.SecurityRule, done}); err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

type ipGroupView struct {
	network.IPGroup
	settled
}

func ipGroups(s *setting.Store) Kind {
	return kept(s, &setting.Kind[network.IPGroup]{
		Type: network.IPGroupType, Called: "IP group", Place: setting.Server, Most: network.MaxIPGroups, Name: network.RuleName,
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[network.IPGroup]) error {
			if c.Next == nil {
				if err := unnamed(ctx, tx, s, c.ID.Name()); err != nil {
					return err
				}
			} else if err := c.Next.P.Check(); err != nil {
				return err
			}
			return becomes(ctx, tx, s, network.IPGroupType, c)
		},
	}, Kind{Whole: []string{"ipAddresses"}},
		func(t setting.Setting[network.IPGroup]) ipGroupView {
			t.P.IPAddresses = filled(t.P.IPAddresses)
			return ipGroupView{t.P, done}
		},
		func(v ipGroupView) network.IPGroup { return v.IPGroup })
}

// unnamed refuses to delete an IP group that a rule names.
func unnamed(ctx context.Context, tx *db.Tx, s *setting.Store, group string) error {
	docs, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: network.SecurityRuleType})
	for _, doc := range docs {
		var rule network.SecurityRule
		if err := json.Unmarshal(doc.Properties, &rule); err != nil {
			return fmt.Errorf("read %s: %w", doc.ID, err)
		}
		if rule.Names(group) {
			return fault.New(fault.Conflict, "the security rule %s names the IP group; change or delete that first", doc.ID.Name())
		}
	}
	return err
}

func flowLogs(s *setting.Store) Kind {
	return kept(s, &setting.Kind[network.FlowLog]{
		Type: network.FlowLogType, Called: "flow log", Place: setting.Server, Most: 1,
		Name: func(name string) error {
			if !strings.EqualFold(name, network.FlowLogID.Name()) {
				return fault.New(fault.BadRequest, "the flow log is called %s", network.FlowLogID.Name())
			}
			return nil
		},
		Check: check(func(c *setting.Change[network.FlowLog], _ *network.FlowLog) error { return c.Next.P.Check() }),
	}, Kind{},
		func(t setting.Setting[network.FlowLog]) network.FlowLog { return t.P },
		func(v network.FlowLog) network.FlowLog { return v })
}

// becomes refuses a change after which the rules of the server would not be certain,
// or would cut the connection that it came by: nobody could tell that from a mistake.
// Who is the machine itself is never cut, and can undo what keeps others out.
func becomes[P any](ctx context.Context, tx *db.Tx, s *setting.Store, typ string, c *setting.Change[P]) error {
	rules, err := network.ReadRules(func(of string) ([]resource.Resource, error) {
		docs, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: of})
		if err != nil || of != typ {
			return docs, err
		}
		docs = slices.DeleteFunc(docs, func(doc resource.Resource) bool { return doc.ID.Key() == c.ID.Key() })
		if c.Next == nil {
			return docs, nil
		}
		next := resource.Resource{ID: c.ID}
		next.Properties, err = json.Marshal(c.Next.P)
		return append(docs, next), err
	})
	if err != nil {
		return err
	}
	if f, ok := transit.FlowOf(ctx); ok {
		if rule, stays := rules.Admits(&f); !stays {
			return fault.New(fault.Conflict, "these rules (%s) would keep you out, who come from %s by the listener %s: allow yourself first, or change them from the machine itself", rule, f.From.Addr(), f.Listener)
		}
	}
	for name, p := range map[string]*setting.Setting[P]{"before": c.Was, "after": c.Next} {
		if p == nil {
			continue
		}
		text, err := json.Marshal(p.P)
		if err != nil {
			return err
		}
		if len(text) < 8<<10 { // a longer one would not fit into an event
			c.More[name] = string(text)
		}
	}
	return nil
}

// explainOutbound tells what would come of a connection that the server made, by
// asking those who decide. Nothing is looked up unless that is wanted.
func explainOutbound(border *network.Border, out *network.Egress) Action {
	return Action{Name: "explainOutbound", Right: network.SecurityRuleType + "/read", Reads: true,
		Run: func(ctx context.Context, g access.Grant, _ ref.ID, body json.RawMessage) (any, error) {
			if err := g.Allows(network.SecurityRuleType+"/read", ref.Everything); err != nil {
				return nil, err
			}
			var asked struct {
				To      string
				Purpose network.Purpose
				Resolve bool
			}
			if err := understand(body, &asked); err != nil {
				return nil, err
			}
			host, port, err := net.SplitHostPort(asked.To)
			if err != nil || host == "" || port == "" || len(host) > 253 || strings.ContainsAny(asked.To, "/@ ") {
				return nil, fault.New(fault.BadRequest, "to is HOST:PORT")
			}
			if !slices.Contains(network.Purposes, asked.Purpose) {
				return nil, fault.New(fault.BadRequest, "purpose is one of %v", network.Purposes)
			}
			rules, err := border.Rules(ctx)
			if err != nil {
				return nil, err
			}
			explain := func(ip netip.Addr) explained {
				r, steps := out.Explain(rules, asked.Purpose, asked.To, ip)
				e := explained{Allowed: r.Allowed, Outcome: steps[len(steps)-1].Outcome, Rule: r.Rule, Reason: r.Reason, Plane: network.Outbound, Steps: steps}
				if ip.IsValid() {
					e.Address = ip.String()
				}
				return e
			}
			if ip, err := netip.ParseAddr(host); err == nil {
				return explain(ip), nil
			}
			if !asked.Resolve {
				return explain(netip.Addr{}), nil
			}
			ips, err := out.Resolve(ctx, host)
			if err != nil || len(ips) == 0 {
				return nil, fault.New(fault.BadRequest, "the name %s leads to no address", host)
			}
			e := explain(ips[0])
			for _, ip := range ips[1:] {
				if other := explain(ip); e.Allowed && !other.Allowed { // what is refused is what somebody asks about
					e = other
				}
			}
			return e, nil
		},
	}
}
