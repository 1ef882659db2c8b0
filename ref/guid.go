package ref

import (
	"crypto/rand"
	"encoding/hex"
)

// NoGUID is the GUID of nothing in particular.
const NoGUID = "00000000-0000-0000-0000-000000000000"

// NewGUID makes a random GUID (RFC 9562, version 4).
func NewGUID() string {
	var b [16]byte
	rand.Read(b[:])
	return guid(b, 4)
}

// DerivedGUID makes of 16 bytes the GUID that always follows from them (version
// 8): what is made from one key on several nodes has one id.
func DerivedGUID(from []byte) string { return guid([16]byte(from), 8) }

func guid(b [16]byte, version byte) string {
	b[6], b[8] = b[6]&0x0f|version<<4, b[8]&0x3f|0x80
	var text [36]byte
	for i, j := 0, 0; i < 16; i++ {
		if j == 8 || j == 13 || j == 18 || j == 23 {
			text[j] = '-'
			j++
		}
		hex.Encode(text[j:j+2], b[i:i+1])
		j += 2
	}
	return string(text[:])
}

// IsGUID reports whether s is spelled as a GUID, in either case.
func IsGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
