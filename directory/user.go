package directory

import (
	"context"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// A User is a person of this server's own directory.
type User struct {
	ID          ref.ID
	Name        string
	PrincipalID string
	Etag        string
	System      resource.SystemData
	Passwords   []identity.PasswordInfo
	identity.UserProperties
}

var users = kind{identity.UserType, "user"}

const allUsers = ref.ID("/providers/" + identity.UserType)

// CreateUser creates a user with one password that does not expire. A user of
// that name is Conflict.
func (s *Store) CreateUser(ctx context.Context, g access.Grant, name string) (identity.Password, resource.Resource, error) {
	h, id := identity.UserHolder(name), identity.UserID(name)
	if err := g.Allows(access.UserWrite, id.Scope()); err != nil {
		return identity.Password{}, resource.Resource{}, err
	}
	if err := identity.CheckName("user", name); err != nil {
		return identity.Password{}, resource.Resource{}, err
	}
	password, err := s.Identity.NewPassword(ctx, h, identity.PasswordNames[0], time.Time{})
	if err != nil {
		return identity.Password{}, resource.Resource{}, err
	}
	doc := resource.Resource{ID: id, Type: identity.UserType}
	err = s.write(ctx, func(tx *db.Tx) (err error) {
		doc, err = s.put(ctx, tx, g, doc, identity.UserProperties{Status: identity.EnabledStatus}, resource.Absent)
		if err != nil {
			return resource.Taken(err, resource.Absent, users.called, name)
		}
		if err := s.Identity.PutPasswords(ctx, tx, h, g.Modified(), password); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, access.UserWrite, id, nil)
	})
	return password, doc, err
}

// ResetUser gives a user a new password in place of all others.
func (s *Store) ResetUser(ctx context.Context, g access.Grant, name string) (identity.Password, error) {
	h, id := identity.UserHolder(name), identity.UserID(name)
	if err := g.Allows(access.UserReset, id.Scope()); err != nil {
		return identity.Password{}, err
	}
	password, err := s.Identity.NewPassword(ctx, h, identity.PasswordNames[0], time.Time{})
	if err != nil {
		return identity.Password{}, err
	}
	return password, s.write(ctx, func(tx *db.Tx) error {
		if _, err := s.getTx(ctx, tx, users, id); err != nil {
			return err
		}
		if err := s.Identity.KeepPasswords(ctx, tx, h, g.Modified()); err != nil {
			return err
		}
		if err := s.Identity.PutPasswords(ctx, tx, h, g.Modified(), password); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, access.UserReset, id, map[string]string{"password": password.Name})
	})
}

// PutUser creates a user without a password (ResetUser makes one), or changes its
// status: who is disabled is unknown from the next request on. Nobody disables
// itself.
func (s *Store) PutUser(ctx context.Context, g access.Grant, name string, p identity.UserProperties, ifMatch string) (User, error) {
	id := identity.UserID(name)
	if err := g.Allows(access.UserWrite, id.Scope()); err != nil {
		return User{}, err
	}
	if err := identity.CheckName("user", name); err != nil {
		return User{}, err
	}
	if err := checkStatus(&p.Status); err != nil {
		return User{}, err
	}
	if p.Status == disabled && itself(g, id) {
		return User{}, fault.New(fault.Conflict, "nobody disables itself; let somebody else do it")
	}
	doc := resource.Resource{ID: id, Type: identity.UserType}
	err := s.write(ctx, func(tx *db.Tx) (err error) {
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, users.called, name)
		}
		return g.Record(ctx, tx, s.Ledger, access.UserWrite, id, map[string]string{"status": p.Status})
	})
	if err != nil {
		return User{}, err
	}
	return s.user(ctx, doc)
}

// User reads one user.
func (s *Store) User(ctx context.Context, g access.Grant, name string) (User, error) {
	return show(ctx, s, g, access.UserRead, users, identity.UserID(name), s.user)
}

// Users lists the users after the one called after, in order of name.
func (s *Store) Users(ctx context.Context, g access.Grant, after string, limit int) ([]User, error) {
	if err := g.Allows(access.UserRead, allUsers.Scope()); err != nil {
		return nil, err
	}
	return each(ctx, s, g, access.UserRead, users, allUsers, start(identity.UserID, after), limit, s.user)
}

// DeleteUser deletes a user with its passwords. Nobody deletes itself.
func (s *Store) DeleteUser(ctx context.Context, g access.Grant, name, ifMatch string) error {
	id := identity.UserID(name)
	return remove(ctx, s, g, access.UserDelete, users, id, ifMatch,
		func(_ *db.Tx, doc resource.Resource, _ identity.UserProperties) (map[string]string, error) {
			if itself(g, id) {
				return nil, fault.New(fault.Conflict, "nobody deletes itself; let somebody else do it")
			}
			return map[string]string{"principal": doc.System.UID}, nil
		})
}

func (s *Store) user(ctx context.Context, doc resource.Resource) (User, error) {
	p, err := read[identity.UserProperties](doc)
	if err != nil {
		return User{}, err
	}
	u := User{ID: doc.ID, Name: doc.ID.Name(), PrincipalID: doc.System.UID, Etag: doc.Etag, System: doc.System, UserProperties: p}
	u.Passwords, err = s.Identity.Passwords(ctx, identity.UserHolder(u.Name))
	return u, err
}

func itself(g access.Grant, id ref.ID) bool {
	return strings.EqualFold(string(g.Principal().Account), string(id))
}

// start is where a list goes on after a name; "" is from the first.
func start(id func(name string) ref.ID, after string) ref.ID {
	if after == "" {
		return ""
	}
	return id(after)
}
