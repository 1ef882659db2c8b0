package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// answer CODE signs the owner in, in a browser, for the device that shows the code.
func answer(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: answer CODE")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("CA"))))
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	browser := &http.Client{Jar: jar, Transport: transport}
	send := func(path string, form url.Values) string {
		response, err := browser.PostForm("https://"+ts.Getenv("HOST")+path, form)
		ts.Check(err)
		defer response.Body.Close()
		page, err := io.ReadAll(response.Body)
		ts.Check(err)
		if response.StatusCode != http.StatusOK {
			ts.Fatalf("%s: %s\n%s", path, response.Status, page)
		}
		return string(page)
	}
	page := send("/devicelogin", url.Values{"user_code": {args[0]}})
	if !strings.Contains(page, "Azure CLI") && !strings.Contains(page, "Breakwater command line") || !strings.Contains(page, "127.0.0.1") && !strings.Contains(page, "::1") {
		ts.Fatalf("the page does not say who asks, and from where:\n%s", page)
	}
	request := regexp.MustCompile(`name="request" value="([^"]+)"`).FindStringSubmatch(page)
	send("/signin", url.Values{"request": {request[1]}, "username": {ts.Getenv("USERNAME")}, "password": {ts.Getenv("PASSWORD")}})
}
