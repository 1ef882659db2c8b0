package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/transit"
)

// Options say what a Store stands on and what its host names mean.
type Options struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Rings     *keys.Rings
	Identity  *identity.Store
	Access    *access.Store
	Approvals *approval.Store
	Receipts  *receipt.Store
	Contents  Contents

	Default string // name of the registry that answers where no host name says another
	Host    string // host[:port] under which the default registry is known to its clients
	Domain  string // "example.com:8443": <name>.example.com:8443 is the registry <name>; "" for none

	// Shown reports whether the server has a certificate for a host name that clients
	// believe in; nil is for any.
	Shown func(ctx context.Context, host string) bool
}

// A Store keeps the registries.
type Store struct {
	o       Options
	loaded  resource.Cache[string, *Registry] // by name in lower case
	behinds resource.Cache[ref.ID, string]    // by the key of a private endpoint
	warned  sync.Map                          // of which end of a key it was told
}

// New returns the registries in o.Documents.
func New(o Options) *Store {
	o.Host, o.Domain = strings.ToLower(o.Host), strings.ToLower(o.Domain)
	return &Store{o: o}
}

// parse is what a document itself says of its registry.
func (s *Store) parse(doc resource.Resource) (*Registry, error) {
	r := &Registry{ID: doc.ID, UID: doc.System.UID, Name: doc.ID.Name(), LoginServer: s.loginServer(doc.ID.Name()),
		Location: doc.Location, Tags: doc.Tags, Etag: doc.Etag, System: doc.System}
	if err := json.Unmarshal(doc.Properties, &r.Properties); err != nil {
		return nil, fmt.Errorf("read registry %s: %w", doc.ID, err)
	}
	if r.DataEndpointEnabled && s.o.Domain != "" {
		r.DataHost = dataHost(r.Name, r.Location, s.o.Domain)
	}
	return r, nil
}

// read is parse with what other documents say of what it names.
func (s *Store) read(ctx context.Context, doc resource.Resource) (*Registry, error) {
	r, err := s.parse(doc)
	if err != nil {
		return nil, err
	}
	for id, was := range r.Identity.Assigned {
		r.Identity.Assigned[id], err = s.assigned(ctx, id, was)
		if err != nil && fault.Of(err) != fault.NotFound { // who was deleted is nobody
			return nil, err
		}
	}
	r.Missing = s.missing(ctx, r)
	return r, nil
}

// loginServer is the host[:port] of a registry of that name.
func (s *Store) loginServer(name string) string {
	if strings.EqualFold(name, s.o.Default) {
		return s.o.Host
	}
	return strings.ToLower(name) + "." + s.o.Domain
}

// ByHost is the registry that a request's Host means: <name>.<domain> and
// <name>.privatelink.<domain> are that registry or none. Every other name is the
// default registry, or who comes by a private endpoint to one registry alone means
// that one. The result is shared: do not change it.
func (s *Store) ByHost(ctx context.Context, host string) (*Registry, error) {
	name, named := s.name(host)
	if endpoint := transit.ArrivalOf(ctx).Endpoint; endpoint != "" && !named {
		behind, err := s.behind(ctx, endpoint)
		if err != nil {
			return nil, err
		}
		name = cmp.Or(behind, name)
	}
	return s.ByName(ctx, name)
}

// name is the name in lower case of the registry that host means, and whether host
// has it in itself.
func (s *Store) name(host string) (name string, named bool) {
	if s.o.Domain != "" {
		if name, ok := strings.CutSuffix(bare(host), "."+bare(s.o.Domain)); ok {
			return strings.TrimSuffix(name, "."+PrivateLink), true
		}
	}
	return strings.ToLower(s.o.Default), false
}

// bare is a host name without port and trailing dot, in lower case.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func unknown() error { return fault.New(fault.NotFound, "there is no such registry") }

