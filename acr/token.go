package acr

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
)

const (
	tokens   = "/oauth2/token"
	exchange = "/oauth2/exchange"
)

// routeToken reads who asks, and for which scopes. Anybody may ask; what the token
// is good for is decided where it is shown.
func (a *API) routeToken(r *http.Request) (gate.Call, error) {
	call := gate.Call{Operation: "Login", Category: ledger.Login, Anyone: true, Read: true, Detail: &ledger.Detail{}}
	var form url.Values
	var err error
	switch r.Method {
	case http.MethodGet:
		if form, err = gate.ParseForm(r.URL.RawQuery, "scope"); err != nil {
			return gate.Call{}, err
		}
	case http.MethodPost:
		if form, err = gate.ReadForm(r, "scope"); err != nil {
			return gate.Call{}, err
		}
		shown, err := credentials(form)
		if err != nil {
			return call, err // somebody tried to log in: the ledger shall know
		}
		call.Credentials = &shown
	default:
		return gate.Call{}, fault.New(fault.MethodNotAllowed, "this path answers GET, POST")
	}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		vouched(call.Detail, g)
		return a.issue(w, r, g, form)
	}
	return call, nil
}

// routeExchange reads whose token shall become one of the registry. Which service
// and tenant a client names does not matter: the registry is the one that is called,
// and a token says itself whom it is for.
func (a *API) routeExchange(r *http.Request) (gate.Call, error) {
	call := gate.Call{Operation: "Exchange", Category: ledger.Login, Read: true, Detail: &ledger.Detail{}}
	form, err := gate.ReadForm(r, "scope")
	if err != nil {
		return gate.Call{}, err
	}
	switch form.Get("grant_type") {
	case "access_token", "access_token_refresh_token":
	case "refresh_token": // of the authority: it belongs to another client, and works once
		return call, fault.New(fault.Unauthenticated, "a refresh token of an issuer is for its client alone; show an access token (grant_type=access_token)")
	default:
		return call, fault.New(fault.BadRequest, "grant_type is access_token")
	}
	call.Credentials = &identity.Credentials{Method: identity.ExternalToken, Secret: identity.Secret(form.Get("access_token"))}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		reg, err := a.Registries.ByHost(r.Context(), r.Host)
		if err != nil {
			return err
		}
		token, _, err := a.Identity.IssueRefresh(r.Context(), reg.Realm(), g.Principal())
		if err != nil {
			return err
		}
		vouched(call.Detail, g)
		return answer(w, struct {
			Refresh string `json:"refresh_token"`
		}{token})
	}
	return call, nil
}

// vouched tells the ledger which issuer has said who it is.
func vouched(d *ledger.Detail, g access.Grant) {
	if issuer := g.Principal().Authentication.Issuer; issuer != "" {
		d.More = map[string]string{"issuer": issuer}
	}
}

func answer(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write(body)
	return err
}

// credentials are in the form. A password grant without a user name is how a
// client without credentials asks.
func credentials(form url.Values) (identity.Credentials, error) {
	switch form.Get("grant_type") {
	case "refresh_token":
		return identity.NewBasic(identity.RefreshUser, form.Get("refresh_token"))
	case "password":
		if form.Get("username") == "" && form.Get("password") == "" {
			return identity.Credentials{}, nil
		}
		return identity.NewBasic(form.Get("username"), form.Get("password"))
	}
	return identity.Credentials{}, fault.New(fault.BadRequest, "grant_type is refresh_token or password")
}

// issue answers with an access token for as much of what was asked as the caller
// may do. To ask for too much is no error: the token is then refused where it is
// used, and every client understands that.
func (a *API) issue(w http.ResponseWriter, r *http.Request, g access.Grant, form url.Values) error {
	reg, err := a.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return err
	}
	p := g.Principal()
	if p.Kind == identity.Anonymous && !reg.AnonymousPullEnabled {
		return fault.New(fault.Unauthenticated, "authentication required")
	}
	token, until, err := a.Identity.IssueAccess(r.Context(), reg.Realm(), p, g.Ask(identity.ParseScopes(form["scope"])))
	if err != nil {
		return err
	}
	// Azure's clients read access_token, Docker's read either and the life span.
	given := struct {
		Access    string `json:"access_token"`
		Token     string `json:"token"`
		Type      string `json:"token_type"`
		ExpiresIn int    `json:"expires_in"`
		IssuedAt  string `json:"issued_at"`
		Refresh   string `json:"refresh_token,omitempty"`
	}{token, token, "Bearer", int(time.Until(until) / time.Second), time.Now().UTC().Format(time.RFC3339), ""}
	if form.Get("access_type") == "offline" && form.Get("grant_type") == "password" && p.ID != "" {
		if given.Refresh, _, err = a.Identity.IssueRefresh(r.Context(), reg.Realm(), p); err != nil {
			return err
		}
	}
	return answer(w, given)
}
