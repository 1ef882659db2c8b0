package transit

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

// BenchmarkHandshake is what a new connection costs both ends together, over the loopback:
//
//	go test -run '^$' -bench Handshake -cpu 1 ./transit
func BenchmarkHandshake(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for _, kind := range []string{"ECDSA P-256", "RSA 2048", "RSA 3072"} {
		pair := selfSigned(b, kind)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, resumed := range []bool{false, true} {
				name := fmt.Sprintf("%s/%s", tls.VersionName(version), kind)
				if resumed {
					name += "/resumed"
				}
				b.Run(name, func(b *testing.B) {
					server := Config(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil }, false)
					client := &tls.Config{InsecureSkipVerify: true, MaxVersion: version, ServerName: "localhost"}
					if resumed {
						client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
						greetOnce(b, l, server, client, false)
					}
					for b.Loop() {
						greetOnce(b, l, server, client, resumed)
					}
				})
			}
		}
	}
}

// BenchmarkConnection is a new connection and one request on it, of the server's own
// listener with a certificate of the own authority, and of net/http as it comes with the
// same certificate; medians, in turns, so that the ratio of the rates does not depend on
// who else is busy:
//
//	go test -run '^$' -bench Connection -cpu 1 ./transit
func BenchmarkConnection(b *testing.B) {
	a, err := OpenAuthority(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	shown := a.Learning(a.Certificate("localhost", "127.0.0.1")).Certificate
	l, err := Listen(b.Context(), Options{Name: "front", Address: "127.0.0.1:0", TLS: Config(shown, false), Connections: 4096, PerAddress: 1024, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, http.HandlerFunc(greet)) }()
	defer func() { stop(); <-served }()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	bare := &http.Server{Handler: http.HandlerFunc(greet), TLSConfig: &tls.Config{GetCertificate: shown}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- bare.ServeTLS(inner, "", "") }()
	defer func() { bare.Close(); <-ended }()

	addresses := [2]string{l.Addr().String(), inner.Addr().String()}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, resumed := range []bool{false, true} {
			name := tls.VersionName(version) + "/full"
			if resumed {
				name = tls.VersionName(version) + "/resumed"
			}
			b.Run(name, func(b *testing.B) {
				pool := x509.NewCertPool()
				pool.AddCert(a.cert)
				var secure [2]*tls.Config
				var took [2][]time.Duration
				for i := range secure {
					secure[i] = &tls.Config{RootCAs: pool, MaxVersion: version, ServerName: "localhost"}
					if resumed {
						secure[i].ClientSessionCache = tls.NewLRUClientSessionCache(1)
						askOnce(b, addresses[i], secure[i], false)
					}
				}
				for b.Loop() {
					for i := range secure {
						start := time.Now()
						askOnce(b, addresses[i], secure[i], resumed)
						took[i] = append(took[i], time.Since(start))
					}
				}
				median := func(of []time.Duration) float64 { slices.Sort(of); return of[len(of)/2].Seconds() }
				b.ReportMetric(1/median(took[0]), "ours/s")
				b.ReportMetric(1/median(took[1]), "bare/s")
				b.ReportMetric(median(took[1])/median(took[0]), "ours/bare")
			})
		}
	}
}

func askOnce(b *testing.B, address string, secure *tls.Config, resumed bool) {
	inner, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer inner.Close()
	_ = inner.(*net.TCPConn).SetLinger(0)
	_ = inner.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(inner, secure)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		b.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
	if err != nil || r.StatusCode != http.StatusOK || c.ConnectionState().DidResume != resumed {
		b.Fatal(r, err, c.ConnectionState().DidResume)
	}
	r.Body.Close()
}

func greetOnce(b *testing.B, l net.Listener, server, client *tls.Config, resumed bool) {
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer far.Close()
	_ = far.(*net.TCPConn).SetLinger(0) // or closed ones wait, and each next port is harder to find
	near, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	defer near.Close()
	_, _ = far.SetDeadline(time.Now().Add(5*time.Second)), near.SetDeadline(time.Now().Add(5*time.Second))
	done := make(chan error, 1)
	s := tls.Server(near, server)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1}) // after the tickets of 1.3
		}
		done <- err
	}()
	c := tls.Client(far, client)
	if _, err := c.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if c.ConnectionState().DidResume != resumed {
		b.Fatal("resumed: ", !resumed)
	}
}

func selfSigned(b *testing.B, kind string) *tls.Certificate {
	var key any
	var public any
	switch kind {
	case "RSA 2048", "RSA 3072":
		var bits int
		_, _ = fmt.Sscanf(kind, "RSA %d", &bits)
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			b.Fatal(err)
		}
		key, public = k, k.Public()
	default:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		key, public = k, k.Public()
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, key)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
