package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A Custody is how customers' keys are found, reached and recorded.
type Custody struct {
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Reach     Reach
	Who       ledger.Who // the server itself: who asks providers without being asked
	Checked   func(outcome string)
	Times     Times

	mu     sync.Mutex
	opened map[string]Provider // by etag of its document
}

// Operations with customers' keys, as the ledger calls them.
const (
	OpWrap   = ProviderType + "/wrap"
	OpUnwrap = ProviderType + "/unwrap" // a registry's keys were opened
	OpCheck  = ProviderType + "/check"  // the key opens still: on record when that changes, and once an hour
	OpRotate = ProviderType + "/rotate"
)

// A Holder says whose key, beside the platform's, the keys of a registry are wrapped
// with.
type Holder struct {
	Registry ref.ID `json:"registry"` // whose keys they are
	Provider ref.ID `json:"provider"`
	Key      string `json:"key"`
	Version  string `json:"version"`
}

func (h *Holder) key() Key { return Key{h.Key, h.Version} }

// Event is the fact that something was done with a holder's key, for the ledger of
// the registry.
func (h *Holder) Event(uid, operation string, err error) ledger.Event {
	e := ledger.Event{Registry: uid, Category: ledger.KeyUsage, Operation: operation, Scope: h.Registry.Scope(), Outcome: ledger.Success,
		Detail: ledger.Detail{More: map[string]string{"provider": h.Provider.Name(), "key": h.Key, "keyVersion": h.Version}}}
	if err == nil {
		return e
	}
	f := fault.From(err)
	e.Outcome, e.Reason, e.Status = ledger.Failure, f.Code.String(), f.Code.Row().Status
	if state, ok := StateOf(err); ok {
		e.Outcome, e.Detail.More["state"] = ledger.Refused, string(state)
	}
	return e
}

