// Package keys decides who can open a registry: it keeps the data keys of each
// registry, wrapped, and the platform key that wraps them (DP-4, DP-6).
//
// A registry has a Ring of data keys, one for each version. They are random,
// stored only as a Vault wrapped them, and leave this package only as keys
// derived from them. What holds a key does not print it.
package keys

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"breakwater/fault"
)

// Size is the length in bytes of the platform key, of a data key and of every
// key derived from one.
const Size = 32

// A KeyID says which secret is wrapped, for whom: "registry/<uid>/1". A Vault
// binds it to the wrapped secret, so that what was wrapped for one place does
// not unwrap for another.
type KeyID string

// Wrapped is a secret that only the Vault can open. ID is not part of Data: who
// reads Data from a row knows from the row whose secret it must be.
type Wrapped struct {
	ID   KeyID
	Data []byte
}

// ErrDamaged says that a wrapped secret is not what was wrapped: changed, moved to
// another place, or wrapped with another key.
var ErrDamaged = errors.New("a wrapped key is damaged or from another place")

// A Vault wraps secrets: the platform key file, Vault or OpenBao Transit, Key
// Vault, PKCS#11.
//
// An Unwrap of something that was not wrapped under the same ID, or was changed
// since, is ErrDamaged. A Vault that cannot answer returns fault.Unavailable. Neither
// ever returns a wrong secret.
type Vault interface {
	Wrap(ctx context.Context, id KeyID, secret []byte) (Wrapped, error)
	Unwrap(ctx context.Context, w Wrapped) ([]byte, error)
}

// silent is embedded in what holds a key: it prints as "[key]" with every verb,
// as text and as JSON.
type silent struct{}

func (silent) Format(f fmt.State, _ rune)   { io.WriteString(f, "[key]") }
func (silent) MarshalText() ([]byte, error) { return []byte("[key]"), nil }

// A secret is behind a function: fmt follows pointers, even those of fields
// that are not exported, but it does not call.
type secret func() *[Size]byte

func hide(b []byte) secret {
	k := [Size]byte(b)
	return func() *[Size]byte { return &k }
}

// A DataKey is one version of the key of a registry. The zero DataKey derives
// nothing.
type DataKey struct {
	silent
	registry string
	version  uint32
	secret   secret
}

// Registry is the uid of the registry whose key it is.
func (k DataKey) Registry() string { return k.registry }

// Version is the number of the key in its ring, from 1.
func (k DataKey) Version() uint32 { return k.version }

// With is the key mixed with a secret that lies elsewhere: HKDF-SHA256(data key, salt
// secret). What is derived from it takes both, so it ends with either.
func (k DataKey) With(secret *[Size]byte) (DataKey, error) {
	if k.secret == nil {
		return DataKey{}, fault.New(fault.Unavailable, "this registry has no key at the moment")
	}
	both, err := hkdf.Key(sha256.New, k.secret()[:], secret[:], "breakwater object 2", Size)
	if err != nil {
		return DataKey{}, err
	}
	return DataKey{registry: k.registry, version: k.version, secret: hide(both)}, nil
}

// Derive returns a key for one object and a commitment to it: the two halves of
// HKDF-SHA256(data key, salt, info). Who can make two data keys, salts or infos
// yield one commitment has broken SHA-256, so an object that stores its
// commitment opens under one key and in one place only.
func (k DataKey) Derive(salt, info []byte) (key, commitment [Size]byte, err error) {
	if k.secret == nil {
		return key, commitment, fault.New(fault.Unavailable, "this registry has no key at the moment")
	}
	both, err := hkdf.Key(sha256.New, k.secret()[:], salt, string(info), 2*Size)
	if err != nil {
		return key, commitment, err
	}
	return [Size]byte(both[:Size]), [Size]byte(both[Size:]), nil
}
