package transit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
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
