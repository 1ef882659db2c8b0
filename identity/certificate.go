package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

// A Key is a certificate by which a client proves itself: what it signs with the
// private key is believed from Start to End. It is trusted because it was
// registered, whoever issued it.
type Key struct {
	KeyID       string    `json:"keyId"` // a random GUID; names the key in tokens that descend from it
	DisplayName string    `json:"displayName,omitempty"`
	Start       time.Time `json:"startDateTime"`
	End         time.Time `json:"endDateTime"`
	Thumbprint  string    `json:"customKeyIdentifier"` // SHA-1 in hexadecimal, as Azure's clients name a certificate
	Certificate []byte    `json:"key"`                 // DER
}

// Bounds of a certificate.
const (
	maxCertificate = 16 << 10
	minRSA, maxRSA = 2048, 8192
)

// NewKey reads a certificate, in PEM or DER. Text with a private key in it is
// refused: it does not belong here.
func NewKey(displayName string, certificate []byte) (Key, error) {
	c, err := readCertificate(certificate)
	if err != nil {
		return Key{}, err
	}
	if !time.Now().Before(c.NotAfter) {
		return Key{}, fault.New(fault.BadRequest, "the certificate has expired on %s", c.NotAfter.UTC().Format(time.DateOnly))
	}
	sum := sha1.Sum(c.Raw)
	return Key{ref.NewGUID(), displayName, c.NotBefore.UTC(), c.NotAfter.UTC(), strings.ToUpper(hex.EncodeToString(sum[:])), c.Raw}, nil
}

func readCertificate(text []byte) (*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, fault.New(fault.BadRequest, "a certificate has at most %d bytes", maxCertificate)
	}
	der := text
	if at := bytes.Index(text, []byte("-----BEGIN")); at >= 0 {
		der = nil
		for block, rest := pem.Decode(text[at:]); block != nil; block, rest = pem.Decode(rest) {
			switch {
			case strings.Contains(block.Type, "PRIVATE KEY"):
				return nil, fault.New(fault.BadRequest, "this holds a private key, which must not leave its owner: send the certificate alone, and consider that key known")
			case block.Type != "CERTIFICATE" || der != nil:
				return nil, fault.New(fault.BadRequest, "send one certificate, and nothing else")
			}
			der = block.Bytes
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.BadRequest, "this is no X.509 certificate in PEM or DER").Because(err)
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); minRSA <= n && n <= maxRSA && k.N.Bit(0) == 1 && k.E >= 3 && k.E&1 == 1 {
			return c, nil
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return c, nil
		}
	}
	return nil, fault.New(fault.BadRequest, "the key of a certificate is RSA of %d to %d bits, or ECDSA on P-256", minRSA, maxRSA)
}
