package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"breakwater/identity"
)

// A session is a login that breakwater login has saved: who it is, and what proves
// it from now on.
type session struct {
	login            // Password is an application's secret, or that of a user of the server
	Way       way    `json:"way"`
	TokenFile string `json:"federatedTokenFile,omitempty"` // what proves an application without a secret
	Refresh   string `json:"refreshToken,omitempty"`       // works once; the answer has the next

	Tokens map[string]token `json:"tokens,omitempty"` // by audience
}

// A way is how somebody signs in.
type way string

const (
	byDevice      way = "device"
	byApplication way = "servicePrincipal"
	byPassword    way = "password"
)

// A token is good at one audience, for about an hour.
type token struct {
	Value string    `json:"value"`
	Until time.Time `json:"until"`
}

// logins is the file of what is saved, by server (https://host:port), and what
// clients of registries gave the credential helper to keep, by host.
type logins struct {
	Current string              `json:"current,omitempty"`
	Servers map[string]*session `json:"servers,omitempty"`
	Kept    map[string]kept     `json:"kept,omitempty"`
}

type kept struct {
	Username string `json:"username"`
	Secret   string `json:"secret"`
}

// loginsFile is $XDG_CONFIG_HOME/breakwater/logins.json, or its like in $HOME.
func loginsFile() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "breakwater", "logins.json"), err
}

