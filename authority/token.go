package authority

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
)

// A grant is a way to get a token, and where its credential stands in the form.
type grant struct {
	name        string
	method      identity.Method
	field       string
	application bool // on behalf of nobody
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// The rows of the token endpoint. There is no password grant: who types a password
// into another program than a browser has no way to see who will have it.
var grantRows = []grant{
	{"client_credentials", identity.ClientSecret, "client_secret", true},
	{"authorization_code", identity.AuthorizationCode, "code", false},
	{"refresh_token", identity.RefreshToken, "refresh_token", false},
	{"urn:ietf:params:oauth:grant-type:device_code", identity.DeviceCode, "device_code", false},
	{"device_code", identity.DeviceCode, "device_code", false}, // as Microsoft's library for Go has always called it
}

func grants() (names []string) {
	for _, g := range grantRows {
		names = append(names, g.name)
	}
	return names
}

// readForm reads the form of a POST into r.PostForm.
func readForm(r *http.Request) (err error) {
	r.PostForm, err = gate.ReadForm(r)
	return err
}

// routeToken reads who asks for a token, and with what.
func (a *API) routeToken(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	call.Anyone = false
	if err := readForm(r); err != nil {
		return call, err
	}
	form := r.PostForm
	i := slices.IndexFunc(grantRows, func(g grant) bool { return g.name == form.Get("grant_type") })
	if i < 0 {
		return call, unsupportedGrant.Fault("grant_type is one of %s", strings.Join(grants(), ", "))
	}
	grant := grantRows[i]
	call.Detail = &ledger.Detail{More: map[string]string{"grant": form.Get("grant_type")}}
	client, secret, err := basic(r)
	if err != nil {
		return call, err
	}
	if client == "" {
		client, secret = form.Get("client_id"), identity.Secret(form.Get("client_secret"))
	} else if given := form.Get("client_id"); given != "" && given != client || form.Has("client_secret") {
		return call, invalidRequest.Fault("the client is named twice, in the header and in the form")
	}
	if client = strings.ToLower(client); !ref.IsGUID(client) {
		return call, unknownClient.Fault("client_id is missing, or no application of this directory")
	}
	call.Detail.More["client"] = client
	shown := identity.Credentials{
		Method: grant.method, Name: client, Secret: identity.Secret(form.Get(grant.field)),
		Verifier: identity.Secret(form.Get("code_verifier")), Redirect: form.Get("redirect_uri"),
	}
	switch {
	case grant.application && form.Has("client_assertion"):
		asked, err := parseScope(form.Get("scope"), form.Get("resource"))
		if err != nil {
			return call, err
		}
		if form.Get("client_assertion_type") != assertionType || secret != "" {
			return call, invalidRequest.Fault("a client shows one credential: client_secret, or client_assertion with the client_assertion_type %s", assertionType)
		}
		shown.Method, shown.Secret = identity.ClientAssertion, identity.Secret(form.Get("client_assertion"))
		shown.Resource = asked.audience // an assertion is good once for each
		shown.Audience = []string{at.at("token"), at.issuer(), at.server + r.URL.Path}
	case grant.application:
		shown.Secret = secret
	case secret != "" || form.Has("client_assertion"):
		return call, publicClient.Fault("the client is public: it shows neither a client_secret nor a client_assertion")
	}
	if shown.Secret == "" {
		return call, invalidRequest.Fault("the form has no %s", grant.field)
	}
	call.Credentials = &shown
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		return a.token(w, r, g, at, grant, call.Detail)
	}
	return call, nil
}

// basic reads a client's id and secret from the header (RFC 6749, 2.3.1).
func basic(r *http.Request) (string, identity.Secret, error) {
	lines := r.Header["Authorization"]
	if len(lines) == 0 {
		return "", "", nil
	}
	user, password, ok := r.BasicAuth()
	id, err := url.QueryUnescape(user)
	if err == nil {
		password, err = url.QueryUnescape(password)
	}
	if !ok || err != nil || len(lines) > 1 || id == "" {
		return "", "", invalidClient.Fault("the Authorization header cannot be read; a client shows its id and secret there by Basic, or in the form")
	}
	return id, identity.Secret(password), nil
}

