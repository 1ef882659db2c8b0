package oci

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/ref"
)

// Error writes a refusal in the specification's form.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	h, code := w.Header(), f.Code.Row()
	h["Docker-Distribution-Api-Version"] = version
	switch f.Code {
	case fault.Unauthenticated, fault.Denied:
		Challenge(w, r, f, scopes(r))
		return
	case fault.MethodNotAllowed, fault.Disallowed:
		if k, _, _, ok := split(r.URL.EscapedPath()); ok {
			h.Set("Allow", allowed(k))
		}
	}
	Refuse(w, code.Status, code.OCI, f.Message, f.Detail)
}

// Challenge refuses a caller without the right in asking it for a better token,
// which scope says: 401, never 403, because clients cache one token and ask for
// another only when they are challenged. 403 stays for networks.
func Challenge(w http.ResponseWriter, r *http.Request, f *fault.Error, scope []string) {
	w.Header().Set("WWW-Authenticate", challenge(r, scope, f))
	code := fault.Unauthenticated.Row()
	Refuse(w, code.Status, code.OCI, f.Message, asked(scope))
}

// Refuse writes one error in the specification's form. Azure's SDKs find the code
// in a header, because they know no such body.
func Refuse(w http.ResponseWriter, status int, code, message string, detail any) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{code, message, detail}}})
	if err != nil {
		body = []byte(`{"errors":[]}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// challenge tells a client where to get a token and for what. The format is what
// the narrowest of known parsers wants: no space after a comma, and no "=" inside
// a value.
func challenge(r *http.Request, scope []string, f *fault.Error) string {
	c := `Bearer realm="https://` + r.Host + `/oauth2/token",service="` + r.Host + `"`
	if len(scope) > 0 {
		c += `,scope="` + strings.Join(scope, " ") + `"`
	}
	switch shown := r.Header["Authorization"] != nil; {
	case shown && f.Code == fault.Denied:
		c += `,error="insufficient_scope"`
	case shown:
		c += `,error="invalid_token"`
	}
	return c
}

// scopes is what a token must be asked for, so that this request passes.
func scopes(r *http.Request) []string {
	q, err := parse(r)
	if err != nil {
		return nil
	}
	switch q.row.action {
	case access.CatalogRead:
		return []string{"registry:catalog:*"}
	case access.ContentRead:
		return []string{"repository:" + string(q.repo) + ":pull"}
	case access.ContentDelete:
		return []string{"repository:" + string(q.repo) + ":delete"}
	case access.ContentWrite:
		scope := []string{"repository:" + string(q.repo) + ":pull,push"}
		if q.row.kind == uploads {
			scope = append(scope, sources(r)...)
		}
		return scope
	}
	return nil
}

// sources are the scopes that a mount needs at the other end.
func sources(r *http.Request) []string {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || !v.Has("mount") {
		return nil
	}
	if !v.Has("from") {
		return []string{"repository:*:pull"}
	}
	from, err := ref.ParseRepository(v.Get("from"))
	if err != nil {
		return nil
	}
	return []string{"repository:" + string(from) + ":pull"}
}

// asked repeats the scopes as the detail that Azure's clients print.
func asked(scope []string) any {
	type entry struct{ Type, Name, Action string }
	var all []entry
	for _, s := range scope {
		typ, rest, _ := strings.Cut(s, ":")
		i := strings.LastIndexByte(rest, ':')
		for action := range strings.SplitSeq(rest[i+1:], ",") {
			all = append(all, entry{typ, rest[:i], action})
		}
	}
	if all == nil {
		return nil
	}
	return all
}
