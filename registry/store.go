package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// Options say what a Store stands on and what its host names mean.
type Options struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Rings     *keys.Rings
	Identity  *identity.Store
	Access    *access.Store

	Default string // name of the registry that answers where no host name says another
	Host    string // host[:port] under which the default registry is known to its clients
	Domain  string // "example.com:8443": <name>.example.com:8443 is the registry <name>; "" for none
}

// A Store keeps the registries.
type Store struct {
	o      Options
	loaded resource.Cache[struct{}, map[string]*Registry]
}

// New returns the registries in o.Documents.
func New(o Options) *Store {
	o.Host, o.Domain = strings.ToLower(o.Host), strings.ToLower(o.Domain)
	return &Store{o: o}
}

// all is every registry by its name in lower case.
func (s *Store) all(ctx context.Context) (map[string]*Registry, error) {
	return s.loaded.Get(ctx, s.o.Documents, struct{}{}, func(ctx context.Context) (map[string]*Registry, error) {
		all := map[string]*Registry{}
		for after := ref.ID(""); ; {
			docs, err := s.o.Documents.List(ctx, "", Type, after, 1000)
			if err != nil {
				return nil, err
			}
			for _, doc := range docs {
				r, err := s.read(doc)
				if err != nil {
					return nil, err
				}
				all[strings.ToLower(r.Name)] = r
				after = doc.ID
			}
			if len(docs) == 0 {
				return all, nil
			}
		}
	})
}

func (s *Store) read(doc resource.Resource) (*Registry, error) {
	r := &Registry{ID: doc.ID, UID: doc.System.UID, Name: doc.ID.Name(), Location: doc.Location, Tags: doc.Tags, Etag: doc.Etag, System: doc.System}
	if err := json.Unmarshal(doc.Properties, &r.Properties); err != nil {
		return nil, fmt.Errorf("read registry %s: %w", doc.ID, err)
	}
	r.LoginServer = s.o.Host
	if name := strings.ToLower(r.Name); name != strings.ToLower(s.o.Default) {
		r.LoginServer = name + "." + s.o.Domain
	}
	return r, nil
}

// ByHost is the registry that a request's Host means: <name>.<domain> is that
// registry or none, every other name is the default registry. The result is
// shared: do not change it.
func (s *Store) ByHost(ctx context.Context, host string) (*Registry, error) {
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	r := all[s.name(host)]
	if r == nil {
		return nil, unknown()
	}
	return r, nil
}

// name is the name in lower case of the registry that host means.
func (s *Store) name(host string) string {
	if s.o.Domain != "" {
		if name, ok := strings.CutSuffix(bare(host), "."+bare(s.o.Domain)); ok {
			return name
		}
	}
	return strings.ToLower(s.o.Default)
}

// bare is a host name without port and trailing dot, in lower case.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func unknown() error { return fault.New(fault.NotFound, "there is no such registry") }

// ByName is the registry of that name.
func (s *Store) ByName(ctx context.Context, name string) (*Registry, error) {
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	if r := all[strings.ToLower(name)]; r != nil {
		return r, nil
	}
	return nil, unknown()
}

// Get is the registry with that id.
func (s *Store) Get(ctx context.Context, g access.Grant, id ref.ID) (*Registry, error) {
	if err := g.Allows(access.RegistryRead, id.Scope()); err != nil {
		return nil, err
	}
	r, err := s.ByName(ctx, id.Name())
	if err == nil && r.ID.Key() != id.Key() {
		return nil, unknown()
	}
	return r, err
}

