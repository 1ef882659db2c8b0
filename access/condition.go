package access

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"breakwater/fault"
	"breakwater/ref"
)

// Limits of a condition. Its evaluation takes a time that grows with its length
// and with what the request brings, never with anything else.
const (
	maxCondition = 8 << 10 // bytes, as in Azure
	maxDepth     = 32      // parentheses and negations
	maxTerms     = 256     // comparisons and functions
)

// A Condition is what must be true beside an assignment, in Azure's language for
// conditions (version 2.0): comparisons of attributes, ActionMatches,
// SubOperationMatches and Exists, joined by AND, OR and NOT. What a comparison
// cannot know, it does not guess: its answer is unknown, which AND, OR and NOT
// carry on as Kleene's logic does.
type Condition struct {
	text string
	root node
}

// ConditionVersion is the one version of the language.
const ConditionVersion = "2.0"

// String is the condition as it was written.
func (c *Condition) String() string { return c.text }

// A truth is no, unknown or yes, in this order: AND is the least of its terms,
// OR the greatest, and NOT the opposite.
type truth int8

const (
	no      truth = -1
	unknown truth = 0
	yes     truth = 1
)

func isTrue(b bool) truth {
	if b {
		return yes
	}
	return no
}

// A node is a part of a condition.
type node interface{ ask(q *question) truth }

type (
	constant truth
	negation struct{ of node }
	all      []node // AND
	some     []node // OR
	present  struct{ attribute }
	matches  struct{ pattern string } // of the action
	within   struct{ pattern string } // of what the surface calls the operation
)

func (c constant) ask(*question) truth   { return truth(c) }
func (n negation) ask(q *question) truth { return -n.of.ask(q) }
func (e present) ask(q *question) truth  { return isTrue(len(e.read(q)) > 0) }
func (m matches) ask(q *question) truth  { return isTrue(q.need.named(m.pattern)) }

func (w within) ask(q *question) truth {
	if q.need.From.Operation == "" {
		return unknown
	}
	return isTrue(match(w.pattern, Action(q.need.From.Operation)))
}

func (a all) ask(q *question) truth {
	least := yes
	for i := 0; i < len(a) && least > no; i++ {
		least = min(least, a[i].ask(q))
	}
	return least
}

func (s some) ask(q *question) truth {
	most := no
	for i := 0; i < len(s) && most < yes; i++ {
		most = max(most, s[i].ask(q))
	}
	return most
}

// A comparison asks whether values of an attribute stand in a relation to those
// on the right. Without a prefix there is one of each. ForAllOf… asks it of every
// value on the left, …AllValues for every value on the right.
type comparison struct {
	left     attribute
	relation relation
	sets     bool // it has a prefix
	allOf    bool
	allRight bool
	right    []value
	from     *attribute // instead of right
}

func (c *comparison) ask(q *question) truth {
	left, right := c.left.read(q), c.right
	if c.from != nil {
		right = c.from.read(q)
	}
	if len(left) == 0 || len(right) == 0 || !c.sets && (len(left) > 1 || len(right) > 1) {
		return unknown
	}
	return fold(c.allOf, left, func(l value) truth {
		l, ok := c.relation.read(l)
		if !ok {
			return unknown
		}
		return fold(c.allRight, right, func(r value) truth {
			if c.from != nil {
				if r, ok = c.relation.read(r); !ok {
					return unknown
				}
			}
			return isTrue(c.relation.holds(l, r) != c.relation.not)
		})
	})
}

// fold is AND of what ask says of each value, or OR.
func fold(and bool, values []value, ask func(value) truth) truth {
	answer := isTrue(and)
	for _, v := range values {
		if and {
			answer = min(answer, ask(v))
		} else {
			answer = max(answer, ask(v))
		}
		if answer == isTrue(!and) {
			break
		}
	}
	return answer
}

