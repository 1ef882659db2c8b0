package gate

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
)

// correlation is the caller's own id of the request if it sent a GUID, and a
// fresh one otherwise. It ties an answer, an event and a line in the log.
func correlation(h http.Header) string {
	if given := h["X-Ms-Correlation-Request-Id"]; len(given) == 1 && isGUID(given[0]) {
		return given[0]
	}
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
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

func isGUID(s string) bool {
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
