package acr_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// ask sends a request; auth is user:password, a bearer token, or nobody's.
func (d *desk) ask(method, path, body, auth string) (*http.Response, string) {
	d.t.Helper()
	r, err := http.NewRequest(method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	switch user, password, basic := strings.Cut(auth, ":"); {
	case basic:
		r.SetBasicAuth(user, password)
	case auth != "":
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	if strings.HasPrefix(body, `{"schemaVersion"`) {
		r.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	a, err := d.http.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return a, string(text)
}

// want is ask by the owner, and the body as JSON.
func (d *desk) want(status int, method, path, body string) (answer map[string]any) {
	d.t.Helper()
	a, text := d.ask(method, path, body, d.owner())
	if a.StatusCode != status {
		d.t.Fatalf("%s %s: %d, want %d\n%s", method, path, a.StatusCode, status, text)
	}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			d.t.Fatalf("%s: %v", text, err)
		}
	}
	return answer
}

func (d *desk) owner() string { return d.OwnerName + ":" + d.OwnerPassword }

// push makes an image of one layer.
func (d *desk) push(repo, tag, layer string) (digest string) {
	d.t.Helper()
	blob := func(body string) (string, int) {
		sum := string(ref.SHA256.Sum([]byte(body)))
		d.want(201, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+sum, body)
		return sum, len(body)
	}
	config, n := blob(`{"architecture":"arm64","os":"linux"}`)
	of, m := blob(layer)
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, config, n, of, m)
	digest = string(ref.SHA256.Sum([]byte(text)))
	if tag == "" {
		tag = digest
	}
	d.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, text)
	return digest
}

// principal is the login of an application that holds a role at the registry.
func (d *desk) principal(name, role string) string {
	d.t.Helper()
	p, err := d.Directory.PutServicePrincipal(d.t.Context(), d.Server(), name, directory.ServicePrincipalSettings{}, resource.Any)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = d.Access.Assign(d.t.Context(), d.Server(), d.Registry.ID.Scope(), ref.NewGUID(), access.AssignmentProperties{RoleDefinitionID: role, PrincipalID: p.System.UID, PrincipalType: "ServicePrincipal"})
	if err != nil {
		d.t.Fatal(err)
	}
	secret, err := d.Directory.AddPassword(d.t.Context(), d.Server(), name, "", time.Time{}, time.Time{})
	if err != nil {
		d.t.Fatal(err)
	}
	return p.AppID + ":" + string(secret.Text)
}

// account is the principal's id that a login proves.
func (d *desk) account(login string) string {
	d.t.Helper()
	d.ask("GET", "/acr/v1/_catalog", "", login)
	for _, e := range slices.Backward(d.Events(d.t)) {
		if e.Operation == "ListRepositories" {
			return e.Who.ID
		}
	}
	d.t.Fatal("nobody asked")
	return ""
}

const none = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// Every route, who is let in, and what a token for it is asked with.
var challenges = map[string]string{
	"GET /acr/v1/_catalog":                              "registry:catalog:*",
	"GET /acr/v1/team/api":                              "repository:team/api:metadata_read",
	"PATCH /acr/v1/team/api":                            "repository:team/api:metadata_write",
	"DELETE /acr/v1/team/api":                           "repository:team/api:delete",
	"GET /acr/v1/team/api/_tags":                        "repository:team/api:metadata_read",
	"GET /acr/v1/team/api/_tags/v1":                     "repository:team/api:metadata_read",
	"PATCH /acr/v1/team/api/_tags/v1":                   "repository:team/api:metadata_write",
	"DELETE /acr/v1/team/api/_tags/v1":                  "repository:team/api:delete",
	"GET /acr/v1/team/api/_manifests":                   "repository:team/api:metadata_read",
	"GET /acr/v1/team/api/_manifests/" + none:           "repository:team/api:metadata_read",
	"PATCH /acr/v1/team/api/_manifests/" + none:         "repository:team/api:metadata_write",
	"GET /acr/v1/_deleted/_catalog":                     "registry:deleted_catalog:*",
	"GET /acr/v1/_deleted/team/api/_tags":               "repository:team/api:deleted_read",
	"GET /acr/v1/_deleted/team/api/_manifests":          "repository:team/api:deleted_read",
	"POST /acr/v1/_deleted/team/api/_manifests/" + none: "repository:team/api:deleted_read,deleted_restore",
}

