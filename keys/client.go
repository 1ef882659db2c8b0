package keys

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Reach is how providers are reached.
type Reach struct {
	// Dial connects to a provider: main gives the one way by which the server dials.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Directory is where the operator lays what proves us to a provider, and the
	// sockets of devices. A document names a file in it, so that who may write
	// documents cannot have another file sent anywhere.
	Directory string
	// Roots are trusted beside, or instead of, the machine's; nil for those.
	Roots *x509.CertPool
}

const (
	patience  = 10 * time.Second // for one answer
	maxAnswer = 1 << 20
)

// client makes requests that end: in time, in size and without a redirect.
func (r Reach) client() *http.Client {
	return &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: bounded{&http.Transport{
			DialContext: r.Dial, ForceAttemptHTTP2: true,
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.Roots},
			TLSHandshakeTimeout: patience / 2, ResponseHeaderTimeout: patience, MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost: 16, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		}},
	}
}

// bounded cuts answers, also those that an SDK reads.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.DialContext == nil {
		return nil, errors.New("there is no way to reach a provider")
	}
	a, err := b.Transport.RoundTrip(r)
	if err == nil {
		a.Body = http.MaxBytesReader(nil, a.Body, maxAnswer)
	}
	return a, err
}

// file is what the operator laid into the directory under a name.
func (r Reach) file(name string) ([]byte, error) {
	path, err := r.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.New("the credential " + name + " cannot be read in the directory of keys")
	}
	defer f.Close()
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() || i.Mode().Perm()&0o007 != 0 {
		return nil, errors.New("the credential " + name + " is no file, or everybody may read it")
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return bytes.TrimSpace(b), err
}

func (r Reach) path(name string) (string, error) {
	if !validName(name) || r.Directory == "" {
		return "", fmt.Errorf("%q is no name of a file in the directory of keys", name)
	}
	return filepath.Join(r.Directory, name), nil
}

// validName is a name of a credential, vault or key: nothing that a path or a URL
// would understand.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 127 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == "" && !strings.Contains(s, "..")
}

// endpoint is the address of a provider: https, or http on this machine, where an
// agent may stand.
func endpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || len(s) > 512 {
		return nil, errors.New("endpoint is https://HOST[:PORT], with nothing behind it but a path")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && !(u.Scheme == "http" && ip != nil && ip.IsLoopback()) {
		return nil, errors.New("endpoint is https, or http of a loopback address")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// ask sends in as JSON, unless it is nil, and reads a JSON answer into out. The
// status is 0 when none came. The error has neither the address' query nor a header.
func ask(ctx context.Context, c *http.Client, method, address string, head http.Header, in, out any) (status int, said []byte, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return 0, nil, errors.New("no address")
	}
	for name, values := range head {
		r.Header[name] = values
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	a, err := c.Do(r)
	if err != nil {
		return 0, nil, plain(err)
	}
	defer a.Body.Close()
	said, err = io.ReadAll(a.Body)
	if err != nil {
		return 0, nil, plain(err)
	}
	if a.StatusCode/100 == 2 && out != nil {
		if err := json.Unmarshal(said, out); err != nil {
			return 0, nil, errors.New("the answer is no JSON of the kind that it should be")
		}
	}
	return a.StatusCode, said, nil
}

// plain is an error of the network without the URL that it came from: parts of it
// may be secret.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
