package arm

import (
	"slices"
	"strings"
	"time"

	"breakwater/fault"
)

// A where is a $filter of a list that goes across kinds:
//
//	resourceType eq 'A/b' and (name eq 'x' or startswith(tagName, 'team'))
//
// nil holds always. Names, operators and values are compared without regard to
// case, and times as times. What cannot be read is refused: a list that silently
// holds more than was asked for is worse than none.
type where struct {
	op          string // and, or, not; or one of comparisons
	left, right *where
	field       string // as the list spells it
	value       string
}

var comparisons = []string{"eq", "ne", "lt", "le", "gt", "ge", "startswith", "substringof"}

// parseWhere reads a filter about these fields.
func parseWhere(text string, fields []string) (*where, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > maxFilter {
		return nil, fault.New(fault.BadRequest, "$filter has at most %d bytes", maxFilter)
	}
	p := whereParser{words(text), fields}
	w, ok := p.any()
	if !ok || len(p.rest) > 0 {
		return nil, fault.New(fault.BadRequest, "$filter is made of comparisons such as %s eq 'value', joined by and, or, not; it knows %s",
			fields[0], strings.Join(fields, ", "))
	}
	return w, nil
}

// words splits a filter into words, parentheses, commas and 'texts', which keep
// their first quote.
func words(text string) (all []string) {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ' ':
			i++
		case c == '(' || c == ')' || c == ',':
			all = append(all, text[i:i+1])
			i++
		case c == '\'':
			value := "'"
			for i++; ; i++ {
				end := strings.IndexByte(text[i:], '\'')
				if end < 0 {
					return append(all, "") // which nothing is
				}
				value += text[i : i+end]
				if i += end + 1; i == len(text) || text[i] != '\'' {
					break
				}
				value += "'" // one is written as two
			}
			all = append(all, value)
		default:
			end := strings.IndexAny(text[i:], " (),'")
			if end < 0 {
				end = len(text) - i
			}
			all = append(all, text[i:i+end])
			i += end
		}
	}
	return all
}

type whereParser struct {
	rest   []string
	fields []string
}

func (p *whereParser) take() string {
	if len(p.rest) == 0 {
		return ""
	}
	first := p.rest[0]
	p.rest = p.rest[1:]
	return first
}

// took takes the word, if it is next.
func (p *whereParser) took(word string) bool {
	if len(p.rest) == 0 || !strings.EqualFold(p.rest[0], word) {
		return false
	}
	p.take()
	return true
}

func (p *whereParser) any() (*where, bool) { return p.joined("or", (*whereParser).all) }
func (p *whereParser) all() (*where, bool) { return p.joined("and", (*whereParser).one) }

func (p *whereParser) joined(by string, part func(*whereParser) (*where, bool)) (*where, bool) {
	w, ok := part(p)
	for ok && p.took(by) {
		var right *where
		right, ok = part(p)
		w = &where{op: by, left: w, right: right}
	}
	return w, ok
}

func (p *whereParser) one() (*where, bool) {
	switch {
	case p.took("not"):
		w, ok := p.one()
		return &where{op: "not", left: w}, ok
	case p.took("("):
		w, ok := p.any()
		return w, ok && p.took(")")
	case p.took("startswith"):
		return p.called("startswith", 0)
	case p.took("substringof"):
		return p.called("substringof", 1)
	}
	w := &where{}
	var ok bool
	if w.field, ok = p.field(p.take()); !ok {
		return nil, false
	}
	w.op = strings.ToLower(p.take())
	if !slices.Contains(comparisons[:6], w.op) {
		return nil, false
	}
	w.value, ok = literal(p.take())
	return w, ok
}

// called reads the arguments of a function: the field is the one at that place.
func (p *whereParser) called(name string, at int) (*where, bool) {
	open := p.took("(")
	args := [2]string{p.take()}
	comma := p.took(",")
	args[1] = p.take()
	field, known := p.field(args[at])
	value, ok := literal(args[1-at])
	return &where{op: name, field: field, value: value}, open && comma && known && ok && p.took(")")
}

// field is a name as the list spells it.
func (p *whereParser) field(name string) (string, bool) {
	i := slices.IndexFunc(p.fields, func(f string) bool { return strings.EqualFold(f, name) })
	if i < 0 {
		return "", false
	}
	return p.fields[i], true
}

// literal is a value: a text in quotes, or a word such as a time.
func literal(token string) (string, bool) {
	if text, ok := strings.CutPrefix(token, "'"); ok {
		return text, true
	}
	return token, token != "" && !strings.ContainsAny(token[:1], "(),")
}

// holds reports whether the filter is true of something whose fields are these.
func (w *where) holds(field func(string) string) bool {
	if w == nil {
		return true
	}
	switch w.op {
	case "and":
		return w.left.holds(field) && w.right.holds(field)
	case "or":
		return w.left.holds(field) || w.right.holds(field)
	case "not":
		return !w.left.holds(field)
	}
	is, than := strings.ToLower(field(w.field)), strings.ToLower(w.value)
	switch w.op {
	case "startswith":
		return strings.HasPrefix(is, than)
	case "substringof":
		return strings.Contains(is, than)
	}
	order := strings.Compare(is, than)
	if at, ok := parseTime(is); ok {
		if other, ok := parseTime(than); ok {
			order = at.Compare(other)
		}
	}
	switch w.op {
	case "eq":
		return order == 0
	case "ne":
		return order != 0
	case "lt":
		return order < 0
	case "le":
		return order <= 0
	case "gt":
		return order > 0
	}
	return order >= 0
}

// must is the value that the filter compares the field with by op, if nothing else
// can make it true.
func (w *where) must(field, op string) (value string, ok bool) {
	switch {
	case w == nil:
		return "", false
	case w.op == "and":
		if value, ok = w.left.must(field, op); !ok {
			value, ok = w.right.must(field, op)
		}
		return value, ok
	}
	if w.op != op || w.field != field {
		return "", false
	}
	return w.value, true
}

// parseTime reads the forms of times that clients send; one without a zone is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", time.DateOnly} {
		if t, err := time.Parse(layout, strings.ToUpper(s)); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
