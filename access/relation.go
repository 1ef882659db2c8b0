package access

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"breakwater/network"
	"breakwater/ref"
)

// A value is one value of an attribute or literal: text, or what a relation reads
// out of it.
type value struct {
	text    string
	number  float64 // also a time, in microseconds
	sort    sort
	network netip.Prefix
}

// A sort is what an attribute's values are. Those of a claim may be read as any.
type sort uint8

const (
	text   sort = 1 << iota
	number      //
	moment      // a date and time
	guid        // also text
	boolean
	address
	claim = text | number | moment | guid | boolean | address
)

// A relation is an operator: what holds between a value of the left and one of
// the right.
type relation struct {
	of       sort                         // which attributes it compares
	read     func(value) (value, bool)    // makes of a value what holds compares; false if it cannot
	literal  func(value) (value, bool)    // the same for a literal on the right
	holds    func(left, right value) bool //
	not      bool                         // the opposite
	unquoted bool                         // literals stand without quotes
	pattern  bool                         // the literal is a pattern of Like
}

// relationOf finds an operator by its name: a family, perhaps Not, what it asks,
// and perhaps IgnoreCase.
func relationOf(name string) (relation, bool) {
	name = strings.ToLower(name)
	for _, f := range families {
		rest, ok := strings.CutPrefix(name, f.name)
		if !ok {
			continue
		}
		r := relation{of: f.of, read: f.read, literal: f.literal, unquoted: f.unquoted}
		rest, r.not = strings.CutPrefix(rest, "not")
		if f.of == text|guid {
			if base, ignore := strings.CutSuffix(rest, "ignorecase"); ignore {
				rest, r.read, r.literal = base, lowered, lowered
			}
		}
		r.pattern = rest == "like"
		r.holds, ok = f.asks[rest]
		if _, both := ordered[rest]; r.not && both && rest != "equals" {
			ok = false // there is GreaterThan for NotLessThanEquals
		}
		return r, ok
	}
	return relation{}, false
}

type asks = map[string]func(l, r value) bool

var families = []struct {
	name     string
	of       sort
	read     func(value) (value, bool)
	literal  func(value) (value, bool)
	asks     asks
	unquoted bool
}{
	{"string", text | guid, asIs, asIs, asks{
		"equals":     sameText,
		"startswith": func(l, r value) bool { return strings.HasPrefix(l.text, r.text) },
		"contains":   func(l, r value) bool { return strings.Contains(l.text, r.text) },
		"like":       func(l, r value) bool { return like(r.text, l.text) },
	}, false},
	{"numeric", number, asNumber, asNumber, ordered, true},
	{"bool", boolean, asBool, asBool, asks{"equals": sameText}, true},
	{"guid", guid, asGUID, asGUID, asks{"equals": sameText}, false},
	{"datetime", moment, asTime, asTime, ordered, false},
	{"timeofday", moment, asTimeOfDay, asHours, ordered, false},
	{"ip", address, asNetwork, asNetwork, asks{
		"match": func(l, r value) bool {
			return l.network.Bits() >= r.network.Bits() && r.network.Contains(l.network.Addr())
		},
	}, false},
}

var ordered = asks{
	"equals":            func(l, r value) bool { return l.number == r.number },
	"lessthan":          func(l, r value) bool { return l.number < r.number },
	"lessthanequals":    func(l, r value) bool { return l.number <= r.number },
	"greaterthan":       func(l, r value) bool { return l.number > r.number },
	"greaterthanequals": func(l, r value) bool { return l.number >= r.number },
}

func sameText(l, r value) bool { return l.text == r.text }

func asIs(v value) (value, bool) { return v, true }

func lowered(v value) (value, bool) {
	v.text = strings.ToLower(v.text)
	return v, true
}

func asNumber(v value) (value, bool) {
	if v.sort == number {
		return v, true
	}
	n, err := strconv.ParseFloat(v.text, 64)
	plain := strings.Trim(v.text, "-.0123456789") == "" // no exponent, infinity or hexadecimal
	return value{number: n, sort: number}, err == nil && plain && math.Abs(n) < 1<<53
}

func asBool(v value) (value, bool) {
	v, _ = lowered(v)
	return v, v.text == "true" || v.text == "false"
}

func asGUID(v value) (value, bool) {
	v, _ = lowered(v)
	return v, ref.IsGUID(v.text)
}

func asTime(v value) (value, bool) {
	if v.sort == moment {
		return v, true
	}
	t, err := time.Parse(time.RFC3339, v.text)
	return timed(t), err == nil
}

func timed(t time.Time) value { return value{number: float64(t.UnixMicro()), sort: moment} }

// asTimeOfDay is the time since midnight, UTC, of a date.
func asTimeOfDay(v value) (value, bool) {
	v, ok := asTime(v)
	const day = float64(24 * time.Hour / time.Microsecond)
	v.number = math.Mod(math.Mod(v.number, day)+day, day)
	return v, ok
}

// asHours reads "18:30" or "18:30:15".
func asHours(v value) (value, bool) {
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, v.text); err == nil && len(v.text) >= len("15:04") {
			return value{number: float64(t.Sub(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Microsecond), sort: moment}, true
		}
	}
	return value{}, false
}

func asNetwork(v value) (value, bool) {
	if v.sort == address {
		return v, true
	}
	n, err := network.ParseNetwork(v.text)
	return value{network: n.Prefix, sort: address}, err == nil
}

// like reports whether the pattern matches all of s: '*' stands for any run of
// characters, '?' for one, and a backslash takes both that meaning.
func like(pattern, s string) bool {
	p, i, star, retry := 0, 0, -1, 0
	for i < len(s) {
		_, size := utf8.DecodeRuneInString(s[i:])
		literal := p
		if p+1 < len(pattern) && pattern[p] == '\\' {
			literal++
		}
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p, i = p+1, i+size
		case literal < len(pattern) && pattern[literal] == s[i]:
			p, i = literal+1, i+1
		case star >= 0: // let the last star swallow one character more
			_, size = utf8.DecodeRuneInString(s[retry:])
			retry += size
			p, i = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
