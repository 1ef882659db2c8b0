package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"breakwater/fault"
	"breakwater/network"
)

var layer = Parcel{"team/api", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}

// ticketOffice is a store that makes tickets and has nothing else: what it says of
// strangers it says without a database.
func ticketOffice() *Store {
	return &Store{o: Options{Tickets: bytes.Repeat([]byte{7}, 32)}}
}

func TestATicketEndsSoonAndWithWhatItDescendsFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stranger := ticketOffice(), Principal{Kind: Anonymous}
		good := func(text Secret) bool {
			t.Helper()
			p, err := s.ticket(t.Context(), shop, Credentials{Method: Ticket, Secret: text, Parcel: layer}, here)
			if err != nil && (fault.Of(err) != fault.Denied || p.Kind != "") {
				t.Errorf("%+v %v", p, err)
			}
			return err == nil && time.Now().Before(p.Until) && time.Until(p.Until) <= TicketLife
		}
		for range 30 { // across an hour, when the key changes
			text := s.IssueTicket(shop, stranger, layer, here)
			if !good(text) {
				t.Errorf("at %v a new ticket is not good", time.Now())
			}
			time.Sleep(TicketLife - time.Second)
			if !good(text) {
				t.Errorf("at %v a ticket ended too soon", time.Now())
			}
			time.Sleep(2 * time.Second)
			if good(text) {
				t.Errorf("at %v a ticket lives too long", time.Now())
			}
		}
		stranger.Until = time.Now().Add(time.Minute)
		text := s.IssueTicket(shop, stranger, layer, here)
		time.Sleep(time.Minute)
		if good(text) {
			t.Error("a ticket outlives what was shown for it")
		}
		// One of a node whose clock is a little ahead is good, and one of the future is not.
		for ahead, want := range map[time.Duration]bool{leeway / 2: true, leeway + time.Second: false, 24 * time.Hour: false} {
			until := time.Now().Add(TicketLife + ahead).Unix()
			head := binary.BigEndian.AppendUint64(nil, uint64(until))
			sealed := s.ticketSeal(until).Seal(head, nil, []byte(`{"k":"anonymous"}`), bound(head, shop, layer, here))
			if _, _, ok := s.openTicket(shop, base64.RawURLEncoding.EncodeToString(sealed), layer, here); ok != want {
				t.Errorf("%v ahead: %v", ahead, ok)
			}
		}
	})
}

func TestATicketIsBoundToAllThatItIsFor(t *testing.T) {
	s := ticketOffice()
	text := string(s.IssueTicket(shop, Principal{Kind: Anonymous}, layer, here))
	other, made := shop, shop
	other.UID, made.Name = "registry-2", "shop2"
	v6 := network.Origin{Addr: netip.MustParseAddr("2001:db8::1")}
	for why, row := range map[string]struct {
		r    Realm
		what Parcel
		from network.Origin
		good bool
	}{
		"as it was":               {shop, layer, here, true},
		"the name is no matter":   {made, layer, here, true},
		"the listener neither":    {shop, layer, network.Origin{Addr: here.Addr, Listener: "inner"}, true},
		"another registry":        {other, layer, here, false},
		"another repository":      {shop, Parcel{"team/web", layer.Digest}, here, false},
		"another digest":          {shop, Parcel{layer.Repository, layer.Digest[:70] + "6"}, here, false},
		"shifted":                 {shop, Parcel{"team", "/api" + layer.Digest}, here, false},
		"another address":         {shop, layer, network.Origin{Addr: netip.MustParseAddr("203.0.113.10")}, false},
		"another kind":            {shop, layer, v6, false},
		"no address":              {shop, layer, network.Origin{}, false},
		"a private endpoint":      {shop, layer, network.Origin{Addr: here.Addr, Endpoint: "/x"}, false},
		"an address that is told": {shop, layer, network.Origin{Addr: here.Addr, Told: true}, false},
	} {
		if _, _, ok := s.openTicket(row.r, text, row.what, row.from); ok != row.good {
			t.Errorf("%s: %t", why, ok)
		}
	}
	// A host has a whole /64 of IPv6, and a socket in the file system its name.
	text = string(s.IssueTicket(shop, Principal{Kind: Anonymous}, layer, v6))
	if _, _, ok := s.openTicket(shop, text, layer, network.Origin{Addr: netip.MustParseAddr("2001:db8::ffff:1")}); !ok {
		t.Error("a privacy address of the same host has no ticket")
	}
	text = string(s.IssueTicket(shop, Principal{Kind: Anonymous}, layer, network.Origin{Listener: "socket"}))
	for listener, good := range map[string]bool{"socket": true, "other": false} {
		if _, _, ok := s.openTicket(shop, text, layer, network.Origin{Listener: listener}); ok != good {
			t.Errorf("%s: %t", listener, ok)
		}
	}
	if _, _, ok := (&Store{o: Options{Tickets: bytes.Repeat([]byte{8}, 32)}}).openTicket(shop, text, layer, network.Origin{Listener: "socket"}); ok {
		t.Error("another server's ticket is good")
	}
}

