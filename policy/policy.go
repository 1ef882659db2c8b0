// Package policy knows what may be asked of resources (AM-2), in the language of
// Azure Policy: definitions, sets of them, and where they are assigned. It refuses
// what cannot mean anything. Nothing is evaluated yet, and whoever looks at an
// assignment is told so.
package policy

import (
	"encoding/json"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// NotBuilt is what an assignment says of itself.
const NotBuilt = "this server keeps the assignment, and neither evaluates nor enforces it yet"

// Types of a definition.
const (
	Custom  = "Custom"
	BuiltIn = "BuiltIn"
)

// Text is what people read of a definition, a set or an assignment.
type Text struct {
	DisplayName string                     `json:"displayName,omitempty"`
	Description string                     `json:"description,omitempty"`
	Metadata    map[string]json.RawMessage `json:"metadata,omitempty"`
}

func (t Text) check() error {
	if len(t.DisplayName) > 128 || len(t.Description) > 512 || strings.ContainsFunc(t.DisplayName, func(r rune) bool { return r < ' ' }) {
		return bad("the displayName has at most 128 bytes, and the description at most 512")
	}
	if text, err := json.Marshal(t.Metadata); err != nil || len(text) > 8<<10 {
		return bad("metadata has at most 8 KiB")
	}
	return nil
}

// A Definition is a rule (azure-contract §8.1).
type Definition struct {
	Text
	Type       string               `json:"policyType,omitempty"`
	Mode       string               `json:"mode"`
	Rule       Rule                 `json:"policyRule"`
	Parameters map[string]Parameter `json:"parameters,omitempty"`
	Version    string               `json:"version,omitempty"`
	Versions   []string             `json:"versions,omitempty"`
}

// A Rule says what a resource is like (If), and what is done then.
type Rule struct {
	If   json.RawMessage `json:"if"`
	Then Then            `json:"then"`
}

// Then is an effect, or the parameter that names it.
type Then struct {
	Effect  string          `json:"effect"`
	Details json.RawMessage `json:"details,omitempty"`
}

// A Parameter is a value that an assignment gives.
type Parameter struct {
	Type     string            `json:"type"`
	Default  json.RawMessage   `json:"defaultValue,omitempty"`
	Allowed  []json.RawMessage `json:"allowedValues,omitempty"`
	Metadata json.RawMessage   `json:"metadata,omitempty"`
	Schema   json.RawMessage   `json:"schema,omitempty"`
}

func bad(format string, args ...any) error { return fault.New(fault.BadRequest, format, args...) }

// Effects of rules, as they are spelled.
var effects = []string{"Audit", "Deny", "Disabled", "Append", "Modify", "AuditIfNotExists", "DeployIfNotExists", "DenyAction", "Manual", "AddToNetworkGroup", "Mutate"}

// Check completes d, and refuses what is not certain.
func (d *Definition) Check() error {
	if d.Type == "" || d.Type == "NotSpecified" {
		d.Type = Custom
	}
	if d.Type != Custom {
		return bad("policyType of a definition that somebody makes is %s", Custom)
	}
	if d.Mode == "" {
		d.Mode = "Indexed"
	}
	if known := strings.EqualFold(d.Mode, "All") || strings.EqualFold(d.Mode, "Indexed"); !known &&
		!(strings.HasPrefix(d.Mode, "Microsoft.") && len(d.Mode) < 100 && word(strings.ReplaceAll(d.Mode, ".", ""))) {
		return bad("the mode of a definition is All, Indexed or a resource provider mode such as Microsoft.Kubernetes.Data")
	}
	if err := d.Text.check(); err != nil {
		return err
	}
	if len(d.Version) > 32 || len(d.Versions) > 64 || slices.ContainsFunc(d.Versions, func(s string) bool { return len(s) > 32 }) {
		return bad("a version is such as 1.0.0")
	}
	if err := checkParameters(d.Parameters); err != nil {
		return err
	}
	if len(d.Rule.If)+len(d.Rule.Then.Details) > 256<<10 {
		return bad("a policyRule has at most 256 KiB")
	}
	if len(d.Rule.If) == 0 || d.Rule.Then.Effect == "" {
		return bad(`a policyRule is {"if": CONDITION, "then": {"effect": EFFECT}}`)
	}
	for _, name := range uses(d.Rule.If, d.Rule.Then.Details, quoted(d.Rule.Then.Effect)) {
		if _, ok := parameter(d.Parameters, name); !ok {
			return bad("the rule uses the parameter %q, which the definition does not have", name)
		}
	}
	if err := checkEffect(d.Rule.Then.Effect, d.Parameters); err != nil {
		return err
	}
	return checkCondition(d.Rule.If, 0)
}

func quoted(s string) json.RawMessage {
	text, _ := json.Marshal(s) // a string
	return text
}

func checkEffect(effect string, parameters map[string]Parameter) error {
	known := func(s string) bool {
		return slices.ContainsFunc(effects, func(e string) bool { return strings.EqualFold(e, s) })
	}
	if !strings.HasPrefix(effect, "[") {
		if !known(effect) {
			return bad("an effect is one of %s, or [parameters('NAME')]", strings.Join(effects, ", "))
		}
		return nil
	}
	used := uses(quoted(effect))
	if len(used) != 1 || !strings.EqualFold(effect, "[parameters('"+used[0]+"')]") {
		return bad("an effect that is not a word is [parameters('NAME')]")
	}
	p, _ := parameter(parameters, used[0])
	for _, value := range append(slices.Clone(p.Allowed), p.Default) {
		if s := ""; value != nil && (json.Unmarshal(value, &s) != nil || !known(s)) {
			return bad("the parameter %q stands for an effect: one of %s", used[0], strings.Join(effects, ", "))
		}
	}
	return nil
}

// parameter finds one by its name, whose case does not matter.
func parameter[V any](all map[string]V, name string) (v V, ok bool) {
	for n, v := range all {
		if strings.EqualFold(n, name) {
			return v, true
		}
	}
	return v, false
}

// word reports whether s could be a name in the language.
func word(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

func checkParameters(all map[string]Parameter) error {
	if len(all) > 100 {
		return bad("there are at most 100 parameters")
	}
	seen := map[string]bool{}
	for name, p := range all {
		if !word(name) || seen[strings.ToLower(name)] {
			return bad("the name of a parameter has letters, digits, '_' and '-', and is there once")
		}
		seen[strings.ToLower(name)] = true
		if !slices.ContainsFunc([]string{"String", "Array", "Object", "Boolean", "Integer", "Float", "DateTime"}, func(t string) bool { return strings.EqualFold(t, p.Type) }) {
			return bad("the type of the parameter %q is String, Array, Object, Boolean, Integer, Float or DateTime", name)
		}
		if p.Default != nil {
			if err := p.takes(name, p.Default); err != nil {
				return err
			}
		}
	}
	return nil
}

// takes refuses a value that is not of the parameter's type, or not allowed.
func (p *Parameter) takes(name string, value json.RawMessage) error {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return bad("the value of the parameter %q is no JSON", name)
	}
	ok := false
	if s, text := v.(string); text && strings.HasPrefix(s, "[") && !strings.HasPrefix(s, "[[") {
		return nil // an expression, which becomes a value at evaluation
	}
	switch strings.ToLower(p.Type) {
	case "string", "datetime":
		_, ok = v.(string)
	case "array":
		_, ok = v.([]any)
	case "object":
		_, ok = v.(map[string]any)
	case "boolean":
		_, ok = v.(bool)
	case "integer":
		f, number := v.(float64)
		ok = number && f == float64(int64(f))
	case "float":
		_, ok = v.(float64)
	}
	if !ok {
		return bad("the value of the parameter %q is a %s", name, p.Type)
	}
	if len(p.Allowed) > 0 && !slices.ContainsFunc(p.Allowed, func(a json.RawMessage) bool { return same(a, value) }) {
		return bad("the value of the parameter %q is not one of those allowed", name)
	}
	return nil
}

// same compares JSON values; the case of text does not matter.
func same(a, b json.RawMessage) bool {
	norm := func(r json.RawMessage) string {
		var v any
		_ = json.Unmarshal(r, &v)
		text, _ := json.Marshal(v)
		return string(text)
	}
	return strings.EqualFold(norm(a), norm(b))
}

// uses lists the parameters that expressions in JSON name: [parameters('x')]. A
// text that begins with [[ is no expression.
func uses(parts ...json.RawMessage) (names []string) {
	for _, part := range parts {
		rest := strings.ToLower(string(part))
		for {
			_, after, ok := strings.Cut(rest, "parameters('")
			if !ok {
				break
			}
			name, more, ok := strings.Cut(after, "')")
			if !ok {
				break
			}
			names, rest = append(names, name), more
		}
	}
	return names
}

// What a condition compares, and how. Case does not matter.
var (
	subjects  = []string{"field", "value", "count", "source"}
	operators = []string{"equals", "notequals", "like", "notlike", "match", "matchinsensitively", "notmatch", "notmatchinsensitively", "contains", "notcontains",
		"in", "notin", "containskey", "notcontainskey", "less", "lessorequals", "greater", "greaterorequals", "exists"}
)

const maxDepth = 32

// checkCondition refuses what is no condition.
func checkCondition(text json.RawMessage, depth int) error {
	if depth > maxDepth {
		return bad("a condition nests at most %d deep", maxDepth)
	}
	var of map[string]json.RawMessage
	if err := json.Unmarshal(text, &of); err != nil || len(of) == 0 {
		return bad("a condition is an object: allOf, anyOf, not, or a field, value or count and an operator")
	}
	var subject, operator string
	for name, value := range of {
		lower := strings.ToLower(name)
		switch {
		case lower == "allof" || lower == "anyof":
			var all []json.RawMessage
			if err := json.Unmarshal(value, &all); err != nil || len(all) == 0 || len(of) != 1 {
				return bad("%s stands alone, and has a list of conditions", name)
			}
			for _, c := range all {
				if err := checkCondition(c, depth+1); err != nil {
					return err
				}
			}
			return nil
		case lower == "not":
			if len(of) != 1 {
				return bad("not stands alone")
			}
			return checkCondition(value, depth+1)
		case slices.Contains(subjects, lower) && subject == "":
			if subject = lower; lower == "count" {
				if err := checkCount(value, depth); err != nil {
					return err
				}
			} else if s := ""; lower == "field" && (json.Unmarshal(value, &s) != nil || s == "" || len(s) > 512) {
				return bad("a field is a name such as type, tags.owner or Microsoft.ContainerRegistry/registries/adminUserEnabled")
			}
		case slices.Contains(operators, lower) && operator == "":
			operator = lower
			if err := checkOperand(lower, value); err != nil {
				return err
			}
		default:
			return bad("a condition has one of field, value and count, and one operator: %q is too much, or no operator", name)
		}
	}
	if subject == "" || operator == "" {
		return bad("a condition has a field, value or count, and an operator such as equals")
	}
	return nil
}

func checkCount(text json.RawMessage, depth int) error {
	var of map[string]json.RawMessage
	if err := json.Unmarshal(text, &of); err != nil {
		return bad("a count is an object with a field or value, and where")
	}
	counted := false
	for name, value := range of {
		switch strings.ToLower(name) {
		case "field", "value":
			if counted {
				return bad("a count has a field or a value")
			}
			counted = true
		case "name":
		case "where":
			if err := checkCondition(value, depth+1); err != nil {
				return err
			}
		default:
			return bad("a count has field or value, name and where, not %q", name)
		}
	}
	if !counted {
		return bad("a count has a field or a value")
	}
	return nil
}

func checkOperand(operator string, value json.RawMessage) error {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return bad("the operand of %s is no JSON", operator)
	}
	if s, ok := v.(string); ok && strings.HasPrefix(s, "[") {
		return nil // an expression
	}
	switch operator {
	case "exists":
		s, text := v.(string)
		if _, ok := v.(bool); !ok && !(text && (strings.EqualFold(s, "true") || strings.EqualFold(s, "false"))) {
			return bad("exists is true or false")
		}
	case "in", "notin":
		if _, ok := v.([]any); !ok {
			return bad("the operand of %s is a list", operator)
		}
	default:
		switch v.(type) {
		case string, float64, bool:
		default:
			return bad("the operand of %s is a text, a number or a truth value", operator)
		}
	}
	return nil
}

