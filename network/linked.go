package network

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

// A Fingerprint is the SHA-256 of somebody's public key (its SPKI), in lower hex.
type Fingerprint string

// ParseFingerprint reads what people copy.
func ParseFingerprint(s string) (Fingerprint, error) {
	if sum, err := hex.DecodeString(s); err != nil || len(sum) != sha256.Size {
		return "", fault.New(fault.BadRequest, "a fingerprint is the SHA-256 of a public key: 64 hexadecimal digits")
	}
	return Fingerprint(lower(s)), nil
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

// FingerprintOf is that of a key in the form in which certificates hold it.
func FingerprintOf(spki []byte) Fingerprint {
	sum := sha256.Sum256(spki)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// linkEndpoints is where the private endpoints of links lie: in a subscription that
// nobody has.
const linkEndpoints = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/links/providers/Microsoft.Network/privateEndpoints/"

// Endpoint is the private endpoint that the agent with this key is. Its name is the
// key, so that whoever approves a connection for it approves the key, and nobody
// can be another one's endpoint, whatever it calls itself.
func (f Fingerprint) Endpoint() ref.ID { return ref.ID(linkEndpoints + f) }

// IsLink reports whether the private endpoint is an agent: what comes by it tells its
// address, and nobody can check that.
func IsLink(endpoint ref.ID) bool {
	return strings.HasPrefix(endpoint.Key(), ref.ID(linkEndpoints).Key())
}

// A Linked is what a connection tells of the agent that is its private endpoint.
// Azure's clients do not know it; it stays when they send the rest.
type Linked struct {
	Fingerprint Fingerprint `json:"fingerprint"`
	// Where from and when the agent asked by itself; none if the owner made the
	// connection before.
	Address netip.Addr `json:"address,omitzero"`
	Asked   time.Time  `json:"asked,omitzero"`
	Message string     `json:"message,omitempty"` // what it said to the owner
}

// checkLink completes and checks the agent's part of c.
func (c *PrivateEndpointConnection) checkLink(was *PrivateEndpointConnection) error {
	if was != nil && was.Link != nil {
		if c.Link != nil && c.Link.Fingerprint != was.Link.Fingerprint {
			return fault.New(fault.BadRequest, "a connection is for one key; make another connection for another one")
		}
		c.Link = was.Link // the rest is the agent's word
		return nil
	}
	if c.Link == nil {
		return nil
	}
	f, err := ParseFingerprint(string(c.Link.Fingerprint))
	if err != nil {
		return err
	}
	c.Link = &Linked{Fingerprint: f}
	if c.PrivateEndpoint.ID == "" {
		c.PrivateEndpoint.ID = f.Endpoint()
	}
	if c.PrivateEndpoint.ID.Key() != f.Endpoint().Key() {
		return fault.New(fault.BadRequest, "the private endpoint of a link is %s: leave privateEndpoint out", f.Endpoint())
	}
	return nil
}