// provider is the provider of a document, and what that says.
func (c *Custody) provider(ctx context.Context, id ref.ID) (Provider, Settings, error) {
	doc, err := c.Documents.Get(ctx, id)
	if fault.Of(err) == fault.NotFound || err == nil && !strings.EqualFold(doc.Type, ProviderType) {
		return nil, Settings{}, fault.New(fault.Unavailable, "the key provider %s is not there; its document was deleted", id.Name())
	}
	var p Settings
	if err == nil {
		err = json.Unmarshal(doc.Properties, &p)
	}
	if err != nil {
		return nil, p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.opened[doc.Etag]; ok {
		return o, p, nil
	}
	o, err := p.open(c.Reach)
	if err != nil {
		return nil, p, err
	}
	if c.opened == nil || len(c.opened) > 2*MaxProviders { // documents that were changed since
		c.opened = map[string]Provider{}
	}
	c.opened[doc.Etag] = o
	return o, p, nil
}

// Find is the provider that an identifier means.
func (c *Custody) Find(ctx context.Context, i Identifier) (ref.ID, error) {
	unknown := fault.New(fault.BadRequest, "there is no key provider %s: write one of %s first", i.Host, ProviderType)
	if !strings.ContainsAny(i.Host, ".:") {
		doc, err := c.Documents.Get(ctx, ProviderID(i.Host))
		if fault.Of(err) == fault.NotFound {
			err = unknown
		}
		return doc.ID, err
	}
	docs, err := c.Documents.Find(ctx, resource.Query{Type: ProviderType})
	if err != nil {
		return "", err
	}
	for _, doc := range docs {
		var p Settings
		if err := json.Unmarshal(doc.Properties, &p); err != nil {
			return "", err
		}
		if u, err := url.Parse(p.Endpoint); err == nil && p.Kind == KindAzure && strings.EqualFold(u.Host, i.Host) {
			return doc.ID, nil
		}
	}
	return "", unknown
}

// Describe tells what a key is, of its current version if i has none, and refuses one
// that cannot be used or is too weak to be chosen.
func (c *Custody) Describe(ctx context.Context, provider ref.ID, key Key) (Description, error) {
	p, _, err := c.provider(ctx, provider)
	if err != nil {
		return Description{}, err
	}
	d, err := p.Describe(ctx, key)
	if err == nil {
		err = d.Usable(key, time.Now())
	}
	if err == nil {
		err = d.Strong()
	}
	return d, err
}

// Times are how long a provider's word counts, and how long it is waited for; 0 is
// the usual time. A key that is taken away is refused Late + Check after it was last
// asked for, at the latest.
type Times struct {
	Believed time.Duration // a key that could be used: 10 s
	Late     time.Duration // … while it is asked for again: 40 s; from then on who wants content waits
	Check    time.Duration // for one answer, with all that belongs to it: 8 s, where all keys are opened for each of them
	Pause    time.Duration // between two questions of which the first failed: 5 s
}

func (t Times) usual() Times {
	return Times{cmp.Or(t.Believed, 10*time.Second), cmp.Or(t.Late, 40*time.Second), cmp.Or(t.Check, 8*time.Second), cmp.Or(t.Pause, 5*time.Second)}
}

// Those who wait share one question, so that a burst costs the provider nothing: what
// is bounded is the requests that one who hangs holds up, of the 2,048 that a process
// has under way.
const (
	maxWaiting    = 1024 // requests of the whole process that wait for providers
	maxWaitingOne = 256  // … for one registry
	onRecord      = time.Hour
)

// An entry is what is known of the keys of a registry.
type entry struct {
	uid string

	mu     sync.Mutex
	known  bool
	at     int64 // generation at which the rows were read
	rows   []row
	holder *Holder // of the current row
	ring   *Ring   // nil while it is not open

	good    time.Time // when the provider was last asked and said yes
	bad     error     // what it said since
	again   time.Time // not before that
	bridge  time.Duration
	asked   chan struct{} // closed when the check that is under way ends; nil for none
	waiting int

	checks int       // since the last one that is on record
	wrote  time.Time // when that was
}

// take makes rows what is known; e is locked.
func (e *entry) take(at int64, rows []row) {
	e.known, e.at, e.rows, e.holder, e.ring = len(rows) > 0, at, rows, holderOf(rows), nil
	e.good, e.bad, e.again, e.bridge = time.Time{}, nil, time.Time{}, 0
	e.checks, e.wrote = 0, time.Time{}
}

// A standing is what follows for who wants content.
type standing struct {
	ring *Ring // nil to refuse
	err  error
	ask  bool // the provider is to be asked now
	wait bool // … and waited for
}

// standing decides; e is locked.
func (e *entry) standing(now time.Time, t Times) standing {
	due := !now.Before(e.again)
	ask := e.asked != nil || due
	_, refused := StateOf(e.bad)
	age := now.Sub(e.good)
	switch {
	case refused: // whatever else of that answer is still to be done
		return standing{err: e.bad, ask: due, wait: due}
	case e.ring == nil:
		return standing{err: e.bad, ask: ask, wait: ask}
	case e.bad != nil && age >= e.bridge:
		return standing{err: e.bad, ask: ask, wait: ask}
	case e.bad != nil: // an outage, which says nothing about the key
		return standing{ring: e.ring, ask: ask}
	case age < t.Believed:
		return standing{ring: e.ring}
	case age < t.Late:
		return standing{ring: e.ring, ask: ask}
	}
	return standing{err: e.bad, ask: ask, wait: ask}
}

// held is the ring of a registry whose keys a customer holds. One question at a time
// is under way for it, which does not end with who asked it; who cannot wait with the
// others is told to come again.
func (s *Rings) held(ctx context.Context, e *entry) (*Ring, error) {
	for waited := 0; ; waited++ {
		e.mu.Lock()
		is := e.standing(time.Now(), s.c.Times.usual())
		if is.ask && e.asked == nil && waited < 2 { // twice: the first answer may be about keys that are no longer so
			s.ask(e)
		}
		asked := e.asked
		if is.ring != nil || !is.wait || asked == nil {
			e.mu.Unlock()
			switch {
			case is.ring != nil:
				return is.ring, nil
			case is.err != nil:
				return nil, is.err
			}
			return nil, busy("the registry's keys were changed")
		}
		if e.waiting >= maxWaitingOne {
			e.mu.Unlock()
			return nil, busy("too many wait for one registry")
		}
		e.waiting++
		e.mu.Unlock()
		err := s.wait(ctx, asked)
		e.mu.Lock()
		e.waiting--
		e.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

func (s *Rings) wait(ctx context.Context, asked chan struct{}) error {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return busy("too many wait for providers")
	}
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.c.Times.usual().Check + time.Second):
		return busy("no answer in time")
	}
}

