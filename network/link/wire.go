// Package link offers a registry in a network that has no route to it (NS-2,
// azure-baseline §6.7): an agent there holds one outbound connection to the
// server and carries its neighbours' connections through it.
//
// Who holds the agent's private key is the private endpoint that the registry's
// owner approved; names and addresses are only what it tells. Clients speak TLS
// with the registry itself, so that the agent carries what it cannot read.
//
// On the wire: TLS 1.3 with both sides' certificates, then one hello and one answer
// (two bytes of length, JSON), then, if the owner agreed, yamux: each stream is a
// client's connection and begins with its address.
package link

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"time"

	"github.com/hashicorp/yamux"

	"breakwater/network"
)

// protocol is what both sides say by ALPN, so that neither takes a stranger's
// protocol for this one.
const protocol = "breakwater-link/1"

// Window is how many bytes of one stream the other side may send ahead: what a
// client costs in memory that does not take, or bring, what it asked for.
const Window = 512 << 10

// Limits of a link. The agent carries half as many clients as the server bears
// streams, and has no more than three quarters open, because both sides see the end
// of one at different times.
const (
	meetTimeout = 10 * time.Second // from the connection to the end of the answer: all that a stranger gets
	messageMax  = 4 << 10
	messageText = 256 // bytes of what a hello says to the owner
	streamMax   = 512
	openMax     = streamMax / 4 * 3
	clientMax   = streamMax / 2
	keepAlive   = 10 * time.Second // between two questions whether the other side is there; it has twice that to answer
)

// A hello is the agent's first and only word. Its key is in its certificate.
type hello struct {
	Registry string `json:"registry"`
	Name     string `json:"name"`
	Message  string `json:"message,omitempty"` // for the owner
}

// An answer ends the connection unless it is Approved.
type answer struct {
	Status     string `json:"status"` // of the connection: Pending, Approved …; Refused if there is none
	Reason     string `json:"reason,omitempty"`
	Connection string `json:"connection,omitempty"` // its name
	Retry      int    `json:"retrySeconds,omitempty"`
}

// refused is the status of an answer about which there is no connection.
const refused = "Refused"

// send and receive a message. Nothing is read beyond it.
func send(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > messageMax {
		return errors.New("the message is too long")
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...))
	return err
}

func receive(r io.Reader, message any) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > messageMax {
		return fmt.Errorf("a message of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	return json.Unmarshal(text, message)
}

// ValidName is for the names that agents give themselves: they become part of a
// document's.
func ValidName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 40
}

// A stream begins with the address of the client: 16 bytes (IPv4 mapped, zero for
// none) and the port. There is nothing else to say, and nothing to parse.
const addressBytes = 16 + 2

func putAddress(a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(ip[:], a.Port())
}

func getAddress(b [addressBytes]byte) netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(b[:16])).Unmap()
	if ip.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[16:]))
}

// muxing is how both sides use yamux. every is keepAlive, but for tests that cannot
// wait. The side that leaves first, the agent, ends a stream that the other side goes
// on with for too long.
func muxing(every time.Duration, leaves bool) *yamux.Config {
	every = cmp.Or(every, keepAlive)
	c := &yamux.Config{
		AcceptBacklog: clientMax, EnableKeepAlive: true, KeepAliveInterval: every, ConnectionWriteTimeout: 2 * every,
		MaxStreamWindowSize: Window, StreamOpenTimeout: 2 * every, Logger: silent{},
	}
	if leaves {
		c.StreamCloseTimeout = 3 * every
	}
	return c
}

// silent is yamux's log: what is worth saying is said where a session ends.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// proven is the fingerprint of the key that the other side proved to have. Only
// keys are taken whose proof costs little.
func proven(s tls.ConnectionState) (network.Fingerprint, error) {
	if s.NegotiatedProtocol != protocol {
		return "", fmt.Errorf("the other side does not speak %s", protocol)
	}
	if len(s.PeerCertificates) != 1 {
		return "", errors.New("an agent shows one certificate")
	}
	c := s.PeerCertificates[0]
	if !cheap(c.PublicKey) {
		return "", errors.New("an agent's key is P-256 or Ed25519")
	}
	return network.FingerprintOf(c.RawSubjectPublicKeyInfo), nil
}

func cheap(public crypto.PublicKey) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return true
	}
	return false
}

// ValidKey reports whether an agent may have this key.
func ValidKey(key crypto.Signer) bool { return cheap(key.Public()) }

// FingerprintOf is the fingerprint of an agent's key.
func FingerprintOf(key crypto.Signer) (network.Fingerprint, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	return network.FingerprintOf(spki), nil
}

// certify makes the certificate that an agent shows. Only its key means anything.
func certify(key crypto.Signer) (tls.Certificate, error) {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "breakwater link"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 §4.1.2.5: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