// ByName is the registry of that name, in any spelling. It is found by an index,
// however many there are.
func (s *Store) ByName(ctx context.Context, name string) (*Registry, error) {
	if !validName(name) {
		return nil, unknown()
	}
	return s.loaded.Get(ctx, s.o.Documents, strings.ToLower(name), func(ctx context.Context) (*Registry, error) {
		docs, err := s.o.Documents.Find(ctx, named(name))
		if err != nil {
			return nil, err
		}
		if len(docs) == 0 {
			return nil, unknown()
		}
		r, err := s.read(ctx, docs[0])
		if err != nil {
			return nil, err
		}
		return r, s.reachable(ctx, r)
	})
}

// reachable fills in what is decided with at every request.
func (s *Store) reachable(ctx context.Context, r *Registry) error {
	docs, err := s.o.Documents.List(ctx, r.ID, ConnectionType, "", 0)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		c := network.PrivateEndpointConnection{Name: doc.ID.Name()}
		if err := json.Unmarshal(doc.Properties, &c); err != nil {
			return fmt.Errorf("read %s: %w", doc.ID, err)
		}
		r.Endpoints = append(r.Endpoints, c)
	}
	r.Access.Compile()
	return nil
}

// named are the registries of one name; there is at most one. The holder of its
// document is its name, so that no other place has to be kept in step.
func named(name string) resource.Query {
	return resource.Query{Type: Type, Holders: []string{strings.ToLower(name)}}
}

// ByID is the registry of that id.
func (s *Store) ByID(ctx context.Context, id ref.ID) (*Registry, error) {
	r, err := s.ByName(ctx, id.Name())
	if err == nil && r.ID.Key() != id.Key() {
		return nil, unknown()
	}
	return r, err
}

// Get is the registry with that id.
func (s *Store) Get(ctx context.Context, g access.Grant, id ref.ID) (*Registry, error) {
	if err := g.Allows(access.RegistryRead, id.Scope()); err != nil {
		return nil, err
	}
	r, err := s.ByID(ctx, id)
	if err != nil {
		return nil, err
	}
	shown := *r
	shown.Missing = s.missing(ctx, r) // which follows the server's certificate too
	return &shown, s.connect(ctx, id, &shown)
}

// connect fills in what is the matter with the keys of registries, and their private
// endpoints. All of them lie at or below under.
func (s *Store) connect(ctx context.Context, under ref.ID, registries ...*Registry) error {
	for _, r := range registries {
		r.KeyProblem = s.keyProblem(ctx, r, len(registries) == 1)
	}
	docs, err := s.o.Documents.List(ctx, under, ConnectionType, "", 0)
	if err != nil || len(docs) == 0 {
		return err
	}
	of := make(map[string]*Registry, len(registries))
	for _, r := range registries {
		of[r.ID.Key()] = r
	}
	for _, doc := range docs {
		if r := of[doc.ID.Parent().Key()]; r != nil {
			r.Connections = append(r.Connections, doc)
		}
	}
	return nil
}

// List is the registries at or below under ("" is everywhere) that the caller may
// read, after the one called after, in order of their ids, at most limit.
func (s *Store) List(ctx context.Context, g access.Grant, under, after ref.ID, limit int) (list []*Registry, err error) {
	q := resource.Query{Type: Type, Under: []ref.ID{under}, After: after, Limit: limit}
	docs, err := s.o.Documents.Select(ctx, q, func(doc resource.Resource) bool { return g.Can(access.RegistryRead, doc.ID.Scope()) })
	if err != nil {
		return nil, err
	}
	for _, doc := range docs {
		r, err := s.read(ctx, doc)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, s.connect(ctx, under, list...)
}

// Tenant is the tenant of the registries' own identities.
func (s *Store) Tenant() string { return s.o.Identity.Tenant() }

// validName is Azure's rule: 5 to 50 letters and digits.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return 5 <= len(s) && len(s) <= 50
}