func busy(why string) error {
	return down("waiting", errors.New(why))
}

// ask begins to ask the provider; e is locked.
func (s *Rings) ask(e *entry) {
	if s.over.Err() != nil {
		return
	}
	asked := make(chan struct{})
	e.asked = asked
	rows, ring, holder, was := e.rows, e.ring, e.holder, e.bad
	began := time.Now()
	s.asking.Go(func() {
		ctx, cancel := context.WithTimeout(s.over, s.c.Times.usual().Check)
		defer cancel()
		opened, settings, err := s.check(ctx, e, rows, ring, holder)
		if errors.Is(err, ErrWrapped) { // it answered, so there is no outage to bridge
			err = refusal(holder.key(), Replaced, err)
		}
		if fault.Of(err) == fault.Internal && err != nil { // a senseless answer opens nothing, and blames nobody
			err = fault.New(fault.Unavailable, "the keys of this registry cannot be opened at the moment").After(s.c.Times.usual().Pause).Because(err)
		}
		if _, refused := StateOf(err); refused {
			s.close(e, rows, err) // at once: the ledger may take its time
		}
		untold := s.told(e, holder, ring == nil, was, err)
		e.mu.Lock()
		defer e.mu.Unlock()
		defer close(asked)
		if e.asked == asked {
			e.asked = nil
		}
		if !same(e.rows, rows) {
			return // it was about keys that are no longer so
		}
		if settings != nil { // what the document says now counts in an outage, too
			e.bridge = settings.Bridge()
		}
		if err == nil && untold == nil {
			e.ring, e.good, e.bad, e.again = opened, began, nil, time.Time{}
			return
		}
		if _, refused := StateOf(err); refused || err == nil { // what was allowed and is not on record opens nothing
			e.ring = nil
		}
		e.bad, e.again = cmp.Or(err, untold), time.Now().Add(s.c.Times.usual().Pause)
	})
}

// close takes a refusal of the keys in rows for an answer.
func (s *Rings) close(e *entry, rows []row, refused error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if same(e.rows, rows) {
		e.ring, e.bad, e.again = nil, refused, time.Now().Add(s.c.Times.usual().Pause)
	}
}

// check asks the provider whether its key still opens what it wrapped: with a ring
// the current key, without one all. The settings are nil if nobody could read them.
func (s *Rings) check(ctx context.Context, e *entry, rows []row, ring *Ring, holder *Holder) (*Ring, *Settings, error) {
	p, settings, err := s.c.provider(ctx, holder.Provider)
	if err != nil {
		return nil, nil, err
	}
	d, err := p.Describe(ctx, holder.key())
	if err == nil {
		err = d.Usable(holder.key(), time.Now())
	}
	if err != nil {
		return nil, &settings, err
	}
	if ring == nil {
		opening, cancel := context.WithTimeout(s.over, allTime) // serves nobody meanwhile, so it may take longer than a check
		defer cancel()
		ring, err = s.unlock(opening, e, rows)
		return ring, &settings, err
	}
	for _, r := range rows {
		if r.state != current {
			continue
		}
		secret, err := s.unwrap(ctx, e.uid, r)
		clear(secret)
		if err != nil {
			return nil, &settings, err
		}
	}
	return ring, &settings, nil
}

// maxAtOnce is how many keys of one registry are wrapped or unwrapped at once.
const maxAtOnce = 8