func TestEveryRouteSaysWhichTokenItWants(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	user, password := d.Token(t, "stranger", "repositories/other/content/read")
	_, narrow, _ := d.get(d.OwnerName, d.OwnerPassword, "repository:other:pull,push,delete,metadata_read,metadata_write,deleted_read,deleted_restore")
	for line, scope := range challenges {
		method, path, _ := strings.Cut(line, " ")
		for auth, suffix := range map[string]string{"": "", user + ":" + password: `,error="insufficient_scope"`, narrow.Access: `,error="insufficient_scope"`, "x.y.z": `,error="invalid_token"`} {
			a, text := d.ask(method, path+"?api-version=2021-07-01", "", auth)
			host := strings.TrimPrefix(d.url, "https://")
			want := `Bearer realm="https://` + host + `/oauth2/token",service="` + host + `",scope="` + scope + `"` + suffix
			if got := a.Header.Get("WWW-Authenticate"); a.StatusCode != 401 || got != want || a.Header.Get("X-Ms-Error-Code") != "UNAUTHORIZED" || !strings.Contains(text, `"UNAUTHORIZED"`) {
				t.Errorf("%s by %.10q: %d %s\nwant %s\n%s", line, auth, a.StatusCode, got, want, text)
			}
		}
		// A token for exactly that lets its owner in, and one for less does not.
		_, g, _ := d.get(d.OwnerName, d.OwnerPassword, scope)
		if a, text := d.ask(method, path, "", g.Access); a.StatusCode == 401 || a.StatusCode >= 500 {
			t.Errorf("%s with %s: %d %s", line, scope, a.StatusCode, text)
		}
	}
}

func TestPathsHaveOneSpelling(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	d.push("team/api", "v1", "layer")
	for path, want := range map[string]int{
		"/acr/v1/team/api": 200, "/acr/v1/team%2Fapi": 200, "/acr/v1/team%2fapi/_tags/v1": 200, "/acr/v1/team/api/_manifests/" + strings.Replace(none, ":", "%3A", 1): 404,
		"/acr/v1/team%252Fapi": 404, "/acr/v1/%74eam/api": 404, "/acr/v1/Team/api": 404, "/acr/v1/team//api": 404, "/acr/v1/team/api/": 404, "/acr/v1/": 404, "/acr/v1": 404,
		"/acr/v1/team/../team/api": 404, "/acr/v1/team/api/_tags/": 404, "/acr/v1/team/api/_tags/v1/": 404, "/acr/v1/team/api/_tags/v1/_tags/v1": 404, "/acr/v1/team/api/_other": 404,
		"/acr/v1/_tags": 404, "/acr/v1/_tags/v1": 404, "/acr/v1/_deleted": 404, "/acr/v1/_deleted/team/api": 404, "/acr/v1/_deleted/team/api/_tags/v1": 404, "/acr/v1/_deleted/_catalog/": 404,
		"/acr/v1/_catalog/x": 404, "/acr/v1/team/api/_manifests/v1": 400, "/acr/v1/team/api/_tags/-v1": 404, "/acr/v2/team/api": 404, "/ACR/v1/team/api": 404,
	} {
		for _, auth := range []string{d.owner(), ""} {
			if auth == "" && want == 200 {
				continue
			}
			if a, text := d.ask("GET", path, "", auth); a.StatusCode != want && (auth != "" || a.StatusCode != 401) {
				t.Errorf("%s by %.5q: %d, want %d: %s", path, auth, a.StatusCode, want, text)
			}
		}
	}
	for line, allow := range map[string]string{"PUT /acr/v1/team/api": "GET, PATCH, DELETE", "POST /acr/v1/_catalog": "GET", "DELETE /acr/v1/team/api/_manifests/" + none: "GET, PATCH", "GET /acr/v1/_deleted/a/_manifests/" + none: "POST"} {
		method, path, _ := strings.Cut(line, " ")
		if a, _ := d.ask(method, path, "", d.owner()); a.StatusCode != 405 || a.Header.Get("Allow") != allow {
			t.Errorf("%s: %d, allows %s", line, a.StatusCode, a.Header.Get("Allow"))
		}
	}
}

