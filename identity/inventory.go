package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

// A CredentialInfo is what may be told of something that proves somebody of this
// server.
type CredentialInfo struct {
	ID      string    `json:"-"` // a GUID of this entry
	Account ref.ID    `json:"account"`
	Sort    string    `json:"kind"`           // password, secret, certificate or federated
	Name    string    `json:"name,omitempty"` // of the password or federated credential; what people call a secret or certificate
	KeyID   string    `json:"keyId,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Created time.Time `json:"createdDateTime,omitzero"`  // a certificate's is when it begins
	Expiry  time.Time `json:"endDateTime,omitzero"`      // zero for never
	Used    time.Time `json:"lastUsedDateTime,omitzero"` // to about ten minutes; zero for never
}

// Credentials is everything that proves an account of this server, the oldest
// first: passwords of users, repository tokens and admin users, and the secrets,
// certificates and federated credentials of clients.
func (s *Store) Credentials(ctx context.Context) ([]CredentialInfo, error) {
	var all []CredentialInfo
	used, err := s.lastUses(ctx)
	if err != nil {
		return nil, err
	}
	add := func(c CredentialInfo, id string) {
		c.ID, c.Used = derived(c.Account.Key(), c.Sort, id), used[id]
		all = append(all, c)
	}
	docs, err := s.o.Documents.List(ctx, "", passwordType, "", 0)
	if err != nil {
		return nil, err
	}
	for _, doc := range docs {
		var vs verifiers
		if err := json.Unmarshal(doc.Properties, &vs); err != nil {
			return nil, fmt.Errorf("read %s: %w", doc.ID, err)
		}
		account, sort := doc.ID.Parent(), "password"
		if client, ok := strings.CutPrefix(account.Key(), ClientID("").Key()); ok {
			c, err := s.Client(ctx, client)
			if fault.Of(err) == fault.NotFound {
				continue // proves nobody
			}
			if err != nil {
				return nil, err
			}
			account, sort = c.ID, "secret"
		}
		for _, v := range vs.Passwords {
			c := CredentialInfo{Account: account, Sort: sort, Name: v.Name, Hint: v.Hint, Created: v.Created, Expiry: v.Expiry}
			if sort == "secret" {
				c.KeyID = v.ID
			}
			add(c, v.ID)
		}
	}
	for _, typ := range []string{ServicePrincipalType, ManagedIdentityType} {
		docs, err := s.o.Documents.List(ctx, "", typ, "", 0)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			c, err := readClient(doc)
			if err != nil {
				return nil, err
			}
			for _, k := range c.keys {
				add(CredentialInfo{Account: c.ID, Sort: "certificate", Name: k.DisplayName, KeyID: k.KeyID, Created: k.Start, Expiry: k.End}, k.KeyID)
			}
			federated, err := s.federatedCredentials(ctx, c)
			if err != nil {
				return nil, err
			}
			for _, f := range federated {
				add(CredentialInfo{Account: c.ID, Sort: "federated", Name: f.name, Created: f.created}, f.id)
			}
		}
	}
	slices.SortFunc(all, func(a, b CredentialInfo) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}
