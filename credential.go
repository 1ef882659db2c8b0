package main

import (
	"context"
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

	"breakwater/identity"
)

// helperName is what docker, podman, skopeo, crane, oras and helm call this program
// when it shall find them a login: "credHelpers": {"HOST": "breakwater"}.
const helperName = "docker-credential-breakwater"

// credentialHelper speaks the protocol of docker-credential-helpers: one word says
// what is wanted, standard input about which registry, standard output has the
// answer, also of what went wrong.
func credentialHelper(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) int {
	var err error
	switch text, read := io.ReadAll(io.LimitReader(stdin, 64<<10)); {
	case len(args) != 1:
		err = errors.New("usage: " + helperName + " get|store|erase|list|version")
	case args[0] == "version":
		_, err = fmt.Fprintln(stdout, helperName, version())
	case args[0] == "list":
		err = listKept(stdout)
	case read != nil:
		err = read
	case args[0] == "get":
		err = findCredential(ctx, hostOf(string(text)), stdout)
	case args[0] == "store":
		err = keepCredential(ctx, text)
	case args[0] == "erase":
		err = changeLogins(ctx, func(l *logins) error { delete(l.Kept, hostOf(string(text))); return nil })
	default:
		err = fmt.Errorf("%s knows no %.20q", helperName, args[0])
	}
	if err == nil {
		return success
	}
	fmt.Fprintln(screen{stdout}, strings.Join(strings.Fields(err.Error()), " "))
	return failure
}

// errNoCredential is what clients know as "go on without".
var errNoCredential = errors.New("credentials not found in native keychain")

// hostOf is the host of what clients call a registry: with or without a scheme, and
// with or without a path; "" if it is none. A login goes there, so that it is read in
// one way only: in a URL, somebody@ or # would move it.
func hostOf(server string) string {
	server = strings.TrimSpace(server)
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	host, _, _ := strings.Cut(server, "/")
	if host = strings.ToLower(host); strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_:[]") != "" {
		return ""
	}
	return host
}

// A credential is what the protocol says of one.
type credential struct {
	ServerURL, Username, Secret string
}

func listKept(w io.Writer) error {
	l, err := readLogins()
	if err != nil {
		return err
	}
	all := map[string]string{}
	for _, s := range l.Servers {
		all[s.Registry] = s.user()
	}
	for host, k := range l.Kept {
		all[host] = k.Username
	}
	return json.NewEncoder(w).Encode(all)
}

// keepCredential keeps what docker login was given. A login of that registry that
// breakwater login has made stays what it is, for breakwater's own commands.
func keepCredential(ctx context.Context, text []byte) error {
	var given credential
	if err := json.Unmarshal(text, &given); err != nil {
		return errors.New("what shall be stored is no credential")
	}
	host := hostOf(given.ServerURL)
	if host == "" || given.Username == "" || given.Secret == "" {
		return errors.New("what shall be stored lacks a server, a user name or a secret")
	}
	return changeLogins(ctx, func(l *logins) error {
		if s := l.of(host); s != nil && given.Username == s.user() && (s.Way != byPassword || given.Secret == s.Password) {
			return nil // it is what get has answered, and get will know a newer one
		}
		if l.Kept == nil {
			l.Kept = map[string]kept{}
		}
		l.Kept[host] = kept{given.Username, given.Secret}
		return nil
	})
}

// findCredential answers with what was stored for the registry, and otherwise with
// what its server gives now for the login that was saved.
func findCredential(ctx context.Context, host string, w io.Writer) error {
	l, err := readLogins()
	if err != nil {
		return err
	}
	if k, ok := l.Kept[host]; ok {
		return json.NewEncoder(w).Encode(credential{host, k.Username, k.Secret})
	}
	s := l.of(host)
	if s == nil {
		s = l.serving(ctx, host)
	}
	if s == nil {
		return errNoCredential
	}
	secret := s.Password
	if s.Way != byPassword {
		if secret, err = s.refreshToken(ctx, host); err != nil {
			return err
		}
	}
	return json.NewEncoder(w).Encode(credential{host, s.user(), secret})
}

// of is the login that is good at a registry: its server's, by the name of the
// registry or of another one below the server's.
func (l *logins) of(host string) *session {
	var below *session
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
	}
	for base, s := range l.Servers {
		u, err := url.Parse(base)
		if err != nil {
			continue
		}
		if host == u.Host || host == strings.ToLower(s.Registry) {
			return s
		}
		if strings.HasSuffix(name, "."+u.Hostname()) && port == u.Port() && (below == nil || len(base) > len(below.Server)) {
			below = s
		}
	}
	return below
}

// serving is the login whose server has a registry of that name, under a domain that
// is not its own. Only tokens go there: they open nothing but their own server, while
// a password would be the word of one server in the hands of another.
func (l *logins) serving(ctx context.Context, host string) (found *session) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, s := range l.Servers {
		c, err := s.dial()
		if err != nil || s.Way == byPassword {
			continue
		}
		_ = list(ctx, c, "/providers/Microsoft.ContainerRegistry/registries"+apiVersion, func(d document) error { // a server that does not answer has none
			var p struct{ LoginServer string }
			if json.Unmarshal(d.Properties, &p) == nil && strings.EqualFold(p.LoginServer, host) {
				found = s
			}
			return nil
		})
	}
	return found
}

// user is the name that stands beside the secret: a token says itself whose it is.
func (s *session) user() string {
	if s.Way == byPassword {
		return s.Username
	}
	return identity.RefreshUser
}

// refreshToken exchanges a token of the authority for one of the registry, which
// its clients show in place of a password for three hours at most.
func (s *session) refreshToken(ctx context.Context, host string) (string, error) {
	c, err := s.dial()
	if err != nil {
		return "", err
	}
	access, err := s.token(ctx, c, identity.RegistryAudience)
	if err != nil {
		return "", err
	}
	text, status, err := c.post(ctx, "https://"+host+"/oauth2/exchange", url.Values{
		"grant_type": {"access_token"}, "service": {host}, "access_token": {access},
	})
	if err != nil {
		return "", err
	}
	var a issued
	if err := json.Unmarshal(text, &a); err != nil || status != http.StatusOK || a.Refresh == "" {
		return "", fmt.Errorf("%s gives no login (%s); breakwater whoami tells whether yours still holds", host, http.StatusText(status))
	}
	return a.Refresh, nil
}

// asHelper reports whether clients of registries called the program.
func asHelper() bool {
	return filepath.Base(os.Args[0]) == helperName
}
