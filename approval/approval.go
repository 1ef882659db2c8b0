// Package approval decides whether an act that cannot be undone may be done: where
// dual control is on, two different principals have to want it (DP-6).
//
// The first one does it, and is refused; what is left is a request. Somebody else who
// has the right to do the same approves or rejects it. Then the first one does it
// again, and it is done, once: the approval is used up in the act's own transaction.
// The rights of both are looked up then. Nothing here knows what an act does: it is a
// right, at a place, in one incarnation of a registry.
package approval

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
)

// Type is the type of the document of a request. It lies on the registry that it is
// about, and goes with it.
const Type = "Breakwater.Approval/requests"

// Rights on requests. Approve and Reject are for whoever may also do what was asked
// for; Withdraw is for who asked.
const (
	Read     access.Action = Type + "/read"
	Approve  access.Action = Type + "/approve/action"
	Reject   access.Action = Type + "/reject/action"
	Withdraw access.Action = Type + "/withdraw/action"
)

// Terms and limits. They are the same for every registry: a term that one person can
// stretch is none.
const (
	Waits   = 24 * time.Hour     // a request, for an answer; and so long a rejection stands
	Holds   = 8 * time.Hour      // an approval, to be used
	Settles = 7 * 24 * time.Hour // an account, until it is no longer the hand of who made or changed it

	maxWaiting = 32  // requests of a registry without an answer
	maxMine    = 8   // … of one principal
	maxKept    = 200 // requests of a registry in all: those that are over make room
	maxNamed   = 50  // approvers
	maxNote    = 512 // bytes
	maxOthers  = 64  // who have lately had a hand in one account, and are followed
)

// Settings is the section of a registry's properties that this control owns.
type Settings struct {
	Status    string   `json:"status,omitempty"`   // enabled, or disabled (default)
	Approvers []string `json:"approvers,omitzero"` // ids of principals and groups; none is whoever has the rights
}

const (
	enabled  = "enabled"
	disabled = "disabled"
)

// Enabled reports whether two have to want what cannot be undone.
func (s Settings) Enabled() bool { return s.Status == enabled }

// Filled is s with the values that hold where none are stored.
func (s Settings) Filled() Settings {
	s.Status = cmp.Or(s.Status, disabled)
	s.Approvers = append([]string{}, s.Approvers...) // never null
	return s
}

// Settled is s in the one spelling, or why it cannot be stored.
func (s Settings) Settled() (Settings, error) {
	if !slices.Contains([]string{"", enabled, disabled}, s.Status) {
		return s, fault.New(fault.BadRequest, "dualControl.status is enabled or disabled")
	}
	named := make([]string, 0, len(s.Approvers))
	for _, id := range s.Approvers {
		if !ref.IsGUID(strings.ToLower(id)) {
			return s, fault.New(fault.BadRequest, "dualControl.approvers are the ids (GUIDs) of principals and groups")
		}
		named = append(named, strings.ToLower(id))
	}
	slices.Sort(named)
	if s.Approvers = slices.Compact(named); len(named) == 0 {
		s.Approvers = nil
	}
	if len(s.Approvers) > maxNamed {
		return s, fault.New(fault.BadRequest, "dualControl names at most %d approvers", maxNamed)
	}
	return s, nil
}

// Lessened says in which way next lets through what s does not; "" if it does not. That
// somebody is named where nobody was does: one person would choose who that is.
func (s Settings) Lessened(next Settings) string {
	added := func(id string) bool { return !slices.Contains(s.Approvers, id) }
	switch {
	case !s.Enabled():
		return ""
	case !next.Enabled():
		return "dualControl: disabled"
	case slices.ContainsFunc(next.Approvers, added):
		return "dualControl.approvers: " + strings.Join(next.Approvers, " ")
	case len(next.Approvers) == 0 && len(s.Approvers) > 0:
		return "dualControl.approvers: nobody in particular"
	}
	return ""
}

// names reports whether p, or a group that it is in, is an approver by name.
func (s Settings) names(p identity.Principal) bool {
	return slices.ContainsFunc(s.Approvers, func(id string) bool { return id == p.ID || slices.Contains(p.Groups, id) })
}

// An Act is what two have to want. Two acts are the same if everything is, so that what
// was approved for one registry or repository is nothing for the next of that name.
type Act struct {
	Action access.Action `json:"action"`          // the right that it takes
	Scope  ref.Scope     `json:"scope"`           // … and where
	On     ref.ID        `json:"registry"`        // whose dual control it is
	UID    string        `json:"uid"`             // of that registry: one that is made again under its name is another
	Exact  string        `json:"exact,omitempty"` // which, of what this right allows there: a change, or the UID of what goes
}

// key is by whom an act was asked for, to be found by.
func (a Act) key(by string) string {
	text, _ := json.Marshal(a) // of strings
	sum := sha256.Sum256(append(text, by...))
	return hex.EncodeToString(sum[:])
}

// A State is what has become of a request.
type State string