// Create makes a registry with its data key, its own scope maps and its event, in
// one transaction. The name of a registry is its host name, so there is one of
// each name, whatever the resource group.
func (s *Store) Create(ctx context.Context, g access.Grant, id ref.ID, location string, tags map[string]string, p Properties) (*Registry, error) {
	if err := g.Allows(access.RegistryWrite, id.Scope()); err != nil {
		return nil, err
	}
	if _, err := ref.ParseID(string(id)); err != nil {
		return nil, err
	}
	if err := s.nameable(id.Name()); err != nil {
		return nil, err
	}
	if Of(id) != id {
		return nil, fault.New(fault.BadRequest, "a registry lies in a resource group")
	}
	location, err := place(location)
	if err != nil {
		return nil, err
	}
	if p, err = s.settle(ctx, g, nil, id.Name(), location, p); err != nil {
		return nil, err
	}
	doc := resource.Resource{ID: id, Type: Type, Holder: id.Name(), Location: location, Tags: tags, System: g.Modified()}
	doc.System.UID = ref.NewGUID() // what a customer's key wraps is bound to it
	var first *keys.Rewrap
	if k := p.Encryption.Key; k != nil {
		if err := s.represents(ctx, p.Identity, k.Identity); err != nil {
			return nil, err
		}
		to, err := s.holder(ctx, g, id, k)
		if err != nil {
			return nil, err
		}
		if first, err = s.o.Rings.First(ctx, doc.System.UID, to); err != nil {
			return nil, err
		}
		p.Encryption = p.Encryption.after(first, time.Now())
	}
	if doc.Properties, err = json.Marshal(p); err != nil {
		return nil, err
	}
	var made resource.Resource
	err = s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if err := s.o.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		if _, err := s.o.Documents.GetTx(ctx, tx, id.Parent().Parent()); fault.Of(err) == fault.NotFound {
			return fault.New(fault.NotFound, "there is no resource group %s; make it first", id.Parent().Parent().Name())
		} else if err != nil {
			return err
		}
		if others, err := s.o.Documents.FindTx(ctx, tx, named(id.Name())); err != nil {
			return err
		} else if len(others) > 0 && others[0].ID.Key() != id.Key() {
			return taken(id.Name())
		}
		if made, err = s.o.Documents.Put(ctx, tx, doc, resource.Absent); err != nil {
			return resource.Taken(err, resource.Absent, "registry", id.Name())
		}
		if first != nil {
			err = first.Commit(ctx, tx)
		} else {
			err = s.o.Rings.Create(ctx, tx, doc.System.UID)
		}
		if err != nil {
			return err
		}
		if err := s.o.Access.PutSystemScopeMaps(ctx, tx, g, id); err != nil {
			return err
		}
		e := g.Event(ledger.Administrative, string(access.RegistryWrite), id.Scope())
		e.Registry = doc.System.UID
		e.Detail.More = map[string]string{"after": string(doc.Properties)}
		return s.o.Ledger.Append(ctx, tx, append(moveEvents(g, &Registry{ID: id, UID: doc.System.UID}, first), e)...)
	})
	if err != nil {
		return nil, err
	}
	return s.read(ctx, made)
}

// nameable refuses a name that no registry of this server can have.
func (s *Store) nameable(name string) error {
	if !validName(name) {
		return fault.New(fault.NameInvalid, "the name of a registry has 5 to 50 letters and digits")
	}
	if s.o.Domain == "" && !strings.EqualFold(name, s.o.Default) {
		return fault.New(fault.Conflict, "this server has no domain under which a registry %s could be reached; start it with --domain", name)
	}
	return nil
}

func taken(name string) error {
	return fault.New(fault.Conflict, "the registry name %s is taken", name)
}

// Availability is whether a registry may be called so.
type Availability struct {
	Free        bool
	Reason      string // AlreadyExists or Invalid
	Message     string
	LoginServer string // that it would have
}

