package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

func TestADeletedRegistryCannotBeReadAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		const host = "shop1.example.com"
		old := h.at(host)
		g := h.grant(host, h.user("owner", access.OwnerRole, ref.Everything))
		c := h.token(g, "ci", "repositories/*/content/read")
		if may(h.grant(host, c), "a") != "pull" {
			t.Fatal("the token does not open its registry")
		}
		reader := h.grant("", h.user("reader", access.ReaderRole, ref.Everything))
		for _, row := range []struct {
			g       access.Grant
			id      ref.ID
			ifMatch string
			want    fault.Code
		}{
			{access.Grant{}, shopID, resource.Any, fault.Denied},
			{reader, shopID, resource.Any, fault.Denied},
			{reader, shopID + "x", resource.Any, fault.Denied},
			{g, shopID + "x", resource.Any, fault.NotFound},
			{g, shopID.Child("tokens", "ci"), resource.Any, fault.NotFound},
			{g, group, resource.Any, fault.NotFound},
			{g, shopID, "another", fault.Stale},
			{g, mainID, resource.Any, fault.Conflict}, // it answers on bare addresses
		} {
			if _, err := h.registries.Delete(ctx, row.g, row.id, row.ifMatch); fault.Of(err) != row.want {
				t.Errorf("%s: %v", row.id, err)
			}
		}
		slow := resource.During(ctx, old.ID, old.UID) // of a request that was let in before
		_, err := h.registries.Delete(ctx, g, ref.ID(strings.ToUpper(string(shopID))), old.Etag)
		h.ok(err)

		if _, err := h.rings.Ring(ctx, old.UID); fault.Of(err) != fault.Unavailable {
			t.Errorf("its keys are there still: %v", err)
		}
		if docs, err := h.docs.List(ctx, shopID, "", "", 0); err != nil || len(docs) > 0 {
			t.Errorf("below it lie %v, %v", docs, err)
		}
		if _, err := h.registries.ByHost(ctx, host); fault.Of(err) != fault.NotFound {
			t.Errorf("its host answers: %v", err)
		}
		if _, err := h.access.PutToken(slow, g, "late", access.ScopeMapID(shopID, "_repositories_admin"), "", resource.Any); fault.Of(err) == 0 {
			t.Error("a token was put where no registry is")
		}

		again, err := h.registries.Create(ctx, h.server, shopID, "local", nil, registry.Properties{})
		h.ok(err)
		if again.UID == old.UID || again.System.CreatedAt.Equal(old.System.CreatedAt) {
			t.Errorf("it is the same: %+v", again.System)
		}
		if _, err := h.enter(host, c); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the old token: %v", err)
		}
		// Whoever began before, for the old one, changes nothing of the new one.
		for name, err := range map[string]error{
			"put a token": func() error {
				_, err := h.access.PutToken(slow, g, "late", access.ScopeMapID(shopID, "_repositories_admin"), "", resource.Any)
				return err
			}(),
			"assigned a role": func() error {
				_, err := h.access.Assign(slow, g, shopID.Scope(), ref.NewGUID(), access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: ref.NewGUID()})
				return err
			}(),
			"changed it": func() error {
				_, err := h.registries.Update(slow, g, shopID, resource.Any, func(r *registry.Registry) error { r.AdminUserEnabled = true; return nil })
				return err
			}(),
			"deleted it": func() error {
				_, err := h.registries.Delete(slow, g, shopID, resource.Any)
				return err
			}(),
			"erased it": func() error {
				_, err := h.registries.Erase(slow, g, shopID, false)
				return err
			}(),
		} {
			if fault.Of(err) != fault.NotFound {
				t.Errorf("somebody who was let in for the old registry %s: %v", name, err)
			}
		}
		_, err = h.registries.Delete(ctx, g, shopID, resource.Any)
		h.ok(err)
	})
}

