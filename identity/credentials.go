package identity

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"breakwater/fault"
)

// Limits of what a caller may show, in bytes.
const (
	maxAuthorization = 16 << 10
	maxUsername      = 512
	maxPassword      = 8 << 10
)

// RefreshUser is the user name that says "the password is a refresh token".
const RefreshUser = "00000000-0000-0000-0000-000000000000"

// A Secret is text that proves something. It does not print itself.
type Secret string

func (Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, "[secret]") }
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Credentials are what a caller shows: nothing, a user name and a password, or a
// bearer token.
type Credentials struct {
	Username string
	Password Secret
	Bearer   Secret
}

// None reports whether nothing was shown.
func (c Credentials) None() bool { return c == Credentials{} }

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
		return Credentials{Bearer: Secret(rest)}, nil
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
	return Credentials{Username: user, Password: Secret(password)}, nil
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
