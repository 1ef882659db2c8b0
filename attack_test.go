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
