package authority

import (
	"fmt"
	"net/http"
	"time"

	"breakwater/fault"
	"breakwater/identity"
)

// Problems of this dialect alone; identity has those that only it can find.
const (
	invalidRequest   identity.Problem = "invalid_request"
	invalidClient    identity.Problem = "invalid_client"
	unknownClient    identity.Problem = "unauthorized_client"
	publicClient     identity.Problem = "public_client"
	unsupportedGrant identity.Problem = "unsupported_grant_type"
	invalidScope     identity.Problem = "invalid_scope"
	invalidResource  identity.Problem = "invalid_resource"
	invalidInstance  identity.Problem = "invalid_instance"
	busy             identity.Problem = "temporarily_unavailable"
	failed           identity.Problem = "server_error"
)

// problemRows are how OAuth and Entra ID call each problem. A wrong credential of a
// client is 401: MSAL remembers a 400 for a minute.
var problemRows = map[identity.Problem]struct {
	status int
	code   string // OAuth's, where it is another
	number int    // Entra ID's: AADSTS…
}{
	invalidRequest:        {400, "", 900144},
	invalidClient:         {401, "", 7000215},
	unknownClient:         {400, "", 700016},
	publicClient:          {401, "invalid_client", 700025},
	unsupportedGrant:      {400, "", 70003},
	invalidScope:          {400, "", 70011},
	invalidResource:       {400, "", 500011},
	invalidInstance:       {400, "", 50049},
	identity.InvalidGrant: {400, "", 70000},
	identity.Pending:      {400, "", 70016},
	identity.SlowDown:     {400, "", 70017},
	identity.Expired:      {400, "", 70020},
	identity.Declined:     {400, "", 65004},
	busy:                  {0, "", 90033},
	failed:                {0, "", 90036},
}

// named is the problem that a fault is.
func named(r *http.Request, f *fault.Error) identity.Problem {
	if p, ok := f.Detail.(identity.Problem); ok {
		return p
	}
	switch f.Code {
	case fault.Unauthenticated, fault.Denied:
		switch r.PostForm.Get("grant_type") {
		case "", "client_credentials":
			return invalidClient
		}
		return identity.InvalidGrant
	case fault.Unavailable, fault.TooManyRequests, fault.StorageFull:
		return busy
	}
	if f.Code.Row().Status >= 500 {
		return failed
	}
	return invalidRequest
}

// refuse answers as RFC 6749 says, with the words that Entra ID adds and clients
// print.
func refuse(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	name := named(r, f)
	row := problemRows[name]
	status, code := row.status, row.code
	if status == 0 || f.Code != fault.BadRequest && f.Code != fault.Unauthenticated && f.Code != fault.Denied {
		status = f.Code.Row().Status
	}
	if code == "" {
		code = string(name)
	}
	if status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+r.Host+`"`)
	}
	if name == identity.SlowDown {
		w.Header().Del("Retry-After") // a client would wait that long for everything
	}
	now, correlation := time.Now().UTC().Format("2006-01-02 15:04:05Z"), w.Header().Get("X-Ms-Correlation-Request-Id")
	_ = writeJSON(w, status, map[string]any{
		"error":             code,
		"error_description": fmt.Sprintf("AADSTS%d: %s. Trace ID: %s Correlation ID: %s Timestamp: %s", row.number, f.Message, correlation, correlation, now),
		"error_codes":       []int{row.number},
		"timestamp":         now,
		"trace_id":          correlation,
		"correlation_id":    correlation,
	})
}