// ParseCondition reads a condition. The fault says where it cannot be read.
func ParseCondition(text string) (*Condition, error) {
	if len(text) > maxCondition {
		return nil, fault.New(fault.BadRequest, "a condition has at most %d characters", maxCondition)
	}
	p := &parser{text: text}
	root := p.expression(0)
	if p.skip(); p.at < len(text) {
		p.fail("AND, OR or the end belongs here")
	}
	if p.err != nil {
		return nil, p.err
	}
	return &Condition{text, root}, nil
}

// A parser reads from left to right. After the first error it goes on without
// effect, and only that error is told.
type parser struct {
	text  string
	at    int
	terms int
	err   error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fault.New(fault.BadRequest, "the condition cannot be read at character %d: %s",
			utf8.RuneCountInString(p.text[:p.at])+1, fmt.Sprintf(format, args...))
		p.at = len(p.text)
	}
}

func (p *parser) skip() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take moves over a symbol, if it is next.
func (p *parser) take(symbol string) bool {
	p.skip()
	if strings.HasPrefix(p.text[p.at:], symbol) {
		p.at += len(symbol)
		return true
	}
	return false
}

func (p *parser) expect(symbol string) {
	if !p.take(symbol) {
		p.fail("%s belongs here", symbol)
	}
}

// run is the characters from here on that are in the alphabet; they are not
// taken.
func (p *parser) run(in func(c byte) bool) string {
	p.skip()
	end := p.at
	for end < len(p.text) && in(p.text[end]) {
		end++
	}
	return p.text[p.at:end]
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// word takes one of the words, in any case, and tells which; -1 if none is next.
func (p *parser) word(words ...string) int {
	next := p.run(letter)
	for i, w := range words {
		if strings.EqualFold(next, w) {
			p.at += len(w)
			return i
		}
	}
	return -1
}

// expression reads terms that are joined by AND, or by OR. Which of the two binds
// closer is for its writer to say, with parentheses.
func (p *parser) expression(depth int) node {
	terms := []node{p.term(depth)}
	joint := ""
	for p.err == nil {
		next := ""
		switch start := p.at; {
		case p.take("&&") || p.word("AND") == 0:
			next = "AND"
		case p.take("||") || p.word("OR") == 0:
			next = "OR"
		default:
			p.at = start
		}
		if next == "" {
			break
		}
		if joint != "" && next != joint {
			p.fail("AND and OR stand beside each other only in parentheses")
		}
		joint = next
		terms = append(terms, p.term(depth))
	}
	switch joint {
	case "AND":
		return all(terms)
	case "OR":
		return some(terms)
	}
	return terms[0]
}

func (p *parser) term(depth int) node {
	if depth++; depth > maxDepth {
		p.fail("it is nested deeper than %d", maxDepth)
	}
	if p.err != nil {
		return constant(unknown)
	}
	if p.take("!") || p.word("NOT") == 0 {
		return negation{p.term(depth)}
	}
	if p.take("(") {
		n := p.expression(depth)
		p.expect(")")
		return n
	}
	if p.terms++; p.terms > maxTerms {
		p.fail("it has more than %d terms", maxTerms)
	}
	switch p.word("true", "false", "ActionMatches", "SubOperationMatches", "Exists", "NotExists") {
	case 0:
		return constant(yes)
	case 1:
		return constant(no)
	case 2:
		return matches{p.pattern()}
	case 3:
		return within{p.pattern()}
	case 4:
		return present{p.attribute()}
	case 5:
		return negation{present{p.attribute()}}
	}
	return p.comparison()
}

// pattern reads {'…'}.
func (p *parser) pattern() string {
	p.expect("{")
	s := p.quoted()
	p.expect("}")
	return s
}

// attribute reads @Source[name].
func (p *parser) attribute() attribute {
	p.skip()
	start := p.at
	p.expect("@")
	source := p.run(letter)
	p.at += len(source)
	p.expect("[")
	name := p.run(func(c byte) bool { return c > ' ' && c < 0x7f && c != ']' && c != '[' && c != '\'' })
	p.at += len(name)
	p.expect("]")
	a, ok := attributeOf(source, name)
	if !ok {
		p.at = min(start, p.at)
		p.fail("there is no attribute @%s[%s]", source, name)
	}
	return a
}

func (p *parser) comparison() node {
	if p.skip(); p.at == len(p.text) || p.text[p.at] != '@' {
		p.fail("an attribute, a function or a parenthesis belongs here")
		return constant(unknown)
	}
	c := &comparison{left: p.attribute()}
	p.skip()
	start := p.at
	name := p.run(letter)
	p.at += len(name)
	if p.take(":") {
		if c.allOf, c.allRight, c.sets = sets(name); !c.sets {
			p.at = start
			p.fail("%q is none of ForAnyOfAnyValues, ForAllOfAnyValues, ForAnyOfAllValues and ForAllOfAllValues", name)
		}
		name = p.run(letter)
		p.at += len(name)
	}
	ok := false
	if c.relation, ok = relationOf(name); !ok {
		p.at = min(start, p.at)
		p.fail("there is no operator %q", name)
	} else if !c.left.suits(c.relation) {
		p.at = min(start, p.at)
		p.fail("%s does not compare this attribute", name)
	} else if c.left.many && !c.sets {
		p.at = min(start, p.at)
		p.fail("the attribute has several values; write ForAnyOfAnyValues:%s", name)
	}
	if p.skip(); p.at < len(p.text) && p.text[p.at] == '@' {
		start = p.at
		from := p.attribute()
		if c.from = &from; p.err == nil && (!from.suits(c.relation) || from.many && !c.sets || c.relation.pattern) {
			p.at = start
			p.fail("%s does not compare with this attribute", name)
		}
		return c
	}
	if !p.take("{") {
		c.right = []value{p.literal(c.relation)}
		return c
	}
	if !c.sets {
		p.fail("a list belongs after ForAnyOfAnyValues: and the like")
	}
	for p.err == nil {
		c.right = append(c.right, p.literal(c.relation))
		if p.take("}") {
			break
		}
		p.expect(",")
	}
	return c
}

// sets reads the prefix of an operator.
func sets(name string) (allOf, allRight, ok bool) {
	for i, prefix := range []string{"ForAnyOfAnyValues", "ForAllOfAnyValues", "ForAnyOfAllValues", "ForAllOfAllValues"} {
		if strings.EqualFold(name, prefix) {
			return i&1 > 0, i&2 > 0, true
		}
	}
	return false, false, false
}

// literal reads a value as the relation understands it. Text, dates and addresses
// are quoted, numbers and truth values are not, and a GUID may be either.
func (p *parser) literal(r relation) value {
	p.skip()
	start, bare := p.at, p.run(func(c byte) bool { return letter(c) || digit(c) || c == '-' || c == '.' })
	var v value
	switch {
	case bare != "" && (r.unquoted || ref.IsGUID(bare)):
		p.at += len(bare)
		v.text = bare
	case bare == "" && !r.unquoted:
		if v.text = p.quoted(); !r.pattern {
			v.text = unescape(v.text)
		}
	default:
		p.fail("a value of another sort belongs here")
	}
	if p.err != nil {
		return value{}
	}
	v, ok := r.literal(v)
	if !ok {
		p.at = start
		p.fail("the operator does not understand this value")
	}
	return v
}

// quoted reads '…'. A backslash stands before a quote, a backslash, '*' and '?';
// it is not taken away.
func (p *parser) quoted() string {
	p.expect("'")
	start := p.at
	for p.at < len(p.text) {
		c, size := utf8.DecodeRuneInString(p.text[p.at:])
		switch {
		case c == '\'':
			p.at++
			return p.text[start : p.at-1]
		case c == '\\':
			if p.at+1 == len(p.text) || strings.IndexByte(`'\*?`, p.text[p.at+1]) < 0 {
				p.fail(`a backslash stands only before ', \, * and ?`)
			}
			p.at++
		case c < ' ' || c == 0x7f || c == utf8.RuneError && size == 1:
			p.fail("a character that is not allowed in text")
		}
		p.at = min(p.at+size, len(p.text))
	}
	p.fail("the text has no end")
	return ""
}

func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}
