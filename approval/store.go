package approval

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A Store keeps the requests.
type Store struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Access    *access.Store
}

// controlled is a registry as its document says, as far as it matters here.
type controlled struct {
	access.Registry
	DualControl Settings
}

// registry reads the registry that an act is about. Nobody changes a document after
// that, until tx ends.
func (s *Store) registry(ctx context.Context, tx *db.Tx, on ref.ID) (controlled, error) {
	if err := s.Documents.Lock(ctx, tx); err != nil {
		return controlled{}, err
	}
	doc, err := s.Documents.GetTx(ctx, tx, on)
	if err != nil {
		return controlled{}, err
	}
	var p struct {
		access.Settings
		DualControl Settings `json:"dualControl"`
	}
	if err := json.Unmarshal(doc.Properties, &p); err != nil {
		return controlled{}, fmt.Errorf("read %s: %w", doc.ID, err)
	}
	return controlled{access.Registry{UID: doc.System.UID, ID: doc.ID, Mode: p.RoleAssignmentMode}, p.DualControl}, nil
}

// wanted is the cause of a refusal that a request may come of.
type wanted struct {
	act Act
	why error // an approval is there, and does not count
}

func (*wanted) Error() string { return "nobody else has approved it" }

// Use is asked in the transaction of an act, before anything is done. It is nil if the
// registry has no dual control, or if somebody else has approved the act: then the
// approval is used up, if tx commits. Otherwise it is ApprovalRequired; the error of
// the transaction goes through Ask.
func (s *Store) Use(ctx context.Context, tx *db.Tx, g access.Grant, a Act) error {
	c, err := s.registry(ctx, tx, a.On)
	if err != nil {
		return err
	}
	if c.UID != a.UID {
		return fault.New(fault.NotFound, "%s was deleted in the meantime", a.On.Name())
	}
	if !c.DualControl.Enabled() {
		return nil
	}
	a.On = c.ID
	r, err := s.approved(ctx, tx, g, c, a)
	if err != nil {
		return err
	}
	r.State, r.Done = Used, now()
	if err := s.put(ctx, tx, g, r); err != nil {
		return err
	}
	return s.record(ctx, tx, g, "use", r, nil)
}

// Ready is nil if Use would be, as far as can be said before the transaction. It is
// for who does several things, and does nothing if one of them has to wait.
func (s *Store) Ready(ctx context.Context, g access.Grant, a Act) error {
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		c, err := s.registry(ctx, tx, a.On)
		if err != nil || c.UID != a.UID || !c.DualControl.Enabled() {
			return err
		}
		a.On = c.ID
		_, err = s.approved(ctx, tx, g, c, a)
		return err
	})
	return s.Ask(ctx, g, err)
}

// approved is the approval that lets the caller do the act now.
func (s *Store) approved(ctx context.Context, tx *db.Tx, g access.Grant, c controlled, a Act) (*Request, error) {
	me := partyOf(g)
	all, err := s.of(ctx, tx, a, me.ID)
	if err != nil {
		return nil, err
	}
	var why error
	for _, r := range all {
		if !r.opens(a, me.ID, now()) {
			continue
		}
		if why, err = s.stands(ctx, tx, g, c, r); err != nil || why == nil {
			return r, err
		}
	}
	return nil, fault.New(fault.ApprovalRequired, "this cannot be undone, so somebody else has to approve it").Because(&wanted{a, why})
}

// stands is why the approver of a request cannot approve it any more; nil if it can.
func (s *Store) stands(ctx context.Context, tx *db.Tx, g access.Grant, c controlled, r *Request) (why, err error) {
	p := r.Approver.principal()
	if _, lives, err := s.Access.Account(ctx, tx, p.ID); err != nil || !lives {
		return fault.New(fault.Denied, "the approver's account is gone or disabled"), err
	}
	if _, err := s.Documents.GetTx(ctx, tx, p.Account); fault.Of(err) == fault.NotFound {
		return fault.New(fault.Denied, "the approver's account or issuer is gone"), nil
	} else if err != nil {
		return nil, err
	}
	held, err := s.Access.LoadAssignments(ctx, access.Registry{}, p)
	if err != nil {
		return nil, err
	}
	approver := access.NewGrant(c.Registry, p, held, access.Call{From: ledger.From{Address: r.Approver.Address, Listener: r.Approver.Listener}})
	if _, err := may(approver, Approve, c, r.Act); err != nil {
		return fault.New(fault.Denied, "the approver may not any more"), nil
	}
	return s.another(ctx, tx, c, partyOf(g), r.Approver)
}