// CheckName tells whoever may make registries below the scope whether there can be
// one of this name. Names are those of hosts, so that this tells of registries that
// the caller may not see, as in Azure.
func (s *Store) CheckName(ctx context.Context, g access.Grant, at ref.Scope, name string) (Availability, error) {
	if err := g.Allows(access.RegistryCheckName, at); err != nil {
		return Availability{}, err
	}
	if err := s.nameable(name); err != nil {
		return Availability{Reason: "Invalid", Message: fault.From(err).Message}, nil
	}
	_, err := s.ByName(ctx, name)
	switch {
	case fault.Of(err) == fault.NotFound:
		return Availability{Free: true, LoginServer: s.loginServer(name)}, nil
	case err != nil:
		return Availability{}, err
	}
	return Availability{Reason: "AlreadyExists", Message: fault.From(taken(name)).Message}, nil
}

// Update changes the tags and properties of a registry, if ifMatch holds. change
// may run again if somebody else changes the registry at the same time; what it
// leaves counts from the next request on.
func (s *Store) Update(ctx context.Context, g access.Grant, id ref.ID, ifMatch string, change func(*Registry) error) (*Registry, error) {
	if err := g.Allows(access.RegistryWrite, id.Scope()); err != nil {
		return nil, err
	}
	return s.update(ctx, g, access.RegistryWrite, id, ifMatch, change, false)
}

// update is a change of a registry, called a. Keys that have to move, or be renewed,
// are wrapped and opened again before the transaction, because who holds them may take
// its time; in it they only take the place of those before, together with the
// document and the event, or not at all.
func (s *Store) update(ctx context.Context, g access.Grant, a access.Action, id ref.ID, ifMatch string, change func(*Registry) error, renew bool) (*Registry, error) {
	for again := 0; ; again++ {
		r, err := s.updateOnce(ctx, g, a, id, ifMatch, change, renew)
		if !errors.Is(err, errMoved) {
			return r, err
		}
		if again == 3 {
			return nil, fault.New(fault.Conflict, "others change the keys of this registry at the same time; try again").After(time.Second).Because(err)
		}
	}
}

// changed is a registry as change leaves it, and the properties that it had.
func (s *Store) changed(ctx context.Context, g access.Grant, doc resource.Resource, change func(*Registry) error) (r *Registry, was Properties, err error) {
	if r, err = s.parse(doc); err != nil {
		return nil, was, err
	}
	was = r.Properties
	if err := change(r); err != nil {
		return nil, was, err
	}
	r.Properties, err = s.settle(ctx, g, &was, r.Name, r.Location, r.Properties)
	return r, was, err
}

func (s *Store) updateOnce(ctx context.Context, g access.Grant, a access.Action, id ref.ID, ifMatch string, change func(*Registry) error, renew bool) (*Registry, error) {
	doc, err := s.o.Documents.Get(ctx, id)
	if fault.Of(err) == fault.NotFound || err == nil && doc.Type != Type {
		return nil, unknown()
	} else if err != nil {
		return nil, err
	}
	r, was, err := s.changed(ctx, g, doc, change)
	if err != nil {
		return nil, err
	}
	from, to := was.Encryption.identifier(), r.Encryption.identifier()
	move, err := s.move(ctx, g, r, was.Encryption, r.Encryption, renew)
	if err != nil {
		return nil, err
	}
	err = s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if doc, err = s.getTx(ctx, tx, id); err != nil {
			return err
		}
		before := string(doc.Properties)
		if r, was, err = s.changed(ctx, g, doc, change); err != nil {
			return err
		}
		if was.Encryption.identifier() != from || r.Encryption.identifier() != to {
			return errMoved
		}
		if how := was.lessened(r.Properties); how != "" {
			if err := holds(doc, ifMatch); err != nil {
				return err
			}
			if err := s.o.Approvals.Use(ctx, tx, g, approval.Act{Action: a, Scope: id.Scope(), On: doc.ID, UID: doc.System.UID, Exact: how}); err != nil {
				return err
			}
		}
		if move != nil {
			r.Encryption = r.Encryption.after(move, time.Now())
		}
		doc.Tags, doc.Holder, doc.System = r.Tags, r.Name, g.Modified()
		if doc.Properties, err = json.Marshal(r.Properties); err != nil {
			return err
		}
		if doc, err = s.o.Documents.Put(ctx, tx, doc, ifMatch); err != nil {
			return err
		}
		if move != nil {
			if err := move.Commit(ctx, tx); fault.Of(err) == fault.Stale {
				return fmt.Errorf("%w: %w", errMoved, err)
			} else if err != nil {
				return err
			}
		}
		e := g.Event(ledger.Administrative, string(a), id.Scope())
		e.Registry = r.UID
		e.Detail.More = map[string]string{"before": before, "after": string(doc.Properties)}
		return s.o.Ledger.Append(ctx, tx, append(moveEvents(g, r, move), e)...)
	})
	if err := s.o.Approvals.Ask(ctx, g, err); err != nil {
		return nil, err
	}
	if r, err = s.read(ctx, doc); err != nil {
		return nil, err
	}
	return r, s.connect(ctx, id, r)
}

