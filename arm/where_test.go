package arm

import (
	"strings"
	"testing"
	"time"

	"breakwater/resource"
)

func TestAFilterAcrossKindsSaysWhatItSays(t *testing.T) {
	made := time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC)
	doc := resource.Resource{ID: "/subscriptions/S/resourceGroups/Dev/providers/N/things/O'Shop", Type: "N/things", Location: "local",
		Tags: map[string]string{"team": "a", "stage": "b"}, System: resource.SystemData{CreatedAt: made}}
	for text, want := range map[string]bool{
		"": true, "  ": true,
		"resourceType eq 'n/THINGS'":                           true,
		"resourcetype EQ 'N/other'":                            false,
		"name eq 'o''shop' and resourceGroup eq 'dev'":         true,
		"name eq 'x' or location eq 'local'":                   true,
		"name eq 'x' or location eq 'local' and name ne 'x'":   true,
		"(name eq 'x' or location eq 'local') and name eq 'x'": false,
		"not name eq 'x'":                                      true,
		"not (name eq 'x' or location eq 'local')":             false,
		"tagname eq 'team' and tagvalue eq 'a'":                true,
		"tagname eq 'team' and tagvalue eq 'b'":                false,
		"tagName eq 'stage'":                                   true,
		"startswith(tagname, 'te')":                            true,
		"startswith(name,'shop')":                              false,
		"substringof('SHOP', name)":                            true,
		"createdTime ge 2026-11-24T02:00:00":                   true,
		"createdTime gt '2026-11-24T03:00:00+01:00'":           false,
		"createdTime lt 2026-11-25":                            true,
		"createdTime le 2026-11-24T02:00:00.000001Z":           true,
	} {
		w, err := parseWhere(text, resourceFields)
		if err != nil || w.holdsFor(doc) != want {
			t.Errorf("%q is %t, %v", text, !want, err)
		}
	}
	bare := resource.Resource{Type: "N/things"}
	if w, err := parseWhere("resourceType eq 'N/things'", resourceFields); err != nil || !w.holdsFor(bare) {
		t.Error("what has no tags is not found", err)
	}
	if w, err := parseWhere("not tagName eq 'x'", resourceFields); err != nil || !w.holdsFor(bare) {
		t.Error("what has no tags has one", err)
	}
	for _, text := range []string{
		"name", "name eq", "name eq 'x", "name eq x'y'", "eq 'x'", "name is 'x'", "secret eq 'x'", "name eq 'x' and", "and name eq 'x'", "name eq 'x' name eq 'y'",
		"(name eq 'x'", "name eq 'x')", "()", "not", "startswith(name)", "startswith('x', name)", "substringof(name, 'x')", "startswith(name, 'x'", "startswith name, 'x')",
		"name startswith 'x'", "name eq (", "name eq ,", "name eq ''x''", "'name' eq 'x'", strings.Repeat(" ", maxFilter) + "name eq 'x'", strings.Repeat("(", 5000),
	} {
		if w, err := parseWhere(text, resourceFields); err == nil {
			t.Errorf("%.50q is %+v", text, w)
		}
	}
}

func TestAFilterTellsWhatItNeeds(t *testing.T) {
	for text, want := range map[string]string{
		"resourceType eq 'a/b'": "a/b",
		"name eq 'x' and (location eq 'y' and resourceType eq 'a/b')": "a/b",
		"resourceType eq 'a/b' or name eq 'x'":                        "",
		"not resourceType eq 'a/b'":                                   "",
		"resourceType ne 'a/b'":                                       "",
		"startswith(resourceType, 'a/b')":                             "",
	} {
		w, err := parseWhere(text, resourceFields)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := w.must("resourceType", "eq"); got != want {
			t.Errorf("%s needs %q", text, got)
		}
	}
}

func FuzzWhere(f *testing.F) {
	f.Add("resourceType eq 'a''b' and (name ne 'x' or not startswith(tagName,'y'))")
	f.Add("createdTime ge 2026-11-24T02:00:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseWhere(text, resourceFields)
		if err != nil || w == nil {
			return
		}
		doc := resource.Resource{ID: "/subscriptions/s/resourceGroups/g/providers/N/t/x", Type: "N/t"}
		written := w.text()
		again, err := parseWhere(written, resourceFields)
		if len(written) <= maxFilter && (err != nil || again.text() != written || again.holdsFor(doc) != w.holdsFor(doc)) {
			t.Errorf("%q is %s, which is %v", text, written, err)
		}
		if _, ok := w.must("name", "eq"); ok && !strings.Contains(strings.ToLower(text), "name") {
			t.Errorf("%q needs a name", text)
		}
	})
}

// text writes the filter again.
func (w *where) text() string {
	value := "'" + strings.ReplaceAll(w.value, "'", "''") + "'"
	switch w.op {
	case "and", "or":
		return "(" + w.left.text() + " " + w.op + " " + w.right.text() + ")"
	case "not":
		return "not " + w.left.text()
	case "startswith":
		return "startswith(" + w.field + "," + value + ")"
	case "substringof":
		return "substringof(" + value + "," + w.field + ")"
	}
	return w.field + " " + w.op + " " + value
}