// may reports whether a caller may answer a request for an act, and whether it is one
// whom the registry does not name, but who may approve everywhere.
func may(g access.Grant, answer access.Action, c controlled, a Act) (brokeGlass bool, err error) {
	if err := cmp.Or(g.Allows(answer, c.ID.Scope()), g.Allows(a.Action, a.Scope)); err != nil {
		return false, err
	}
	if len(c.DualControl.Approvers) == 0 || c.DualControl.names(g.Principal()) {
		return false, nil
	}
	if g.Can(answer, ref.Everything) {
		return true, nil
	}
	return false, fault.New(fault.Denied, "the registry names its approvers (dualControl.approvers), and you are none of them")
}

// another is why b is not somebody else than a; nil if it is.
func (s *Store) another(ctx context.Context, tx *db.Tx, c controlled, a, b Party) (why, err error) {
	ha, err := s.hand(ctx, tx, a)
	if err != nil {
		return nil, err
	}
	hb, err := s.hand(ctx, tx, b)
	if err != nil {
		return nil, err
	}
	return another(ha, hb, c.DualControl.names(b.principal())), nil
}

// hand finds who has lately made or changed what proves p, and who has made them. If one
// of them is gone, or there are too many to follow, nobody knows whose hand it is.
func (s *Store) hand(ctx context.Context, tx *db.Tx, p Party) (hand, error) {
	h := hand{Party: p}
	for next := []ref.ID{p.Account}; len(next) > 0 && !h.Unknown; next = next[1:] {
		by, err := s.makers(ctx, tx, next[0])
		if err != nil {
			return h, err
		}
		for _, id := range by {
			if id == p.ID || slices.Contains(h.Others, id) {
				continue
			}
			h.Others = append(h.Others, id)
			account, _, err := s.Access.Account(ctx, tx, id)
			if err != nil {
				return h, err
			}
			next = append(next, account)
			h.Unknown = h.Unknown || account == "" || len(h.Others) > maxOthers
		}
	}
	return h, nil
}

// makers are the principals who have lately made or changed an account or issuer, or
// what lies below it, where credentials lie. A service principal's secrets lie below
// the pointer by which its client id is found.
func (s *Store) makers(ctx context.Context, tx *db.Tx, account ref.ID) (ids []string, err error) {
	doc, err := s.Documents.GetTx(ctx, tx, account)
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	docs := []resource.Resource{doc}
	under := []ref.ID{account}
	var client struct{ AppID, ClientID string }
	if err := json.Unmarshal(doc.Properties, &client); err != nil && len(doc.Properties) > 0 {
		return nil, fmt.Errorf("read %s: %w", doc.ID, err)
	}
	if id := cmp.Or(client.AppID, client.ClientID); id != "" {
		under = append(under, identity.ClientID(id))
	}
	below, err := s.Documents.FindTx(ctx, tx, resource.Query{Under: under})
	if err != nil {
		return nil, err
	}
	for _, doc := range append(docs, below...) {
		for _, by := range []struct {
			id, kind string
			at       time.Time
		}{
			{doc.System.CreatedBy, doc.System.CreatedByType, doc.System.CreatedAt},
			{doc.System.LastModifiedBy, doc.System.LastModifiedByType, doc.System.LastModifiedAt},
		} {
			if by.id != "" && identity.Kind(by.kind) != identity.Server && time.Since(by.at) < Settles {
				ids = append(ids, by.id)
			}
		}
	}
	return ids, nil
}