// unlock opens all keys of a registry.
func (s *Rings) unlock(ctx context.Context, e *entry, rows []row) (*Ring, error) {
	secrets := make([][]byte, len(rows))
	defer func() {
		for _, secret := range secrets {
			clear(secret)
		}
	}()
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(maxAtOnce)
	for i, r := range rows {
		work.Go(func() (err error) {
			if secrets[i], err = s.unwrap(ctx, e.uid, r); err != nil {
				err = fmt.Errorf("key %d of registry %s: %w", r.version, e.uid, err)
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	ring := &Ring{registry: e.uid, keys: map[uint32]DataKey{}, later: func() *Ring { return s.later(e) }}
	for i, r := range rows {
		if err := ring.add(r.version, secrets[i]); err != nil {
			return nil, err
		}
		if r.state == current {
			ring.current = r.version
		}
	}
	if ring.current == 0 {
		return nil, fmt.Errorf("registry %s has no current key", e.uid)
	}
	return ring, nil
}

// A held row is the platform's seal over the fingerprint of a secret and what the
// customer's provider made of it: one key alone opens nothing, and a provider cannot
// answer with another secret.
func heldID(uid string, version uint32) KeyID { return keyID(uid, version) + "/held" }

func (s *Rings) unwrap(ctx context.Context, uid string, r row) ([]byte, error) {
	id := keyID(uid, r.version)
	if r.held == nil {
		return s.vault.Unwrap(ctx, Wrapped{id, r.wrapped})
	}
	b, err := s.vault.Unwrap(ctx, Wrapped{heldID(uid, r.version), r.wrapped})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.Times.usual().Check)
	defer cancel()
	p, _, err := s.c.provider(ctx, r.held.Provider)
	if err != nil {
		return nil, err
	}
	return unfold(ctx, p, id, r.held.key(), b)
}

// unfold has a provider open what lies behind the fingerprint.
func unfold(ctx context.Context, p Provider, id KeyID, key Key, b []byte) ([]byte, error) {
	if len(b) <= Size {
		return nil, ErrWrapped
	}
	secret, err := p.Unwrap(ctx, key, id, b[Size:])
	if err == nil && !equal(fingerprint(id, secret), b[:Size]) {
		clear(secret)
		return nil, ErrWrapped
	}
	return secret, err
}

// wrap wraps a secret with a customer's key, under the platform's, and opens it again:
// what could not be opened never takes the place of what could.
func (s *Rings) wrap(ctx context.Context, uid string, version uint32, secret []byte, h *Holder) ([]byte, error) {
	if h == nil {
		return s.seal(ctx, uid, version, secret)
	}
	p, _, err := s.c.provider(ctx, h.Provider)
	if err != nil {
		return nil, err
	}
	id := keyID(uid, version)
	b, at, err := p.Wrap(ctx, h.key(), id, secret)
	if err != nil {
		return nil, err
	}
	if at != h.Version {
		return nil, fmt.Errorf("%s wrapped with version %q of the key %s, not with %q", h.Provider.Name(), at, h.Key, h.Version)
	}
	w, err := s.vault.Wrap(ctx, heldID(uid, version), append(fingerprint(id, secret), b...))
	if err != nil {
		return nil, err
	}
	back, err := s.unwrap(ctx, uid, row{version: version, wrapped: w.Data, held: h})
	defer clear(back)
	if err == nil && !equal(back, secret) {
		err = ErrWrapped
	}
	return w.Data, err
}

// told puts the outcome of a check on record when it is news. Its error says that it is
// not there, and never takes the place of the outcome; the next check tells again.
func (s *Rings) told(e *entry, h *Holder, opening bool, was, err error) error {
	outcome := "good"
	if err != nil {
		outcome = fault.Of(err).String()
	}
	if s.c.Checked != nil {
		s.c.Checked(outcome)
	}
	e.mu.Lock()
	e.checks++
	n, news := e.checks, time.Since(e.wrote) > onRecord || (err == nil) != (was == nil) || err != nil && fault.Of(err) != fault.Of(was)
	e.mu.Unlock()
	if !news || s.over.Err() != nil {
		return nil
	}
	op := OpCheck
	if opening {
		op = OpUnwrap
	}
	ev := h.Event(e.uid, op, err)
	ev.Who, ev.Detail.More["checks"] = s.c.Who, strconv.Itoa(n)
	ctx, cancel := context.WithTimeout(s.over, patience)
	defer cancel()
	if failed := s.db.Write(ctx, func(tx *db.Tx) error { return s.c.Ledger.Append(ctx, tx, ev) }); failed != nil {
		if s.over.Err() == nil {
			slog.WarnContext(ctx, "the ledger took no use of a key", "registry", e.uid, "err", failed)
		}
		e.mu.Lock()
		e.wrote = time.Time{}
		e.mu.Unlock()
		return fault.New(fault.Unavailable, "the server cannot record what it does, so it does nothing; try again").After(s.c.Times.usual().Pause).Because(failed)
	}
	e.mu.Lock()
	e.checks, e.wrote = 0, time.Now()
	e.mu.Unlock()
	return nil
}

// lookTime is how long who looks at a registry waits for its provider.
const lookTime = time.Second

// Standing is why the content of a registry is closed at the moment; nil if it is not.
// The provider is asked as for content, but not waited for as long: after that Standing
// is what this process heard last, as it is during an outage that is bridged.
func (s *Rings) Standing(ctx context.Context, registryUID string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, _ = s.Ring(ctx, registryUID)
	return s.Heard(registryUID)
}

// Heard is what this process heard last of why the content of a registry is closed;
// nil if it is not, or nobody has asked. It asks nobody.
func (s *Rings) Heard(registryUID string) error {
	v, ok := s.open.Load(registryUID)
	if !ok {
		return nil
	}
	e := v.(*entry)
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bad
}

// Run tends, until ctx ends, what no request of this process does: see Look.
func (s *Rings) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "cannot look after opened keys; it will be tried again", "err", err)
		}
	}
}