// readLogins takes the file as it is: whoever changes it puts another in its place.
func readLogins() (l logins, err error) {
	path, err := loginsFile()
	if err != nil {
		return l, nil // no home, no logins
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	} else if err != nil {
		return l, err
	}
	if info, err := os.Stat(path); err != nil {
		return l, err
	} else if info.Mode().Perm()&0o077 != 0 {
		return l, fmt.Errorf("%s holds logins, and others may read it: log in again after rm %[1]s", path)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// changeLogins changes what is saved, one process at a time: a refresh token works
// once, and the one that the answer has must not be lost.
func changeLogins(ctx context.Context, change func(*logins) error) error {
	path, err := loginsFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	held, err := waitFor(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer held.Close()
	l, err := readLogins()
	if err != nil {
		return err
	}
	if err := change(&l); err != nil {
		return err
	}
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(path, append(text, '\n'))
}

// replaceFile writes a file for its owner alone, whatever was there before.
func replaceFile(path string, text []byte) error {
	draft, err := os.CreateTemp(filepath.Dir(path), ".breakwater-*") // 0600
	if err != nil {
		return err
	}
	_, err = draft.Write(text)
	if err := errors.Join(err, draft.Sync(), draft.Close()); err != nil {
		return errors.Join(err, os.Remove(draft.Name()))
	}
	if err := os.Rename(draft.Name(), path); err != nil {
		return errors.Join(err, os.Remove(draft.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// savedSession is the login of a server, or the current one for "": nil if there
// is none.
func savedSession(server string) (*session, error) {
	l, err := readLogins()
	if err != nil {
		return nil, err
	}
	if server == "" {
		return l.Servers[l.Current], nil
	}
	base, err := serverURL(server)
	if err != nil {
		return nil, err
	}
	if s := l.Servers[base]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("there is no login for %s; breakwater login %[1]s makes one", base)
}

// serverURL is what a server is called: https://host:port.
func serverURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", usagef("a server is HOST, HOST:PORT or https://HOST:PORT, not %q", text)
	}
	return "https://" + strings.ToLower(u.Host), nil
}

// dial makes the client of a session. Users of the server show their password, as
// its owner does; for all others there are tokens.
func (s *session) dial() (*client, error) {
	c, err := s.login.dial()
	if err != nil || s.Way == byPassword {
		return c, err
	}
	c.bearer = func(ctx context.Context) (string, error) { return s.token(ctx, c, controlAudience) }
	return c, nil
}

const controlAudience = "https://management.azure.com"

// token is one for the audience that lives for a while yet.
func (s *session) token(ctx context.Context, c *client, audience string) (string, error) {
	if t := s.Tokens[audience]; time.Until(t.Until) > 2*time.Minute {
		return t.Value, nil
	}
	var got token
	err := changeLogins(ctx, func(l *logins) error {
		now := l.Servers[s.Server]
		if now == nil || now.Way != s.Way || now.Username != s.Username {
			return fmt.Errorf("the login at %s was changed meanwhile; try again", s.Server)
		}
		if got = now.Tokens[audience]; time.Until(got.Until) > 2*time.Minute {
			return nil // another process was faster
		}
		var err error
		got, err = now.ask(ctx, c, audience)
		*s = *now
		return err
	})
	return got.Value, err
}

// ask gets a token from the server's authority, and keeps what came with it.
func (s *session) ask(ctx context.Context, c *client, audience string) (token, error) {
	form := url.Values{"scope": {audience + "/.default"}}
	switch {
	case s.Way == byDevice:
		form.Set("grant_type", "refresh_token")
		form.Set("client_id", identity.Command)
		form.Set("refresh_token", s.Refresh)
		form.Set("scope", audience+"/.default "+deviceScope)
	case s.TokenFile != "":
		text, err := os.ReadFile(s.TokenFile)
		if err != nil {
			return token{}, err
		}
		form.Set("grant_type", "client_credentials")
		form.Set("client_id", s.Username)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", strings.TrimSpace(string(text)))
	default:
		form.Set("grant_type", "client_credentials")
		form.Set("client_id", s.Username)
		form.Set("client_secret", s.Password)
	}
	a, err := c.issue(ctx, "token", form)
	if p, ok := errors.AsType[*problem](err); ok && p.Code == "invalid_grant" {
		return token{}, fmt.Errorf("the login at %s has ended; breakwater login %[1]s makes another", s.Server)
	}
	if err != nil {
		return token{}, err
	}
	return s.take(a, audience), nil
}

// take keeps what the authority answered.
func (s *session) take(a issued, audience string) token {
	t := token{a.Access, time.Now().Add(time.Duration(a.ExpiresIn) * time.Second)}
	if s.Tokens == nil {
		s.Tokens = map[string]token{}
	}
	s.Tokens[audience], s.Refresh = t, cmp.Or(a.Refresh, s.Refresh)
	return t
}

// issued is what the authority gives.
type issued struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int    `json:"expires_in"`

	Device   string `json:"device_code"`
	Message  string `json:"message"`
	Interval int    `json:"interval"`
}

// A problem is what OAuth calls an error.
type problem struct {
	Code string `json:"error"`
	Text string `json:"error_description"`
}

func (p *problem) Error() string {
	return printable(cmp.Or(p.Text, p.Code, "the server's authority refused"))
}

// issue asks an endpoint of the authority.
func (c *client) issue(ctx context.Context, endpoint string, form url.Values) (a issued, err error) {
	text, status, err := c.post(ctx, c.Server+"/common/oauth2/v2.0/"+endpoint, form)
	if err != nil {
		return a, err
	}
	if status != http.StatusOK {
		p := &problem{}
		_ = json.Unmarshal(text, p) // without a description, the status has to do
		p.Code = cmp.Or(p.Code, http.StatusText(status))
		return a, p
	}
	return a, json.Unmarshal(text, &a)
}

// post sends a form, and nothing else that would prove somebody.
func (c *client) post(ctx context.Context, to string, form url.Values) (text []byte, status int, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, err
	}
	q.Header.Set("User-Agent", "breakwater/"+version())
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r, err := c.http.Do(q)
	if err != nil {
		return nil, 0, err
	}
	defer r.Body.Close()
	text, err = io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return text, r.StatusCode, err
}

// claims are what a token says of who has it. The server that gave it is believed;
// nobody else reads it here.
func (t token) claims() (c struct {
	Name   string `json:"unique_name"` // of a person
	Object string `json:"oid"`
}) {
	part := strings.Split(t.Value, ".")
	if len(part) == 3 {
		text, _ := base64.RawURLEncoding.DecodeString(part[1])
		_ = json.Unmarshal(text, &c) // then nothing is known of it
	}
	return c
}
