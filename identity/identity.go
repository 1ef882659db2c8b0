// Package identity decides who is calling (IM-1, PA-1).
//
// A caller proves who it is with a generated password, with the key of a registered
// certificate, with a token that this server signed, or with one of an external
// issuer that a document says is trusted. Which of them counts at which API is a
// table, Store.prove. What is proven is an identity and, for a registry's token, a
// ceiling; never a right. Accounts, verifiers, issuers and signing keys are
// documents, so whatever is revoked is unknown from the next request on. What is
// known only for a while (codes, devices, refresh tokens, last uses) has tables.
package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"breakwater/ledger"
	"breakwater/ref"
)

// A Kind is what sort of caller a principal is.
type Kind string

const (
	User             Kind = "user"             // a person of this server's directory, such as the owner
	ServicePrincipal Kind = "servicePrincipal" // an application of this server's directory
	ManagedIdentity  Kind = "managedIdentity"  // a workload that this server knows; it has no secret
	Federated        Kind = "federated"        // somebody whom an external issuer vouches for
	Token            Kind = "token"            // a repository token of one registry
	Admin            Kind = "admin"            // the admin user of one registry
	Anonymous        Kind = "anonymous"        // nobody in particular
	Server           Kind = "server"           // this process, when it acts without being asked
)

// A Principal is a caller whose identity is proven. The zero Principal is not
// even anonymous: nothing is assigned to it.
type Principal struct {
	ID         string    // a GUID that is never another's: random, so that an account that is made again is somebody else, or a FederatedID; "" if anonymous
	Kind       Kind      //
	Name       string    // what the account is called, for people
	Account    ref.ID    // the account's document; for the admin user its registry, for the federated their issuer
	Registry   string    // UID of the one registry where a token or admin user exists; "" elsewhere
	Client     string    // client id of the application, its own or the one it signed in through; "" if none
	Through    bool      // … and it did, at this server's authority: it must still be one of its applications
	Groups     []string  // ids of the groups that it was in when it signed in, sorted
	Credential string    // what was shown, or what the shown token descends from: a password, a certificate, an issuer …
	Until      time.Time // when that credential ends; zero for never
	Ceiling    *Ceiling  // nil: none

	Authentication Authentication
	Session        *Session // what a code or refresh token of the authority goes on with; nil elsewhere
}

// Authentication is how and when a caller proved itself: what conditions judge
// (IM-7). A token carries that of the sign-in that it descends from.
type Authentication struct {
	Time   time.Time           `json:"time,omitzero"`    // of the sign-in; zero: just now
	Issuer string              `json:"issuer,omitempty"` // URL of who vouched for it; "" for this server
	ACR    string              `json:"acr,omitempty"`    // authentication context class (OpenID Connect Core)
	AMR    []string            `json:"amr,omitempty"`    // methods, as RFC 8176 calls them: pwd, otp, mfa …
	Claims map[string][]string `json:"claims,omitempty"` // those of the issuer's token that its document keeps
}

// FederatedID is the id of the principal or group that a claim of an issuer's
// token names. It follows from what names it, so that something can be assigned
// to it before it has ever signed in; and from the issuer's UID, so that an issuer
// that is made again vouches for others.
func FederatedID(issuerUID, claim, value string) string { return derived(issuerUID, claim, value) }

// derived is the GUID that follows from all parts, and from each in its place.
func derived(parts ...string) string {
	text := make([]byte, 0, 256)
	for _, part := range parts {
		text = binary.BigEndian.AppendUint32(text, uint32(len(part)))
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	return ref.DerivedGUID(sum[:16])
}

// A Plane is the API at which a caller stands. What opens one is nothing at
// another.
type Plane int

const (
	ContentPlane   Plane = iota // /v2/ and the registry's token endpoint
	ControlPlane                // resources
	AuthorityPlane              // the token issuer
	DataPlane                   // dedicated data endpoints: one blob for a ticket
)

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
	ARMTokens        bool // tokens for the control plane open the registry as well
}

// LocalAuthentication is the section of a registry's properties that this
// control owns. The zero value is the safe one.
type LocalAuthentication struct {
	AdminUserEnabled bool `json:"adminUserEnabled"`
}
