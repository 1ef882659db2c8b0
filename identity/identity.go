// Package identity decides who is calling (IM-1, PA-1).
//
// A caller proves who it is with a generated password (Basic) or with a token
// that this server signed (Bearer). What is proven is an identity and, for a
// token, a ceiling; never a right. Accounts, verifiers and signing keys are
// documents, so whatever is revoked is unknown from the next request on.
package identity

import (
	"time"

	"breakwater/ledger"
	"breakwater/ref"
)

// A Kind is what sort of caller a principal is.
type Kind string

const (
	User      Kind = "user"      // a person of this server's directory, such as the owner
	Token     Kind = "token"     // a repository token of one registry
	Admin     Kind = "admin"     // the admin user of one registry
	Anonymous Kind = "anonymous" // nobody in particular
	Server    Kind = "server"    // this process, when it acts without being asked
)

// A Principal is a caller whose identity is proven. The zero Principal is not
// even anonymous: nothing is assigned to it.
type Principal struct {
	ID         string    // random and never reused: an account that is created again is another principal; "" if anonymous
	Kind       Kind      //
	Name       string    // what the account is called, for people
	Account    ref.ID    // the account's document; for the admin user, its registry
	Registry   string    // UID of the one registry where a token or admin user exists; "" for a user
	Credential string    // the password that was shown, or that the shown token descends from
	Until      time.Time // when that credential ends; zero for never
	Ceiling    *Ceiling  // nil: none
}

// ThisServer is the process itself: who did what nobody asked for.
func ThisServer() Principal { return Principal{ID: "server", Kind: Server, Name: "breakwater"} }

// Proven reports whether the caller showed a credential of ours. An anonymous
// caller may show one too: the token that the token endpoint gave it.
func (p Principal) Proven() bool {
	return p.Kind != "" && (p.Kind != Anonymous || p.Ceiling != nil)
}

// Who is the principal as the ledger knows it.
func (p Principal) Who() ledger.Who {
	return ledger.Who{ID: p.ID, Kind: string(p.Kind), Name: p.Name}
}

// A Ceiling is what a bearer token was asked for: its bearer may do no more, even
// where the principal may. An empty Ceiling lets nothing through.
type Ceiling struct {
	Access []Access
	ID     string // jti of the token, for the ledger
}

// Access is one entry of a token's access claim, and one scope of the token
// endpoint: "type:name:action,action".
type Access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// A Realm is the registry at whose door the caller stands, as far as identity
// has to know it.
type Realm struct {
	UID              string // of the registry's document
	ID               ref.ID
	Name             string
	Service          string // host[:port] of the login server: the audience of its tokens
	AdminUserEnabled bool
}

// LocalAuthentication is the section of a registry's properties that this
// control owns. The zero value is the safe one.
type LocalAuthentication struct {
	AdminUserEnabled bool `json:"adminUserEnabled"`
}