// members are the names of an object's members, and of those of the objects in it.
func members(v any) string {
	o, ok := v.(map[string]any)
	if !ok {
		if l, ok := v.([]any); ok && len(l) > 0 && members(l[0]) != "" {
			return "[" + members(l[0]) + "]"
		}
		return ""
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if inner := members(o[name]); inner != "" {
			name += "(" + inner + ")"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// The members are those of azure-contract §2.6 and no others.
func TestAnswersHaveTheShapesOfAzure(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *db.DB) {
		d := open(t, db)
		digest := d.push("team/api", "v1", "layer")
		const attributes = "changeableAttributes(deleteEnabled listEnabled readEnabled writeEnabled)"
		const tag = attributes + " createdTime digest lastUpdateTime name signed"
		const manifest = "architecture " + attributes + " configMediaType createdTime digest imageSize lastUpdateTime mediaType os tags"
		for path, want := range map[string]string{
			"":                      attributes + " createdTime imageName lastUpdateTime manifestCount registry tagCount",
			"/_tags":                "imageName registry tags([" + tag + "])",
			"/_tags/v1":             "imageName registry tag(" + tag + ")",
			"/_manifests":           "imageName manifests([" + manifest + "]) registry",
			"/_manifests/" + digest: "imageName manifest(" + manifest + ") registry",
		} {
			if got := members(d.want(200, "GET", "/acr/v1/team/api"+path, "")); got != want {
				t.Errorf("%s has %s\nwant %s", path, got, want)
			}
		}
		r := d.want(200, "GET", "/acr/v1/team/api", "")
		if stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$`); !stamp.MatchString(fmt.Sprint(r["createdTime"])) || r["registry"] != "localhost" || r["imageName"] != "team/api" || r["manifestCount"] != 1.0 || r["tagCount"] != 1.0 {
			t.Errorf("%v", r)
		}
		m := d.want(200, "GET", "/acr/v1/team/api/_manifests/"+digest, "")["manifest"].(map[string]any)
		if m["digest"] != digest || m["architecture"] != "arm64" || m["os"] != "linux" || fmt.Sprint(m["tags"]) != "[v1]" || m["imageSize"].(float64) < 100 {
			t.Errorf("%v", m)
		}
		for path, want := range map[string]string{"/acr/v1/nothing": "NAME_UNKNOWN", "/acr/v1/nothing/_tags": "NAME_UNKNOWN", "/acr/v1/team/api/_tags/v9": "TAG_UNKNOWN", "/acr/v1/team/api/_manifests/" + none: "MANIFEST_UNKNOWN"} {
			a, text := d.ask("GET", path, "", d.owner())
			if a.StatusCode != 404 || a.Header.Get("X-Ms-Error-Code") != want || !strings.Contains(text, want) {
				t.Errorf("%s: %d %s", path, a.StatusCode, text)
			}
		}
		if got := d.want(202, "DELETE", "/acr/v1/team/api", ""); members(got) != "manifestsDeleted tagsDeleted" || fmt.Sprint(got) != "map[manifestsDeleted:["+digest+"] tagsDeleted:[v1]]" {
			t.Errorf("%v", got)
		}
		d.want(404, "DELETE", "/acr/v1/team/api", "")
	})
}

// follow reads a list as az does: it takes what stands behind "?" in the link and
// asks the same path again.
func (d *desk) follow(path, query, member, name string) (all []string) {
	d.t.Helper()
	for range 20 {
		a, text := d.ask("GET", path+"?"+query, "", d.owner())
		var answer map[string][]any
		var plain map[string]any
		if a.StatusCode != 200 || json.Unmarshal([]byte(text), &plain) != nil {
			d.t.Fatalf("%s: %d %s", path, a.StatusCode, text)
		}
		part, _ := json.Marshal(map[string]any{member: plain[member]})
		if err := json.Unmarshal(part, &answer); err != nil {
			d.t.Fatal(err)
		}
		for _, item := range answer[member] {
			if o, ok := item.(map[string]any); ok {
				item = o[name]
			}
			all = append(all, item.(string))
		}
		link := a.Header.Get("Link")
		if link == "" {
			return all
		}
		found := regexp.MustCompile(`^<(/acr/v1/[^?>]+)\?([^>]+)>; rel="next"$`).FindStringSubmatch(link)
		if found == nil || found[1] != path {
			d.t.Fatalf("%s leads to %s", path, link)
		}
		for pair := range strings.SplitSeq(found[2], "&") {
			if !strings.Contains(pair, "=") {
				d.t.Fatalf("az cannot read %q", link)
			}
		}
		query = found[2]
	}
	d.t.Fatalf("%s has no end", path)
	return nil
}

func TestListsArePagedInEveryOrder(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *db.DB) {
		d := open(t, db)
		var digests []string
		for _, tag := range []string{"b", "a", "c", ""} {
			digests = append(digests, d.push("team/api", tag, "layer "+tag))
		}
		back := slices.Clone(digests)
		slices.Reverse(back)
		sorted := slices.Sorted(slices.Values(digests))
		for query, want := range map[string][]string{"n=1": {"a", "b", "c"}, "n=2&orderby=none": {"a", "b", "c"}, "n=1&orderby=timeasc": {"b", "a", "c"}, "n=2&orderby=timedesc": {"c", "a", "b"},
			"orderby=timedesc": {"c", "a", "b"}, "n=1&orderby=timedesc&digest=" + url.QueryEscape(digests[1]): {"a"}, "n=100": {"a", "b", "c"}} {
			if got := d.follow("/acr/v1/team/api/_tags", query, "tags", "name"); !slices.Equal(got, want) {
				t.Errorf("tags, %s: %v, want %v", query, got, want)
			}
		}
		for query, want := range map[string][]string{"n=1": sorted, "n=3&orderby=timeasc": digests, "n=1&orderby=timedesc": back} {
			if got := d.follow("/acr/v1/team/api/_manifests", query, "manifests", "digest"); !slices.Equal(got, want) {
				t.Errorf("manifests, %s: %v, want %v", query, got, want)
			}
		}
		d.push("team/web", "v1", "layer")
		if got := d.follow("/acr/v1/_catalog", "n=1&api-version=2021-07-01", "repositories", ""); !slices.Equal(got, []string{"team/api", "team/web"}) {
			t.Errorf("the catalog is %v", got)
		}
		if a, _ := d.ask("GET", "/v2/_catalog?n=100&orderby=timedesc", "", d.owner()); a.StatusCode != 200 {
			t.Errorf("%d", a.StatusCode)
		}
		for _, query := range []string{"orderby=name", "orderby=timeasc&orderby=timedesc", "n=-1", "n=x", "n=1&n=2", "digest=v1", "last=%00", "last=a&last=b", "%zz"} {
			d.want(400, "GET", "/acr/v1/team/api/_tags?"+query, "")
		}
	})
}

func TestAChangeIsReadStrictly(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	digest := d.push("team/api", "v1", "layer")
	for _, path := range []string{"/acr/v1/team/api", "/acr/v1/team/api/_tags/v1", "/acr/v1/team/api/_manifests/" + digest} {
		for body, want := range map[string]int{"": 400, "[": 400, "null": 400, "[]": 400, `{"deleteEnabled":"no"}`: 400, `{"deleteEnabled":1}`: 400, `{"teleportEnabled":true}`: 400, `{"deleteEnabled":false}x`: 400, `{"deleteEnabled":false}{}`: 400,
			`{"deleteEnabled":` + strings.Repeat(" ", 70<<10) + `false}`: 413, `{"deleteEnabled":false}`: 200, `{"deleteEnabled":true,"writeEnabled":null}`: 200} {
			d.want(want, "PATCH", path, body)
		}
		if !strings.Contains(path, "_manifests") {
			d.want(400, "PATCH", path, `{"quarantineState":"Passed"}`)
		}
	}
	// What an unreadable body says is for who could have made the change.
	pusher := d.principal("pusher", access.PushRole)
	scanner := d.principal("scanner", access.QuarantineWriterRole)
	for _, auth := range []string{pusher, scanner, ""} {
		for _, path := range []string{"/acr/v1/team/api", "/acr/v1/team/api/_tags/v1", "/acr/v1/team/api/_manifests/" + digest} {
			for _, body := range []string{"", "[", `{"deleteEnabled":false}`} {
				if a, text := d.ask("PATCH", path, body, auth); a.StatusCode != 401 {
					t.Errorf("%.8q, %s, %q: %d %s", auth, path, body, a.StatusCode, text)
				}
			}
		}
	}
}

func TestAScannerLetsOutWhatIsQuarantined(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	d.Update(t, func(r *registry.Registry) { r.Policies.Quarantine.Status = "enabled" })
	digest := d.push("team/api", "v1", "layer")
	puller, scanner := d.principal("puller", access.PullRole), d.principal("scanner", access.QuarantineWriterRole)
	if a, text := d.ask("GET", "/v2/team/api/manifests/v1", "", puller); a.StatusCode != 404 {
		t.Errorf("by tag: %d %s", a.StatusCode, text)
	}
	if a, text := d.ask("GET", "/v2/team/api/manifests/"+digest, "", puller); a.StatusCode != 405 || !strings.Contains(text, "REGISTRY_DISALLOWED_OPERATION") {
		t.Errorf("by digest: %d %s", a.StatusCode, text)
	}
	// With a bearer token, as scanners come.
	user, password, _ := strings.Cut(scanner, ":")
	_, g, _ := d.get(user, password, "repository:team/api:metadata_write")
	const passed = `{"quarantineState":"Passed","quarantineDetails":"{\"by\":\"scanner\"}"}`
	if a, text := d.ask("PATCH", "/acr/v1/team/api/_manifests/"+digest, `{"quarantineState":"Passed","deleteEnabled":false}`, g.Access); a.StatusCode != 401 {
		t.Errorf("a scanner locks: %d %s", a.StatusCode, text)
	}
	if a, text := d.ask("PATCH", "/acr/v1/team/api/_manifests/"+digest, passed, g.Access); a.StatusCode != 200 || !strings.Contains(text, `"quarantineState":"Passed","quarantineDetails":"{\"by\":\"scanner\"}"`) {
		t.Errorf("%d %s", a.StatusCode, text)
	}
	// Who may see what is quarantined needs no other token for it.
	looker := d.principal("looker", access.QuarantineReaderRole)
	_, err := d.Access.Assign(t.Context(), d.Server(), d.Registry.ID.Scope(), ref.NewGUID(), access.AssignmentProperties{RoleDefinitionID: access.PullRole, PrincipalID: d.account(looker), PrincipalType: "ServicePrincipal"})
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ = strings.Cut(looker, ":")
	_, sees, _ := d.get(user, password, "repository:team/api:pull")
	other := d.push("team/api", "v2", "another layer")
	if a, text := d.ask("GET", "/v2/team/api/manifests/"+other, "", sees.Access); a.StatusCode != 200 {
		t.Errorf("a reader of the quarantine: %d %s", a.StatusCode, text)
	}
	if a, text := d.ask("GET", "/v2/team/api/manifests/v1", "", puller); a.StatusCode != 200 {
		t.Errorf("released: %d %s", a.StatusCode, text)
	}
	if a, text := d.ask("PATCH", "/acr/v1/team/api/_manifests/"+digest, passed, puller); a.StatusCode != 401 {
		t.Errorf("a puller releases: %d %s", a.StatusCode, text)
	}
}

func TestWhatWasDeletedIsListedAndRestored(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *db.DB) {
		d := open(t, db)
		d.Update(t, func(r *registry.Registry) { r.Policies.SoftDelete.Status = "enabled" })
		digest := d.push("team/api", "v1", "layer")
		d.push("team/api", "v2", "another")
		d.want(202, "DELETE", "/v2/team/api/manifests/"+digest, "")
		d.want(404, "GET", "/acr/v1/team/api/_tags/v1", "")
		if got := d.want(200, "GET", "/acr/v1/_deleted/_catalog", ""); fmt.Sprint(got) != "map[repositories:[team/api]]" {
			t.Errorf("%v", got)
		}
		if got := d.want(200, "GET", "/acr/v1/_deleted/team/api/_manifests", ""); members(got) != "imageName manifests([deletedAt digest tags]) registry" || !strings.Contains(fmt.Sprint(got), digest) {
			t.Errorf("%v", got)
		}
		if got := d.want(200, "GET", "/acr/v1/_deleted/team/api/_tags", ""); members(got) != "imageName registry tags([deletedAt digest tag])" {
			t.Errorf("%v", got)
		}
		restore := "/acr/v1/_deleted/team/api/_manifests/" + digest
		for path, body := range map[string]string{restore + "?force=maybe": `{"tag":"v1"}`, restore: `{"tags":["v1"]}`, restore + "?force=False": `{"tag":"-"}`, restore + "?": ""} {
			d.want(400, "POST", path, body)
		}
		if a, text := d.ask("POST", restore, `{"tag":"v1"}`, d.principal("pusher", access.PushRole)); a.StatusCode != 401 {
			t.Errorf("%d %s", a.StatusCode, text)
		}
		d.want(200, "POST", restore+"?force=False", `{"tag":"v1"}`)
		if got := d.want(200, "GET", "/acr/v1/team/api/_tags/v1", "")["tag"].(map[string]any)["digest"]; got != digest {
			t.Errorf("v1 is %v", got)
		}
		if got := d.want(200, "GET", "/acr/v1/_deleted/team/api/_manifests", ""); len(got["manifests"].([]any)) != 0 {
			t.Errorf("%v", got)
		}
		// A name that was deleted more than once is there as often, the latest last: az
		// restores that.
		for _, layer := range []string{"x", "y", "z"} {
			digest = d.push("team/web", "v1", layer)
			d.want(202, "DELETE", "/v2/team/web/manifests/"+digest, "")
		}
		if got := d.follow("/acr/v1/_deleted/team/web/_tags", "n=1", "tags", "digest"); len(got) != 3 || got[2] != digest {
			t.Errorf("%v, and the last was %s", got, digest)
		}
		if got := d.follow("/acr/v1/_deleted/_catalog", "n=1", "repositories", ""); !slices.Contains(got, "team/web") {
			t.Errorf("%v", got)
		}
	})
}
