package authority

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
)

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

var (
	pageTemplate = template.Must(template.New("page").Parse(pageText))
	styleHash    = func() string {
		sum := sha256.Sum256([]byte(styleText))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}()
)

// A page is what a person sees. It has no script, and asks for nothing elsewhere.
type page struct {
	Title, Error, Text string
	Application        *shownApplication
	Code               bool     // asks for a device's code
	Request            string   // the sealed interaction; with it the page asks who it is
	Issuers            []string // that could say so
	Username           string
	Style              template.CSS

	redirect string
}

// A shownApplication is for whom a person is about to sign in.
type shownApplication struct{ Name, For, Back, From, Agent, Asked string }

func writePage(w http.ResponseWriter, status int, p page) error {
	p.Style = template.CSS(styleText)
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, p); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+styleHash+"; form-action "+formAction(p.redirect)+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err := w.Write(body.Bytes())
	return err
}

// routeAuthorize begins the sign-in of a person in a browser. Only when it is known
// where the answer may go does a mistake go there; before that it is shown here.
func (a *API) routeAuthorize(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	q, err := gate.ParseForm(r.URL.RawQuery)
	if err != nil || len(r.URL.RawQuery) > maxSealed/2 {
		return call, fault.New(fault.BadRequest, "the link to this page cannot be read, or is too long")
	}
	call.Detail = &ledger.Detail{}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		app, asked, err := a.asked(r, strings.ToLower(q.Get("client_id")), q.Get("scope"))
		if name, ok := fault.From(err).Detail.(identity.Problem); err != nil && (!ok || name == unknownClient) {
			return err
		}
		if app.ID != "" {
			call.Detail.More = map[string]string{"client": app.ID}
		}
		redirect := q.Get("redirect_uri")
		if !mayReturn(app, at.server, redirect) {
			return fault.New(fault.BadRequest, "the application %s wants its answer at an address that is not registered for it", app.Name)
		}
		i := interaction{Client: app.ID, Scope: q.Get("scope"), Issuer: at.issuer(), Redirect: redirect, State: q.Get("state"), Nonce: q.Get("nonce"),
			Challenge: q.Get("code_challenge"), Until: time.Now().Add(pageLife).Unix()}
		back := func(code identity.Problem, why string) error { return goBack(w, i, code, why) }
		switch {
		case err != nil:
			f := fault.From(err)
			return back(f.Detail.(identity.Problem), f.Message)
		case q.Get("response_type") != "code":
			return back("unsupported_response_type", "response_type is code")
		case q.Has("response_mode") && q.Get("response_mode") != "query":
			return back(invalidRequest, "response_mode is query")
		case q.Has("request") || q.Has("request_uri"):
			return back("request_not_supported", "the request stands in the query itself")
		case q.Get("code_challenge_method") != "S256" || len(i.Challenge) != 43 || len(i.State) > 1024 || len(i.Nonce) > 256:
			return back(invalidRequest, "a code_challenge with the method S256 is needed (RFC 7636)")
		case q.Get("prompt") == "none":
			return back("login_required", "somebody has to sign in")
		}
		return a.signInPage(w, r, http.StatusOK, i, asked, shortened(q.Get("login_hint")), "")
	}
	return call, nil
}

// goBack returns to the application without a code.
func goBack(w http.ResponseWriter, i interaction, code identity.Problem, why string) error {
	return redirect(w, returned(i.Redirect, url.Values{"error": {string(code)}, "error_description": {why}, "state": {i.State}, "iss": {i.Issuer}}))
}

