package oci_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"breakwater/db/dbtest"
)

// What a pull costs the server and this client together, over TLS with a bearer
// token, decisions, ledger and sealing. Read the server's share with -cpuprofile:
// what is below net/http.(*conn).serve.
func BenchmarkPull(b *testing.B) {
	s := serve(b, dbtest.SQLite(b))
	c := s.login(b, s.OwnerName, s.OwnerPassword)
	c.pushImage("bench/repo", "v1")
	large := c.pushBlob("bench/repo", random(64<<20))
	c.do("GET", "/v2/bench/repo/tags/list", nil)
	transport := s.http.Transport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2, transport.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	hc := &http.Client{Transport: transport}
	for name, path := range map[string]string{
		"ping": "/v2/", "manifest": "/v2/bench/repo/manifests/v1", "tags": "/v2/bench/repo/tags/list", "64MiB": "/v2/bench/repo/blobs/" + string(large.Digest),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 256<<10)
			for b.Loop() {
				r, _ := http.NewRequest("GET", s.url+path, nil)
				r.Header.Set("Authorization", "Bearer "+c.bearer)
				res, err := hc.Do(r)
				if err != nil || res.StatusCode != 200 {
					b.Fatal(res, err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf)
				res.Body.Close()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
		})
	}
}
