// Package seal decides how bytes are encrypted (DP-4): every object and every
// manifest, with a key of its own, bound to its place, so that who can read the
// raw storage learns nothing, and who can change it changes nothing unseen.
//
// The bytes are a header of ours and Tink's AES-GCM-HKDF streaming layout:
// segments of 64 KiB that open one by one. docs/format.md has them in full.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"breakwater/keys"
)

// ErrDamaged says that sealed bytes are not what was sealed: flipped, cut,
// reordered, moved to another place, or sealed with another key.
var ErrDamaged = errors.New("sealed bytes are damaged or from another place")

// A Place is where sealed bytes belong. It is bound to them: moved to another
// place they do not open.
type Place struct {
	Registry string // uid
	Object   string // the key in the object store, or the table and row
}

const (
	segment = 1 << 16 // sealed bytes of every segment but the last
	tagSize = 16      // at the end of every segment

	headSize   = 12                         // what a reader must know first
	saltAt     = headSize + keys.Size + 1   // after the commitment and Tink's length byte
	prefixAt   = saltAt + keys.Size         // after the salt
	prefixSize = 7                          // of the nonce
	headerSize = prefixAt + prefixSize      // where the first segment's ciphertext starts
	tinkHeader = 1 + keys.Size + prefixSize // what Tink's length byte says
)

// The two formats, in the fourth byte: the key of an object of the second takes a
// secret that is not in it.
const (
	alone      = 1
	withSecret = 2
)

// The two forms, in the fifth byte.
const (
	segmented = 1 // segments of 64 KiB
	whole     = 2 // one segment, whatever its length
)

// head is what a reader must know to find the key. All of it goes into the
// key's derivation, so none of it can be changed.
func head(format, form byte, version uint32) [headSize]byte {
	h := [headSize]byte{'B', 'W', 'S', format, form}
	if form == segmented {
		h[5] = 16 // log2 of the segment
	}
	binary.BigEndian.PutUint32(h[8:], version)
	return h
}

// A Secret is what an object's key takes beside the data key, and what lies in no other
// place than the object's row: when that is gone, nobody opens the object, whatever
// other keys he has. The zero Secret is none: the object is of the first format, from
// before there were any.
type Secret struct{ hidden func() *[keys.Size]byte }

// NewSecret is a new one.
func NewSecret() Secret {
	b := new([keys.Size]byte)
	rand.Read(b[:])
	return Secret{func() *[keys.Size]byte { return b }}
}

// ParseSecret reads what Bytes wrote. Anything else is ErrDamaged.
func ParseSecret(b []byte) (Secret, error) {
	if b == nil {
		return Secret{}, nil
	}
	if len(b) != keys.Size {
		return Secret{}, fmt.Errorf("%w: the secret of an object has %d bytes", ErrDamaged, len(b))
	}
	c := [keys.Size]byte(b)
	return Secret{func() *[keys.Size]byte { return &c }}, nil
}

// Bytes are for the object's row; nil for none.
func (s Secret) Bytes() []byte {
	if s.hidden == nil {
		return nil
	}
	return s.hidden()[:]
}

// Format keeps a Secret out of logs.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// format is of objects with such a secret.
func (s Secret) format() byte {
	if s.hidden == nil {
		return alone
	}
	return withSecret
}

// mixed is the data key that the object's key is derived from.
func (s Secret) mixed(k keys.DataKey) (keys.DataKey, error) {
	if s.hidden == nil {
		return k, nil
	}
	return k.With(s.hidden())
}

// A cryptor seals or opens the segments of one object.
type cryptor struct {
	aead   cipher.AEAD
	prefix [prefixSize]byte
}

// derive makes the cryptor that belongs to a head, a salt and a place, and the
// commitment to its key.
func derive(k keys.DataKey, h [headSize]byte, salt []byte, p Place) (c cryptor, commitment [keys.Size]byte, err error) {
	if k.Registry() != p.Registry || len(p.Registry) > math.MaxUint16 || len(p.Object) > math.MaxUint16 {
		return c, commitment, fmt.Errorf("seal: key of registry %q used for a place in %q", k.Registry(), p.Registry)
	}
	info := make([]byte, 0, 128)
	info = append(info, "breakwater seal\x00"...)
	info = append(info, h[:]...)
	info = binary.BigEndian.AppendUint16(info, uint16(len(p.Registry)))
	info = append(info, p.Registry...)
	info = binary.BigEndian.AppendUint16(info, uint16(len(p.Object)))
	info = append(info, p.Object...)
	key, commitment, err := k.Derive(salt, info)
	if err != nil {
		return c, commitment, err
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return c, commitment, err
	}
	c.aead, err = cipher.NewGCM(block)
	return c, commitment, err
}

