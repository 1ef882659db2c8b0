package directory_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/resource"
)

func kubernetes(url string) identity.IssuerProperties {
	return identity.IssuerProperties{Issuer: url, Audiences: []string{"registry"}, PrincipalType: identity.PrincipalApplication,
		JWKS: identitytest.JWKS(identitytest.EC("k1")), Claims: identity.Claims{Groups: []string{"groups"}}}
}

func TestIssuersAreWrittenReadAndDeletedWithTheirEvents(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := gatetest.Open(t, d, nil)
		ctx, g, s := t.Context(), h.Server(), h.Directory
		made, err := s.PutIssuer(ctx, g, "cluster", kubernetes("https://cluster.example"), resource.Absent)
		if err != nil {
			t.Fatal(err)
		}
		if made.Status != identity.EnabledStatus || made.Name != "cluster" || made.UID == "" || made.Etag == "" {
			t.Errorf("%+v", made)
		}
		if _, err := s.PutIssuer(ctx, g, "cluster", kubernetes("https://cluster.example"), resource.Absent); fault.Of(err) != fault.Conflict {
			t.Error("a name was given twice: ", err)
		}
		if _, err := s.PutIssuer(ctx, g, "copy", kubernetes("https://cluster.example"), resource.Any); fault.Of(err) != fault.Conflict {
			t.Error("a URL was given twice: ", err)
		}
		if _, err := s.PutIssuer(ctx, g, "cluster", kubernetes("https://other.example"), resource.Any); fault.Of(err) != fault.Conflict {
			t.Error("an issuer became another: ", err)
		}
		other := kubernetes("https://cluster.example")
		other.Claims.Subject = "/kubernetes.io/serviceaccount/name"
		if _, err := s.PutIssuer(ctx, g, "cluster", other, resource.Any); fault.Of(err) != fault.Conflict {
			t.Error("its principals became others: ", err)
		}
		if _, err := s.PutIssuer(ctx, g, "none", kubernetes("https://none.example"), resource.Exists); fault.Of(err) != fault.NotFound {
			t.Error(err)
		}
		if _, err := s.PutIssuer(ctx, g, "cluster", kubernetes("https://cluster.example"), "stale"); fault.Of(err) != fault.Stale {
			t.Error(err)
		}
		off := kubernetes("https://cluster.example")
		off.Status = "disabled"
		if _, err := s.PutIssuer(ctx, g, "cluster", off, made.Etag); err != nil {
			t.Fatal(err)
		}
		if i, err := s.Issuer(ctx, g, "CLUSTER"); err != nil || i.Status != "disabled" || i.UID != made.UID {
			t.Error(i, err)
		}
		if _, err := s.PutIssuer(ctx, g, "second", kubernetes("https://second.example"), resource.Any); err != nil {
			t.Fatal(err)
		}
		if all, err := s.Issuers(ctx, g, "cluster", 10); err != nil || len(all) != 1 || all[0].Name != "second" {
			t.Error(all, err)
		}
		if err := s.DeleteIssuer(ctx, g, "cluster", resource.Any); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteIssuer(ctx, g, "cluster", resource.Any); fault.Of(err) != fault.NotFound {
			t.Error(err)
		}
		again, err := s.PutIssuer(ctx, g, "renamed", kubernetes("https://cluster.example"), resource.Any)
		if err != nil || again.Principal("x") == made.Principal("x") {
			t.Error(again, err)
		}
		var told []string
		for _, e := range h.Events(t) {
			if strings.Contains(e.Operation, "/issuers/") {
				told = append(told, strings.TrimPrefix(e.Operation, "Breakwater.Identity/issuers/")+" "+e.Detail.More["issuer"])
			}
		}
		if got := strings.Join(told, ", "); got != "write https://cluster.example, write https://cluster.example, write https://second.example, delete https://cluster.example, write https://cluster.example" {
			t.Error(got)
		}
	})
}

