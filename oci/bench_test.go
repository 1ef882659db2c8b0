package oci_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/db/dbtest"
	"breakwater/ref"
	"breakwater/registry"
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

// What it costs a pull that blobs come from a data endpoint (NS-2): the same blob of two
// registries, of which one has it switched on, in turns; medians. Connections are kept,
// as clients do.
//
//	go test -run '^$' -bench DataEndpoint ./oci
func BenchmarkDataEndpoint(b *testing.B) {
	s := serve(b, dbtest.SQLite(b))
	second := ref.ID(strings.TrimSuffix(string(s.House.Registry.ID), "breakwater") + "second")
	_, err := s.Registries.Create(b.Context(), s.Server(), second, "local", nil,
		registry.Properties{Offers: registry.Offers{DataEndpointEnabled: true}})
	if err != nil {
		b.Fatal(err)
	}
	transport := s.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(s.url, "https://"))
	}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport}
	ask := func(method, url string, body []byte, want int) {
		r, _ := http.NewRequest(method, url, bytes.NewReader(body))
		r.SetBasicAuth(s.OwnerName, s.OwnerPassword)
		r.Header.Set("Content-Type", "application/octet-stream")
		res, err := hc.Do(r)
		if err != nil || res.StatusCode != want {
			b.Fatal(res, err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || strings.Contains(res.Request.URL.Host, ".data.") != (method == "GET" && strings.Contains(url, "second")) {
			b.Fatal(res.Request.URL.Host, err)
		}
	}
	off, on := "https://breakwater.registries.test/v2/bench/repo/blobs/", "https://second.registries.test/v2/bench/repo/blobs/"
	for _, row := range []struct {
		name string
		size int
	}{{"1KiB", 1 << 10}, {"1MiB", 1 << 20}, {"64MiB", 64 << 20}} {
		content := random(row.size)
		digest := string(ref.SHA256.Sum(content))
		for _, at := range []string{off, on} {
			ask("POST", at+"uploads/?digest="+digest, content, 201)
			ask("GET", at+digest, nil, 200)
		}
		b.Run(row.name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i, at := range []string{off, on} {
					start := time.Now()
					ask("GET", at+digest, nil, 200)
					took[i] = append(took[i], time.Since(start))
				}
			}
			median := func(of []time.Duration) float64 { slices.Sort(of); return float64(of[len(of)/2].Microseconds()) }
			b.ReportMetric(median(took[0]), "µs-off")
			b.ReportMetric(median(took[1]), "µs-on")
			b.ReportMetric(median(took[1])/median(took[0]), "on/off")
		})
	}
}
