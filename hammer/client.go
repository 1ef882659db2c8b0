package hammer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"breakwater/ref"
)

// A Target is a registry and a login that may do everything in it.
type Target struct {
	Server   string // https://host:port
	Username string
	Password string
	CAFile   string
}

// client speaks the OCI Distribution protocol as plainly as possible: it sends
// each request once, because a retry would hide which attempt was acknowledged.
type client struct {
	target Target
	http   *http.Client

	mu     sync.Mutex
	tokens map[string]string // by scope
}

func newClient(t Target) (*client, error) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", t.CAFile)
	}
	return &client{target: t, tokens: map[string]string{}, http: &http.Client{
		Timeout: 2 * time.Minute,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots},
			MaxIdleConnsPerHost: 256,
		},
	}}, nil
}

// errUnknown means that the answer did not arrive whole: what was asked may or
// may not have been done.
var errUnknown = errors.New("no answer")

// An unexpected answer is one that the registry should never give to the hammer.
type unexpected struct {
	what, body string
	status     int
}

func (u *unexpected) Error() string { return fmt.Sprintf("%s: %d %s", u.what, u.status, u.body) }

// do sends one request and reads its whole answer. A status above 499 other
// than 503 and 507, which a registry may give when a dependency fails, and any
// status not in want is unexpected.
func (c *client) do(ctx context.Context, method, address, scope string, header map[string]string, body []byte, want ...int) (*http.Response, []byte, error) {
	for attempt := 0; ; attempt++ {
		token, err := c.token(ctx, scope)
		if err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(address, "https://") {
			address = c.target.Server + address
		}
		r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
		if err != nil {
			return nil, nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		for k, v := range header {
			r.Header.Set(k, v)
		}
		answer, content, err := c.send(r)
		if err != nil {
			return nil, nil, err
		}
		if answer.StatusCode == http.StatusUnauthorized && attempt == 0 { // the token's time is over: nothing was done
			c.mu.Lock()
			delete(c.tokens, scope)
			c.mu.Unlock()
			continue
		}
		for _, w := range want {
			if answer.StatusCode == w {
				return answer, content, nil
			}
		}
		switch answer.StatusCode {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage:
			return nil, nil, fmt.Errorf("%w: %d", errRefused, answer.StatusCode)
		}
		return nil, nil, &unexpected{method + " " + address, string(content), answer.StatusCode}
	}
}

// errRefused is an answer that says that nothing was done.
var errRefused = errors.New("refused")

func (c *client) send(r *http.Request) (*http.Response, []byte, error) {
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUnknown, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUnknown, err)
	}
	return answer, content, nil
}

func (c *client) token(ctx context.Context, scope string) (string, error) {
	c.mu.Lock()
	token := c.tokens[scope]
	c.mu.Unlock()
	if token != "" {
		return token, nil
	}
	q := url.Values{"service": {strings.TrimPrefix(c.target.Server, "https://")}}
	for s := range strings.FieldsSeq(scope) {
		q.Add("scope", s)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.target.Server+"/oauth2/token?"+q.Encode(), nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth(c.target.Username, c.target.Password)
	answer, content, err := c.send(r)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errRefused, err) // without a token nothing was asked
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: token: %d", errRefused, answer.StatusCode)
	}
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(content, &got); err != nil {
		return "", err
	}
	c.mu.Lock()
	c.tokens[scope] = got.Token
	c.mu.Unlock()
	return got.Token, nil
}

func scopeOf(repos ...string) string {
	var s []string
	for _, r := range repos {
		s = append(s, "repository:"+r+":pull,push,delete")
	}
	return strings.Join(s, " ")
}

// pushBlob pushes content in one piece or in chunks.
func (c *client) pushBlob(ctx context.Context, repo string, content []byte, chunks int) error {
	digest, scope := ref.SHA256.Sum(content), scopeOf(repo)
	answer, _, err := c.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", scope, nil, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	location := answer.Header.Get("Location")
	octets := map[string]string{"Content-Type": "application/octet-stream"}
	size := (len(content) + chunks) / (chunks + 1)
	for range chunks {
		n := min(size, len(content))
		if answer, _, err = c.do(ctx, http.MethodPatch, location, scope, octets, content[:n], http.StatusAccepted); err != nil {
			return err
		}
		location, content = answer.Header.Get("Location"), content[n:]
	}
	at, err := url.Parse(location)
	if err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", digest.String())
	at.RawQuery = q.Encode()
	_, _, err = c.do(ctx, http.MethodPut, at.String(), scope, octets, content, http.StatusCreated)
	return err
}

// mount reports whether the blob was mounted; if not, the registry has offered
// an upload session instead.
func (c *client) mount(ctx context.Context, repo, from string, digest ref.Digest) (bool, error) {
	q := url.Values{"mount": {digest.String()}, "from": {from}}
	answer, _, err := c.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?"+q.Encode(), scopeOf(repo, from), nil, nil, http.StatusCreated, http.StatusAccepted)
	return err == nil && answer.StatusCode == http.StatusCreated, err
}

const imageManifest = "application/vnd.oci.image.manifest.v1+json"

func (c *client) putManifest(ctx context.Context, repo, reference string, content []byte) error {
	_, _, err := c.do(ctx, http.MethodPut, "/v2/"+repo+"/manifests/"+reference, scopeOf(repo), map[string]string{"Content-Type": imageManifest}, content, http.StatusCreated)
	return err
}

// get returns the content, its digest and whether it is there. What comes
// under a digest and does not hash to it is a wrongBytes error.
func (c *client) get(ctx context.Context, k key) (content []byte, present bool, err error) {
	answer, content, err := c.do(ctx, http.MethodGet, k.path(), scopeOf(k.repo), map[string]string{"Accept": imageManifest}, nil, http.StatusOK, http.StatusNotFound)
	if err != nil || answer.StatusCode == http.StatusNotFound {
		return nil, false, err
	}
	got, want := ref.SHA256.Sum(content), answer.Header.Get("Docker-Content-Digest")
	if want != got.String() || k.kind != kindTag && k.name != got.String() {
		return nil, true, &wrongBytes{k, got}
	}
	return content, true, nil
}

type wrongBytes struct {
	key key
	got ref.Digest
}

func (w *wrongBytes) Error() string {
	return fmt.Sprintf("%s: served bytes that hash to %s", w.key, w.got)
}

// remove reports whether there was something to delete.
func (c *client) remove(ctx context.Context, k key) (bool, error) {
	answer, _, err := c.do(ctx, http.MethodDelete, k.path(), scopeOf(k.repo), nil, nil, http.StatusAccepted, http.StatusNotFound, http.StatusConflict)
	if err != nil {
		return false, err
	}
	if answer.StatusCode == http.StatusConflict {
		return false, fmt.Errorf("%w: in use", errRefused)
	}
	return answer.StatusCode == http.StatusAccepted, nil
}

// list follows the pages of a list of names.
func (c *client) list(ctx context.Context, path, scope, field string) ([]string, error) {
	var all []string
	for path != "" {
		answer, content, err := c.do(ctx, http.MethodGet, path, scope, nil, nil, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode == http.StatusNotFound {
			return nil, nil
		}
		page := map[string]json.RawMessage{}
		var names []string
		if err := json.Unmarshal(content, &page); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(page[field], &names); err != nil {
			return nil, err
		}
		all = append(all, names...)
		next, _, _ := strings.Cut(answer.Header.Get("Link"), ">")
		path = strings.TrimPrefix(next, "<")
	}
	return all, nil
}
