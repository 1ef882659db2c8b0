package keys

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"breakwater/fault"
)

// A Provider is a service or device of a customer that keeps keys and never gives
// them away: it wraps secrets with them (DP-5, DP-6).
//
// Every method fails in one of three ways. fault.Unavailable: the provider is down,
// slow or has too much to do, which says nothing about the key. fault.KeyRefused: it
// answered, and we may not use the key, in the State that StateOf tells: it was
// disabled, deleted, has expired, or our right to it was taken away. Any other error,
// ErrWrapped above all, says that what was asked is wrong. An error never has a
// secret or a credential in it.
type Provider interface {
	// Describe tells what a key is; of its current version if key has none.
	Describe(ctx context.Context, key Key) (Description, error)
	// Wrap encrypts a secret of at most MaxSecret bytes under the version that key
	// says, or the current one, and tells which. It binds id to it.
	Wrap(ctx context.Context, key Key, id KeyID, secret []byte) (wrapped []byte, version string, err error)
	// Unwrap returns what was wrapped under that id and version. Something else that
	// was wrapped, or was changed since, is ErrWrapped.
	Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error)
}

// A Key is a key of a provider as its people know it.
type Key struct {
	Name    string
	Version string // "" is the current one
}

func (k Key) String() string {
	if k.Version == "" {
		return k.Name
	}
	return k.Name + "/" + k.Version
}

// Algorithms, by which a key wraps.
const (
	AES      = "AES-256-GCM"
	AESWrap  = "A256KW"
	RSA      = "RSA-OAEP-256"
	RSASHA1  = "RSA-OAEP" // of a device that knows no other hash here; OAEP does not need that its collisions are hard to find
	EC       = "ECDH-ES+A256GCM"
	ChaCha20 = "CHACHA20-POLY1305"
)

// A Description is what a provider says of a version of a key.
type Description struct {
	Algorithm string
	Bits      int // of the modulus, the curve or the key
	State     State
	Version   string
	Created   time.Time // of the version; zero if the provider does not say
	Begins    time.Time // zero: it has begun
	Expires   time.Time // zero: never
}

// A State is what became of a key, as we are told or find.
type State string

const (
	Enabled  State = "enabled"
	Disabled State = "disabled"
	Expired  State = "expired"
	Early    State = "not valid yet"
	Gone     State = "deleted"
	Replaced State = "another one: it does not open what it wrapped"
	Barred   State = "out of reach: the right to use it was taken away" // from us
)

// KeyState is what a caller learns of a key that is refused.
type KeyState struct {
	Key   string `json:"key"`
	State State  `json:"state"`
}

func refusal(key Key, s State, cause error) error {
	return fault.New(fault.KeyRefused, "the customer's key %s is %s; its content can be read when the key can be used again", key, s).
		With(KeyState{key.String(), s}).Because(cause)
}

// StateOf is why a key was refused, if that is what the error says.
func StateOf(err error) (State, bool) {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != fault.KeyRefused {
		return "", false
	}
	s, ok := f.Detail.(KeyState)
	return s.State, ok
}

// down is what every provider says when it cannot answer now.
func down(what string, cause error) error {
	return fault.New(fault.Unavailable, "the customer's key service does not answer; try again later").After(5 * time.Second).
		Because(fmt.Errorf("%s: %w", what, cause))
}

// Usable is why a key cannot be used at that time; nil if it can.
func (d Description) Usable(key Key, now time.Time) error {
	state := d.State
	switch {
	case state != Enabled:
	case !d.Begins.IsZero() && now.Before(d.Begins):
		state = Early
	case !d.Expires.IsZero() && !now.Before(d.Expires):
		state = Expired
	}
	if state == Enabled {
		return nil
	}
	return refusal(key, state, nil)
}

// Strong is why a key is too weak to be chosen, or of a kind that does not wrap; nil
// if it is not. 2048 is the least that NIST SP 800-57 allows, and what Azure makes.
func (d Description) Strong() error {
	least := map[string]int{AES: 256, AESWrap: 256, ChaCha20: 256, RSA: 2048, RSASHA1: 2048, EC: 256}[d.Algorithm]
	if least == 0 {
		return fault.New(fault.BadRequest, "a key of the kind %q cannot wrap other keys; take AES of 256 bits, RSA of at least 2048 (better 3072), or where the provider can, EC of at least 256", d.Algorithm)
	}
	if d.Bits < least {
		return fault.New(fault.BadRequest, "the key has %d bits; %s needs at least %d", d.Bits, d.Algorithm, least)
	}
	return nil
}

// MaxSecret is as much as fits into the smallest RSA key with what bind adds.
const MaxSecret = 128

// ErrWrapped says that bytes are not what was wrapped for the place they lie in.
var ErrWrapped = errors.New("not what was wrapped here: it was changed, or belongs to another place")

const (
	bindHead = 4
	bindSize = bindHead + sha256.Size
)

// bind puts the place of a secret before it, because half of the providers know no
// associated data: "BK", 1, the length of the secret, SHA-256 of id, the secret, and
// zeros to a multiple of 8, which AES key wrap (RFC 3394) wants. All their ways to
// encrypt detect every change, so what binds lies as safe as the secret.
func bind(id KeyID, secret []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("a secret of %d bytes is not wrapped; 1 to %d are", len(secret), MaxSecret)
	}
	sum := sha256.Sum256([]byte(id))
	b := append([]byte{'B', 'K', 1, byte(len(secret))}, sum[:]...)
	b = append(b, secret...)
	return append(b, make([]byte, (8-len(b)%8)%8)...), nil
}

// unbind is the secret that was bound to id; b is used up. what gave b: an answer with
// nothing in it, such as a proxy's, says nothing about what was wrapped.
func unbind(what string, id KeyID, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, down(what, errors.New("an answer without what was unwrapped"))
	}
	defer clear(b)
	sum := sha256.Sum256([]byte(id))
	if len(b) < bindSize || b[0] != 'B' || b[1] != 'K' || b[2] != 1 || subtle.ConstantTimeCompare(b[bindHead:bindSize], sum[:]) != 1 {
		return nil, ErrWrapped
	}
	n := int(b[3])
	if n == 0 || n > MaxSecret || len(b) != (bindSize+n+7)/8*8 {
		return nil, ErrWrapped
	}
	return append([]byte(nil), b[bindSize:bindSize+n]...), nil
}