func TestIssuersOfOneURLAtOnceAreOne(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := gatetest.Open(t, d, nil)
		var wg sync.WaitGroup
		made := make(chan string, 8)
		for n := range cap(made) {
			wg.Go(func() {
				name := fmt.Sprint("issuer", n)
				_, err := h.Directory.PutIssuer(t.Context(), h.Server(), name, kubernetes("https://one.example"), resource.Any)
				if err == nil {
					made <- name
				} else if fault.Of(err) != fault.Conflict {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(made) != 1 {
			t.Errorf("%d issuers have one URL", len(made))
		}
	})
}

func TestWhoHasNoRightToIssuersHasNone(t *testing.T) {
	h := gatetest.Open(t, dbtest.SQLite(t), nil)
	if _, err := h.Directory.PutIssuer(t.Context(), h.Server(), "cluster", kubernetes("https://cluster.example"), resource.Any); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func(access.Grant) error{
		"write": func(g access.Grant) error {
			_, err := h.Directory.PutIssuer(t.Context(), g, "cluster", kubernetes("https://cluster.example"), resource.Any)
			return err
		},
		"read": func(g access.Grant) error { _, err := h.Directory.Issuer(t.Context(), g, "cluster"); return err },
		"list": func(g access.Grant) error { _, err := h.Directory.Issuers(t.Context(), g, "", 10); return err },
		"resolve": func(g access.Grant) error {
			_, err := h.Directory.Resolve(t.Context(), g, "cluster", "", "x")
			return err
		},
		"delete": func(g access.Grant) error { return h.Directory.DeleteIssuer(t.Context(), g, "cluster", resource.Any) },
	} {
		if err := ask(access.Grant{}); fault.Of(err) != fault.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientSecretOfAnIssuerIsNotTold(t *testing.T) {
	h := gatetest.Open(t, dbtest.SQLite(t), nil)
	p := kubernetes("https://login.example")
	p.JWKS, p.SignIn = nil, &identity.SignIn{ClientID: "registry", ClientSecret: "hush-hush"}
	if _, err := h.Directory.PutIssuer(t.Context(), h.Server(), "login", p, resource.Any); err != nil {
		t.Fatal(err)
	}
	sealed := func() string {
		doc, err := h.Documents.Get(t.Context(), identity.IssuerID("login"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(doc.Properties), "hush") {
			t.Errorf("the secret is stored as it is: %s", doc.Properties)
		}
		var stored identity.IssuerProperties
		if err := json.Unmarshal(doc.Properties, &stored); err != nil {
			t.Fatal(err)
		}
		return string(stored.SignIn.Sealed)
	}
	before := sealed()
	i, err := h.Directory.Issuer(t.Context(), h.Server(), "login")
	if err != nil || i.SignIn.ClientID != "registry" || i.SignIn.Sealed != nil || i.SignIn.ClientSecret != "" {
		t.Errorf("%+v %v", i.SignIn, err)
	}
	p.SignIn = &identity.SignIn{ClientID: "registry"}
	if _, err := h.Directory.PutIssuer(t.Context(), h.Server(), "login", p, resource.Any); err != nil || sealed() != before || before == "" {
		t.Error("a secret that was not named anew did not stay: ", err)
	}
	p.SignIn = &identity.SignIn{ClientID: "another"}
	if _, err := h.Directory.PutIssuer(t.Context(), h.Server(), "login", p, resource.Any); err != nil || sealed() != "" {
		t.Error("the secret of one client became that of another: ", err)
	}
	p.SignIn = &identity.SignIn{ClientID: "registry", Sealed: []byte(before)}
	if _, err := h.Directory.PutIssuer(t.Context(), h.Server(), "login", p, resource.Any); fault.Of(err) != fault.BadRequest {
		t.Error(err)
	}
}

func TestPrincipalsAreKnownBeforeTheyComeIn(t *testing.T) {
	h := gatetest.Open(t, dbtest.SQLite(t), nil)
	i, err := h.Directory.PutIssuer(t.Context(), h.Server(), "cluster", kubernetes("https://cluster.example"), resource.Any)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		claim, value, id, typ string
		code                  fault.Code
	}{
		{"", "system:serviceaccount:a:b", i.Principal("system:serviceaccount:a:b"), "ServicePrincipal", fault.Internal},
		{"groups", "developers", i.Group("groups", "developers"), "Group", fault.Internal},
		{"roles", "developers", "", "", fault.BadRequest},
		{"", "", "", "", fault.BadRequest},
	} {
		got, err := h.Directory.Resolve(t.Context(), h.Server(), "cluster", row.claim, row.value)
		if got.PrincipalID != row.id || got.PrincipalType != row.typ || err != nil && fault.Of(err) != row.code || (err == nil) != (row.id != "") {
			t.Errorf("%+v: %+v %v", row, got, err)
		}
	}
}
