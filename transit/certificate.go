package transit

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A Certificate is what a server shows at this moment.
type Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// Names reports whether the certificate is for the host, which has no port.
func (c Certificate) Names(host string) bool {
	pair, err := c(&tls.ClientHelloInfo{ServerName: host})
	return err == nil && pair.Leaf != nil && pair.Leaf.VerifyHostname(host) == nil
}

// Files shows the certificate chain and key of two PEM files, and looks at most
// once a second whether they were replaced. A pair that does not load (one of
// the two is not written yet) leaves the old one in use and is logged.
func Files(chain, key string, log *slog.Logger) (Certificate, error) {
	f := &files{chain: chain, key: key, log: log}
	f.seen = f.stamp()
	pair, err := f.load()
	if err != nil {
		return nil, err
	}
	f.pair, f.looked = pair, time.Now()
	return f.get, nil
}

type files struct {
	chain, key string
	log        *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	looked time.Time
	seen   [2]stamp
}

// A stamp tells one state of a file from the next.
type stamp struct {
	at   time.Time
	size int64
}

func (f *files) stamp() (s [2]stamp) {
	for i, name := range []string{f.chain, f.key} {
		if info, err := os.Stat(name); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

func (f *files) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.chain, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.chain, f.key, err)
	}
	return &pair, nil
}

func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < time.Second {
		return f.pair, nil
	}
	f.looked = time.Now()
	now := f.stamp()
	if now == f.seen {
		return f.pair, nil
	}
	f.seen = now
	pair, err := f.load()
	if err != nil {
		f.log.Error("the new certificate is not used", "err", err)
		return f.pair, nil
	}
	f.log.Info("certificate replaced", "file", f.chain, "until", pair.Leaf.NotAfter)
	f.pair = pair
	return pair, nil
}

// Config is the TLS that every listener speaks: 1.2 with forward secrecy and
// authenticated ciphers at least, or 1.3 only.
func Config(c Certificate, only13 bool) *tls.Config {
	config := &tls.Config{
		GetCertificate: c,
		MinVersion:     tls.VersionTLS12,
		CipherSuites: []uint16{ // of 1.2; those of 1.3 are all good and not chosen here
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if only13 {
		config.MinVersion = tls.VersionTLS13
	}
	return config
}
