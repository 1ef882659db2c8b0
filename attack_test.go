package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A request line can name nothing at all. That is refused as every other
// stranger is, and not answered with an empty 200 that nobody recorded.
func TestTargetsThatAreNoPathLeadNowhere(t *testing.T) {
	d := openDesk(t)
	host := strings.TrimPrefix(d.client.Server, "https://")
	trust := d.client.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.NextProtos = nil
	for _, line := range []string{
		"GET *", "OPTIONS *", "CONNECT evil.example:443", "GET https://evil.example", "GET https://" + host + "?x", "PRI *", "GET http:evil", "FOO *",
	} {
		c, err := tls.Dial("tcp", host, trust)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", line, host)
		answer, err := io.ReadAll(c)
		c.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 40") {
			t.Errorf("%s: %.100q, %v", line, answer, err)
		}
	}
}

func TestOperatorsPortIsNotForPagesInABrowser(t *testing.T) {
	d := openDesk(t)
	for host, status := range map[string]int{
		"127.0.0.1:1": 200, "[::1]": 200, "localhost": 200, "LOCALHOST.:80": 200,
		"evil.example": 421, "localhost.evil.example:80": 421, "127.0.0.1.evil.example": 421,
	} {
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.client.Ops+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			a, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			a.Body.Close()
			if a.StatusCode != status {
				t.Errorf("%s as %s: %s, want %d", path, host, a.Status, status)
			}
		}
	}
}

// One body must not mean two things.
func TestSettingSpelledTwiceIsRefused(t *testing.T) {
	d := openDesk(t)
	for _, body := range []string{
		`{"properties":{"anonymousPullEnabled":true,"AnonymousPullEnabled":false}}`,
		`{"properties":{"adminUserEnabled":true,"adminU\u017ferEnabled":false}}`,
		`{"properties":{"new":{"a":1,"A":2}}}`,
		`{"properties":{"networkRuleSet":{"defaultAction":"Deny","DefaultAction":"Allow"}}}`,
	} {
		if r, text := d.ask("PATCH", d.id, body); r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %s", body, r.Status, text)
		}
	}
}