const (
	Pending   State = "Pending"
	Approved  State = "Approved"
	Rejected  State = "Rejected"
	Withdrawn State = "Withdrawn" // by who asked
	Used      State = "Used"      // the act was done
	Expired   State = "Expired"
)

// A Party is somebody as a request knows it: how it came in when it asked or
// answered is kept, because its rights may depend on that when they are looked up.
type Party struct {
	ID             string                  `json:"id"`
	Kind           identity.Kind           `json:"kind"`
	Name           string                  `json:"name,omitempty"`
	Account        ref.ID                  `json:"account,omitempty"`
	Client         string                  `json:"client,omitempty"`
	Groups         []string                `json:"groups,omitempty"`
	Authentication identity.Authentication `json:"authentication,omitzero"`
	Address        netip.Addr              `json:"address,omitzero"`
	Listener       string                  `json:"listener,omitempty"`
}

func partyOf(g access.Grant) Party {
	p, from := g.Principal(), g.Event("", "", "").From
	return Party{ID: p.ID, Kind: p.Kind, Name: p.Name, Account: p.Account, Client: p.Client, Groups: p.Groups,
		Authentication: p.Authentication, Address: from.Seen(), Listener: from.Listener}
}

func (p Party) principal() identity.Principal {
	return identity.Principal{ID: p.ID, Kind: p.Kind, Name: p.Name, Account: p.Account, Client: p.Client, Groups: p.Groups, Authentication: p.Authentication}
}

// responsible reports whether somebody answers for what p does: a repository token
// and the admin user are a registry's, and whoever has the password.
func (p Party) responsible() bool {
	switch p.Kind {
	case identity.User, identity.ServicePrincipal, identity.ManagedIdentity, identity.Federated:
		return p.ID != ""
	}
	return false
}

// A Request asks for somebody else's approval of an act.
type Request struct {
	ID ref.ID `json:"-"`
	Properties
}

// Properties are the stored properties of a request.
type Properties struct {
	Act       Act       `json:"act"`
	State     State     `json:"status"`
	Requester Party     `json:"requester"`
	Approver  Party     `json:"approver,omitzero"` // who approved or rejected it last
	Note      string    `json:"note,omitempty"`    // … and why
	Asked     time.Time `json:"askedAt"`
	Decided   time.Time `json:"decidedAt,omitzero"`
	Done      time.Time `json:"usedAt,omitzero"`
	Until     time.Time `json:"until"` // when it expires, or what was decided ends
}

// At is what has become of the request at a time.
func (p *Properties) At(now time.Time) State {
	if (p.State == Pending || p.State == Approved) && !now.Before(p.Until) {
		return Expired
	}
	return p.State
}

// opens reports whether the request lets somebody do an act at a time. It is all that
// the request itself has to say: whether its approver still may, its Store asks.
func (p *Properties) opens(a Act, by string, now time.Time) bool {
	return by != "" && p.Act == a && p.Requester.ID == by && p.Approver.ID != "" && p.Approver.ID != by && p.At(now) == Approved
}

// binds reports whether the request, as it stands, is the answer to who asks for the
// same again: it waits, is approved, or was rejected a short time ago.
func (p *Properties) binds(now time.Time) bool {
	s := p.At(now)
	return s == Pending || s == Approved || s == Rejected && now.Before(p.Until)
}

// A hand is somebody, and everybody else who has lately had a hand in what proves it.
type hand struct {
	Party
	Others  []string
	Unknown bool // whose hand it is: one on the trail of who made whom is gone, or is somebody of an issuer's
}

// another is why b cannot approve what a asks for; nil if it is somebody else, as far
// as that can be known. An account that a made, or gave a credential, a short time ago
// is a's, and the other way round. And two accounts of a third are both the third's,
// unless b is one that the registry names: then two have wanted that already.
func another(a, b hand, named bool) error {
	switch {
	case !a.responsible() || !b.responsible():
		return fault.New(fault.Denied, "a repository token or the admin user approves nothing: sign in as a person or an application")
	case a.ID == b.ID:
		return fault.New(fault.Denied, "who asks cannot approve: somebody else has to")
	case slices.Contains(b.Others, a.ID), slices.Contains(a.Others, b.ID):
		return fault.New(fault.Denied, "one of the two accounts was made by the other, or given a credential or an issuer, in the last %d days: somebody else has to approve", int(Settles.Hours()/24))
	case a.Unknown || b.Unknown:
		return fault.New(fault.Denied, "the account of who asks or of who approves was made or changed in the last %d days by one that is gone, by one that only an issuer knows, or by too many: somebody else has to approve", int(Settles.Hours()/24))
	case !named && slices.ContainsFunc(b.Others, func(id string) bool { return slices.Contains(a.Others, id) }):
		return fault.New(fault.Denied, "the accounts of who asks and who approves were both made or changed by a third in the last %d days: somebody else, or an approver whom dualControl.approvers names, has to approve", int(Settles.Hours()/24))
	}
	return nil
}
