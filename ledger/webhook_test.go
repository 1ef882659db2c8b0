package ledger

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func FuzzWebhook(f *testing.F) {
	f.Add("https://me:pw@example.com/hook", "Authorization", "Bearer x", "team/api:*")
	f.Add("http://[::1]:80/", "X-A", "b", "team:v1")
	f.Fuzz(func(t *testing.T, uri, name, value, scope string) {
		w := Webhook{ServiceURI: uri, CustomHeaders: map[string]string{name: value}, Scope: scope, Actions: []string{"push"}}
		err := w.Check(nil)
		if err != nil {
			if len(value) > 24 && strings.Contains(err.Error(), value) {
				t.Errorf("a secret is in %v", err)
			}
			return
		}
		// What was taken can be sent.
		u, err := url.Parse(w.ServiceURI)
		if err != nil {
			t.Fatal(err)
		}
		q := &http.Request{Method: "POST", URL: u, Header: http.Header{name: {value}}}
		var line strings.Builder
		if err := q.Write(&line); err != nil {
			t.Errorf("%q %q %q: %v", uri, name, value, err)
		}
	})
}