// Delete removes a registry and all below it, and destroys its keys in the same
// transaction: from then on nobody can read what it held. A registry that is made again
// under the name is another one. The event lies in the server's ledger, because that of
// the registry goes with it. Under dual control somebody else must have approved it.
func (s *Store) Delete(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (i receipt.Issued, err error) {
	if err := g.Allows(access.RegistryDelete, id.Scope()); err != nil {
		return i, err
	}
	draft, err := s.o.Receipts.Draft(ctx, g)
	if err != nil {
		return i, err
	}
	moved := func(err error) bool { return errors.Is(err, errMoved) }
	err = db.Overtaken(ctx, moved, func() (err error) {
		i, err = s.deleteOnce(ctx, g, id, ifMatch, draft)
		return err
	})
	if err != nil {
		return receipt.Issued{}, s.o.Approvals.Ask(ctx, g, err)
	}
	s.o.Contents.purge(ctx)
	return i, nil
}

func (s *Store) deleteOnce(ctx context.Context, g access.Grant, id ref.ID, ifMatch string, draft *receipt.Draft) (i receipt.Issued, err error) {
	r, err := s.ByID(ctx, id)
	if err != nil {
		return i, err
	}
	erasure, err := s.o.Rings.Erase(ctx, r.UID, false, nil)
	if err != nil {
		return i, err
	}
	err = s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		i, err = s.remove(ctx, tx, g, id, ifMatch, erasure, draft)
		return err
	})
	return i, err
}

// remove is the deletion of a registry, in its transaction.
func (s *Store) remove(ctx context.Context, tx *db.Tx, g access.Grant, id ref.ID, ifMatch string, erasure *keys.Erasure, draft *receipt.Draft) (i receipt.Issued, err error) {
	if err := s.o.Documents.Lock(ctx, tx); err != nil {
		return i, err
	}
	doc, err := s.getTx(ctx, tx, id)
	if err != nil {
		return i, err
	}
	if err := cmp.Or(s.Stays(doc.ID), holds(doc, ifMatch), s.o.Documents.DeletableTx(ctx, tx, doc.ID)); err != nil {
		return i, err
	}
	if err := s.o.Approvals.Use(ctx, tx, g, deletion(doc)); err != nil {
		return i, err
	}
	r, err := s.parse(doc)
	if err != nil {
		return i, err
	}
	if err := s.o.Documents.Delete(ctx, tx, id, ifMatch); err != nil {
		return i, err
	}
	said, err := s.destroy(ctx, tx, r, erasure, receipt.Deletion)
	if fault.Of(err) == fault.Stale {
		err = fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return i, err
	}
	e := g.Event(ledger.Administrative, string(access.RegistryDelete), id.Scope())
	e.Registry = ""
	e.Detail.More = map[string]string{"before": string(doc.Properties), "uid": doc.System.UID}
	return draft.Issue(ctx, tx, said, e)
}

