package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

// What everybody has is what anybody could have made.
func TestBuiltInDefinitionsAreDefinitions(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range BuiltIns() {
		d := b.Definition
		if seen[b.Name] || d.Type != BuiltIn {
			t.Errorf("%s is there twice, or no built-in", b.Name)
		}
		seen[b.Name] = true
		d.Type = Custom
		if err := d.Check(); err != nil {
			t.Errorf("%s: %v", d.DisplayName, err)
		}
		if _, err := json.Marshal(d); err != nil {
			t.Errorf("%s: %v", d.DisplayName, err)
		}
		if found, ok := Of(strings.ToUpper(b.Name)); !ok || found.DisplayName != d.DisplayName {
			t.Errorf("%s is not found", b.Name)
		}
	}
	if len(seen) != 23 {
		t.Errorf("%d built-in definitions", len(seen))
	}
}

func TestConditions(t *testing.T) {
	for _, ok := range []string{
		`{"field":"type","equals":"x"}`, `{"Field":"tags.a","EXISTS":"false"}`, `{"not":{"field":"a","in":["b"]}}`, `{"anyof":[{"field":"a","notequals":"b"}]}`,
		`{"value":"[field('x')]","like":"a*"}`, `{"count":{"field":"a[*]","where":{"field":"a[*].b","equals":1}},"less":2}`, `{"field":"a","in":"[parameters('x')]"}`, `{"count":{"value":[1],"name":"x"},"greater":0}`,
	} {
		if err := checkCondition(json.RawMessage(ok), 0); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		`{}`, `[]`, `1`, `null`, `{"field":"a"}`, `{"equals":"a"}`, `{"field":"a","equals":"b","like":"c"}`, `{"field":"a","value":"b","equals":"c"}`, `{"allOf":[]}`, `{"allOf":{}}`,
		`{"allOf":[{"field":"a","equals":"b"}],"field":"a","equals":"b"}`, `{"field":"","equals":"b"}`, `{"field":1,"equals":"b"}`, `{"field":"a","equals":{}}`, `{"field":"a","in":"b"}`, `{"field":"a","exists":"maybe"}`,
		`{"count":{"where":{"field":"a","equals":"b"}},"less":1}`, `{"count":{"field":"a","x":1},"less":1}`, `{"field":"a","Equals":"b","equals":"c"}`,
		strings.Repeat(`{"not":`, 40) + `{"field":"a","equals":"b"}` + strings.Repeat(`}`, 40),
	} {
		if err := checkCondition(json.RawMessage(bad), 0); err == nil {
			t.Errorf("%s is no condition", bad)
		}
	}
}

func FuzzDefinition(f *testing.F) {
	for _, b := range BuiltIns() {
		d := b.Definition
		d.Type = Custom
		text, _ := json.Marshal(d)
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d Definition
		if json.Unmarshal([]byte(text), &d) != nil || d.Check() != nil {
			return
		}
		// What was taken is taken again as it is shown.
		shown, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Definition
		if err := json.Unmarshal(shown, &again); err != nil {
			t.Fatal(err)
		}
		if err := again.Check(); err != nil {
			t.Errorf("%s: %v", shown, err)
		}
	})
}