func TestATicketTellsNothingAndFitsIntoAURL(t *testing.T) {
	s := ticketOffice()
	p := Principal{Kind: Federated, ID: "11111111-0000-0000-0000-000000000001", Name: "ada@example.org", Account: "/providers/Breakwater.Identity/issuers/work", Credential: "issuer",
		Groups: []string{"22222222-0000-0000-0000-000000000002"}, Authentication: Authentication{Time: time.Unix(1e9, 0).UTC(), ACR: "c1", Claims: map[string][]string{"department": {"sales"}}}}
	text := s.IssueTicket(shop, p, layer, here)
	raw, err := base64.RawURLEncoding.DecodeString(string(text))
	if err != nil || len(text) > 1000 || bytes.Contains(raw, []byte("ada")) || bytes.Contains(raw, []byte("22222222")) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if again := s.IssueTicket(shop, p, layer, here); again == text {
		t.Error("two tickets are the same")
	}
	back, _, ok := s.openTicket(shop, string(text), layer, here)
	want := ticket{p.Kind, p.ID, p.Name, p.Account, "", false, p.Groups, p.Credential, p.Authentication}
	if !ok || !reflect.DeepEqual(back, want) {
		t.Errorf("%+v", back)
	}
	if fmt.Sprint(text, Credentials{Secret: text}) != fmt.Sprint(Secret("x"), Credentials{Secret: "x"}) {
		t.Error("a ticket prints itself")
	}
	// Who is in too many groups for that gets none, and the blob where it asks.
	for len(p.Groups) < 2000 {
		p.Groups = append(p.Groups, p.Groups[0])
	}
	if text := s.IssueTicket(shop, p, layer, here); text != "" {
		t.Errorf("a ticket of %d bytes", len(text))
	}
	for why, p := range map[string]Principal{"nobody": {}, "the server": ThisServer(), "somebody who showed nothing": {Kind: User, ID: "x"}} {
		if s.IssueTicket(shop, p, layer, here) != "" {
			t.Errorf("a ticket for %s", why)
		}
	}
}

// Nothing that was not made here is a ticket, and what was is read in one spelling.
func FuzzTicket(f *testing.F) {
	s := ticketOffice()
	rand.Read(s.o.Tickets) // each process that fuzzes has a key of its own: the seeds of another are nobody's tickets
	text := string(s.IssueTicket(shop, Principal{Kind: Anonymous}, layer, here))
	for _, seed := range []string{"", "A", "AAAAAAAAAAA", strings.Repeat("A", 100), text, text + "A", text[:len(text)-1], text + "\n", strings.Repeat("_", maxTicket+1), "/////////////////////"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		if _, _, ok := s.openTicket(shop, sent, layer, here); ok && sent != text {
			t.Fatalf("%q is a ticket", sent)
		}
	})
}
