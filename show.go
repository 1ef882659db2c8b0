package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// showOne prints a resource as the server sent it, or as lines of what it says.
func showOne(w io.Writer, o *output, whole json.RawMessage) error {
	if len(whole) == 0 {
		return nil
	}
	if !o.is("table") {
		return showText(w, o, whole)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range members(whole) {
		flatten(t, m)
	}
	return t.Flush()
}

// flatten prints a line for each value; properties are what a resource is about,
// and need no word before them.
func flatten(w io.Writer, m member) {
	name := strings.TrimPrefix(m.name, "properties.")
	if text, ok := inOneLine(m.value); ok {
		fmt.Fprintf(w, "%s\t%s\n", printable(name), orDash(text))
		return
	}
	for _, below := range members(m.value) {
		below.name = m.name + "." + below.name
		flatten(w, below)
	}
	for i, each := range elements(m.value) {
		flatten(w, member{m.name + "[" + strconv.Itoa(i) + "]", each})
	}
}

const (
	columns = 6  // of a table
	longest = 60 // letters of a cell: who wants all of it asks for JSON
)

// showMany prints resources: the name of each, and the first properties that fit.
func showMany(w io.Writer, o *output, items []json.RawMessage) error {
	if !o.is("table") {
		whole, err := json.Marshal(items)
		if err != nil {
			return err
		}
		return showText(w, o, whole)
	}
	var names []string
	rows := make([]map[string]string, len(items))
	for i, item := range items {
		rows[i] = map[string]string{}
		add := func(m member) {
			m.name = printable(m.name)
			text, ok := inOneLine(m.value)
			if !ok || text == "" || unsaid(m.name) {
				return
			}
			if strings.HasPrefix(text, "/") && strings.Contains(text, "/providers/") {
				text = text[strings.LastIndexByte(text, '/')+1:]
			}
			if rows[i][m.name] = text; !slices.Contains(names, m.name) {
				names = append(names, m.name)
			}
		}
		for _, m := range members(item) {
			switch m.name {
			case "name", "location":
				add(m)
			case "properties":
				for _, below := range members(m.value) {
					add(below)
				}
			case "id":
				id, _ := inOneLine(m.value)
				if parts := strings.Split(id, "/"); len(parts) == 9 && strings.EqualFold(parts[3], "resourceGroups") {
					rows[i]["group"] = parts[4]
					if !slices.Contains(names, "group") {
						names = append(names, "group")
					}
				}
			}
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	if len(names) == 0 {
		return nil
	}
	names = names[:min(len(names), columns)]
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(names, "\t")))
	for _, row := range rows {
		cells := make([]string, len(names))
		for i, name := range names {
			cells[i] = orDash(row[name])
			if letters := []rune(cells[i]); len(letters) > longest {
				cells[i] = string(letters[:longest-1]) + "…"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// rank is the order of columns: what a thing is called and whether it counts, then
// the rest as the server has it.
func rank(name string) int {
	first := []string{"name", "group", "displayName", "roleName", "loginServer", "status"}
	if i := slices.Index(first, name); i >= 0 {
		return i
	}
	return len(first)
}

// unsaid are properties that are the same for all, or that nobody looks for in a
// table.
func unsaid(name string) bool {
	return slices.Contains([]string{"provisioningState", "creationDate", "createdOn", "updatedOn", "createdBy", "updatedBy", "lastUsedTime"}, name)
}

func showTypes(w io.Writer, o *output, all []resourceType) error {
	if !o.is("table") {
		whole, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return showText(w, o, whole)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TYPE\tWHOLE NAME\tOPERATIONS")
	for _, r := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", printable(shortType(all, r)), printable(r.Type), printable(r.Can))
	}
	return t.Flush()
}

// showText prints JSON, or the same as YAML.
func showText(w io.Writer, o *output, whole json.RawMessage) error {
	var text bytes.Buffer
	if o.is("yaml") {
		block(&text, whole, 0)
	} else {
		if err := json.Indent(&text, whole, "", "  "); err != nil {
			return err
		}
		text.WriteByte('\n')
	}
	_, err := text.WriteTo(w)
	return err
}

// block writes JSON as YAML in blocks. What is not certainly text, or has to be
// escaped, stands as in JSON, which YAML is a superset of: reading gives what was
// written, and a terminal has nothing to obey.
func block(w *bytes.Buffer, value json.RawMessage, depth int) {
	indent := strings.Repeat("  ", depth)
	below := func(lead string, value json.RawMessage) {
		w.WriteString(indent + lead)
		if first := bytes.TrimSpace(value)[0]; (first == '{' || first == '[') && len(members(value))+len(elements(value)) > 0 {
			w.WriteByte('\n')
			block(w, value, depth+1)
			return
		}
		w.WriteByte(' ')
		block(w, value, 0)
	}
	all, each := members(value), elements(value)
	for _, m := range all {
		below(plain(m.name)+":", m.value)
	}
	for _, e := range each {
		below("-", e)
	}
	if len(all)+len(each) > 0 {
		return
	}
	var text string
	if bytes.HasPrefix(bytes.TrimSpace(value), []byte(`"`)) && json.Unmarshal(value, &text) == nil {
		w.WriteString(plain(text) + "\n")
		return
	}
	var small bytes.Buffer
	_ = json.Compact(&small, value) // it was valid up to here
	w.Write(append(small.Bytes(), '\n'))
}

// certain is text that YAML takes for nothing else.
var certain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*$`)

func plain(s string) string {
	if certain.MatchString(s) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	var quoted strings.Builder
	quoted.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			quoted.WriteRune('\\')
			quoted.WriteRune(r)
		case unicode.IsPrint(r):
			quoted.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&quoted, `\u%04x`, r)
		default:
			fmt.Fprintf(&quoted, `\U%08x`, r)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

// A member is a name and its value, in the order in which the server sent them.
type member struct {
	name  string
	value json.RawMessage
}

func members(object json.RawMessage) (all []member) {
	d := json.NewDecoder(bytes.NewReader(object))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		var m member
		if err != nil || d.Decode(&m.value) != nil {
			return all
		}
		m.name, _ = name.(string)
		all = append(all, m)
	}
	return all
}

func elements(array json.RawMessage) (all []json.RawMessage) {
	_ = json.Unmarshal(array, &all) // what is no array has no elements
	return all
}

// inOneLine is a value that is one, or a list of such.
func inOneLine(value json.RawMessage) (string, bool) {
	if text := bytes.TrimSpace(value); len(text) > 0 && text[0] == '{' {
		return "", string(text) == "{}"
	}
	if !bytes.HasPrefix(bytes.TrimSpace(value), []byte("[")) {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value) // a number, true or false; null is nothing
		}
		return printable(text), true
	}
	var parts []string
	for _, each := range elements(value) {
		if bytes.ContainsAny(each[:1], "[{") {
			return "", false
		}
		text, _ := inOneLine(each)
		parts = append(parts, text)
	}
	return strings.Join(parts, " "), true
}

// printable is a text of somebody else that a terminal shows and does not obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
