package ref

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"breakwater/fault"
)

// An Algorithm hashes content. SHA-256 and SHA-512 are the registered
// algorithms of the OCI image specification.
type Algorithm string

const (
	SHA256 Algorithm = "sha256"
	SHA512 Algorithm = "sha512"
)

// ParseAlgorithm refuses what this registry does not hash with.
func ParseAlgorithm(s string) (Algorithm, error) {
	switch a := Algorithm(s); a {
	case SHA256, SHA512:
		return a, nil
	}
	return "", fault.New(fault.DigestInvalid, "unsupported digest algorithm; use sha256 or sha512")
}

// New returns a running hash. Its state can be saved and restored
// (encoding.BinaryMarshaler), so an upload can go on in another process.
func (a Algorithm) New() hash.Hash {
	if a == SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// Digest names the content that h has seen.
func (a Algorithm) Digest(h hash.Hash) Digest {
	return Digest(string(a) + ":" + hex.EncodeToString(h.Sum(nil)))
}

// Sum names content that is wholly in memory.
func (a Algorithm) Sum(content []byte) Digest {
	h := a.New()
	h.Write(content)
	return a.Digest(h)
}

// A Digest is "<algorithm>:<lower-case hex>" of content.
type Digest string

// ParseDigest accepts sha256 and sha512 with exactly as many lower-case hex
// digits as the algorithm yields; anything else is DigestInvalid.
func ParseDigest(s string) (Digest, error) {
	name, sum, _ := strings.Cut(s, ":")
	a, err := ParseAlgorithm(name)
	if err != nil {
		return "", err
	}
	size := sha256.Size
	if a == SHA512 {
		size = sha512.Size
	}
	if len(sum) != 2*size || strings.Trim(sum, "0123456789abcdef") != "" {
		return "", fault.New(fault.DigestInvalid, "a %s digest has %d lower-case hexadecimal digits", a, 2*size)
	}
	return Digest(s), nil
}

// Algorithm is the part before the colon.
func (d Digest) Algorithm() Algorithm {
	name, _, _ := strings.Cut(string(d), ":")
	return Algorithm(name)
}

func (d Digest) String() string { return string(d) }