// Ask is for the error of a transaction in which Use was asked. If an approval is
// what was missing, the caller's request for it is made, or found if it has asked
// already, and told. Any other error is returned as it is.
func (s *Store) Ask(ctx context.Context, g access.Grant, err error) error {
	w, ok := errors.AsType[*wanted](err)
	if !ok {
		return err
	}
	a := w.act
	if err := g.Allows(a.Action, a.Scope); err != nil {
		return err
	}
	if !partyOf(g).responsible() {
		return fault.New(fault.Denied, "this cannot be undone, and needs two people: a repository token or the admin user cannot ask for it")
	}
	var r *Request
	if err := s.DB.Write(ctx, func(tx *db.Tx) (err error) {
		r, err = s.ask(ctx, tx, g, a)
		return err
	}); err != nil {
		return err
	}
	return refusal(r, w.why)
}

func (s *Store) ask(ctx context.Context, tx *db.Tx, g access.Grant, a Act) (*Request, error) {
	c, err := s.registry(ctx, tx, a.On)
	if err != nil {
		return nil, err
	}
	if c.UID != a.UID {
		return nil, fault.New(fault.NotFound, "%s was deleted in the meantime", a.On.Name())
	}
	me, now := partyOf(g), now()
	same, err := s.of(ctx, tx, a, me.ID)
	if err != nil {
		return nil, err
	}
	for _, r := range same {
		if r.binds(now) {
			return r, nil
		}
	}
	if err := s.room(ctx, tx, c.ID, me.ID, now); err != nil {
		return nil, err
	}
	r := &Request{ID: c.ID + ref.ID("/providers/"+Type+"/"+ref.NewGUID()), Properties: Properties{
		Act: a, State: Pending, Requester: me, Asked: now, Until: now.Add(Waits),
	}}
	if err := s.put(ctx, tx, g, r); err != nil {
		return nil, err
	}
	return r, s.record(ctx, tx, g, "request", r, nil)
}

