package arm

import (
	"strings"
	"testing"

	"breakwater/access"
)

var everyTerm = []string{atScope, principalIs, assignedTo, roleNameIs}

func TestFiltersAreRead(t *testing.T) {
	for text, want := range map[string]access.Filter{
		"":                                       {Above: true},
		"atScope()":                              {Above: true, Exactly: true},
		"ATSCOPE() and principalId eq 'a'":       {Above: true, Exactly: true, Principal: "a"},
		"principalid  eq 'a' and  atScope()":     {Above: true, Exactly: true, Principal: "a"},
		"assignedTo('a')":                        {Above: true, Principal: "a"},
		"atScope() and assignedTo('a')":          {Above: true, Exactly: true, Principal: "a"},
		"roleName eq 'Bob''s and Ann''s ''eq'''": {Above: true, RoleName: "Bob's and Ann's 'eq'"},
	} {
		if got, err := parseFilter(text, everyTerm); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"x", "atScope", "atScope() and", "and atScope()", "atScope() atScope()", "atScope() and atScope()", "principalId eq 'a", "principalId eq a",
		"principalId eq ''", "principalId ne 'a'", "principalId 'a'", "principalId('a')", "assignedTo eq 'a'", "assignedTo('a'", "assignedTo('a') and principalId eq 'b'",
		"principalId eq 'a' or atScope()", "not atScope()", "roleName eq 'a'b", "roleName eq 'a' and name eq 'c'", strings.Repeat(" ", 2000) + "atScope()",
	} {
		if got, err := parseFilter(text, everyTerm); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
	if _, err := parseFilter("atScope()", nil); err == nil {
		t.Error("a list that takes no filter takes one")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("atScope() and principalId eq 'a''b'")
	f.Add("assignedTo('x') and roleName eq 'y'")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseFilter(text, everyTerm)
		if err != nil || len(text) > maxFilter/3 {
			return
		}
		// What was read says the same when it is written again.
		var terms []string
		if got.Exactly {
			terms = append(terms, "atScope()")
		}
		for _, term := range [][2]string{{got.Principal, "assignedTo('…')"}, {got.RoleName, "roleName eq '…'"}} {
			if term[0] != "" {
				terms = append(terms, strings.Replace(term[1], "…", strings.ReplaceAll(term[0], "'", "''"), 1))
			}
		}
		if again, err := parseFilter(strings.Join(terms, " and "), everyTerm); err != nil || again != got {
			t.Errorf("%q is %+v, and %q is %+v, %v", text, got, terms, again, err)
		}
	})
}
