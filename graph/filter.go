package graph

import (
	"regexp"
	"strings"

	"breakwater/directory"
	"breakwater/fault"
	"breakwater/ref"
)

// maxValue bounds a name that is looked for.
const maxValue = 256

// term is one comparison, in the three ways that OData spells those that we know.
var term = regexp.MustCompile(`^(?i:([a-z]+) +eq +|(startswith) *\( *([a-z]+) *, *|([a-z]+)/any\( *([a-z]) *: *([a-z]) +eq +)'((?:[^']|'')*)'( *\))?`)

// parseFilter reads $filter:
//
//	startswith(displayName,'build') and servicePrincipalNames/any(c:c eq 'GUID')
//
// and adds to what s means. Any other comparison is refused: a list that silently
// holds more than was asked for is worse than none.
func parseFilter(text string, s directory.Search) (directory.Search, error) {
	refused := fault.New(fault.BadRequest,
		"$filter is made of id, displayName, userPrincipalName or appId eq '…', startswith(displayName,'…') and servicePrincipalNames/any(c:c eq '…'), joined by and")
	if len(text) > 1024 {
		return s, refused
	}
	for rest := strings.TrimSpace(text); rest != ""; {
		m := term.FindStringSubmatch(rest)
		if m == nil {
			return s, refused
		}
		field, value := strings.ToLower(m[1]+m[2]+m[3]+m[4]), strings.ReplaceAll(m[7], "''", "'")
		if (m[1] == "") != (m[8] != "") || m[5] != m[6] || value == "" || len(value) > maxValue {
			return s, refused
		}
		into := map[string]*string{
			"id": &s.ID, "displayname": &s.DisplayName, "startswithdisplayname": &s.StartsAs,
		}
		if s.Clients {
			into["appid"] = &s.ClientID
			if m[4] != "" {
				into["serviceprincipalnames"] = &s.Name
				if ref.IsGUID(value) { // a name in the form of a client id is nobody's name
					into["serviceprincipalnames"] = &s.ClientID
				}
			}
		} else {
			into["userprincipalname"] = &s.Name
		}
		at := into[field]
		if at == nil || *at != "" || (field == "id" || field == "appid") && !ref.IsGUID(value) {
			return s, refused
		}
		*at = value
		if rest = strings.TrimSpace(rest[len(m[0]):]); rest != "" {
			and, after, _ := strings.Cut(rest, " ")
			if rest = strings.TrimSpace(after); !strings.EqualFold(and, "and") || rest == "" {
				return s, refused
			}
		}
	}
	return s, nil
}