// List is the registries that the caller may read, in order of their names.
func (s *Store) List(ctx context.Context, g access.Grant) ([]*Registry, error) {
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	var list []*Registry
	for _, r := range all {
		if g.Can(access.RegistryRead, r.ID.Scope()) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *Registry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

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
	if !validName(id.Name()) || !strings.HasSuffix(id.Parent().Key(), "/providers/microsoft.containerregistry") {
		return nil, fault.New(fault.BadRequest, "the name of a registry has 5 to 50 letters and digits")
	}
	if _, err := ref.ParseID(string(id)); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if _, err := s.ByName(ctx, id.Name()); fault.Of(err) != fault.NotFound {
		if err == nil {
			err = taken(id)
		}
		return nil, err
	}
	properties, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	doc := resource.Resource{ID: id, Type: Type, Location: location, Tags: tags, Properties: properties, System: g.Modified()}
	err = s.o.DB.Write(ctx, func(tx *db.Tx) error {
		made, err := s.o.Documents.Put(ctx, tx, doc, resource.Absent)
		if fault.Of(err) == fault.Stale {
			return taken(id)
		}
		if err != nil {
			return err
		}
		if err := s.o.Rings.Create(ctx, tx, made.System.UID); err != nil {
			return err
		}
		if err := s.o.Access.PutSystemScopeMaps(ctx, tx, g, id); err != nil {
			return err
		}
		e := g.Event(ledger.Administrative, string(access.RegistryWrite), id.Scope())
		e.Registry = made.System.UID
		return s.o.Ledger.Append(ctx, tx, e)
	})
	if err != nil {
		return nil, err
	}
	return s.ByName(ctx, id.Name())
}

func taken(id ref.ID) error {
	return fault.New(fault.Conflict, "the registry name %s is taken", id.Name())
}

// Check refuses settings whose meaning is not certain.
func (p Properties) Check() error {
	if err := p.Settings.Check(); err != nil {
		return err
	}
	if err := p.Access.Check(); err != nil {
		return err
	}
	for _, policy := range []Policy{p.Policies.SparseManifests, p.Policies.AuthenticationAsARM} {
		if !slices.Contains([]string{"", "enabled", "disabled"}, policy.Status) {
			return fault.New(fault.BadRequest, "the status of a policy is enabled or disabled")
		}
	}
	return nil
}

// Update changes the tags and properties of a registry, if ifMatch holds. change
// may run again if somebody else changes the registry at the same time; what it
// leaves counts from the next request on.
func (s *Store) Update(ctx context.Context, g access.Grant, id ref.ID, ifMatch string, change func(*Registry) error) (*Registry, error) {
	if err := g.Allows(access.RegistryWrite, id.Scope()); err != nil {
		return nil, err
	}
	var after *Registry
	err := s.o.DB.Write(ctx, func(tx *db.Tx) error {
		doc, err := s.o.Documents.GetTx(ctx, tx, id)
		if err != nil {
			return err
		}
		if doc.Type != Type {
			return unknown()
		}
		r, err := s.read(doc)
		if err != nil {
			return err
		}
		before := string(doc.Properties)
		if err := change(r); err != nil {
			return err
		}
		if err := r.Properties.Check(); err != nil {
			return err
		}
		doc.Tags = r.Tags
		if doc.Properties, err = json.Marshal(r.Properties); err != nil {
			return err
		}
		doc.System = g.Modified()
		if doc, err = s.o.Documents.Put(ctx, tx, doc, ifMatch); err != nil {
			return err
		}
		if after, err = s.read(doc); err != nil {
			return err
		}
		e := g.Event(ledger.Administrative, string(access.RegistryWrite), id.Scope())
		e.Registry = r.UID
		e.Detail.More = map[string]string{"before": before, "after": string(doc.Properties)}
		return s.o.Ledger.Append(ctx, tx, e)
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// Azure calls the admin user's two passwords so.
var adminPasswords = [...]string{"password", "password2"}

// ListCredentials tells which passwords the admin user has, under Azure's names.
// What they are nobody can read again.
func (s *Store) ListCredentials(ctx context.Context, g access.Grant, id ref.ID) ([]identity.PasswordInfo, error) {
	if err := g.Allows(access.ListCredentials, id.Scope()); err != nil {
		return nil, err
	}
	r, err := s.ByName(ctx, id.Name())
	if err != nil {
		return nil, err
	}
	if r.ID.Key() != id.Key() {
		return nil, unknown()
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
	r, err := s.ByName(ctx, id.Name())
	if err != nil {
		return identity.Password{}, err
	}
	if r.ID.Key() != id.Key() {
		return identity.Password{}, unknown()
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