func redirect(w http.ResponseWriter, to string) error {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// signInPage asks who it is.
func (a *API) signInPage(w http.ResponseWriter, r *http.Request, status int, i interaction, asked scope, username, wrong string) error {
	app, err := a.o.Identity.Application(r.Context(), i.Client)
	if err != nil {
		return err
	}
	issuers, err := a.o.Identity.SignInIssuers(r.Context())
	if err != nil {
		return err
	}
	p := page{Title: "Sign in", Error: wrong, Issuers: issuers, Username: username, redirect: i.Redirect,
		Application: &shownApplication{Name: app.Name, For: asked.audience}}
	if i.Device == "" {
		u, _ := url.Parse(i.Redirect)
		p.Application.Back = u.Scheme + "://" + u.Host
	} else {
		d, err := a.o.Identity.Waiting(r.Context(), i.Device)
		if err != nil {
			return err
		}
		p.Title = "Sign in on another device"
		p.Application.From, p.Application.Agent, p.Application.Asked = d.From.String(), d.Agent, d.Asked.Format("2006-01-02 15:04:05 UTC")
	}
	if p.Request, err = seal(a, "page", remember(w, r), i); err != nil {
		return err
	}
	return writePage(w, status, p)
}

// routeDevicePage asks for the code that a device shows.
func (a *API) routeDevicePage(_ *http.Request, _ place, call gate.Call) (gate.Call, error) {
	call.Read = false // nobody has asked for anything yet
	call.Handler = func(w http.ResponseWriter, r *http.Request, _ access.Grant) error {
		remember(w, r)
		return writePage(w, http.StatusOK, page{Title: "Sign in on another device", Code: true})
	}
	return call, nil
}

// routeDeviceCode finds the device, and shows who waits there.
func (a *API) routeDeviceCode(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	if err := ownForm(r); err != nil {
		return call, err
	}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		typed := identity.ParseUserCode(r.PostForm.Get("user_code"))
		d, err := a.o.Identity.Device(r.Context(), typed, origin(g))
		if err != nil {
			return err
		}
		asked, err := parseScope(d.Scope, "")
		if err != nil {
			return err
		}
		i := interaction{Client: d.Client, Scope: d.Scope, Issuer: at.issuer(), Device: typed, Until: d.Asked.Add(identity.DeviceLife).Unix()}
		return a.signInPage(w, r, http.StatusOK, i, asked, "", "")
	}
	return call, nil
}

// ownForm reads a form that one of our pages has sent: a form of another site's
// page would sign somebody in who does not know it.
func ownForm(r *http.Request) error {
	r.PostForm = url.Values{}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return fault.New(fault.BadRequest, "the form comes from another site; start the sign-in again").Because(err)
	}
	return readForm(r)
}

// routeSignIn reads who it is, or that nobody wants to.
func (a *API) routeSignIn(r *http.Request, _ place, call gate.Call) (gate.Call, error) {
	if err := ownForm(r); err != nil {
		return call, err
	}
	i, err := unseal[interaction](a, r, "page", r.PostForm.Get("request"))
	if err != nil {
		return call, err
	}
	call.Detail = &ledger.Detail{More: map[string]string{"client": i.Client}}
	if r.PostForm.Get("cancel") != "" {
		call.Handler = func(w http.ResponseWriter, r *http.Request, _ access.Grant) error { return a.decline(w, r, i) }
		return call, nil
	}
	shown, err := identity.NewBasic(r.PostForm.Get("username"), r.PostForm.Get("password"))
	if err != nil {
		return call, fault.New(fault.Unauthenticated, "the user name or the password is not right")
	}
	call.Anyone, call.Credentials = false, &shown
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		return a.finish(w, r, g.Principal(), i)
	}
	return call, nil
}

// finish takes somebody who is proven back to what asked for the sign-in.
func (a *API) finish(w http.ResponseWriter, r *http.Request, p identity.Principal, i interaction) error {
	if i.Device != "" {
		if err := a.o.Identity.AnswerDevice(r.Context(), i.Device, p); err != nil {
			return err
		}
		return writePage(w, http.StatusOK, page{Title: "You are signed in on the other device", Text: "You can close this window."})
	}
	asked, err := parseScope(i.Scope, "")
	if err != nil {
		return err
	}
	code, err := a.o.Identity.NewCode(r.Context(), p, identity.Authorization{
		Session:  identity.Session{Client: i.Client, Scope: i.Scope, Nonce: i.Nonce, Offline: asked.offline},
		Redirect: i.Redirect, Challenge: i.Challenge,
	})
	if err != nil {
		return err
	}
	return redirect(w, returned(i.Redirect, url.Values{"code": {string(code)}, "state": {i.State}, "iss": {i.Issuer}}))
}

