package authority

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"breakwater/fault"
)

// A sign-in takes several pages, and the server keeps nothing between them: the
// browser carries what it is about, sealed. The seal holds only together with the
// browser's cookie, so that nobody finishes in one browser what was begun in
// another, and for pageLife.
const (
	cookieName = "__Host-breakwater"
	pageLife   = 15 * time.Minute
	maxSealed  = 8 << 10
)

// An interaction is what a sign-in is about: an authorization request, or a device.
type interaction struct {
	Client    string `json:"client"`
	Scope     string `json:"scope,omitempty"`
	Issuer    string `json:"issuer,omitempty"` // the authority, as the client knows it
	Redirect  string `json:"redirect,omitempty"`
	State     string `json:"state,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
	Challenge string `json:"challenge,omitempty"`
	Device    string `json:"device,omitempty"` // user code
	Until     int64  `json:"until"`
}

// An outing is an interaction that has gone to an external issuer.
type outing struct {
	interaction
	To       string `json:"to"`  // name of the issuer
	URL      string `json:"url"` // iss of what it answers (RFC 9207)
	Verifier string `json:"verifier"`
	Asked    string `json:"asked"` // nonce
}

func (i interaction) until() int64 { return i.Until }

func (a *API) aead() cipher.AEAD {
	block, err := aes.NewCipher(a.o.Key)
	if err != nil {
		panic(err) // only for a wrong key length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// seal is v for the browser that has the cookie.
func seal[T any](a *API, kind, cookie string, v T) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(a.aead().Seal(nil, nil, text, []byte(kind+"\x00"+cookie))), nil
}

// unseal reads what seal has made for this browser, not too long ago.
func unseal[T interface{ until() int64 }](a *API, r *http.Request, kind, sealed string) (v T, err error) {
	cookie, ok := browser(r)
	text, err := base64.RawURLEncoding.DecodeString(sealed)
	if !ok || err != nil || len(sealed) > maxSealed {
		return v, stale()
	}
	plain, err := a.aead().Open(nil, nil, text, []byte(kind+"\x00"+cookie))
	if err != nil || json.Unmarshal(plain, &v) != nil || time.Now().Unix() > v.until() {
		return v, stale()
	}
	return v, nil
}

func stale() error {
	return fault.New(fault.BadRequest, "this page is too old, or was opened in another browser; start the sign-in again")
}

// browser is the cookie that a browser goes by.
func browser(r *http.Request) (string, bool) {
	c, err := r.Cookie(cookieName)
	if err != nil || len(c.Value) != 26 || strings.Trim(c.Value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", false
	}
	return c.Value, true
}

// remember gives the browser its cookie. One that has it keeps it, so that several
// windows can sign in. The prefix of its name keeps it to this very host; Lax lets
// it come along when another site sends the browser here.
func remember(w http.ResponseWriter, r *http.Request) string {
	if value, ok := browser(r); ok {
		return value
	}
	value := rand.Text()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	return value
}