// room refuses one request too many, and forgets the oldest of those that are over:
// what became of them is in the ledger.
func (s *Store) room(ctx context.Context, tx *db.Tx, on ref.ID, by string, now time.Time) error {
	all, err := s.find(ctx, tx, resource.Query{Type: Type, Under: []ref.ID{on}})
	if err != nil {
		return err
	}
	waiting, mine := 0, 0
	var over []*Request
	for _, r := range all {
		switch {
		case !r.binds(now):
			over = append(over, r)
		case r.Requester.ID == by:
			mine++
			fallthrough
		default:
			waiting++
		}
	}
	if mine >= maxMine || waiting >= maxWaiting {
		return fault.New(fault.Conflict, "%d requests wait for an approval in this registry, %d of them yours, and there are no more: withdraw some, or have them answered", waiting, mine)
	}
	slices.SortFunc(over, func(a, b *Request) int { return a.Asked.Compare(b.Asked) })
	for i := 0; i < len(over) && len(all)-i >= maxKept; i++ {
		err := s.Documents.Delete(ctx, tx, over[i].ID, resource.Any)
		if fault.Of(err) == fault.ScopeLocked {
			return nil // whoever holds the registry holds them too, and they are few a day
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal is what the caller is told instead of what it wanted.
func refusal(r *Request, why error) error {
	id, until := r.ID.Name(), r.Until.Format(time.RFC3339)
	answer := fmt.Sprintf("breakwater approval approve %s --in %s", id, r.Act.On.Name())
	f := fault.New(fault.ApprovalRequired, "this cannot be undone, so somebody else has to approve it; request %s waits until %s. Whoever may approve runs: %s. Then do the same again", id, until, answer)
	switch {
	case r.State == Rejected:
		f.Message = fmt.Sprintf("this cannot be undone, and %s rejected it (request %s); it can be asked for again after %s", r.Approver.Name, id, until)
	case r.State == Approved && why != nil:
		f.Message = fmt.Sprintf("the approval of %s does not count any more: %s. Whoever else may approve runs: %s. Then do the same again", r.Approver.Name, fault.From(why).Message, answer)
	}
	return f.With(map[string]string{"request": string(r.ID), "status": string(r.State)})
}

// Answer approves a request, or rejects it. An approval can be taken back so, too,
// until it is used.
func (s *Store) Answer(ctx context.Context, g access.Grant, id ref.ID, answer State, note string) (*Request, error) {
	right := map[State]access.Action{Approved: Approve, Rejected: Reject}[answer]
	if right == "" {
		return nil, fault.New(fault.BadRequest, "a request is approved or rejected")
	}
	if len(note) > maxNote || strings.ContainsFunc(note, unicode.IsControl) {
		return nil, fault.New(fault.BadRequest, "a note has at most %d bytes, and no control characters", maxNote)
	}
	return s.change(ctx, g, right, id, strings.TrimSuffix(strings.TrimPrefix(string(right), Type+"/"), "/action"), func(tx *db.Tx, c controlled, r *Request) (map[string]string, error) {
		brokeGlass, err := may(g, right, c, r.Act)
		if err != nil {
			return nil, err
		}
		me, now := partyOf(g), now()
		if answer == Approved { // anybody may say no, to itself too
			why, err := s.another(ctx, tx, c, r.Requester, me)
			if err := cmp.Or(err, why); err != nil {
				return nil, err
			}
		}
		r.State, r.Approver, r.Note, r.Decided, r.Until = answer, me, note, now, now.Add(Waits)
		if answer == Approved {
			r.Until = now.Add(Holds)
		}
		if brokeGlass {
			return map[string]string{"breakGlass": "the approver is not one of dualControl.approvers"}, nil
		}
		return nil, nil
	})
}

// TakeBack withdraws a request. Whoever asked may.
func (s *Store) TakeBack(ctx context.Context, g access.Grant, id ref.ID) (*Request, error) {
	return s.change(ctx, g, Withdraw, id, "withdraw", func(_ *db.Tx, _ controlled, r *Request) (map[string]string, error) {
		if r.Requester.ID != g.Principal().ID {
			return nil, fault.New(fault.Denied, "who asked withdraws a request; others reject it")
		}
		r.State, r.Decided, r.Until = Withdrawn, now(), now()
		return nil, nil
	})
}

// change is what becomes of a request that waits, or is approved and was not used.
func (s *Store) change(ctx context.Context, g access.Grant, right access.Action, id ref.ID, verb string, fn func(*db.Tx, controlled, *Request) (map[string]string, error)) (r *Request, err error) {
	on, err := lies(id)
	if err := cmp.Or(g.Allows(right, on.Scope()), err); err != nil {
		return nil, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		c, err := s.registry(ctx, tx, on)
		if err != nil {
			return absent(err)
		}
		if r, err = read(s.Documents.GetTx(ctx, tx, id)); err != nil {
			return err
		}
		if is := r.At(now()); is != Pending && is != Approved || r.Act.UID != c.UID {
			return fault.New(fault.Conflict, "the request is %s", is)
		}
		more, err := fn(tx, c, r)
		if err != nil {
			return err
		}
		if err := s.put(ctx, tx, g, r); err != nil {
			return err
		}
		return s.record(ctx, tx, g, verb, r, more)
	})
	return r, err
}

// Get is one request.
func (s *Store) Get(ctx context.Context, g access.Grant, id ref.ID) (*Request, error) {
	on, err := lies(id)
	if err := cmp.Or(g.Allows(Read, on.Scope()), err); err != nil {
		return nil, err
	}
	return read(s.Documents.Get(ctx, id))
}

// List is the requests on under and below, in the order of their ids.
func (s *Store) List(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]*Request, error) {
	if err := g.Allows(Read, cmp.Or(under.Scope(), ref.Everything)); err != nil {
		return nil, err
	}
	docs, err := s.Documents.Select(ctx, resource.Query{Type: Type, Under: []ref.ID{under}, After: after, Limit: limit}, func(doc resource.Resource) bool {
		on, err := lies(doc.ID)
		return err == nil && !g.Hides(Read, on.Scope())
	})
	return readAll(docs, err)
}

// Tend puts on record which requests have expired.
func (s *Store) Tend(ctx context.Context) error {
	docs, err := s.Documents.List(ctx, "", Type, "", 0)
	all, err := readAll(docs, err)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		if r.State == r.At(now()) {
			continue
		}
		errs = append(errs, s.DB.Write(ctx, func(tx *db.Tx) error {
			if err := s.Documents.Lock(ctx, tx); err != nil {
				return err
			}
			r, err := read(s.Documents.GetTx(ctx, tx, r.ID))
			if fault.Of(err) == fault.NotFound || err == nil && r.State == r.At(now()) {
				return nil
			} else if err != nil {
				return err
			}
			g := access.ServerGrant(access.Registry{UID: r.Act.UID, ID: r.Act.On}, access.Call{})
			r.State = Expired
			if err := s.put(ctx, tx, g, r); err != nil {
				return err
			}
			return s.record(ctx, tx, g, "expire", r, nil)
		}))
	}
	return errors.Join(errs...)
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// lies is what a request of that id lies on.
func lies(id ref.ID) (ref.ID, error) {
	at := strings.LastIndex(id.Key(), strings.ToLower("/providers/"+Type+"/"))
	if at <= 0 || len(id.Key()) != len(id) {
		return id, absent(nil)
	}
	return id[:at], nil
}

// absent is err in the words of a request that is not there.
func absent(err error) error {
	if err == nil || fault.Of(err) == fault.NotFound {
		return fault.New(fault.NotFound, "there is no such request; breakwater approval list shows those that there are")
	}
	return err
}

func read(doc resource.Resource, err error) (*Request, error) {
	if err != nil || !strings.EqualFold(doc.Type, Type) {
		return nil, absent(err)
	}
	r := &Request{ID: doc.ID}
	if err := json.Unmarshal(doc.Properties, &r.Properties); err != nil {
		return nil, fmt.Errorf("read %s: %w", doc.ID, err)
	}
	return r, nil
}

func readAll(docs []resource.Resource, err error) (all []*Request, _ error) {
	for _, doc := range docs {
		r, err := read(doc, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, err
}

func (s *Store) find(ctx context.Context, tx *db.Tx, q resource.Query) ([]*Request, error) {
	docs, err := s.Documents.FindTx(ctx, tx, q)
	return readAll(docs, err)
}

// of is what somebody has asked for an act, the last first.
func (s *Store) of(ctx context.Context, tx *db.Tx, a Act, by string) ([]*Request, error) {
	all, err := s.find(ctx, tx, resource.Query{Type: Type, Holders: []string{a.key(by)}, Under: []ref.ID{a.On}})
	slices.SortFunc(all, func(a, b *Request) int { return b.Asked.Compare(a.Asked) })
	return all, err
}

func (s *Store) put(ctx context.Context, tx *db.Tx, g access.Grant, r *Request) error {
	doc := resource.Resource{ID: r.ID, Type: Type, Holder: r.Act.key(r.Requester.ID), System: g.Modified()}
	var err error
	if doc.Properties, err = json.Marshal(r.Properties); err != nil {
		return err
	}
	_, err = s.Documents.Put(ctx, tx, doc, resource.Any)
	return err
}

// record tells of both. It lies in the server's ledger, because that of a registry
// goes with it.
func (s *Store) record(ctx context.Context, tx *db.Tx, g access.Grant, verb string, r *Request, more map[string]string) error {
	e := g.Event(ledger.Security, Type+"/"+verb, r.Act.On.Scope())
	e.Registry = ""
	e.Detail.More = map[string]string{
		"request": r.ID.Name(), "action": string(r.Act.Action), "scope": string(r.Act.Scope), "uid": r.Act.UID, "until": r.Until.Format(time.RFC3339),
		"requester": r.Requester.ID, "requesterName": r.Requester.Name,
	}
	for name, value := range map[string]string{"exact": r.Act.Exact, "approver": r.Approver.ID, "approverName": r.Approver.Name, "note": r.Note} {
		if value != "" {
			e.Detail.More[name] = value
		}
	}
	for name, value := range more {
		e.Detail.More[name] = value
	}
	return s.Ledger.Append(ctx, tx, e)
}