func (a *API) decline(w http.ResponseWriter, r *http.Request, i interaction) error {
	if i.Device == "" {
		return goBack(w, i, "access_denied", "the sign-in was declined")
	}
	if err := a.o.Identity.AnswerDevice(r.Context(), i.Device, identity.Principal{}); err != nil {
		return err
	}
	return writePage(w, http.StatusOK, page{Title: "Nobody is signed in", Text: "The device was told so. You can close this window."})
}

// routeOutward takes the browser to an external issuer.
func (a *API) routeOutward(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	i, err := unseal[interaction](a, r, "page", r.URL.Query().Get("request"))
	if err != nil {
		return call, err
	}
	call.Detail = &ledger.Detail{More: map[string]string{"client": i.Client, "issuer": at.rest}}
	call.Handler = func(w http.ResponseWriter, r *http.Request, _ access.Grant) error {
		o := outing{interaction: i, To: at.rest, Verifier: rand.Text() + rand.Text(), Asked: rand.Text()}
		challenge := sha256.Sum256([]byte(o.Verifier))
		cookie, _ := browser(r)
		// The state holds the issuer's own name, so that is asked for first.
		_, issuer, err := a.o.Identity.SignInURL(r.Context(), o.To, "", "", "", "")
		if err != nil {
			return err
		}
		o.URL = issuer
		state, err := seal(a, "outing", cookie, o)
		if err != nil {
			return err
		}
		to, _, err := a.o.Identity.SignInURL(r.Context(), o.To, comeBack(at, o.To), state, o.Asked, base64.RawURLEncoding.EncodeToString(challenge[:]))
		if err != nil {
			return err
		}
		return redirect(w, to)
	}
	return call, nil
}

// comeBack is where an external issuer sends a browser: each issuer has an address of
// its own, so that none can answer for another.
func comeBack(at place, issuer string) string { return at.server + "/signin/from/" + issuer }

// routeReturn reads what an external issuer has given the browser for us.
func (a *API) routeReturn(r *http.Request, at place, call gate.Call) (gate.Call, error) {
	q, err := gate.ParseForm(r.URL.RawQuery)
	if err != nil {
		return call, fault.New(fault.BadRequest, "the answer of the issuer cannot be read")
	}
	o, err := unseal[outing](a, r, "outing", q.Get("state"))
	if err != nil {
		return call, err
	}
	call.Detail = &ledger.Detail{More: map[string]string{"client": o.Client, "issuer": o.To}}
	if o.To != at.rest || q.Has("iss") && q.Get("iss") != o.URL {
		return call, fault.New(fault.Unauthenticated, "another issuer answers than the one that was asked; start the sign-in again")
	}
	code := q.Get("code")
	if code == "" {
		return call, fault.New(fault.Unauthenticated, "the issuer %s has signed nobody in; start the sign-in again", o.To)
	}
	call.Anyone = false
	call.Credentials = &identity.Credentials{Method: identity.ExternalCode, Name: o.To, Secret: identity.Secret(code),
		Verifier: identity.Secret(o.Verifier), Redirect: comeBack(at, o.To), Nonce: o.Asked}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		return a.finish(w, r, g.Principal(), o.interaction)
	}
	return call, nil
}

// errorPage refuses on a page. A wrong password is answered with the same question.
func (a *API) errorPage(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	status := f.Code.Row().Status
	if f.Code == fault.Unauthenticated || f.Code == fault.TooManyRequests {
		if i, err := unseal[interaction](a, r, "page", r.PostForm.Get("request")); err == nil {
			wrong := "The user name or the password is not right."
			if f.Code == fault.TooManyRequests {
				wrong = "There were too many attempts. Wait a little, then try again."
			}
			asked, _ := parseScope(i.Scope, "")
			if a.signInPage(w, r, status, i, asked, shortened(r.PostForm.Get("username")), wrong) == nil {
				return
			}
		}
	}
	p := page{Title: "This did not work", Error: sentence(f.Message)}
	if strings.EqualFold(r.URL.Path, "/devicelogin") {
		p.Title, p.Code = "Sign in on another device", true
	}
	_ = writePage(w, status, p)
}

func sentence(s string) string {
	if s == "" {
		return "The server has no words for it."
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
