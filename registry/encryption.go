package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// Encryption says whose key the content is under (DP-5): the platform's alone, or a
// customer's as well. And how its data keys live (DP-6).
type Encryption struct {
	Status   string       `json:"status,omitempty"` // enabled, or disabled (default)
	Key      *CustomerKey `json:"keyVaultProperties"`
	DataKeys DataKeys     `json:"dataKeys,omitzero"`
}

// A CustomerKey is a key that a customer holds. Callers say the identifier and the
// identity; the server knows the rest.
type CustomerKey struct {
	Identifier string    `json:"keyIdentifier"`                    // https://PROVIDER/keys/KEY, and /VERSION if it shall stay
	Versioned  string    `json:"versionedKeyIdentifier,omitempty"` // with the version that is in use
	Identity   string    `json:"identity,omitempty"`               // client id of an assigned identity, or system
	Rotates    bool      `json:"keyRotationEnabled"`               // a new version is taken when there is one
	Rotated    time.Time `json:"lastKeyRotationTimestamp,omitzero"`
}

// DataKeys are what the content itself is sealed with. The latest seals, all open.
type DataKeys struct {
	Version      uint32    `json:"version,omitempty"`
	Created      time.Time `json:"created,omitzero"`
	RotationDays int       `json:"rotationDays,omitempty"` // a new one is made after so many days; 0 is when somebody asks for it
}

const (
	encrypted       = "enabled"
	maxRotationDays = 3650
)

// identifier is the customer's key; "" if there is none.
func (e Encryption) identifier() string {
	if e.Key == nil {
		return ""
	}
	return e.Key.Identifier
}

// name is the customer's key, whichever of its versions; "" if there is none.
func (e Encryption) name() string {
	if e.Key == nil {
		return ""
	}
	i, _ := keys.ParseIdentifier(e.Key.Identifier) // as settled took it
	return i.At("").String()
}

// settled is e in the place of was: what callers cannot say is as it was.
func (e Encryption) settled(was Encryption) (Encryption, error) {
	if d := e.DataKeys.RotationDays; d < 0 || d > maxRotationDays {
		return e, fault.New(fault.BadRequest, "encryption.dataKeys.rotationDays is 0 to %d", maxRotationDays)
	}
	next := Encryption{DataKeys: was.DataKeys}
	next.DataKeys.RotationDays = e.DataKeys.RotationDays
	if e.Status != encrypted {
		if e.Key != nil && was.Status != encrypted {
			return e, fault.New(fault.BadRequest, "encryption has keyVaultProperties and is not enabled; send status: enabled too")
		}
		return next, nil
	}
	if e.Key == nil || e.Key.Identifier == "" {
		return e, fault.New(fault.BadRequest, "encryption is enabled with a keyVaultProperties.keyIdentifier")
	}
	i, err := keys.ParseIdentifier(e.Key.Identifier)
	if err != nil {
		return e, err
	}
	next.Status = encrypted
	next.Key = &CustomerKey{Identifier: e.Key.Identifier, Identity: e.Key.Identity, Rotates: i.Version == ""}
	if was.identifier() == next.Key.Identifier {
		next.Key.Versioned, next.Key.Rotated = was.Key.Versioned, was.Key.Rotated
	}
	return next, nil
}

// after is e when the keys have moved.
func (e Encryption) after(m *keys.Rewrap, now time.Time) Encryption {
	e.DataKeys.Version, e.DataKeys.Created = m.Version()
	if e.Key != nil {
		k := *e.Key
		i, _ := keys.ParseIdentifier(k.Identifier) // as settled took it
		if versioned := i.At(m.Holder.Version).String(); versioned != k.Versioned {
			k.Versioned, k.Rotated = versioned, now.UTC().Truncate(time.Millisecond)
		}
		e.Key = &k
	}
	return e
}

// errMoved says that somebody else changed what was prepared.
var errMoved = errors.New("the registry's encryption was changed at the same time")

// represents refuses an identity that is not the registry's.
func (s *Store) represents(ctx context.Context, i Identity, client string) error {
	if client == "" || client == "system" && i.System() {
		return nil
	}
	for id, was := range i.Assigned {
		c, err := s.assigned(ctx, id, was)
		if err == nil && c.ClientID == client {
			return nil
		}
		if err != nil && fault.Of(err) != fault.NotFound {
			return err
		}
	}
	return fault.New(fault.BadRequest, "encryption.keyVaultProperties.identity is the client id of a managed identity that is assigned to the registry, or system if it has one of its own")
}

