package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"breakwater/identity"
)

// deviceScope asks for who it is, and for a refresh token.
const deviceScope = "openid profile offline_access"

func loginCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Log in to a server, for all commands that follow",
		Long: `Log in to a server, for all commands that follow.

Without a flag, somebody types a code into the server's sign-in page: with an
account of the server, or of the provider that it trusts. What is saved then lies
in $XDG_CONFIG_HOME/breakwater/logins.json, which only you may read.

No secret is ever an argument: it is typed, comes on standard input, or lies in a
file.`,
		Example: `  breakwater login registry.example.com
  breakwater login registry.example.com --service-principal APPID --secret-file /run/secrets/ci
  breakwater login registry.example.com --service-principal APPID --federated-token-file /var/run/token
  breakwater login registry.example.com --env-file ci.env
  breakwater login registry.example.com --username alice < password`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeServers,
	}
	f := c.Flags()
	ca := f.String("ca-file", "", "the certificate of the server's authority, if the system does not trust it")
	app := f.String("service-principal", "", "the appId (clientId) of an application")
	user := f.String("username", "", "a user of the server, such as its owner")
	secretFile := f.String("secret-file", "", "the file that holds the secret or password; without it, it is typed or read from standard input")
	envFile := f.String("env-file", "", "a file with AZURE_CLIENT_ID=… and AZURE_CLIENT_SECRET=…, as principal create writes it")
	tokenFile := f.String("federated-token-file", "", "what proves the application in place of a secret; it is read again whenever it is needed")
	c.MarkFlagsMutuallyExclusive("service-principal", "username")
	c.MarkFlagsMutuallyExclusive("secret-file", "env-file", "federated-token-file")
	c.MarkFlagsMutuallyExclusive("username", "env-file")
	c.MarkFlagsMutuallyExclusive("username", "federated-token-file")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := newSession(strings.Join(args, ""), *ca)
		if err != nil {
			return err
		}
		switch {
		case *user != "":
			s.Way, s.Username = byPassword, *user
		case *app != "" || *envFile != "":
			s.Way, s.Username = byApplication, strings.ToLower(*app)
		case *secretFile != "" || *tokenFile != "":
			return usagef("login: a secret or token is that of --service-principal or --username")
		default:
			s.Way = byDevice
		}
		switch {
		case *envFile != "":
			err = s.readEnv(*envFile)
		case *tokenFile != "":
			s.TokenFile, err = filepath.Abs(*tokenFile)
		case s.Way != byDevice:
			s.Password, err = readSecret(c, *secretFile, map[way]string{byPassword: "Password", byApplication: "Secret"}[s.Way])
		}
		if err != nil {
			return err
		}
		return s.open(c.Context(), c.ErrOrStderr())
	}
	return c
}

// newSession is one with the server: the one that was used last, if none is named.
func newSession(server, ca string) (*session, error) {
	l, err := readLogins()
	if err != nil {
		return nil, err
	}
	if server == "" {
		server = l.Current
	}
	if server == "" {
		return nil, usagef("login: say which server, as HOST or HOST:PORT")
	}
	base, err := serverURL(server)
	if err != nil {
		return nil, err
	}
	s := &session{login: login{Server: base, Registry: strings.TrimPrefix(base, "https://")}}
	if was := l.Servers[base]; was != nil {
		s.CAFile = was.CAFile
	}
	if ca != "" {
		s.CAFile, err = filepath.Abs(ca)
	}
	return s, err
}

// readSecret takes a secret from a file, from whoever types it, or from standard
// input: what a process is called with, everybody on its machine may read.
func readSecret(c *cobra.Command, file, prompt string) (string, error) {
	var text []byte
	var err error
	if in, ok := c.InOrStdin().(*os.File); file != "" {
		text, err = os.ReadFile(file)
	} else if ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(c.ErrOrStderr(), prompt+": ")
		text, err = term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
	} else {
		text, err = io.ReadAll(io.LimitReader(c.InOrStdin(), 64<<10))
	}
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", errors.New("the secret is empty; it is typed, comes on standard input, or lies in --secret-file")
	}
	return secret, nil
}

// readEnv reads what azidentity's programs have in their environment.
func (s *session) readEnv(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "export "), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "AZURE_CLIENT_ID":
			if s.Username == "" {
				s.Username = strings.ToLower(value)
			}
		case "AZURE_CLIENT_SECRET":
			s.Password = value
		}
	}
	if lines.Err() == nil && (s.Username == "" || s.Password == "") {
		return fmt.Errorf("%s does not have AZURE_CLIENT_ID and AZURE_CLIENT_SECRET", path)
	}
	return lines.Err()
}

