package identity

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/network"
	"breakwater/ref"
)

// TicketLife is how long a ticket lets somebody begin. Clients follow a redirect at
// once, and ask for another one when they go on later.
const TicketLife = 5 * time.Minute

// maxTicket bounds a ticket, which stands in a URL: there are proxies that refuse
// longer ones. Who is in so many groups that it does not suffice gets none.
const maxTicket = 6 << 10

// A Parcel is what a ticket is for: one blob, as seen in one repository.
type Parcel struct {
	Repository ref.Repository
	Digest     ref.Digest
}

// A ticket is what stands sealed in one: whom it stands for, and what that one
// showed. What it is for is not in it but sealed to it, so that it opens nowhere else.
type ticket struct {
	Kind           Kind           `json:"k"`
	ID             string         `json:"i,omitempty"`
	Name           string         `json:"n,omitempty"`
	Account        ref.ID         `json:"a,omitempty"`
	Client         string         `json:"c,omitempty"`
	Through        bool           `json:"t,omitempty"`
	Groups         []string       `json:"g,omitempty"`
	Credential     string         `json:"s,omitempty"`
	Authentication Authentication `json:"h"`
}

// IssueTicket lets p get a parcel at the data endpoint of r (NS-2), from where it asks
// now and for a short while. It stands in a URL, because clients keep their credentials
// to themselves when they are sent to another host. Like a token it carries no right:
// who it stands for, and whether that one may, is looked up when it is shown. "" is none.
func (s *Store) IssueTicket(r Realm, p Principal, what Parcel, from network.Origin) Secret {
	if len(s.o.Tickets) == 0 || p.Kind != Anonymous && p.Credential == "" {
		return ""
	}
	until := time.Now().Add(TicketLife)
	if !p.Until.IsZero() && p.Until.Before(until) {
		until = p.Until
	}
	t := ticket{p.Kind, p.ID, p.Name, "", p.Client, p.Through, p.Groups, p.Credential, p.Authentication}
	if p.Kind == Federated {
		t.Account = p.Account
	}
	if t.Authentication.Time.IsZero() {
		t.Authentication.Time = time.Now().UTC().Truncate(time.Second)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return ""
	}
	head := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	sealed := s.ticketSeal(until.Unix()).Seal(head, nil, text, bound(head, r, what, from))
	if base64.RawURLEncoding.EncodedLen(len(sealed)) > maxTicket {
		return ""
	}
	return Secret(base64.RawURLEncoding.EncodeToString(sealed))
}

// ticketSeal is what tickets that end at a time are sealed with. Each hour has its key:
// the nonces are random, and under one key there must not be too many of them.
func (s *Store) ticketSeal(until int64) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, s.o.Tickets, nil, "ticket 1/"+strconv.FormatInt(until/3600, 10), 32)
	if err != nil {
		panic(err) // only for lengths that HKDF cannot yield
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for other lengths
	}
	sealing, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // only for other ciphers
	}
	return sealing
}

// bound is what a ticket is sealed to: its end, the registry, the parcel, and the
// network that it was given to.
func bound(head []byte, r Realm, what Parcel, from network.Origin) []byte {
	text := append([]byte(nil), head...)
	listener := ""
	if !from.Addr.IsValid() { // a socket in the file system: then it is all that is known
		listener = from.Listener
	}
	for _, part := range []string{r.UID, string(what.Repository), string(what.Digest), neighbourhood(from.Addr).String(), from.Endpoint.Key(), strconv.FormatBool(from.Told), listener} {
		text = binary.BigEndian.AppendUint32(text, uint32(len(part)))
		text = append(text, part...)
	}
	return text
}

// ticket proves who comes with a ticket, if it is one for what is asked and who asks.
// All others are refused in the same words, not as unauthenticated: there is nothing
// that they could show instead.
func (s *Store) ticket(ctx context.Context, r Realm, c Credentials, from network.Origin) (Principal, error) {
	t, until, ok := s.openTicket(r, string(c.Secret), c.Parcel, from)
	if !ok {
		return Principal{}, misplaced()
	}
	p, err := Principal{Kind: Anonymous}, error(nil)
	if t.Kind != Anonymous {
		p, err = s.descends(ctx, r, &claims{
			Subject: t.Name, Kind: t.Kind, Principal: t.ID, Credential: t.Credential, Account: t.Account,
			Client: t.Client, Through: t.Through, Groups: t.Groups, Authentication: t.Authentication,
		})
		if fault.Of(err) == fault.Unauthenticated {
			err = misplaced().(*fault.Error).Because(err)
		}
	}
	if err != nil {
		return Principal{}, err
	}
	if p.Until.IsZero() || until.Before(p.Until) {
		p.Until = until
	}
	p.Ceiling = &Ceiling{Access: []Access{{Type: "repository", Name: string(c.Parcel.Repository), Actions: []string{"pull"}}}}
	return p, nil
}

// openTicket reads the ticket that is text, if it is one, and not over.
func (s *Store) openTicket(r Realm, text string, what Parcel, from network.Origin) (t ticket, until time.Time, ok bool) {
	if len(s.o.Tickets) == 0 || len(text) > maxTicket || strings.ContainsAny(text, "\r\n") {
		return t, until, false
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sealed) < 8 {
		return t, until, false
	}
	head, sealed := sealed[:8], sealed[8:]
	end := binary.BigEndian.Uint64(head)
	if now := time.Now(); end > uint64(now.Add(TicketLife+leeway).Unix()) || int64(end) <= now.Unix() {
		return t, until, false
	}
	plain, err := s.ticketSeal(int64(end)).Open(nil, nil, sealed, bound(head, r, what, from))
	if err != nil || json.Unmarshal(plain, &t) != nil {
		return t, until, false
	}
	return t, time.Unix(int64(end), 0), true
}

func misplaced() error {
	return fault.New(fault.Denied, "this host serves a blob to whom its login server sent here for it, from there and for a short while: ask the login server again")
}
