package identity

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// Limits of what a caller may show, in bytes.
const (
	maxAuthorization = 16 << 10
	maxUsername      = 512
	maxPassword      = 12 << 10 // a token can stand in its place
)

// RefreshUser is the user name that says "the password is a refresh token".
const RefreshUser = ref.NoGUID

// A Secret is text that proves something. It does not print itself.
type Secret string

func (Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, "[secret]") }
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// A Method is how something is shown.
type Method int

const (
	Nothing           Method = iota
	Basic                    // RFC 7617: a password, or a token in its place
	Bearer                   // RFC 6750
	ClientSecret             // RFC 6749, 2.3.1
	ClientAssertion          // RFC 7521: signed with the client's key, or by an issuer that the client trusts
	ExternalToken            // an access token that shall become one of the registry's
	RefreshToken             // RFC 6749, 6: of the authority
	AuthorizationCode        // RFC 7636
	DeviceCode               // RFC 8628
	ExternalCode             // of an external issuer, by which a browser comes back from there
	HostIdentity             // nothing but the listener: a managed identity of this host
	Ticket                   // by which the login server sent somebody to the data endpoint
)

// Credentials are what a caller shows. The zero Credentials are nothing.
type Credentials struct {
	Method   Method
	Name     string   // of the user, or the client id
	Secret   Secret   // password, token, assertion or code
	Verifier Secret   // of an authorization code (RFC 7636)
	Redirect string   // redirect_uri of an authorization code
	Nonce    string   // that the id token of an ExternalCode must have
	Audience []string // who an assertion may be for: the URLs of the token endpoint that was asked
	Resource string   // what a token is wanted for: a client shows an assertion once for each
	Parcel   Parcel   // that a ticket is shown for
}

// None reports whether nothing was shown.
func (c Credentials) None() bool { return c.Method == Nothing }

// guessable reports whether the secret could be found by trying.
func (c Credentials) guessable() bool {
	return c.Method == ClientSecret || c.Method == Basic && c.Name != RefreshUser
}

// FromRequest reads the Authorization header. No header is no credentials; a
// header that cannot be read, or two of them, is Unauthenticated: who shows
// something broken is not anonymous.
func FromRequest(r *http.Request) (Credentials, error) {
	switch lines := r.Header["Authorization"]; len(lines) {
	case 0:
		return Credentials{}, nil
	case 1:
		return ParseAuthorization(lines[0])
	}
	return Credentials{}, malformed()
}

// ParseAuthorization reads the value of an Authorization header.
func ParseAuthorization(value string) (Credentials, error) {
	scheme, rest, ok := strings.Cut(value, " ")
	rest = strings.Trim(rest, " ")
	if !ok || rest == "" || len(value) > maxAuthorization {
		return Credentials{}, malformed()
	}
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		if strings.Trim(rest, tokenAlphabet) != "" {
			return Credentials{}, malformed()
		}
		return Credentials{Method: Bearer, Secret: Secret(rest)}, nil
	case strings.EqualFold(scheme, "Basic"):
		raw, err := base64.StdEncoding.Strict().DecodeString(rest)
		if err != nil {
			return Credentials{}, malformed()
		}
		user, password, ok := strings.Cut(string(raw), ":")
		if !ok {
			return Credentials{}, malformed()
		}
		return NewBasic(user, password)
	}
	return Credentials{}, malformed()
}

// tokenAlphabet is token68 of RFC 7235 without its padding, which no JWT has.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"

// NewBasic makes credentials of a user name and a password, also those of the
// token endpoint's form.
func NewBasic(user, password string) (Credentials, error) {
	if user == "" || len(user) > maxUsername || len(password) > maxPassword || hasControl(user) || hasControl(password) {
		return Credentials{}, malformed()
	}
	return Credentials{Method: Basic, Name: user, Secret: Secret(password)}, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func malformed() error {
	return fault.New(fault.Unauthenticated, "the Authorization header cannot be read; use Basic or Bearer")
}

// refused is the one answer to every credential that proves nothing, whether the
// account is unknown, disabled or the password wrong.
func refused() error {
	return fault.New(fault.Unauthenticated, "the credentials are not valid, or no longer")
}
