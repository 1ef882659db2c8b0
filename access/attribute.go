package access

import (
	"net/netip"
	"strings"
	"time"

	"breakwater/identity"
)

// A question is what a condition is asked about: who wants what, where, when and
// in which circumstances.
type question struct {
	caller    *identity.Principal
	need      *Need
	now       time.Time
	locations []location

	// open says that what is not known yet may be anything: assignments give, and
	// denials and rules let through, what they might.
	open bool
}

// met is whether a condition that must be true is.
func (q *question) met(c *Condition) bool {
	if c == nil {
		return true
	}
	answer := c.root.ask(q)
	return answer == yes || q.open && answer == unknown
}

// escaped is whether a condition that must be false is.
func (q *question) escaped(c *Condition) bool {
	if c == nil {
		return false
	}
	answer := c.root.ask(q)
	return answer == no || q.open && answer == unknown
}

// Circumstances are what @Environment knows of a request, and what @Request and
// @Resource know beside its scope.
type Circumstances struct {
	Address    netip.Addr
	Listener   string
	Operation  string      // what the surface calls it: PullManifest
	Assignment *Assignment // the role assignment that is made or taken away
}

// An attribute is a place where values come from.
type attribute struct {
	source, name string
	sort         sort
	many         bool // it may have several values
	values       func(q *question, claim string) []value
	claim        string
}

// attributes are all there are. Names are compared without regard to case, those
// of claims with it: they are the issuer's.
//
// What Azure knows and nothing here has yet (private endpoints, subnets) has no
// value, so that a condition that wants one is not true. Nor has the PrincipalType of
// whom only an external issuer knows: the caller's word for it would open any door.
var attributes = []attribute{
	{"Request", repositoryName, text, false, repositoryOf, ""},
	{"Resource", repositoryName, text, false, repositoryOf, ""},
	{"Request", "subOperation", text, false, func(q *question, _ string) []value { return texts(q.need.From.Operation) }, ""},
	{"Request", AssignmentType + ":RoleDefinitionId", guid, false, roleAssigned, ""},
	{"Resource", AssignmentType + ":RoleDefinitionId", guid, false, roleAssigned, ""},
	{"Request", AssignmentType + ":PrincipalId", guid, false, principalAssigned, ""},
	{"Resource", AssignmentType + ":PrincipalId", guid, false, principalAssigned, ""},
	{"Request", AssignmentType + ":PrincipalType", text, false, typeAssigned, ""},
	{"Resource", AssignmentType + ":PrincipalType", text, false, typeAssigned, ""},

	{"Environment", "UtcNow", moment, false, func(q *question, _ string) []value { return []value{timed(q.now)} }, ""},
	{"Environment", "Weekday", text, false, func(q *question, _ string) []value { return texts(q.now.UTC().Weekday().String()) }, ""},
	{"Environment", "Address", address, false, addressOf, ""},
	{"Environment", "Listener", text, false, func(q *question, _ string) []value { return texts(q.need.From.Listener) }, ""},
	{"Environment", "Locations", text, true, locationsOf, ""},
	{"Environment", "isPrivateLink", boolean, false, func(*question, string) []value { return texts("false") }, ""},
	{"Environment", "Microsoft.Network/privateEndpoints", text, false, nothing, ""},
	{"Environment", "Microsoft.Network/virtualNetworks/subnets", text, false, nothing, ""},

	{"Principal", "Id", guid, false, func(q *question, _ string) []value { return texts(q.caller.ID) }, ""},
	{"Principal", "Kind", text, false, func(q *question, _ string) []value { return texts(string(q.caller.Kind)) }, ""},
	{"Principal", "Name", text, false, func(q *question, _ string) []value { return texts(q.caller.Name) }, ""},
	{"Principal", "Client", text | guid, false, func(q *question, _ string) []value { return texts(q.caller.Client) }, ""},
	{"Principal", "Groups", guid, true, func(q *question, _ string) []value { return texts(q.caller.Groups...) }, ""},
	{"Principal", "Issuer", text, false, func(q *question, _ string) []value { return texts(q.caller.Authentication.Issuer) }, ""},
	{"Principal", "Acr", text, false, func(q *question, _ string) []value { return texts(q.caller.Authentication.ACR) }, ""},
	{"Principal", "Amr", text, true, func(q *question, _ string) []value { return texts(q.caller.Authentication.AMR...) }, ""},
	{"Principal", "AuthenticationTime", moment, false, func(q *question, _ string) []value { return []value{timed(q.signedIn())} }, ""},
	{"Principal", "AuthenticationAge", number, false, func(q *question, _ string) []value { // in seconds
		return []value{{number: q.now.Sub(q.signedIn()).Seconds(), sort: number}}
	}, ""},
}

const (
	repositoryName = registries + "repositories:name"
	claimPrefix    = "Claims:"
	// customPrefix is how Azure spells the security attributes of a directory. Here
	// they are claims that an issuer sends.
	customPrefix = "Microsoft.Directory/CustomSecurityAttributes/Id:"
)

// attributeOf finds @source[name].
func attributeOf(source, name string) (attribute, bool) {
	for _, a := range attributes {
		if strings.EqualFold(a.source, source) && strings.EqualFold(a.name, name) {
			return a, true
		}
	}
	for _, prefix := range []string{claimPrefix, customPrefix} {
		if strings.EqualFold(source, "Principal") && len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return attribute{source, name, claim, false, claimed, name[len(prefix):]}, true
		}
	}
	return attribute{}, false
}

func (a attribute) read(q *question) []value { return a.values(q, a.claim) }
func (a attribute) suits(r relation) bool    { return a.sort&r.of != 0 }
func nothing(*question, string) []value      { return nil }
func claimed(q *question, claim string) []value {
	return texts(q.caller.Authentication.Claims[claim]...)
}

// texts leaves out what is empty: nobody said it.
func texts(all ...string) []value {
	values := make([]value, 0, len(all))
	for _, s := range all {
		if s != "" {
			values = append(values, value{text: s})
		}
	}
	return values
}

func repositoryOf(q *question, _ string) []value {
	repo, _ := q.need.Scope.Repository()
	return texts(string(repo))
}

func roleAssigned(q *question, _ string) []value {
	if a := q.need.From.Assignment; a != nil {
		return texts(a.Role)
	}
	return nil
}

func principalAssigned(q *question, _ string) []value {
	if a := q.need.From.Assignment; a != nil {
		return texts(a.Principal)
	}
	return nil
}

func typeAssigned(q *question, _ string) []value {
	if a := q.need.From.Assignment; a != nil {
		return texts(a.PrincipalType)
	}
	return nil
}

func addressOf(q *question, _ string) []value {
	a := q.need.From.Address
	if !a.IsValid() {
		return nil
	}
	return []value{{network: netip.PrefixFrom(a, a.BitLen()), sort: address}}
}

func locationsOf(q *question, _ string) []value {
	var names []string
	for i := range q.locations {
		if q.locations[i].has(q.need.From) {
			names = append(names, q.locations[i].name)
		}
	}
	return texts(names...)
}

// signedIn is when the caller proved itself: now, if it did with this request.
func (q *question) signedIn() time.Time {
	if t := q.caller.Authentication.Time; !t.IsZero() {
		return t
	}
	return q.now
}