// Whoever may change a registry cannot make it act as any workload.
func TestAnIdentityIsGivenAwayByWhoMay(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		var ids []directory.ManagedIdentity
		for _, name := range []string{"web", "job"} {
			m, err := h.users.PutManagedIdentity(ctx, h.server, group.Extension(identity.ManagedIdentityType, name), "local", nil, resource.Absent)
			h.ok(err)
			ids = append(ids, m)
		}
		assign := func(g access.Grant, kind string, of ...ref.ID) (*registry.Registry, error) {
			return h.registries.Update(ctx, g, shopID, resource.Any, func(r *registry.Registry) error {
				r.Identity = registry.Identity{Type: kind, Assigned: map[ref.ID]registry.AssignedIdentity{}}
				for _, id := range of {
					r.Identity.Assigned[id] = registry.AssignedIdentity{PrincipalID: "me"}
				}
				return nil
			})
		}
		keeper := h.grant("shop1.example.com", h.user("keeper", access.ContributorRole, shopID.Scope()))
		if _, err := assign(keeper, "UserAssigned", ids[0].ID); fault.Of(err) != fault.Denied {
			t.Errorf("who keeps the registry gave away an identity: %v", err)
		}
		r, err := assign(h.server, "systemassigned,USERASSIGNED", ids[0].ID, ids[1].ID)
		h.ok(err)
		if r.Identity.Type != "SystemAssigned, UserAssigned" || r.Identity.Assigned[ids[1].ID] != (registry.AssignedIdentity{PrincipalID: ids[1].PrincipalID, ClientID: ids[1].ClientID}) {
			t.Errorf("%+v", r.Identity)
		}
		// It may leave what is there, and take it away.
		h.ok(h.users.DeleteManagedIdentity(ctx, h.server, ids[1].ID, resource.Any))
		if r, err = assign(keeper, "UserAssigned", ids[0].ID, ids[1].ID); err != nil || r.Identity.Assigned[ids[1].ID] != (registry.AssignedIdentity{}) || r.Identity.System() {
			t.Errorf("%+v, %v", r, err)
		}
		// Another one that is made under its name is nobody here, until somebody who may
		// assigns it.
		ids[1], err = h.users.PutManagedIdentity(ctx, h.server, ids[1].ID, "local", nil, resource.Absent)
		h.ok(err)
		customer(t, h)
		encrypt := func() error {
			e := enabled("https://hsm/keys/root")
			e.Key.Identity = ids[1].ClientID
			_, err := h.encrypt(h.server, e)
			return err
		}
		if r, err = assign(keeper, "UserAssigned", ids[0].ID, ids[1].ID); err != nil || r.Identity.Assigned[ids[1].ID] != (registry.AssignedIdentity{}) {
			t.Errorf("%+v, %v", r, err)
		}
		if err := encrypt(); fault.Of(err) != fault.BadRequest {
			t.Errorf("an identity that nobody assigned: %v", err)
		}
		_, err = assign(keeper, "UserAssigned", ids[0].ID)
		h.ok(err)
		if _, err = assign(keeper, "UserAssigned", ids[0].ID, ids[1].ID); fault.Of(err) != fault.Denied {
			t.Errorf("who keeps the registry gave away an identity: %v", err)
		}
		r, err = assign(h.server, "UserAssigned", ids[0].ID, ids[1].ID)
		h.ok(err)
		if r.Identity.Assigned[ids[1].ID].PrincipalID != ids[1].PrincipalID {
			t.Errorf("%+v", r.Identity)
		}
		h.ok(encrypt())
		if r, err = assign(keeper, "None"); err != nil || r.Identity.Type != "" || len(r.Identity.Assigned) > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		h.ok(h.users.DeleteManagedIdentity(ctx, h.server, ids[1].ID, resource.Any))
		for kind, of := range map[string][]ref.ID{"": {ids[0].ID}, "None, SystemAssigned": nil, "UserAssigned,": nil, "Somebody": nil,
			"SystemAssigned, UserAssigned": {ids[1].ID}, "UserAssigned": {shopID}, "userassigned ": {"/x"}} {
			if _, err := assign(h.server, kind, of...); fault.Of(err) != fault.BadRequest {
				t.Errorf("%q %v: %v", kind, of, err)
			}
		}
	})
}

// A registry that was made before names were looked up is found by its own.
func TestTheMigrationNamesWhatIsThere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		text, err := os.ReadFile(filepath.Join("../db/migrations", map[db.Engine]string{db.SQLite: "sqlite", db.Postgres: "postgres"}[d.Engine()], "00008_registry_name.sql"))
		h.ok(err)
		h.ok(d.Write(ctx, func(tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE resource SET holder = ''`); err != nil {
				return err
			}
			return h.docs.Lock(ctx, tx)
		}))
		if _, err := h.registries.ByHost(ctx, "shop1.example.com"); fault.Of(err) != fault.NotFound {
			t.Fatalf("it is found without its name: %v", err)
		}
		h.ok(d.Write(ctx, func(tx *db.Tx) error {
			if _, err := tx.Exec(ctx, string(text)); err != nil {
				return err
			}
			return h.docs.Lock(ctx, tx)
		}))
		if r := h.at("shop1.example.com"); r.Name != "Shop1" {
			t.Errorf("%+v", r)
		}
		if r := h.at(""); r.Name != "breakwater" {
			t.Errorf("%+v", r)
		}
	})
}