// open signs in, looks which registry is behind the address, and saves the session
// as the current one.
func (s *session) open(ctx context.Context, say io.Writer) error {
	c, err := s.login.dial()
	if err != nil {
		return err
	}
	switch s.Way {
	case byDevice:
		err = s.await(ctx, c, say)
	case byApplication:
		_, err = s.ask(ctx, c, controlAudience)
	}
	if err != nil {
		return err
	}
	if s.Way != byPassword {
		c.bearer = func(context.Context) (string, error) { return s.Tokens[controlAudience].Value, nil }
	}
	if err := c.call(ctx, http.MethodGet, "/tenants"+apiVersion, nil, nil); err != nil {
		return err
	}
	err = list(ctx, c, "/providers/Microsoft.ContainerRegistry/registries"+apiVersion, func(d document) error {
		var p struct{ LoginServer string }
		err := json.Unmarshal(d.Properties, &p)
		if strings.EqualFold(p.LoginServer, s.Registry) {
			s.Name = d.Name
		}
		return err
	})
	if err != nil {
		return err
	}
	err = changeLogins(ctx, func(l *logins) error {
		if l.Servers == nil {
			l.Servers = map[string]*session{}
		}
		l.Current, l.Servers[s.Server] = s.Server, s
		return nil
	})
	if err == nil {
		_, err = fmt.Fprintf(say, "logged in to %s as %s\n", s.Server, s.who())
	}
	return err
}

// await waits until somebody has typed the code of this device.
func (s *session) await(ctx context.Context, c *client, say io.Writer) error {
	asked, err := c.issue(ctx, "devicecode", url.Values{
		"client_id": {identity.Command}, "scope": {controlAudience + "/.default " + deviceScope},
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(say, printable(asked.Message))
	every := time.Duration(max(asked.Interval, 1)) * time.Second
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		got, err := c.issue(ctx, "token", url.Values{
			"client_id": {identity.Command}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {asked.Device},
		})
		if p, ok := errors.AsType[*problem](err); ok && (p.Code == "authorization_pending" || p.Code == "slow_down") {
			if p.Code == "slow_down" {
				every += 5 * time.Second // RFC 8628, 3.5
			}
			continue
		}
		if err != nil {
			return err
		}
		s.Username = s.take(got, controlAudience).claims().Name
		return nil
	}
}

// who is the name of whoever logged in, for people.
func (s *session) who() string {
	if s.Way == byApplication {
		return "application " + s.Username
	}
	return printable(s.Username)
}

func logoutCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "logout [SERVER]", Short: "Forget a login", Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeServers,
		Long: `Forget the login of a server, or the one that was used last. What the server gave
for it ends by itself: an access token within the hour.`,
	}
	all := c.Flags().Bool("all", false, "forget every login, and what the credential helper keeps")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			return changeLogins(c.Context(), func(l *logins) error { *l = logins{}; return nil })
		}
		s, err := savedSession(strings.Join(args, ""))
		if err != nil {
			return err
		}
		if s == nil {
			return errors.New("there is no login to forget")
		}
		return changeLogins(c.Context(), func(l *logins) error {
			delete(l.Servers, s.Server)
			if l.Current == s.Server {
				l.Current = ""
			}
			return nil
		})
	}
	return c
}

func whoamiCommand() *cobra.Command {
	c := asClient(&cobra.Command{
		Use: "whoami", Short: "Show which login is used, and that it holds", Args: cobra.NoArgs,
	})
	output := outputFlag(c, "text", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		if err := client.call(c.Context(), http.MethodGet, "/tenants"+apiVersion, nil, nil); err != nil {
			return err
		}
		me := struct {
			Server      string `json:"server"`
			Registry    string `json:"registry"`
			Name        string `json:"name"`
			Way         way    `json:"way"`
			PrincipalID string `json:"principalId,omitempty"`
		}{client.Server, client.Registry, client.Username, byPassword, ""}
		if client.bearer != nil {
			text, err := client.bearer(c.Context())
			if err != nil {
				return err
			}
			of := token{Value: text}.claims()
			me.PrincipalID = of.Object
			if me.Way = byDevice; of.Name == "" {
				me.Way = byApplication
			}
		}
		if output.is("json") {
			return json.NewEncoder(c.OutOrStdout()).Encode(me)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s  %s (%s)\n", me.Server, orDash(printable(me.Name)), me.Way)
		return err
	}
	return c
}

// completeServers completes the servers of saved logins.
func completeServers(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	l, err := readLogins()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(l.Servers)), cobra.ShellCompDirectiveNoFileComp
}
