package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"
)

// GoogleKMS is Cloud Key Management of Google, by its REST interface: its symmetric
// keys.
type GoogleKMS struct {
	GoogleOptions
	client *http.Client

	mu    sync.Mutex
	token *oauth2.Token
}

// GoogleOptions say where it is and who we are there.
type GoogleOptions struct {
	Reach
	Endpoint   string // "" is https://cloudkms.googleapis.com
	KeyRing    string // projects/P/locations/L/keyRings/R
	Credential string // a file in Directory: the JSON key of a service account
}

// NewGoogleKMS checks the options; nothing is asked yet.
func NewGoogleKMS(o GoogleOptions) (*GoogleKMS, error) {
	if o.Endpoint == "" {
		o.Endpoint = "https://cloudkms.googleapis.com"
	}
	u, err := endpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	o.Endpoint = u.String()
	part := strings.Split(o.KeyRing, "/")
	if len(part) != 6 || part[0] != "projects" || part[2] != "locations" || part[4] != "keyRings" || !validName(part[1]) || !validName(part[3]) || !validName(part[5]) {
		return nil, errors.New("keyRing is projects/P/locations/L/keyRings/R")
	}
	return &GoogleKMS{GoogleOptions: o, client: o.client()}, nil
}

type googleVersion struct {
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Algorithm string    `json:"algorithm"`
	Created   time.Time `json:"createTime"`
}

// Describe implements Provider.
func (g *GoogleKMS) Describe(ctx context.Context, key Key) (Description, error) {
	var v googleVersion
	if key.Version != "" {
		if err := g.call(ctx, key, http.MethodGet, "", nil, &v); err != nil {
			return Description{}, err
		}
	} else {
		var k struct {
			Purpose string         `json:"purpose"`
			Primary *googleVersion `json:"primary"`
		}
		if err := g.call(ctx, key, http.MethodGet, "", nil, &k); err != nil {
			return Description{}, err
		}
		if k.Purpose == "" {
			return Description{}, down("Google KMS", errors.New("an answer without a key"))
		}
		if k.Purpose != "ENCRYPT_DECRYPT" {
			return Description{Algorithm: k.Purpose, State: Enabled}, nil
		}
		if k.Primary == nil {
			return Description{Algorithm: AES, Bits: 256, State: Disabled}, nil
		}
		v = *k.Primary
	}
	if v.Name == "" || v.State == "" {
		return Description{}, down("Google KMS", errors.New("an answer without a version"))
	}
	d := Description{Algorithm: v.Algorithm, State: Gone, Version: v.Name[strings.LastIndexByte(v.Name, '/')+1:], Created: v.Created}
	if v.Algorithm == "GOOGLE_SYMMETRIC_ENCRYPTION" {
		d.Algorithm, d.Bits = AES, 256
	}
	switch v.State {
	case "ENABLED":
		d.State = Enabled
	case "DISABLED", "PENDING_GENERATION", "PENDING_IMPORT":
		d.State = Disabled
	}
	return d, nil
}

// Wrap implements Provider.
func (g *GoogleKMS) Wrap(ctx context.Context, key Key, id KeyID, secret []byte) ([]byte, string, error) {
	b, err := bind(id, secret)
	if err != nil {
		return nil, "", err
	}
	defer clear(b)
	var a struct {
		Name       string `json:"name"`
		Ciphertext []byte `json:"ciphertext"`
	}
	if err := g.call(ctx, key, http.MethodPost, ":encrypt", map[string][]byte{"plaintext": b, "additionalAuthenticatedData": []byte(id)}, &a); err != nil {
		return nil, "", err
	}
	version := a.Name[strings.LastIndexByte(a.Name, '/')+1:]
	if version == "" || len(a.Ciphertext) == 0 || key.Version != "" && version != key.Version {
		return nil, "", down("Google KMS", errors.New("an answer without what was wrapped"))
	}
	return a.Ciphertext, version, nil
}

// Unwrap implements Provider. The version stands in the ciphertext.
func (g *GoogleKMS) Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error) {
	key.Version = ""
	var a struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := g.call(ctx, key, http.MethodPost, ":decrypt", map[string][]byte{"ciphertext": wrapped, "additionalAuthenticatedData": []byte(id)}, &a); err != nil {
		return nil, err
	}
	return unbind("Google KMS", id, a.Plaintext)
}

func (g *GoogleKMS) call(ctx context.Context, key Key, method, verb string, in, out any) error {
	if !validName(key.Name) || key.Version != "" && !validName(key.Version) {
		return refusal(key, Gone, errors.New("no name of a key"))
	}
	token, err := g.login(ctx, key)
	if err != nil {
		return err
	}
	address := g.Endpoint + "/v1/" + g.KeyRing + "/cryptoKeys/" + key.Name
	if key.Version != "" {
		address += "/cryptoKeyVersions/" + key.Version
	}
	status, said, err := ask(ctx, g.client, method, address+verb, http.Header{"Authorization": {"Bearer " + token}}, in, out)
	if err != nil {
		return down("Google KMS", err)
	}
	if status/100 == 2 {
		return nil
	}
	var a struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(said, &a) // of a proxy's page there is none
	cause := fmt.Errorf("cloud KMS: status %d %.40q", status, a.Error.Status)
	switch {
	case status == http.StatusUnauthorized:
		g.mu.Lock()
		g.token = nil
		g.mu.Unlock()
		return refusal(key, Barred, cause)
	case status == http.StatusForbidden:
		return refusal(key, Barred, cause)
	case status == http.StatusNotFound:
		return refusal(key, Gone, cause)
	case a.Error.Status == "FAILED_PRECONDITION" && strings.Contains(a.Error.Message, "DESTROY"):
		return refusal(key, Gone, cause)
	case a.Error.Status == "FAILED_PRECONDITION":
		return refusal(key, Disabled, cause)
	case status == http.StatusBadRequest && verb == ":decrypt":
		return fmt.Errorf("%w (%w)", ErrWrapped, cause)
	case status == http.StatusBadRequest:
		return cause
	}
	return down("Google KMS", cause)
}

// login is a token of the service account.
func (g *GoogleKMS) login(ctx context.Context, key Key) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token.Valid() {
		return g.token.AccessToken, nil
	}
	b, err := g.file(g.Credential)
	if err != nil {
		return "", down("Google KMS", err)
	}
	defer clear(b)
	var file struct {
		Type  string `json:"type"`
		Email string `json:"client_email"`
		KeyID string `json:"private_key_id"`
		Key   string `json:"private_key"`
		URI   string `json:"token_uri"`
	}
	if json.Unmarshal(b, &file) != nil || file.Type != "service_account" {
		return "", down("Google KMS", errors.New("the credential is no JSON key of a service account"))
	}
	account := jwt.Config{Email: file.Email, PrivateKey: []byte(file.Key), PrivateKeyID: file.KeyID, TokenURL: file.URI,
		Scopes: []string{"https://www.googleapis.com/auth/cloudkms"}}
	if _, err := endpoint(account.TokenURL); err != nil {
		return "", down("Google KMS", fmt.Errorf("token_uri: %w", err))
	}
	t, err := account.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, g.client)).Token()
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response.StatusCode/100 == 4 && e.Response.StatusCode != http.StatusTooManyRequests {
		return "", refusal(key, Barred, fmt.Errorf("cloud KMS: login: status %d", e.Response.StatusCode))
	}
	if err != nil {
		return "", down("Google KMS", errors.New("login failed")) // a text about a key may have some of it
	}
	g.token = t
	return t.AccessToken, nil
}