// begin makes the cryptor of a new object and writes its header into dst.
func begin(dst []byte, form byte, k keys.DataKey, p Place, s Secret) (cryptor, error) {
	k, err := s.mixed(k)
	if err != nil {
		return cryptor{}, err
	}
	h := head(s.format(), form, k.Version())
	dst = dst[:headerSize]
	rand.Read(dst[saltAt:])
	c, commitment, err := derive(k, h, dst[saltAt:prefixAt], p)
	copy(dst, h[:])
	copy(dst[headSize:], commitment[:])
	dst[saltAt-1] = tinkHeader
	copy(c.prefix[:], dst[prefixAt:])
	return c, err
}

// resume makes the cryptor of the sealed object that starts with b.
func resume(b []byte, form byte, ring *keys.Ring, p Place, s Secret) (cryptor, error) {
	if len(b) < headerSize+tagSize {
		return cryptor{}, fmt.Errorf("%w: too short", ErrDamaged)
	}
	version := binary.BigEndian.Uint32(b[8:])
	h := head(s.format(), form, version)
	if [headSize]byte(b) != h || b[saltAt-1] != tinkHeader {
		return cryptor{}, fmt.Errorf("%w: no header", ErrDamaged)
	}
	k, err := ring.Version(version)
	if err != nil { // nobody has sealed with it, so somebody has changed the number, or the keys are not all there
		return cryptor{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if k, err = s.mixed(k); err != nil {
		return cryptor{}, err
	}
	c, commitment, err := derive(k, h, b[saltAt:prefixAt], p)
	if err != nil {
		return cryptor{}, err
	}
	if subtle.ConstantTimeCompare(commitment[:], b[headSize:headSize+keys.Size]) != 1 {
		return cryptor{}, fmt.Errorf("%w: key version %d does not open it here", ErrDamaged, version)
	}
	copy(c.prefix[:], b[prefixAt:])
	return c, nil
}

// A nonce is unlike that of every other segment of the object, and tells the
// last segment from the others, so that no object can be cut at a segment's end.
// Who seals or opens many segments keeps one for all of them.
type nonce [12]byte

func (n *nonce) set(prefix [prefixSize]byte, i int64, last bool) []byte {
	copy(n[:], prefix[:])
	binary.BigEndian.PutUint32(n[prefixSize:], uint32(i))
	n[11] = 0
	if last {
		n[11] = 1
	}
	return n[:]
}

// seal seals plaintext where it lies; the tag comes behind it.
func (c *cryptor) seal(n *nonce, plaintext []byte, i int64, last bool) {
	c.aead.Seal(plaintext[:0], n.set(c.prefix, i, last), plaintext, nil)
}

// open opens a segment into dst, which is where it lies or does not touch it.
func (c *cryptor) open(n *nonce, dst, sealed []byte, i int64, last bool) ([]byte, error) {
	plaintext, err := c.aead.Open(dst[:0], n.set(c.prefix, i, last), sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: segment %d", ErrDamaged, i)
	}
	return plaintext, nil
}

// layout is the number of segments of a sealed object, and the length of its
// plaintext.
func layout(sealed int64) (segments, plain int64, err error) {
	segments = (sealed + segment - 1) / segment
	plain = sealed - headerSize - segments*tagSize
	// The last segment of several is never empty.
	if plain < 0 || segments > 1 && (sealed-1)%segment < tagSize || segments > math.MaxUint32 {
		return 0, 0, fmt.Errorf("%w: %d bytes is no sealed length", ErrDamaged, sealed)
	}
	return segments, plain, nil
}

// Size is the length of the plaintext of sealed bytes, or ErrDamaged if nothing
// seals to that length.
func Size(sealed int64) (plain int64, err error) {
	_, plain, err = layout(sealed)
	return plain, err
}

// Small seals what is wholly in memory, in one segment.
func Small(k keys.DataKey, p Place, plaintext []byte) ([]byte, error) {
	sealed := make([]byte, headerSize+len(plaintext)+tagSize)
	c, err := begin(sealed, whole, k, p, Secret{})
	if err != nil {
		return nil, err
	}
	copy(sealed[headerSize:], plaintext)
	c.seal(new(nonce), sealed[headerSize:headerSize+len(plaintext)], 0, true)
	return sealed, nil
}

// OpenSmall opens what Small sealed. Anything else is ErrDamaged.
func OpenSmall(ring *keys.Ring, p Place, sealed []byte) ([]byte, error) {
	c, err := resume(sealed, whole, ring, p, Secret{})
	if err != nil {
		return nil, err
	}
	return c.open(new(nonce), nil, sealed[headerSize:], 0, true)
}