// A Set is several definitions that are assigned together.
type Set struct {
	Text
	Type       string               `json:"policyType,omitempty"`
	Parameters map[string]Parameter `json:"parameters,omitempty"`
	Members    []Member             `json:"policyDefinitions"`
	Groups     []Group              `json:"policyDefinitionGroups,omitempty"`
	Version    string               `json:"version,omitempty"`
	Versions   []string             `json:"versions,omitempty"`
}

// A Member is a definition in a set, and the parameters that it gets.
type Member struct {
	DefinitionID ref.ID           `json:"policyDefinitionId"`
	Reference    string           `json:"policyDefinitionReferenceId,omitempty"`
	Parameters   map[string]Value `json:"parameters,omitempty"`
	Groups       []string         `json:"groupNames,omitempty"`
	Version      string           `json:"definitionVersion,omitempty"`
}

// A Group gathers members of a set under a name.
type Group struct {
	Name               string `json:"name"`
	DisplayName        string `json:"displayName,omitempty"`
	Description        string `json:"description,omitempty"`
	Category           string `json:"category,omitempty"`
	AdditionalMetadata string `json:"additionalMetadataId,omitempty"`
}

// A Value is what an assignment gives a parameter.
type Value struct {
	Value json.RawMessage `json:"value"`
}

