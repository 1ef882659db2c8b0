package graph

import (
	"strings"
	"testing"

	"breakwater/directory"
)

func FuzzFilter(f *testing.F) {
	f.Add("servicePrincipalNames/any(c:c eq '00000000-0000-0000-0000-000000000000') and startswith(displayName, 'a''b')", true)
	f.Add("userPrincipalName EQ 'alice@example.com' AND id eq '00000000-0000-0000-0000-000000000000'", false)
	f.Fuzz(func(t *testing.T, text string, clients bool) {
		s, err := parseFilter(text, directory.Search{Clients: clients})
		if err != nil {
			return
		}
		terms := 0
		for _, value := range []string{s.ID, s.ClientID, s.Name, s.DisplayName, s.StartsAs} {
			if value != "" {
				terms++
			}
			if !strings.Contains(text, strings.ReplaceAll(value, "'", "''")) {
				t.Errorf("%q means %q", text, value)
			}
		}
		// Whatever stands there narrows what is found.
		if (terms == 0) != (strings.TrimSpace(text) == "") || s.Clients != clients {
			t.Errorf("%q is %+v", text, s)
		}
	})
}
