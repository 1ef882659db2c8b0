// Package device is what breakwater and breakwater-pkcs11 say to each other: HTTP
// with JSON over a unix socket. It is a process of its own because a device's library
// is foreign code that needs a dynamic linker, and neither belongs where the keys of
// all registries are.
package device

import "time"

// The paths of what is asked, each with POST.
const (
	Describe = "/describe"
	Wrap     = "/wrap"
	Unwrap   = "/unwrap"
)

// An Ask is about one key, and what is to be wrapped or unwrapped with it.
type Ask struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Data    []byte `json:"data,omitempty"`
}

// An Answer has what was asked for. State is empty or says, with status 403, why the
// key is refused. Status 422 is wrapped bytes that are none, 503 a device that is
// out of reach.
type Answer struct {
	Data      []byte    `json:"data,omitempty"`
	Version   string    `json:"version,omitempty"`
	Algorithm string    `json:"algorithm,omitempty"`
	Bits      int       `json:"bits,omitempty"`
	State     string    `json:"state,omitempty"`
	Begins    time.Time `json:"begins,omitzero"`
	Expires   time.Time `json:"expires,omitzero"`
}

// MaxBody bounds both.
const MaxBody = 16 << 10
