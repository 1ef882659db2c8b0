package identity

import (
	"slices"
	"strings"
)

// Bounds of what the token endpoint reads as scopes. What is beyond them is
// ignored: a scope that was not granted is refused where it is used.
const (
	maxScopes     = 64
	maxScopeBytes = 16 << 10
	maxActions    = 16
)

// ParseScopes reads the scope parameters of the token endpoint: each value holds
// "type:name:action,action" once or several times, separated by spaces. A name
// may hold colons, so that it lies between the first and the last one. Entries of
// one type and name are joined, in the order of their first appearance. There is
// no error: what cannot be read asks for nothing.
func ParseScopes(values []string) []Access {
	asked, budget, seen := []Access{}, maxScopeBytes, 0
	for _, value := range values {
		if budget -= len(value); budget < 0 {
			break
		}
		for scope := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ' ' }) {
			if seen++; seen > maxScopes {
				return asked
			}
			first, last := strings.IndexByte(scope, ':'), strings.LastIndexByte(scope, ':')
			if first <= 0 || last <= first+1 {
				continue
			}
			asked = add(asked, scope[:first], scope[first+1:last], scope[last+1:])
		}
	}
	return asked
}

func add(asked []Access, typ, name, actions string) []Access {
	at := slices.IndexFunc(asked, func(a Access) bool { return a.Type == typ && a.Name == name })
	if at < 0 {
		at = len(asked)
		asked = append(asked, Access{Type: typ, Name: name})
	}
	for action := range strings.SplitSeq(actions, ",") {
		if action != "" && len(asked[at].Actions) < maxActions && !slices.Contains(asked[at].Actions, action) {
			asked[at].Actions = append(asked[at].Actions, action)
		}
	}
	return asked
}
