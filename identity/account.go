package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

// An account is somebody of this server who can sign in, with everything that
// proves it now.
type account struct {
	Principal
	passwords []verifier
	proofs    []proof // of every kind
}

// A proof is something by which an account can prove itself.
type proof struct {
	id         string // Principal.Credential of who did
	start, end time.Time
	method     []string // amr of RFC 8176
}

// Methods of authentication, as RFC 8176 calls them: a secret, and a key that
// software holds.
var (
	secretMethod = []string{"pwd"}
	keyMethod    = []string{"swk"}
)

type accountKey struct {
	kind     Kind
	id       ref.ID
	registry string
}

// account reads the account of h; Unauthenticated if there is none or it is
// disabled.
func (s *Store) account(ctx context.Context, h Holder, r Realm) (*account, error) {
	return s.accounts.Get(ctx, s.o.Documents, accountKey{h.kind, h.id, r.UID}, func(ctx context.Context) (*account, error) {
		a, err := s.load(ctx, h, r)
		if fault.Of(err) == fault.NotFound {
			err = refused()
		}
		if err != nil {
			return nil, err
		}
		if a.passwords, err = s.verifiers(ctx, h); err != nil {
			return nil, err
		}
		for _, v := range a.passwords {
			a.proofs = append(a.proofs, proof{v.ID, v.Start, v.Expiry, secretMethod})
		}
		return a, nil
	})
}

func (s *Store) load(ctx context.Context, h Holder, r Realm) (*account, error) {
	switch h.kind {
	case Admin:
		return &account{Principal: Principal{ID: "admin@" + r.UID, Kind: Admin, Name: r.Name, Account: h.id, Registry: r.UID}}, nil
	case ServicePrincipal, ManagedIdentity:
		return s.loadClient(ctx, h)
	}
	doc, err := s.o.Documents.Get(ctx, h.id)
	if err != nil {
		return nil, err
	}
	var state UserProperties // tokens have a status as well
	if err := json.Unmarshal(doc.Properties, &state); err != nil {
		return nil, fmt.Errorf("read account %s: %w", h.id, err)
	}
	if state.Status != EnabledStatus {
		return nil, refused()
	}
	p := Principal{ID: doc.System.UID, Kind: h.kind, Name: doc.ID.Name(), Account: doc.ID}
	if h.kind == Token {
		p.Registry = r.UID
	}
	return &account{Principal: p}, nil
}

func (s *Store) loadClient(ctx context.Context, h Holder) (*account, error) {
	c, err := s.Client(ctx, h.id.Name())
	if err != nil {
		return nil, err
	}
	if !c.Enabled || c.Kind != h.kind {
		return nil, refused()
	}
	a := &account{Principal: Principal{ID: c.PrincipalID, Kind: c.Kind, Name: c.Name, Account: c.ID, Client: c.ClientID}}
	for _, k := range c.keys {
		a.proofs = append(a.proofs, proof{k.KeyID, k.Start, k.End, keyMethod})
	}
	if here := func(id ref.ID) bool { return id.Key() == c.ID.Key() }; s.o.Host.Listener != "" && slices.ContainsFunc(s.o.Host.Identities, here) {
		a.proofs = append(a.proofs, proof{id: hostCredential})
	}
	federated, err := s.federatedCredentials(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, f := range federated {
		a.proofs = append(a.proofs, proof{id: f.id})
	}
	return a, nil
}

func (a *account) verifier(id string) (verifier, bool) {
	at := slices.IndexFunc(a.passwords, func(v verifier) bool { return v.ID == id })
	if at < 0 {
		return verifier{}, false
	}
	return a.passwords[at], true
}

// by is the account as proven by the proof of that id, or Unauthenticated if that
// is none of its, or not yet. When it ends is for Until to say.
func (a *account) by(id string) (Principal, error) {
	at := slices.IndexFunc(a.proofs, func(p proof) bool { return p.id == id })
	if at < 0 || id == "" || time.Now().Before(a.proofs[at].start) {
		return Principal{}, refused()
	}
	p := a.Principal
	p.Credential, p.Until, p.Authentication.AMR = id, a.proofs[at].end, a.proofs[at].method
	return p, nil
}

// workload is a managed identity as its host proves it.
func (s *Store) workload(ctx context.Context, id ref.ID) (Principal, error) {
	c, err := s.ClientAt(ctx, id)
	if fault.Of(err) == fault.NotFound {
		err = refused()
	}
	if err != nil {
		return Principal{}, err
	}
	a, err := s.account(ctx, Holder{ManagedIdentity, ClientID(c.ClientID)}, Realm{})
	if err != nil {
		return Principal{}, err
	}
	return a.by(hostCredential)
}
