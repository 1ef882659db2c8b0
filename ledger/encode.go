package ledger

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxText bounds what callers choose freely.
const maxText = 512

// A row is an event as the table holds it: seq and at come with the commit.
type row struct {
	time     int64 // µs
	registry string
	category string
	body     string // JSON without seq, registry and category
}

// whole fills in and bounds what every event has.
func (e Event) whole() Event {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	for _, s := range []*string{&e.Who.Name, &e.From.Host, &e.From.UserAgent} {
		*s = (*s)[:min(len(*s), maxText)]
	}
	return e
}

func (e Event) row() row {
	e = e.whole()
	r := row{time: e.Time.UnixMicro(), registry: e.Registry, category: e.Category}
	e.Seq, e.Registry, e.Category = 0, "", ""
	r.body = string(e.appendJSON(make([]byte, 0, 640)))
	return r
}

// appendRecord appends the row of e in the form that the spool seals.
func (e Event) appendRecord(b []byte) []byte {
	e = e.whole()
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Time.UnixMicro()))
	for _, s := range [...]string{e.Registry, e.Category} {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...) // a longer one is refused with its record
	}
	e.Seq, e.Registry, e.Category = 0, "", ""
	return e.appendJSON(b)
}

// parseRecord is the reverse of appendRecord. Only what was sealed here comes
// here, yet it trusts no length.
func parseRecord(b []byte) (r row, ok bool) {
	field := func() (s string) {
		if ok = ok && len(b) >= 2; !ok {
			return ""
		}
		n := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; n > len(b) {
			ok = false
			return ""
		}
		s, b = string(b[:n]), b[n:]
		return s
	}
	if len(b) < 8 {
		return row{}, false
	}
	r.time, b, ok = int64(binary.LittleEndian.Uint64(b)), b[8:], true
	r.registry, r.category = field(), field()
	r.body = string(b)
	return r, ok
}

// appendJSON writes what encoding/json would (a test holds it to that), at a
// quarter of its price: it runs for every pull.
func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, '{')
	b = number(b, "seq", e.Seq)
	b = text(b, "registry", e.Registry)
	b = text(b, "category", e.Category)
	b = e.Time.AppendFormat(append(key(b, "time"), '"'), time.RFC3339Nano)
	b = quote(key(append(b, '"'), "operation"), e.Operation)
	b = text(b, "scope", string(e.Scope))
	if e.Who != (Who{}) {
		b = append(key(b, "who"), '{')
		b = text(b, "id", e.Who.ID)
		b = text(b, "kind", e.Who.Kind)
		b = append(text(b, "name", e.Who.Name), '}')
	}
	if e.From != (From{}) {
		b = append(key(b, "from"), '{')
		if e.From.Address != (netip.Addr{}) {
			b = append(e.From.Address.AppendTo(append(key(b, "address"), '"')), '"')
		}
		b = text(b, "listener", e.From.Listener)
		b = text(b, "endpoint", string(e.From.Endpoint))
		if e.From.Told {
			b = append(key(b, "told"), "true"...)
		}
		b = text(b, "host", e.From.Host)
		b = append(text(b, "userAgent", e.From.UserAgent), '}')
	}
	b = quote(key(b, "outcome"), string(e.Outcome))
	b = text(b, "reason", e.Reason)
	b = number(b, "status", int64(e.Status))
	b = text(b, "correlation", e.Correlation)
	b = number(b, "durationNs", int64(e.Duration))
	if d := &e.Detail; !d.zero() {
		b = append(key(b, "detail"), '{')
		b = text(b, "repository", string(d.Repository))
		b = text(b, "tag", string(d.Tag))
		b = text(b, "digest", string(d.Digest))
		b = text(b, "mediaType", d.MediaType)
		b = text(b, "artifactType", d.ArtifactType)
		b = number(b, "size", d.Size)
		if len(d.More) > 0 {
			b = append(key(b, "more"), '{')
			for _, k := range slices.Sorted(maps.Keys(d.More)) {
				b = quote(key(b, k), d.More[k])
			}
			b = append(b, '}')
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func (d *Detail) zero() bool {
	return d.Repository == "" && d.Tag == "" && d.Digest == "" && d.MediaType == "" && d.ArtifactType == "" && d.Size == 0 && d.More == nil
}

// IsZero keeps an empty detail out of the JSON.
func (d Detail) IsZero() bool { return d.zero() }

func key(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(quote(b, name), ':')
}

func text(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return quote(key(b, name), s)
}

func number(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(key(b, name), n, 10)
}

// quote writes s as a JSON string: valid UTF-8 without NUL, whatever a caller
// sent, so that no database refuses the row.
func quote(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if ' ' <= c && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
			if r != '\u2028' && r != '\u2029' && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
		}
		b = append(b, s[start:i]...)
		i += n
		start = i
		switch r {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
	}
	return append(append(b, s[start:]...), '"')
}
