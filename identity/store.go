package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// Options say what a Store stands on.
type Options struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Vault     keys.Vault      // wraps the private signing keys
	Check     []byte          // Platform.Derive("token-check"): tells our passwords from guesses
	Host      Host            // managed identities of this machine
	Tickets   []byte          // Platform.Derive("data-tickets"): seals tickets for data endpoints; nil for none
	Tenant    string          // GUID for the tenant claim; "" is all zero
	Rotate    time.Duration   // how long a signing key signs; 0 is 30 days
	Egress    *network.Egress // how external issuers are reached; nil reaches none
}

// A Store knows the accounts, what proves them, and the keys that tokens are
// signed with.
type Store struct {
	o Options

	accounts resource.Cache[accountKey, *account]
	proven   resource.Cache[shown, Principal]
	keyring  resource.Cache[use, *keyring]
	clients  resource.Cache[string, *Client]              // by client id
	managed  resource.Cache[struct{}, map[string]*Client] // by principal id

	outside outside // external issuers
	known   known   // … that people sign in through

	secret   [32]byte                             // of this process: credentials are kept in memory only under it
	matched  recent[shown, string]                // passwords that argon2id has accepted, with the hash they were compared to
	signed   recent[shown, genuine[claims]]       // tokens whose signature has been verified
	verified recent[shown, genuine[issuedClaims]] // … and those of the authority
	guesses  throttle[guesser]                    // wrong passwords
	devices  throttle[netip.Prefix]               // devices that ask for a code
	waiting  throttle[struct{}]                   // … all of them
	typing   throttle[netip.Prefix]               // codes of devices that people type
	polls    throttle[string]                     // devices that ask whether somebody has signed in
	used     recent[string, time.Time]            // credentials, and when that was last written down
	asked    throttle[string]                     // issuers, what they are
	hashing  chan struct{}                        // argon2id runs that may go on at a time
	rotating sync.Mutex
	opened   sync.Map // kid → crypto.Signer
}

// New returns the identities in o.Documents.
func New(o Options) (*Store, error) {
	if o.DB == nil || o.Documents == nil || o.Ledger == nil || o.Vault == nil || len(o.Check) < 32 {
		return nil, errors.New("identity: an option is missing")
	}
	if o.Tenant == "" {
		o.Tenant = ref.NoGUID
	}
	if o.Rotate == 0 {
		o.Rotate = 30 * 24 * time.Hour
	}
	s := &Store{o: o, hashing: make(chan struct{}, 2)}
	rand.Read(s.secret[:])
	return s, nil
}

// Types of the documents that this package reads. Passwords and signing keys
// have documents of their own, which no API shows.
const (
	UserType     = "Breakwater.Identity/users"
	TokenType    = "Microsoft.ContainerRegistry/registries/tokens"
	passwordType = "Breakwater.Identity/passwords"
	keyType      = "Breakwater.Identity/signingKeys"
)

// UserID is the id of a user's document. ValidName says which names there are.
func UserID(name string) ref.ID { return ref.ID("/providers/" + UserType + "/" + name) }

// TokenID is the id of a repository token's document.
func TokenID(registry ref.ID, name string) ref.ID { return registry.Child("tokens", name) }

// ValidName reports whether an account may be called so: 1 to 64 letters, digits,
// '-', '_', '.' and '@', the first of them a letter or digit.
func ValidName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.' && c != '@') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// CheckName refuses a name that is not valid, in words for whoever gave it; what is
// "user", "scope map" …
func CheckName(what, name string) error {
	if !ValidName(name) {
		return fault.New(fault.BadRequest, "the name of a %s has 1 to 64 letters, digits, '-', '_', '.' or '@', and starts with a letter or digit", what)
	}
	return nil
}

// TokenProperties are the stored properties of a repository token.
type TokenProperties struct {
	ScopeMapID ref.ID `json:"scopeMapId"`
	Status     string `json:"status"` // enabled or disabled
}

// UserProperties are the stored properties of a user.
type UserProperties struct {
	Status string `json:"status"`
}

// EnabledStatus is the status of an account that may sign in.
const EnabledStatus = "enabled"

// Authenticate proves who shows c at an API of r. Nothing shown is Anonymous.
// What proves nothing is Unauthenticated, in the same words and after the same
// work whether or not the account exists; who keeps on guessing is told
// TooManyRequests. A valid credential is never locked out by somebody's guesses.
func (s *Store) Authenticate(ctx context.Context, r Realm, at Plane, c Credentials, from network.Origin) (Principal, error) {
	if c.None() {
		return Principal{Kind: Anonymous}, nil
	}
	p, err := s.prove(ctx, r, at, c, from)
	if err == nil && p.Kind == Admin && !r.AdminUserEnabled {
		err = refused()
	}
	if err == nil && !p.Until.IsZero() && !time.Now().Before(p.Until) {
		err = refused()
	}
	if err == nil {
		s.noteUse(ctx, p.Credential)
		return p, nil
	}
	// A token cannot be guessed, and many callers show one that has ended.
	if fault.Of(err) == fault.Unauthenticated && c.guessable() {
		if wait := s.guess(r, c, from); wait > 0 {
			return Principal{}, fault.New(fault.TooManyRequests, "too many wrong passwords for this account from this address").After(wait)
		}
	}
	return Principal{}, err
}

// prove is which proof counts where. What is not here proves nothing.
func (s *Store) prove(ctx context.Context, r Realm, at Plane, c Credentials, from network.Origin) (Principal, error) {
	switch at {
	case ContentPlane:
		switch c.Method {
		case Basic:
			switch {
			case c.Name == RefreshUser:
				return s.token(ctx, r, string(c.Secret), refreshGrant)
			case c.Secret.signed() && ref.IsGUID(c.Name):
				return s.assertion(ctx, r, c)
			case c.Secret.signed():
				return s.external(ctx, r, at, c.Secret)
			}
			return s.password(ctx, r, at, c)
		case Bearer:
			return s.token(ctx, r, string(c.Secret), accessGrant)
		case ExternalToken:
			return s.foreign(ctx, r, at, c.Secret)
		}
	case ControlPlane:
		switch c.Method {
		case Basic:
			return s.password(ctx, r, at, c)
		case Bearer:
			return s.foreign(ctx, r, at, c.Secret)
		}
	case AuthorityPlane:
		switch c.Method {
		case Basic, ClientSecret:
			return s.password(ctx, r, at, c)
		case ClientAssertion:
			return s.assertion(ctx, r, c)
		case ExternalCode:
			return s.elsewhere(ctx, r, c)
		case AuthorizationCode:
			return s.code(ctx, r, c, from)
		case DeviceCode:
			return s.device(ctx, r, c)
		case RefreshToken:
			return s.refreshed(ctx, r, c, from)
		case HostIdentity:
			return s.host(ctx, r, c, from)
		}
	case DataPlane:
		if c.Method == Ticket {
			return s.ticket(ctx, r, c, from)
		}
	}
	return Principal{}, refused()
}

// foreign proves a token that is not the registry's: our authority's, or an
// external issuer's.
func (s *Store) foreign(ctx context.Context, r Realm, at Plane, token Secret) (Principal, error) {
	if p, ok, err := s.issued(ctx, r, at, token); ok || err != nil {
		return p, err
	}
	return s.external(ctx, r, at, token)
}

// signed reports whether the secret looks like a signed token (RFC 7515, compact).
// No password of ours has a dot.
func (s Secret) signed() bool { return strings.Count(string(s), ".") == 2 }

func signingKeyID(kid string) ref.ID { return ref.ID("/providers/" + keyType + "/" + kid) }