// deletion is the act that takes a registry away.
func deletion(doc resource.Resource) approval.Act {
	return approval.Act{Action: access.RegistryDelete, Scope: doc.ID.Scope(), On: doc.ID, UID: doc.System.UID}
}

// holds refuses an expectation that the document does not meet, before somebody is
// asked to approve what would not be done.
func holds(doc resource.Resource, ifMatch string) error {
	switch ifMatch {
	case resource.Any, resource.Exists, doc.Etag:
		return nil
	}
	return fault.New(fault.Stale, "%s was changed by somebody else; read it again and repeat the change", doc.ID.Name())
}

// Ready is nil if nothing but time keeps the caller from deleting the registry:
// under dual control, if somebody else has approved it.
func (s *Store) Ready(ctx context.Context, g access.Grant, id ref.ID) error {
	if err := g.Allows(access.RegistryDelete, id.Scope()); err != nil {
		return err
	}
	doc, err := s.o.Documents.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := s.Stays(doc.ID); err != nil {
		return err
	}
	return s.o.Approvals.Ready(ctx, g, deletion(doc))
}

// Stays is why a registry cannot be deleted, whoever asks; nil for none.
func (s *Store) Stays(id ref.ID) error {
	if strings.EqualFold(id.Name(), s.o.Default) {
		return fault.New(fault.Conflict, "the registry %s answers wherever no host name says another, so it stays; delete its repositories instead", id.Name())
	}
	return nil
}

func (s *Store) getTx(ctx context.Context, tx *db.Tx, id ref.ID) (resource.Resource, error) {
	doc, err := s.o.Documents.GetTx(ctx, tx, id)
	if fault.Of(err) == fault.NotFound || err == nil && doc.Type != Type {
		return doc, unknown()
	}
	return doc, err
}

// Azure calls the admin user's two passwords so.
var adminPasswords = [...]string{"password", "password2"}

// ListCredentials tells which passwords the admin user has, under Azure's names.
// What they are nobody can read again.
func (s *Store) ListCredentials(ctx context.Context, g access.Grant, id ref.ID) ([]identity.PasswordInfo, error) {
	if err := g.Allows(access.ListCredentials, id.Scope()); err != nil {
		return nil, err
	}
	r, err := s.ByID(ctx, id)
	if err != nil {
		return nil, err
	}
	if !r.AdminUserEnabled {
		return nil, fault.New(fault.BadRequest, "the admin user of %s is disabled: set adminUserEnabled first, if it has to be", r.Name)
	}
	infos, err := s.o.Identity.Passwords(ctx, identity.AdminHolder(r.ID))
	for i := range infos {
		infos[i].Name = adminPasswords[slices.Index(identity.PasswordNames[:], infos[i].Name)]
	}
	return infos, err
}

// RegenerateCredential makes a password of the admin user anew and returns it;
// nobody can read it again. It works while the admin user is off, too. The name is
// Azure's, or that of other accounts' passwords.
func (s *Store) RegenerateCredential(ctx context.Context, g access.Grant, id ref.ID, name string) (identity.Password, error) {
	if err := g.Allows(access.RegenerateCredential, id.Scope()); err != nil {
		return identity.Password{}, err
	}
	r, err := s.ByID(ctx, id)
	if err != nil {
		return identity.Password{}, err
	}
	h := identity.AdminHolder(r.ID)
	if at := slices.Index(adminPasswords[:], name); at >= 0 {
		name = identity.PasswordNames[at]
	}
	password, err := s.o.Identity.NewPassword(ctx, h, name, time.Time{})
	if err != nil {
		return identity.Password{}, err
	}
	err = s.o.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.o.Identity.PutPasswords(ctx, tx, h, g.Modified(), password); err != nil {
			return err
		}
		e := g.Event(ledger.Administrative, string(access.RegenerateCredential), id.Scope())
		e.Registry = r.UID
		e.Detail.More = map[string]string{"passwords": name}
		return s.o.Ledger.Append(ctx, tx, e)
	})
	if err != nil {
		return identity.Password{}, err
	}
	return password, nil
}
