package arm

import (
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/fault"
)

// parseFilter reads the $filter of a list of access's documents:
//
//	atScope() and principalId eq 'GUID'
//
// Each of the terms that the list knows may stand there once, in any order. Any
// other is refused: a list that silently holds more than was asked for is worse
// than none.
func parseFilter(text string, known []string) (access.Filter, error) {
	f := access.Filter{Above: true}
	refused := fault.New(fault.BadRequest, "this list takes no $filter")
	if len(known) > 0 {
		refused = fault.New(fault.BadRequest, "$filter is made of %s, joined by and", strings.Join(known, ", "))
	}
	if len(text) > maxFilter {
		return f, refused
	}
	seen := map[string]bool{}
	for rest := strings.TrimSpace(text); rest != ""; {
		term, value, after, ok := cutTerm(rest)
		if !ok || seen[term] || !slices.Contains(known, term) {
			return f, refused
		}
		seen[term] = true
		switch term {
		case atScope:
			f.Exactly = true
		case principalIs, assignedTo: // what a group holds is listed under the group
			if seen[principalIs] && seen[assignedTo] {
				return f, refused
			}
			f.Principal = value
		case roleNameIs:
			f.RoleName = value
		}
		if rest = after; rest != "" {
			if rest, ok = cutFold(rest, " and "); !ok || rest == "" {
				return f, refused
			}
			rest = strings.TrimLeft(rest, " ")
		}
	}
	return f, nil
}

// Terms of filters, as cutTerm spells them.
const (
	atScope     = "atScope()"
	principalIs = "principalId eq '…'"
	assignedTo  = "assignedTo('…')"
	roleNameIs  = "roleName eq '…'"
)

const maxFilter = 1024

// cutTerm takes the first term off, and its value, which is never empty. The case
// of what is not a value does not matter.
func cutTerm(s string) (term, value, after string, ok bool) {
	if after, ok := cutFold(s, atScope); ok {
		return atScope, "", after, true
	}
	name, rest, ok := strings.Cut(s, "'")
	if !ok {
		return "", "", "", false
	}
	name, called := strings.CutSuffix(strings.TrimRight(name, " "), "(")
	var text strings.Builder
	for {
		part, more, ok := strings.Cut(rest, "'")
		if !ok {
			return "", "", "", false
		}
		text.WriteString(part)
		rest = more
		if !strings.HasPrefix(rest, "'") {
			break
		}
		text.WriteByte('\'') // one is written as two
		rest = rest[1:]
	}
	if called {
		if rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " "), ")"); !ok {
			return "", "", "", false
		}
	}
	term = strings.Join(strings.Fields(name), " ") + " '…'"
	if called {
		term = strings.TrimSpace(name) + "('…')"
	}
	for _, known := range []string{principalIs, assignedTo, roleNameIs} {
		if strings.EqualFold(term, known) {
			return known, text.String(), rest, text.Len() > 0
		}
	}
	return "", "", "", false
}

func cutFold(s, prefix string) (after string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
