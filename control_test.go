package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A desk is a server and somebody who speaks to its control plane.
type desk struct {
	t      *testing.T
	client *client
	id     string // of the registry
	owner  string // file
}

func openDesk(t *testing.T, flags ...string) *desk {
	t.Helper()
	s := newPatient(t, filepath.Join(t.TempDir(), "data"), flags...)
	s.start()
	owner := filepath.Join(s.data, "owner.json")
	c, err := dial(owner)
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.registry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &desk{t, c, id, owner}
}

// ask sends a request as it stands and returns the answer, read whole.
func (d *desk) ask(method, path, body string, header ...string) (*http.Response, string) {
	d.t.Helper()
	q, err := http.NewRequestWithContext(d.t.Context(), method, d.client.Server+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	q.SetBasicAuth(d.client.Username, d.client.Password)
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			q.Header.Del(header[i])
		}
	}
	r, err := d.client.http.Do(q)
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return r, string(text)
}

func TestTheControlPlaneAnswersAsResourceManagerDoes(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	const actions = `{"properties":{"actions":["repositories/team/*/content/read"]}}`
	for _, test := range []struct {
		method, path, body string
		header             []string
		status             int
		says               string
	}{
		{"GET", "/subscriptions", "", nil, 200, `"value":[{"id":"/subscriptions/`},
		{"GET", subscription, "", nil, 200, `"type":"Microsoft.Resources/subscriptions"`},
		{"GET", subscription + "/RESOURCEGROUPS", "", nil, 200, `"name":"breakwater"`},
		{"GET", group, "", nil, 200, `"location":"local"`},
		{"GET", d.id, "", nil, 200, `"provisioningState":"Succeeded"`},
		{"GET", strings.ToUpper(d.id), "", nil, 200, `"name":"breakwater"`},
		{"GET", strings.ReplaceAll(d.id, "/", "//") + "/?api-version=2017-10-01", "", nil, 200, `"name":"breakwater"`},
		{"GET", subscription + "/providers/Microsoft.ContainerRegistry/registries", "", nil, 200, d.id},
		{"GET", group + "/providers/Microsoft.ContainerRegistry/registries", "", nil, 200, d.id},
		{"GET", "/subscriptions/00000000-0000-0000-0000-000000000000/providers/Microsoft.ContainerRegistry/registries", "", nil, 200, `{"value":[]}`},

		{"PATCH", d.id, `{"properties":{"anonymousPullEnabled":true,"loginServer":"evil.example.com"},"id":"/x","sku":{"name":"Premium"}}`, nil, 200, `"loginServer":"localhost:`},
		{"PATCH", d.id, `{"properties":{"publicNetworkAcess":"Disabled"}}`, nil, 409, `"code":"NotImplemented","message":"this server has no property \"publicNetworkAcess\"`},
		{"PATCH", d.id, `{"publicNetworkAccess":"Disabled"}`, nil, 400, `what can be set stands in \"properties\"`},
		{"PATCH", d.id, `{"properties":{"networkRuleSet":{"ipRule":[]}}}`, nil, 409, `no property \"ipRule\"`},
		{"PATCH", d.id, `{"properties":{"networkRuleSet":{"ipRules":[{"action":"Allow","value":"192.0.2.0/24"}]}}}`, nil, 200, `"anonymousPullEnabled":true`},
		{"PATCH", d.id, `{"properties":{"networkRuleSet":{"defaultAction":"Deny"}}}`, nil, 200, `192.0.2.0/24`},
		{"PATCH", d.id, `{"properties":{"networkRuleSet":{"defaultAction":"Allow","ipRules":[]}}}`, nil, 200, `"defaultAction":"Allow"`},
		{"PATCH", d.id, `{"properties":{"publicNetworkAccess":"Perhaps"}}`, nil, 400, `"error":{"code":"InvalidRequestContent"`},
		{"PATCH", d.id, `{"properties":{"networkRuleSet":{"ipRules":[{"value":"everywhere"}]}}}`, nil, 400, `"error"`},
		{"PATCH", d.id, `{"properties":{"adminUserEnabled":"yes"}}`, nil, 400, `"error"`},
		{"PATCH", d.id, `{"properties":`, nil, 400, `"error"`},
		{"PATCH", d.id, `[]`, nil, 400, `"error"`},
		{"PATCH", d.id, `{"tags":{"a":"b"}}`, []string{"If-Match", `"old"`}, 412, `PreconditionFailed`},
		{"PATCH", d.id, `{"x":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, `"error"`},
		{"DELETE", d.id, "", nil, 409, `"error"`}, // it is the default registry
		{"GET", d.id + "x", "", nil, 404, `"code":"ResourceNotFound"`},
		{"GET", d.id + "/nonsense", "", nil, 404, `"code":"ResourceNotFound"`},
		{"GET", "/nonsense", "", nil, 404, `"error"`},
		{"GET", d.id, "", []string{"Authorization", ""}, 401, `"code":"AuthenticationFailed"`},

		{"PUT", d.id + "/scopeMaps/readers", actions, nil, 201, `"provisioningState":"Succeeded"`},
		{"PUT", d.id + "/scopeMaps/readers", actions, nil, 200, `repositories/team/*/content/read`},
		{"PUT", d.id + "/scopeMaps/readers", actions, []string{"If-None-Match", "*"}, 409, `"error"`},
		{"PATCH", d.id + "/scopemaps/READERS", `{"properties":{"description":"who reads"}}`, nil, 200, `repositories/team/*/content/read`},
		{"PUT", d.id + "/scopeMaps/bad", `{"properties":{"actions":["repositories/a*/content/read"]}}`, nil, 400, `"error"`},
		{"PATCH", d.id + "/scopeMaps/nobody", actions, nil, 404, `"error"`},
		{"PUT", d.id + "/tokens/ci", `{"properties":{"scopeMapId":"` + d.id + `/scopeMaps/nobody"}}`, nil, 400, `"error"`},
		{"PUT", d.id + "/tokens/ci", `{"properties":{"scopeMapId":"` + d.id + `/scopeMaps/readers","status":"enabled"}}`, nil, 201, `"credentials":{"certificates":[],"passwords":[]}`},
		{"POST", d.id + "/generateCredentials", `{"tokenId":"` + d.id + `/tokens/ci"}`, nil, 200, `"username":"ci"`},
		{"GET", d.id + "/tokens/ci", "", nil, 200, `{"name":"password2"`},
		{"PATCH", d.id + "/tokens/ci", `{"properties":{"credentials":{"passwords":[{"name":"password1"}]}}}`, nil, 200, `"passwords":[{"name":"password1"`},
		{"PATCH", d.id + "/tokens/ci", `{"properties":{"status":"disabled"}}`, nil, 200, `"passwords":[{"name":"password1"`},
		{"POST", d.id + "/generateCredentials", `{"tokenId":"/x/tokens/ci"}`, nil, 400, `"error"`},
		{"POST", d.id + "/generateCredentials", `{"tokenId":"` + d.id + `/tokens/ci","expires":"2027-01-01T00:00:00Z"}`, nil, 409, `no property \"expires\"`},
		{"POST", d.id + "/generateCredentials", `{"tokenId":"` + d.id + `/tokens/nobody"}`, nil, 404, `"error"`},
		{"GET", d.id + "/generateCredentials", "", nil, 405, `"error"`},
		{"POST", d.id + "/regenerateCredential", `{"name":"password"}`, nil, 200, `"username":"breakwater","passwords":[{"name":"password",`},
		{"DELETE", d.id + "/scopeMaps/readers", "", nil, 409, `"error"`},
		{"DELETE", d.id + "/tokens/ci", "", nil, 200, ""},
		{"DELETE", d.id + "/tokens/ci", "", nil, 204, ""},
		{"DELETE", d.id + "/scopeMaps/readers", "", nil, 200, ""},
		{"GET", "/providers/Breakwater.Ledger/events?since=yesterday", "", nil, 400, `"error"`},
		{"GET", "/providers/Breakwater.Ledger/events?$top=0", "", nil, 400, `"error"`},
		{"GET", "/providers/Breakwater.Ledger/events?$skipToken=x", "", nil, 400, `"error"`},
		{"GET", "/providers/Breakwater.Ledger/events?category=%00", "", nil, 400, `"error"`},
		{"GET", d.id + "/tokens?$skipToken=%00", "", nil, 400, `$skipToken`},
		{"GET", subscription + "/resources?$skipToken=%ff", "", nil, 400, `$skipToken`},
	} {
		r, text := d.ask(test.method, test.path, test.body, test.header...)
		if r.StatusCode != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%s %s %.100s: %d %.600s", test.method, test.path, test.body, r.StatusCode, text)
		}
		if r.Header.Get("X-Ms-Correlation-Request-Id") == "" {
			t.Errorf("%s %s: an answer without a correlation id", test.method, test.path)
		}
	}
}

func TestAListIsReadPageByPage(t *testing.T) {
	d := openDesk(t)
	for _, name := range []string{"five", "four", "one", "three", "two"} {
		if r, text := d.ask("PUT", d.id+"/scopeMaps/"+name, `{"properties":{"actions":[]}}`); r.StatusCode != 201 {
			t.Fatal(text)
		}
	}
	var names []string
	err := list(t.Context(), d.client, d.id+"/scopeMaps?$top=2", func(m document) error {
		if !strings.HasPrefix(m.Name, "_") { // those of the system
			names = append(names, m.Name)
		}
		return nil
	})
	if got := strings.Join(names, " "); err != nil || got != "five four one three two" {
		t.Errorf("%s, %v", got, err)
	}
	events := map[string]int{}
	err = list(t.Context(), d.client, "/providers/Breakwater.Ledger/events?$top=3&category=Administrative", func(e struct {
		Registry string
		Seq      json.Number
	}) error {
		events[e.Registry+" "+string(e.Seq)]++
		return nil
	})
	if err != nil || len(events) < 12 {
		t.Errorf("%d events, %v", len(events), err)
	}
	for name, n := range events {
		if n != 1 {
			t.Errorf("the event %q came %d times", name, n)
		}
	}
}

func TestATokenHasNoSayInTheControlPlane(t *testing.T) {
	d := openDesk(t)
	var out, errs bytes.Buffer
	if run(t.Context(), []string{"token", "create", "ci", "--action", "repositories/*/content/write", "--output", "json", "--owner-file", d.owner}, &out, &errs) != success {
		t.Fatal(errs.String())
	}
	var made struct{ Username, Password, Expires string }
	if err := json.Unmarshal(out.Bytes(), &made); err != nil || made.Expires == "" || strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("%s: %v", out.String(), err)
	}
	for _, row := range surface(t) {
		if !strings.Contains(row.Path, "/providers/") && !strings.HasPrefix(row.Path, "/subscriptions") && row.Path != "/tenants" {
			continue
		}
		path := strings.Replace(strings.Replace(row.Path, "{scope}", d.id, 1), "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{}", d.id, 1)
		path = strings.ReplaceAll(path, "{}", "ci")
		q, err := http.NewRequestWithContext(t.Context(), row.Method, d.client.Server+path, strings.NewReader(`{"tokenId":"`+d.id+`/tokens/ci"}`))
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth(made.Username, made.Password)
		r, err := d.client.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s is answered with %s", row.Method, path, r.Status)
		}
	}
}

func TestTwoChangesAtOnceBothCount(t *testing.T) {
	d := openDesk(t)
	done := make(chan string)
	changes := []string{`"adminUserEnabled":true`, `"anonymousPullEnabled":true`, `"roleAssignmentMode":"AbacRepositoryPermissions"`,
		`"networkRuleSet":{"ipRules":[{"action":"Allow","value":"192.0.2.0/24"}]}`, `"policies":{"azureADAuthenticationAsArmPolicy":{"status":"disabled"}}`}
	for _, change := range changes {
		go func() {
			r, text := d.ask("PATCH", d.id, `{"properties":{`+change+`}}`)
			if r.StatusCode != 200 {
				done <- text
				return
			}
			done <- ""
		}()
	}
	for range changes {
		if text := <-done; text != "" {
			t.Error(text)
		}
	}
	_, text := d.ask("GET", d.id, "")
	for _, want := range []string{`"adminUserEnabled":true`, `"anonymousPullEnabled":true`, `"AbacRepositoryPermissions"`, `192.0.2.0/24`, `"azureADAuthenticationAsArmPolicy":{"status":"disabled"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is lost: %s", want, text)
		}
	}
}
