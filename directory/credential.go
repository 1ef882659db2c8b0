package directory

import (
	"context"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/ref"
)

// CredentialType is the type under which every credential is listed. There is no
// document of it.
const CredentialType = "Breakwater.Identity/credentials"

const allCredentials = ref.ID("/providers/" + CredentialType)

// Credentials lists everything that proves an account of this server, the oldest
// first, after the entry called after: how old it is, when it ends, and when it was
// last used.
func (s *Store) Credentials(ctx context.Context, g access.Grant, after string, limit int) ([]identity.CredentialInfo, error) {
	if err := g.Allows(access.CredentialRead, allCredentials.Scope()); err != nil {
		return nil, err
	}
	all, err := s.Identity.Credentials(ctx)
	if err != nil {
		return nil, err
	}
	// An entry that is gone meanwhile begins the list again: better twice than never.
	all = all[slices.IndexFunc(all, func(c identity.CredentialInfo) bool { return c.ID == after })+1:]
	return all[:min(limit, len(all))], nil
}

// Credential reads one entry of that list.
func (s *Store) Credential(ctx context.Context, g access.Grant, id string) (identity.CredentialInfo, error) {
	if err := g.Allows(access.CredentialRead, allCredentials.Scope()); err != nil {
		return identity.CredentialInfo{}, err
	}
	all, err := s.Identity.Credentials(ctx)
	if err != nil {
		return identity.CredentialInfo{}, err
	}
	at := slices.IndexFunc(all, func(c identity.CredentialInfo) bool { return strings.EqualFold(c.ID, id) })
	if at < 0 {
		return identity.CredentialInfo{}, absent("credential")
	}
	return all[at], nil
}
