package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Transit is the engine of that name in HashiCorp Vault and in OpenBao.
type Transit struct {
	TransitOptions
	client *http.Client

	mu    sync.Mutex
	token string
	until time.Time // when the token is to be had anew
}

// TransitOptions say where it is and who we are there.
type TransitOptions struct {
	Reach
	Endpoint  string // https://vault.example.com:8200
	Mount     string // "" is transit
	Namespace string // of Vault Enterprise and OpenBao; "" for none

	// Method is how we log in: "token" (the credential is one), "approle" (the
	// credential is JSON, {"role_id", "secret_id"}) or "jwt" (the credential is one
	// that somebody renews, such as Kubernetes). "" is token.
	Method     string
	Role       string // of jwt
	LoginMount string // "" is Method
	Credential string // a file in Directory, read again at every login
}

// NewTransit checks the options; nothing is asked yet.
func NewTransit(o TransitOptions) (*Transit, error) {
	u, err := endpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	o.Endpoint = u.String()
	if o.Mount == "" {
		o.Mount = "transit"
	}
	if o.Method == "" {
		o.Method = "token"
	}
	if o.LoginMount == "" {
		o.LoginMount = o.Method
	}
	for _, m := range []string{o.Mount, o.LoginMount, o.Namespace} {
		for part := range strings.SplitSeq(strings.Trim(m, "/"), "/") {
			if m != "" && !validName(part) {
				return nil, fmt.Errorf("%q is no path of a mount or namespace", m)
			}
		}
	}
	if o.Method != "token" && o.Method != "approle" && o.Method != "jwt" {
		return nil, errors.New("method is token, approle or jwt")
	}
	return &Transit{TransitOptions: o, client: o.Reach.client()}, nil
}

// Describe implements Provider. The key's versions are 1, 2, 3 …; the current one is
// the last.
func (t *Transit) Describe(ctx context.Context, key Key) (Description, error) {
	var a struct {
		Data struct {
			Type    string                     `json:"type"`
			Latest  int                        `json:"latest_version"`
			Least   int                        `json:"min_decryption_version"`
			Keys    map[string]json.RawMessage `json:"keys"`
			Deleted bool                       `json:"soft_deleted"` // of OpenBao and of Vault since 1.20
		} `json:"data"`
	}
	if err := t.call(ctx, key, http.MethodGet, "keys", nil, &a); err != nil {
		return Description{}, err
	}
	if a.Data.Type == "" {
		return Description{}, down("Transit", errors.New("an answer without a key"))
	}
	d := Description{State: Enabled, Version: key.Version}
	if d.Version == "" {
		d.Version = strconv.Itoa(a.Data.Latest)
	}
	switch kind := a.Data.Type; kind {
	case "aes256-gcm96":
		d.Algorithm, d.Bits = AES, 256
	case "chacha20-poly1305":
		d.Algorithm, d.Bits = ChaCha20, 256
	case "rsa-2048", "rsa-3072", "rsa-4096":
		d.Algorithm = RSA
		d.Bits, _ = strconv.Atoi(kind[len("rsa-"):])
	default:
		d.Algorithm = kind
	}
	version, ok := a.Data.Keys[d.Version]
	n, err := strconv.Atoi(d.Version)
	if err != nil || !ok || n < a.Data.Least {
		d.State = Gone
	} else if a.Data.Deleted {
		d.State = Disabled
	} else {
		d.Created = created(version)
	}
	return d, nil
}

// created is when a version was made: a number of seconds, or, of an asymmetric key,
// a text in an object.
func created(version json.RawMessage) time.Time {
	var seconds int64
	if json.Unmarshal(version, &seconds) == nil {
		return time.Unix(seconds, 0)
	}
	var asymmetric struct {
		Created time.Time `json:"creation_time"`
	}
	if json.Unmarshal(version, &asymmetric) != nil {
		return time.Time{}
	}
	return asymmetric.Created
}

// Wrap implements Provider. It uses no associated data: Vault 1.21's rewrap cannot
// open what was encrypted with some, and an operator may want to.
func (t *Transit) Wrap(ctx context.Context, key Key, id KeyID, secret []byte) ([]byte, string, error) {
	b, err := bind(id, secret)
	if err != nil {
		return nil, "", err
	}
	defer clear(b)
	in := map[string]any{"plaintext": b}
	if key.Version != "" {
		n, err := strconv.Atoi(key.Version)
		if err != nil {
			return nil, "", refusal(key, Gone, err)
		}
		in["key_version"] = n
	}
	var a struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
		} `json:"data"`
	}
	if err := t.call(ctx, key, http.MethodPost, "encrypt", in, &a); err != nil {
		return nil, "", err
	}
	version, ok := transitVersion(a.Data.Ciphertext)
	if !ok || key.Version != "" && key.Version != version {
		return nil, "", errors.New("the ciphertext of Transit does not say the version that was asked for")
	}
	return []byte(a.Data.Ciphertext), version, nil
}

