package transit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// How long certificates of the own authority hold. The server's is renewed when
// a third of its time is left, in memory: its key never touches a disk.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 30 * 24 * time.Hour
	skew          = time.Hour // of clients' clocks
)

// An Authority signs the certificate of a server that got none from elsewhere.
type Authority struct {
	file string
	key  crypto.Signer
	cert *x509.Certificate
}

// OpenAuthority reads the authority in dir, and makes it when there is none:
// ca.key (0600) first, then ca.pem from it. A crash in between heals at the next
// call, and of several processes that make it at once all get the same one.
func OpenAuthority(dir string) (*Authority, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{file: filepath.Join(dir, "ca.pem")}
	text, err := once(filepath.Join(dir, "ca.key"), 0o600, newKey)
	if err != nil {
		return nil, fmt.Errorf("authority's key: %w", err)
	}
	if a.key, err = parseKey(text); err != nil {
		return nil, fmt.Errorf("authority's key %s: %w", filepath.Join(dir, "ca.key"), err)
	}
	if text, err = once(a.file, 0o644, a.selfSign); err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	if a.cert, err = parseCertificate(text); err != nil {
		return nil, fmt.Errorf("authority's certificate %s: %w", a.file, err)
	}
	if own, ok := a.key.Public().(*ecdsa.PublicKey); !ok || !own.Equal(a.cert.PublicKey) {
		return nil, fmt.Errorf("authority's certificate %s is not of the key beside it; restore one of them, or remove both and have clients trust the new one", a.file)
	}
	return a, nil
}

// File is the certificate that clients trust.
func (a *Authority) File() string { return a.file }

// Until is when clients stop trusting it.
func (a *Authority) Until() time.Time { return a.cert.NotAfter }

// Certificate shows a certificate for the hosts (names, "*." names, addresses).
func (a *Authority) Certificate(hosts ...string) Certificate {
	var mu sync.Mutex
	var leaf *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if leaf != nil && time.Until(leaf.Leaf.NotAfter) > serverLife/3 {
			return leaf, nil
		}
		next, err := a.sign(hosts)
		if err != nil {
			return nil, fmt.Errorf("renew the server's certificate: %w", err)
		}
		leaf = next
		return leaf, nil
	}
}

func (a *Authority) sign(hosts []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: common(hosts[0])},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range slices.Compact(slices.Sorted(slices.Values(hosts))) {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// common is a host as a common name, which has 64 characters at most (RFC 5280); ""
// leaves it to the alternative names.
func common(host string) string {
	if len(host) > 64 {
		return ""
	}
	return host
}

func (a *Authority) selfSign() ([]byte, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	now := time.Now()
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Breakwater authority of " + host},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, a.key.Public(), a.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a key that signs")
	}
	return signer, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

// once is the content of the file at path; when there is no file, it is made,
// whole and durable, by whoever comes first.
func once(path string, mode fs.FileMode, content func() ([]byte, error)) ([]byte, error) {
	if text, err := os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	text, err := content()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return text, d.Sync()
}