// lookAtOnce is how many registries Look asks for at once.
const lookAtOnce = 16

// Look lets go of rings whose keys were destroyed, perhaps by another process, and asks
// the providers of those that this process knows, also if nobody
// wants content here: so that a key that was taken away leaves the memory of every node.
func (s *Rings) Look(ctx context.Context) error {
	var known []*entry // before those that there are: what is made meanwhile stays
	s.open.Range(func(_, v any) bool {
		known = append(known, v.(*entry))
		return true
	})
	if len(known) == 0 {
		return nil
	}
	there, err := keyed(ctx, s.db)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.SetLimit(lookAtOnce)
	for _, e := range known {
		e.mu.Lock()
		held := e.holder != nil
		e.mu.Unlock()
		switch {
		case !there[e.uid]:
			s.open.CompareAndDelete(e.uid, e)
		case held:
			work.Go(func() error {
				_ = s.Standing(ctx, e.uid) // what it is stands on record where it is asked
				return nil
			})
		default: // others may have come in the place of keys that an erase ended
			work.Go(func() error {
				_ = s.renew(ctx, e)
				return nil
			})
		}
	}
	return work.Wait()
}

// Open counts the registries whose keys lie open in the memory of this process.
func (s *Rings) Open() (n int) {
	s.open.Range(func(_, v any) bool {
		e := v.(*entry)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.ring != nil {
			n++
		}
		return true
	})
	return n
}

// Closed counts the registries whose keys this process cannot use now: refused, and
// out of reach.
func (s *Rings) Closed() (refused, unreachable int) {
	s.open.Range(func(_, v any) bool {
		e := v.(*entry)
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, is := StateOf(e.bad); is {
			refused++
		} else if e.bad != nil {
			unreachable++
		}
		return true
	})
	return refused, unreachable
}

// Uses is the first registry that depends on a provider; "" if none does.
func (s *Rings) Uses(ctx context.Context, tx *db.Tx, provider ref.ID) (ref.ID, error) {
	all, err := holding(ctx, tx, provider, 1)
	if err != nil || len(all) == 0 {
		return "", err
	}
	return all[0], nil
}