// transitVersion is the 3 of vault:v3:…
func transitVersion(ciphertext string) (string, bool) {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	version, sealed, is := strings.Cut(rest, ":")
	n, err := strconv.Atoi(version)
	return version, ok && is && err == nil && n > 0 && sealed != "" && strconv.Itoa(n) == version
}

// Unwrap implements Provider.
func (t *Transit) Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error) {
	if v, ok := transitVersion(string(wrapped)); !ok || key.Version != "" && v != key.Version {
		return nil, ErrWrapped
	}
	var a struct {
		Data struct {
			Plaintext []byte `json:"plaintext"`
		} `json:"data"`
	}
	if err := t.call(ctx, key, http.MethodPost, "decrypt", map[string]any{"ciphertext": string(wrapped)}, &a); err != nil {
		return nil, err
	}
	return unbind("Transit", id, a.Data.Plaintext)
}

// call asks for something of a key, and logs in once more if the token is refused:
// it may have ended before its time.
func (t *Transit) call(ctx context.Context, key Key, method, what string, in, out any) error {
	if !validName(key.Name) {
		return refusal(key, Gone, errors.New("no name of a key"))
	}
	for again := false; ; again = true {
		token, fresh, err := t.login(ctx, key, again)
		if err != nil {
			return err
		}
		address := t.Endpoint + "/v1/" + strings.Trim(t.Mount, "/") + "/" + what + "/" + url.PathEscape(key.Name)
		status, said, err := ask(ctx, t.client, method, address, t.head(token), in, out)
		if status == http.StatusForbidden && !fresh && !again {
			continue
		}
		return t.verdict(key, what, status, said, err)
	}
}

func (t *Transit) head(token string) http.Header {
	h := http.Header{"X-Vault-Request": {"true"}}
	if token != "" {
		h.Set("X-Vault-Token", token)
	}
	if t.Namespace != "" {
		h.Set("X-Vault-Namespace", t.Namespace)
	}
	return h
}

// verdict makes one of the three kinds of failures of an answer. Transit tells a key
// that is gone, one that was disabled and a ciphertext that is wrong apart by words
// only.
func (t *Transit) verdict(key Key, what string, status int, said []byte, err error) error {
	if err != nil {
		return down("Transit: "+what, err)
	}
	if status/100 == 2 {
		return nil
	}
	var a struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(said, &a) // of a proxy's page there are none
	words := strings.ToLower(strings.Join(a.Errors, "; "))
	cause := fmt.Errorf("status of Transit: %s: status %d", what, status)
	says := func(some ...string) bool {
		for _, s := range some {
			if strings.Contains(words, s) {
				return true
			}
		}
		return false
	}
	switch {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return refusal(key, Barred, cause)
	case says("soft deleted", "soft-deleted"):
		return refusal(key, Disabled, cause)
	case says("key not found", "no handler for route", "version is disallowed", "too old"), status == http.StatusNotFound:
		return refusal(key, Gone, cause)
	case what == "decrypt" && (status == http.StatusBadRequest || says("rsa: decryption error")):
		return fmt.Errorf("%w (%w)", ErrWrapped, cause)
	case status == http.StatusBadRequest:
		return cause
	}
	return down("Transit", cause)
}

// login is a token, and whether it is from this moment.
func (t *Transit) login(ctx context.Context, key Key, again bool) (token string, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !again && t.token != "" && time.Now().Before(t.until) {
		return t.token, false, nil
	}
	t.token = ""
	b, err := t.file(t.Credential)
	if err != nil {
		return "", false, down("Transit", err)
	}
	defer clear(b)
	var in any
	switch t.Method {
	case "token":
		t.token, t.until = string(b), time.Now().Add(time.Minute) // who renews the file is believed soon
		if strings.ContainsFunc(t.token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.token = ""
			return "", false, down("Transit", errors.New("the credential is no token"))
		}
		return t.token, true, nil
	case "jwt":
		in = map[string]string{"role": t.Role, "jwt": string(b)}
	case "approle":
		var role struct {
			RoleID   string `json:"role_id"`
			SecretID string `json:"secret_id"`
		}
		if err := json.Unmarshal(b, &role); err != nil {
			return "", false, down("Transit", errors.New("the credential is no JSON with role_id and secret_id"))
		}
		in = role
	}
	var a struct {
		Auth struct {
			Token string `json:"client_token"`
			Lease int    `json:"lease_duration"`
		} `json:"auth"`
	}
	status, _, err := ask(ctx, t.client, http.MethodPost, t.Endpoint+"/v1/auth/"+strings.Trim(t.LoginMount, "/")+"/login", t.head(""), in, &a)
	cause := fmt.Errorf("status of Transit: login: status %d", status)
	switch {
	case err != nil:
		return "", false, down("Transit: login", err)
	case status/100 == 4 && status != http.StatusTooManyRequests:
		return "", false, refusal(key, Barred, cause)
	case status/100 != 2 || a.Auth.Token == "":
		return "", false, down("Transit", cause)
	}
	life := time.Duration(a.Auth.Lease) * time.Second
	t.token, t.until = a.Auth.Token, time.Now().Add(max(life*3/4, time.Second))
	return t.token, true, nil
}