// holder is who a customer's key will be held by. The caller must have the right to
// use the provider, and its key must be usable and strong.
func (s *Store) holder(ctx context.Context, g access.Grant, of ref.ID, k *CustomerKey) (*keys.Holder, error) {
	custody := s.o.Rings.Custody()
	if custody == nil {
		return nil, fault.New(fault.NotImplemented, "this server reaches no key providers")
	}
	i, err := keys.ParseIdentifier(k.Identifier)
	if err != nil {
		return nil, err
	}
	provider, err := custody.Find(ctx, i)
	if err != nil {
		return nil, err
	}
	if err := g.Allows(access.KeyUse, provider.Scope()); err != nil {
		return nil, err
	}
	d, err := custody.Describe(ctx, provider, i.Key)
	if err != nil {
		return nil, err
	}
	return &keys.Holder{Registry: of, Provider: provider, Key: i.Name, Version: d.Version}, nil
}

// freshTime is how long a change of something else waits for the provider to tell of
// a new version of the key.
const freshTime = 3 * time.Second

// move prepares what the keys of a registry need for next: nil if they stay. A key
// without a version is looked up whenever the registry is written, because
// `az acr encryption rotate-key` says no more than that; then a provider that does
// not answer, or no longer opens the version that is in use, is no reason not to write.
func (s *Store) move(ctx context.Context, g access.Grant, r *Registry, was, next Encryption, renew bool) (*keys.Rewrap, error) {
	switch {
	case renew:
		return s.o.Rings.Renew(ctx, r.UID)
	case next.Key == nil && was.Key == nil:
		return nil, nil
	case next.Key == nil:
		return s.o.Rings.Rewrap(ctx, r.UID, nil)
	case was.identifier() == next.Key.Identifier:
		if next.Key.Identity != was.Key.Identity {
			if err := s.represents(ctx, r.Identity, next.Key.Identity); err != nil {
				return nil, err
			}
		}
		if !next.Key.Rotates {
			return nil, nil
		}
		asking, cancel := context.WithTimeout(ctx, freshTime)
		defer cancel()
		to, err := s.holder(asking, access.ServerGrant(r.Ref(), access.Call{}), r.ID, next.Key)
		if err != nil || versioned(to, next.Key) == was.Key.Versioned {
			return nil, nil
		}
		m, err := s.o.Rings.Rewrap(ctx, r.UID, to)
		if c := fault.Of(err); c == fault.Unavailable || c == fault.KeyRefused {
			return nil, nil
		}
		return m, err
	}
	to, err := s.holder(ctx, g, r.ID, next.Key)
	if err != nil {
		return nil, err
	}
	if err := s.represents(ctx, r.Identity, next.Key.Identity); err != nil {
		return nil, err
	}
	return s.o.Rings.Rewrap(ctx, r.UID, to)
}

func versioned(h *keys.Holder, k *CustomerKey) string {
	i, _ := keys.ParseIdentifier(k.Identifier)
	return i.At(h.Version).String()
}

// moveEvents are what the ledger hears of keys that moved: by whom, for whom.
func moveEvents(g access.Grant, r *Registry, m *keys.Rewrap) (all []ledger.Event) {
	if m == nil || m.Holder == nil && m.Was == nil {
		return nil
	}
	op, h := keys.OpWrap, m.Holder
	switch {
	case h == nil:
		op, h = keys.OpUnwrap, m.Was // for good
	case m.Was != nil && *m.Was != *h:
		op = keys.OpRotate
	}
	e := g.Event(ledger.KeyUsage, op, r.ID.Scope())
	e.Registry = r.UID
	e.Detail.More = h.Event(r.UID, op, nil).Detail.More
	version, _ := m.Version()
	e.Detail.More["keys"], e.Detail.More["dataKeyVersion"] = strconv.Itoa(m.Keys()), strconv.Itoa(int(version))
	if m.Was != nil && m.Holder != nil && *m.Was != *m.Holder {
		e.Detail.More["before"] = m.Was.Provider.Name() + "/" + m.Was.Key + "/" + m.Was.Version
	}
	if m.Holder == nil {
		e.Detail.More["to"] = "platform"
	}
	return []ledger.Event{e}
}

// RotateDataKey gives a registry a new data key. What was sealed before is opened
// with those before, as long as there is the registry.
func (s *Store) RotateDataKey(ctx context.Context, g access.Grant, id ref.ID) (*Registry, error) {
	if err := g.Allows(access.RotateDataKey, id.Scope()); err != nil {
		return nil, err
	}
	return s.update(ctx, g, access.RotateDataKey, id, resource.Exists, func(*Registry) error { return nil }, true)
}