// Check completes s, and refuses what is not certain. find is a definition by its
// id, or an error for the caller.
func (s *Set) Check(find func(ref.ID) (*Definition, error)) error {
	if s.Type == "" || s.Type == "NotSpecified" {
		s.Type = Custom
	}
	if s.Type != Custom {
		return bad("policyType of a set that somebody makes is %s", Custom)
	}
	if err := s.Text.check(); err != nil {
		return err
	}
	if err := checkParameters(s.Parameters); err != nil {
		return err
	}
	if len(s.Members) == 0 || len(s.Members) > 400 || len(s.Groups) > 400 || len(s.Version) > 32 || len(s.Versions) > 64 {
		return bad("a set has 1 to 400 policyDefinitions")
	}
	groups := map[string]bool{}
	for _, g := range s.Groups {
		if g.Name == "" || groups[g.Name] || len(g.Name) > 128 || len(g.Description) > 512 || len(g.DisplayName) > 128 || len(g.Category) > 128 || len(g.AdditionalMetadata) > 512 {
			return bad("a group of a set has a name of its own")
		}
		groups[g.Name] = true
	}
	seen := map[string]bool{}
	for i := range s.Members {
		m := &s.Members[i]
		d, err := find(m.DefinitionID)
		if err != nil {
			return err
		}
		if m.Reference == "" {
			m.Reference = m.DefinitionID.Name()
		}
		if seen[strings.ToLower(m.Reference)] || len(m.Reference) > 128 || len(m.Version) > 32 {
			return bad("policyDefinitionReferenceId is there once in a set")
		}
		seen[strings.ToLower(m.Reference)] = true
		if slices.ContainsFunc(m.Groups, func(name string) bool { return !groups[name] }) {
			return bad("groupNames are names of policyDefinitionGroups")
		}
		if err := given(m.Parameters, d.Parameters); err != nil {
			return err
		}
		for _, v := range m.Parameters {
			for _, name := range uses(v.Value) {
				if _, ok := parameter(s.Parameters, name); !ok {
					return bad("a member uses the parameter %q, which the set does not have", name)
				}
			}
		}
	}
	return nil
}

