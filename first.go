package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"breakwater/access"
	"breakwater/arm"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// What the first start makes.
const (
	registryName = "breakwater"
	groupName    = "breakwater"
	ownerName    = "owner"
)

// firstStart makes one registry, its owner and the file with the owner's login.
// Every step may have been taken before, by a start that was killed or by
// another process on the same database; then it is left as it is.
//
// The password is known only while it is made. So the file is begun, as
// owner.json.new, before the owner exists, and gets its name when the login in it
// works: a start that finds a begun file makes a new password.
func (h *house) firstStart(ctx context.Context, c *config, l login) error {
	g := access.ServerGrant(access.Registry{}, access.Call{})
	group := h.group()
	subscription := group.Parent()
	for _, made := range []struct {
		operation string // as Azure calls it
		doc       resource.Resource
	}{
		{"Microsoft.Resources/subscriptions/write", resource.Resource{ID: subscription, Type: arm.SubscriptionType}},
		{"Microsoft.Resources/subscriptions/resourceGroups/write", resource.Resource{ID: group, Type: arm.ResourceGroupType, Location: "local"}},
	} {
		if err := h.ensure(ctx, g, made.operation, made.doc); err != nil {
			return fmt.Errorf("make %s: %w", made.doc.Type, err)
		}
	}
	_, err := h.registries.ByName(ctx, registryName)
	if fault.Of(err) == fault.NotFound {
		_, err = h.registries.Create(ctx, g, group.Extension(registry.Type, registryName), "local", nil, registry.Properties{})
	}
	if err != nil && fault.Of(err) != fault.Conflict {
		return fmt.Errorf("make the registry: %w", err)
	}
	if err := h.owner(ctx, g, c, l); err != nil {
		return fmt.Errorf("make the owner: %w", err)
	}
	return nil
}

// ensure writes a document that is not there yet, and its event.
func (h *house) ensure(ctx context.Context, g access.Grant, operation string, doc resource.Resource) error {
	if _, err := h.documents.Get(ctx, doc.ID); fault.Of(err) != fault.NotFound {
		return err
	}
	doc.System = g.Modified()
	err := h.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := h.documents.Put(ctx, tx, doc, resource.Absent); err != nil {
			return err
		}
		return h.ledger.Append(ctx, tx, g.Event(ledger.Administrative, operation, doc.ID.Scope()))
	})
	if fault.Of(err) == fault.Stale {
		return nil // another process made it
	}
	return err
}

func (h *house) owner(ctx context.Context, g access.Grant, c *config, l login) error {
	path := filepath.Join(c.Data, "owner.json")
	begun := path + ".new"
	_, unfinished := os.Stat(begun)
	user, err := h.documents.Get(ctx, identity.UserID(ownerName))
	absent := fault.Of(err) == fault.NotFound
	if err != nil && !absent {
		return err
	}
	if !absent && errors.Is(unfinished, fs.ErrNotExist) {
		return moved(path, l)
	}
	if err := writeFile(begun, nil); err != nil {
		return err
	}
	var password identity.Password
	if absent {
		password, user, err = h.directory.CreateUser(ctx, g, ownerName)
	} else {
		password, err = h.directory.ResetUser(ctx, g, ownerName)
	}
	if err != nil {
		return err
	}
	_, err = h.access.Assign(ctx, g, ref.Everything, ref.DerivedGUID(h.platform.Derive("assignment of " + user.System.UID)[:16]), access.AssignmentProperties{
		RoleDefinitionID: access.OwnerRole, PrincipalID: user.System.UID, PrincipalType: "User",
	})
	if code := fault.Of(err); err != nil && code != fault.Conflict && code != fault.Stale && code != fault.AssignmentExists {
		return err
	}
	// Whoever has the machine has the server: no rule keeps the new login out for good.
	if err := h.access.Spare(ctx, g, user.System.UID); err != nil {
		return err
	}
	l.Username, l.Password = ownerName, string(password.Value)
	return writeLogin(begun, path, l)
}

// moved keeps the address in owner.json true when the server listens elsewhere
// than before. A file that is gone stays away: who took it has the login.
func moved(path string, now login) error {
	was, err := readLogin(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	now.Username, now.Password = was.Username, was.Password
	if now == was {
		return nil
	}
	return writeLogin(path+".moved", path, now)
}

// writeLogin writes the file at draft, durably, and then calls it path.
func writeLogin(draft, path string, l login) error {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(draft, append(text, '\n')); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeFile returns when the file would survive a power cut. Only its owner may
// read it.
func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
