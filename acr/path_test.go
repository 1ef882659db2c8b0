package acr

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What is read from a path, put back into the pattern of its route, is that path.
func FuzzPathsAreReadInOneWay(f *testing.F) {
	for _, p := range patterns {
		f.Add(strings.NewReplacer("{name}", "team/api", "{reference}", "v1", "{digest}", "sha256:"+strings.Repeat("0", 64)).Replace(p))
	}
	f.Add("/acr/v1/team%2Fapi/_tags/v1")
	f.Add("/acr/v1/_deleted/a/_manifests/_catalog")
	f.Fuzz(func(t *testing.T, path string) {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "/", http.NoBody)
			r.URL.Path, r.URL.RawPath = path, ""
			if strings.ContainsAny(path, "%") {
				return
			}
			q, err := parse(r)
			if err != nil {
				continue
			}
			back := strings.NewReplacer("{name}", string(q.repo), "{reference}", string(q.tag), "{digest}", string(q.digest)).Replace(patterns[q.row.kind])
			if back != path {
				t.Fatalf("%q was read as %q", path, back)
			}
		}
	})
}

func FuzzBodiesOfChanges(f *testing.F) {
	for _, body := range []string{`{"deleteEnabled":false}`, `{"quarantineState":"Passed"}`, `{}`, "", "null", `{"deleteEnabled":null}`, `{"DELETEENABLED":true}`, `{"a":1}`, `{}{}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var s switches
		if err := read(httptest.NewRequest("PATCH", "/", strings.NewReader(body)), &s); err != nil {
			return
		}
		if text := strings.ToLower(body); s.Delete != nil && !strings.Contains(text, "delete") && !strings.Contains(text, `\u`) {
			t.Fatalf("%q deletes", body)
		}
	})
}