// given refuses values for parameters that there are not, and that some are missing.
func given(values map[string]Value, of map[string]Parameter) error {
	for name, v := range values {
		p, ok := parameter(of, name)
		if !ok {
			return bad("the definition has no parameter %q", name)
		}
		if len(v.Value) == 0 {
			return bad(`a parameter is given as {"value": …}: %q`, name)
		}
		if err := p.takes(name, v.Value); err != nil {
			return err
		}
	}
	for name, p := range of {
		if _, ok := parameter(values, name); !ok && p.Default == nil {
			return bad("the parameter %q needs a value", name)
		}
	}
	return nil
}

// An Assignment says where a definition or a set holds.
type Assignment struct {
	Text
	DefinitionID ref.ID           `json:"policyDefinitionId"`
	Version      string           `json:"definitionVersion,omitempty"`
	Parameters   map[string]Value `json:"parameters,omitempty"`
	NotScopes    []ref.ID         `json:"notScopes,omitempty"`
	Enforcement  string           `json:"enforcementMode"`
	Messages     []Message        `json:"nonComplianceMessages,omitempty"`
}

// A Message is what those who do not comply are told.
type Message struct {
	Message   string `json:"message"`
	Reference string `json:"policyDefinitionReferenceId,omitempty"`
}

// Check completes a, and refuses what is not certain. parameters are those of what
// is assigned.
func (a *Assignment) Check(at ref.Scope, parameters map[string]Parameter) error {
	if a.Enforcement == "" {
		a.Enforcement = "Default"
	}
	if !slices.Contains([]string{"Default", "DoNotEnforce", "Enroll"}, a.Enforcement) {
		return bad("enforcementMode is Default or DoNotEnforce")
	}
	if err := a.Text.check(); err != nil {
		return err
	}
	if len(a.NotScopes) > 400 || len(a.Messages) > 100 || len(a.Version) > 32 {
		return bad("an assignment has at most 400 notScopes, and 100 nonComplianceMessages")
	}
	for _, id := range a.NotScopes {
		if _, err := ref.ParseID(string(id)); err != nil || !at.Covers(id.Scope()) {
			return bad("notScopes are ids below the scope of the assignment")
		}
	}
	for _, m := range a.Messages {
		if m.Message == "" || len(m.Message) > 512 || len(m.Reference) > 128 {
			return bad("a message has 1 to 512 bytes")
		}
	}
	return given(a.Parameters, parameters)
}