// keyProblem is why the registry's content is closed at the moment, for the owner; ""
// if it is open. Who looks at one registry has its provider asked; who looks at many is
// told what this process heard last.
func (s *Store) keyProblem(ctx context.Context, r *Registry, alone bool) string {
	if r.Encryption.Key == nil {
		return ""
	}
	err := s.o.Rings.Heard(r.UID)
	if alone {
		err = s.o.Rings.Standing(ctx, r.UID)
	}
	if err != nil {
		return fault.From(err).Message
	}
	return ""
}

// Usable is why the content of a registry can be neither read nor written now,
// because of its keys.
func (s *Store) Usable(ctx context.Context, uid string) error {
	_, err := s.o.Rings.Ring(ctx, uid)
	return err
}

// warnBefore are the days before a key's end when that is said.
var warnBefore = []int{1, 7, 30}

// atOnce is how many registries are tended at once: a provider that is slow holds up
// few others.
const atOnce = 16

// TendKeys does what is due with the keys of all registries: new versions of
// customers' keys are taken, data keys are renewed as their schedule says, and of
// keys that end it is told. What fails for one registry is tried again the next time.
func (s *Store) TendKeys(ctx context.Context) error {
	g := access.ServerGrant(access.Registry{}, access.Call{})
	var mu sync.Mutex
	var errs []error
	for after := ref.ID(""); ; {
		some, err := s.List(ctx, g, "", after, 1000)
		if err != nil || len(some) == 0 {
			return errors.Join(append(errs, err)...)
		}
		var work errgroup.Group
		work.SetLimit(atOnce)
		for _, r := range some {
			after = r.ID
			work.Go(func() error {
				if err := s.tend(ctx, r); err != nil && ctx.Err() == nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, waits(ctx, r, err))
				}
				return nil
			})
		}
		_ = work.Wait()
	}
}

// waits is the error of a registry's keys, unless it is one of those that others mend.
func waits(ctx context.Context, r *Registry, err error) error {
	switch fault.Of(err) {
	case fault.Unavailable, fault.KeyRefused, fault.NotFound, fault.ScopeLocked:
		slog.InfoContext(ctx, "the keys of a registry wait", "registry", r.Name, "err", err)
		return nil
	}
	return fmt.Errorf("keys of %s: %w", r.Name, err)
}

func (s *Store) tend(ctx context.Context, r *Registry) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	g := access.ServerGrant(r.Ref(), access.Call{})
	nothing := func(*Registry) error { return nil }
	e := r.Encryption
	if k := e.Key; k != nil && s.o.Rings.Custody() != nil {
		if err := s.Usable(ctx, r.UID); err != nil { // also of a registry that nobody uses, to be on record and in the metrics
			return err
		}
		to, err := s.holder(ctx, g, r.ID, k)
		if err != nil {
			return err
		}
		if k.Rotates && versioned(to, k) != k.Versioned {
			if _, err := s.update(ctx, g, access.RegistryWrite, r.ID, resource.Exists, nothing, false); err != nil {
				return err
			}
		}
		if err := s.warn(ctx, g, r, to); err != nil {
			return err
		}
	}
	if days := e.DataKeys.RotationDays; days > 0 {
		since := e.DataKeys.Created
		if since.IsZero() {
			since = r.System.CreatedAt
		}
		if time.Since(since) >= time.Duration(days)*24*time.Hour {
			_, err := s.RotateDataKey(ctx, g, r.ID)
			return err
		}
	}
	return nil
}

// warn tells once of each threshold that a key's end has come below. A process that
// begins anew tells again.
func (s *Store) warn(ctx context.Context, g access.Grant, r *Registry, h *keys.Holder) error {
	d, err := s.o.Rings.Custody().Describe(ctx, h.Provider, keys.Key{Name: h.Key, Version: h.Version})
	if err != nil || d.Expires.IsZero() {
		return err
	}
	left := time.Until(d.Expires)
	for _, days := range warnBefore {
		if left > time.Duration(days)*24*time.Hour {
			continue
		}
		said := fmt.Sprintf("%s %s %s %s %d", r.UID, h.Provider, h.Key, h.Version, days)
		if _, again := s.warned.LoadOrStore(said, true); again {
			return nil
		}
		e := g.Event(ledger.Security, keys.ProviderType+"/expires", r.ID.Scope())
		e.Registry, e.Detail.More = r.UID, h.Event(r.UID, "", nil).Detail.More
		e.Detail.More["expires"] = d.Expires.UTC().Format(time.RFC3339)
		slog.WarnContext(ctx, "the key of a registry ends soon; then its content is closed", "registry", r.Name, "key", h.Key, "expires", d.Expires)
		return s.o.DB.Write(ctx, func(tx *db.Tx) error { return s.o.Ledger.Append(ctx, tx, e) })
	}
	return nil
}