// token issues what the client asks for, to whom the door has proven.
func (a *API) token(w http.ResponseWriter, r *http.Request, g access.Grant, at place, grant grant, detail *ledger.Detail) error {
	reg, err := a.o.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return err
	}
	p, form := g.Principal(), r.PostForm
	text := form.Get("scope")
	if p.Session != nil && !form.Has("scope") && !form.Has("resource") {
		text = p.Session.Scope
	}
	asked, err := parseScope(text, form.Get("resource"))
	if err != nil {
		return err
	}
	if err := a.may(reg.Realm(), p, grant, asked); err != nil {
		return err
	}
	tokens, err := a.o.Identity.IssueTokens(r.Context(), reg.Realm(), p, identity.Want{
		Issuer: at.issuer(), Audience: asked.audience,
		ID: p.Session != nil && asked.openid, Refresh: p.Session != nil && p.Session.Offline,
	})
	if err != nil {
		return err
	}
	detail.More["audience"] = asked.audience
	left := int(time.Until(tokens.Expires) / time.Second)
	answer := map[string]any{"token_type": "Bearer", "expires_in": left, "ext_expires_in": left, "access_token": string(tokens.Access)}
	if at.v1 || at.adfs && form.Has("resource") {
		answer["resource"], answer["expires_on"] = asked.audience, strconv.FormatInt(tokens.Expires.Unix(), 10)
	}
	if p.Session != nil {
		answer["scope"] = text
	}
	if tokens.ID != "" {
		answer["id_token"] = string(tokens.ID)
	}
	if tokens.Refresh != "" {
		answer["refresh_token"] = string(tokens.Refresh)
	}
	if p.Session != nil && form.Get("client_info") == "1" {
		info, _ := json.Marshal(map[string]string{"uid": p.ID, "utid": at.tenant})
		answer["client_info"] = base64.RawURLEncoding.EncodeToString(info)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// may refuses an audience that this server does not know, and one that the person
// who signed in was not asked about. The clients that everybody has may change it:
// az has one refresh token for everything.
func (a *API) may(r identity.Realm, p identity.Principal, grant grant, asked scope) error {
	switch {
	case asked.audience != "" && !identity.KnownAudience(r, asked.audience):
		return unknownAudience(asked.audience)
	case asked.audience == "" && grant.application:
		return invalidScope.Fault("scope is missing: a resource of this server and /.default, such as %s/.default", identity.RegistryAudience)
	case p.Session == nil || slices.Contains([]string{identity.AzureCLI, identity.Command, identity.Portal}, p.Session.Client):
		return nil
	}
	first, err := parseScope(p.Session.Scope, "")
	if err != nil || asked.audience != "" && asked.audience != first.audience {
		return invalidScope.Fault("nobody was asked whether this application may have a token for %.200q; sign in again", asked.audience)
	}
	return nil
}

func unknownAudience(audience string) error {
	return invalidResource.Fault("the resource %.200q is not known here; this server has %s for registries and https://management.azure.com for the control plane", audience, identity.RegistryAudience)
}

// A scope is what the parameter of that name asks for.
type scope struct {
	audience        string
	openid, offline bool
}

// parseScope reads scope, or resource in its place as older clients send it.
// Scopes of one resource stand for the resource as a whole: what may be done there
// is decided there.
func parseScope(text, resource string) (s scope, err error) {
	if len(text) > 2048 || len(resource) > 512 {
		return s, invalidScope.Fault("the scope is too long")
	}
	s.audience = resource
	for item := range strings.FieldsSeq(text) {
		switch item {
		case "openid":
			s.openid = true
		case "offline_access":
			s.offline = true
		case "profile", "email":
		default:
			cut := strings.LastIndexByte(item, '/')
			if cut <= 0 || s.audience != "" && s.audience != item[:cut] {
				return scope{}, invalidScope.Fault("scope names one resource: its name, a slash and .default")
			}
			s.audience = item[:cut]
		}
	}
	return s, nil
}

// routeDevice lets a device ask for a code that a person types elsewhere.
func (a *API) routeDevice(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	if err := readForm(r); err != nil {
		return call, err
	}
	form := r.PostForm
	client := strings.ToLower(form.Get("client_id"))
	call.Detail = &ledger.Detail{More: map[string]string{}}
	if ref.IsGUID(client) {
		call.Detail.More["client"] = client
	}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		application, asked, err := a.asked(r, client, form.Get("scope"))
		if err != nil {
			return err
		}
		secret, typed, err := a.o.Identity.NewDevice(r.Context(), identity.Device{
			Client: application.ID, Scope: form.Get("scope"), Offline: asked.offline, Agent: shortened(r.UserAgent()),
		}, origin(g))
		if err != nil {
			return err
		}
		page := at.server + "/devicelogin"
		return writeJSON(w, http.StatusOK, map[string]any{
			"device_code": string(secret), "user_code": typed, "verification_uri": page, "verification_url": page,
			"expires_in": int(identity.DeviceLife / time.Second), "interval": int(identity.DeviceEvery / time.Second),
			"message": "To sign in, use a web browser to open the page " + page + " and enter the code " + typed + " to authenticate.",
		})
	}
	return call, nil
}

// asked is the application that wants somebody to sign in, and for what.
func (a *API) asked(r *http.Request, client, text string) (identity.Application, scope, error) {
	application, err := a.o.Identity.Application(r.Context(), client)
	if fault.Of(err) == fault.BadRequest {
		return application, scope{}, unknownClient.Fault("client_id is missing, or no application that people may sign in to")
	}
	if err != nil {
		return application, scope{}, err
	}
	asked, err := parseScope(text, "")
	if err != nil {
		return application, scope{}, err
	}
	reg, err := a.o.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return application, scope{}, err
	}
	if asked.audience != "" && !identity.KnownAudience(reg.Realm(), asked.audience) {
		return application, scope{}, unknownAudience(asked.audience)
	}
	return application, asked, nil
}

// origin is where the caller is, as the door has found.
func origin(g access.Grant) network.Origin {
	from := g.Event("", "", "").From
	return network.Origin{Addr: from.Address, Listener: from.Listener, Endpoint: from.Endpoint, Told: from.Told}
}

// shortened is a text of a stranger that a page will show.
func shortened(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == '\ufffd' {
			return -1
		}
		return c
	}, s)
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "")
	}
	return s
}
