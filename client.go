package main

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
	"time"

	"github.com/spf13/cobra"
)

// A login is what somebody needs to use a server: the content of owner.json.
type login struct {
	Server   string `json:"server"`   // https://host:port
	Registry string `json:"registry"` // host:port, as it stands in image names
	Name     string `json:"name"`     // of the registry resource
	Username string `json:"username"`
	Password string `json:"password"`
	CAFile   string `json:"caFile,omitempty"` // "" for a certificate that the system trusts
	Ops      string `json:"ops,omitempty"`    // http://… of /readyz and its like, on the server's machine
}

func readLogin(path string) (l login, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// A client speaks to a server's own API: commands have no other way in.
type client struct {
	login
	http   *http.Client
	bearer func(ctx context.Context) (string, error) // nil shows name and password
}

// ownerFile is the flag of a command for whoever has the server's machine.
func ownerFile(c *cobra.Command) *string {
	return c.PersistentFlags().String("owner-file", "./data/owner.json", "the server's address and the login to use, as the first start wrote them")
}

// asClient gives a command, and those below it, the flags that say which login it
// uses.
func asClient(c *cobra.Command) *cobra.Command {
	ownerFile(c)
	c.PersistentFlags().String("server", "", "use the login of this server, of those that breakwater login has saved")
	_ = c.RegisterFlagCompletionFunc("server", completeServers) // fails only for a flag that is not there
	return c
}

// connect makes the client of a command that has the flags of asClient: of the
// file that was named, the server that was named, the server that was logged in to
// last, or the file that the first start writes.
func connect(c *cobra.Command) (*client, error) {
	path, err := c.Flags().GetString("owner-file")
	if err != nil {
		return nil, err
	}
	if c.Flags().Lookup("server") == nil {
		return dial(path)
	}
	server, err := c.Flags().GetString("server")
	if err != nil {
		return nil, err
	}
	if c.Flags().Changed("owner-file") {
		if server != "" {
			return nil, usagef("--owner-file and --server each name a login; one is enough")
		}
		return dial(path)
	}
	s, err := savedSession(server)
	if err != nil {
		return nil, err
	}
	if s != nil {
		return s.dial()
	}
	return dial(path)
}

// connectRegistry is connect for what is about the registry, whose id it finds.
func connectRegistry(c *cobra.Command) (_ *client, id string, err error) {
	client, err := connect(c)
	if err != nil {
		return nil, "", err
	}
	id, err = client.registry(c.Context())
	return client, id, err
}

func dial(path string) (*client, error) {
	l, err := readLogin(path)
	if err != nil {
		return nil, fmt.Errorf("%w; log in with breakwater login SERVER, or name the file with --owner-file", err)
	}
	return l.dial()
}

func (l login) dial() (*client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if l.CAFile != "" {
		ca, err := os.ReadFile(l.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s holds no certificate", l.CAFile)
		}
	}
	return &client{login: l, http: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect would take the password elsewhere
		},
	}}, nil
}

// A refusal is an error that the server answered.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string {
	if r.message == "" {
		return http.StatusText(r.status)
	}
	return r.message
}

// missing reports whether err says that there is no such resource.
func missing(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusNotFound
}

// call sends body as JSON to a path with or without a query and reads the JSON
// answer into answer; both may be nil.
func (c *client) call(ctx context.Context, method, path string, body, answer any, header ...string) error {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Server, "/")+path, sent)
	if err != nil {
		return err
	}
	if err := c.authorize(ctx, q); err != nil {
		return err
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := c.http.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return err
	}
	if r.StatusCode >= 300 {
		var e struct {
			Error struct{ Code, Message string }
		}
		_ = json.Unmarshal(text, &e) // without a message, the status has to do
		return &refusal{r.StatusCode, e.Error.Code, printable(e.Error.Message)}
	}
	if answer == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, answer)
}

const maxAnswer = 64 << 20 // bytes: a page of a thousand documents has less

func (c *client) authorize(ctx context.Context, q *http.Request) error {
	q.Header.Set("User-Agent", "breakwater/"+version())
	if c.bearer == nil {
		q.SetBasicAuth(c.Username, c.Password)
		return nil
	}
	token, err := c.bearer(ctx)
	q.Header.Set("Authorization", "Bearer "+token)
	return err
}

// list calls each with every item of a list, page by page.
func list[T any](ctx context.Context, c *client, path string, each func(T) error) error {
	for path != "" {
		var page struct {
			Value    []T    `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := c.call(ctx, http.MethodGet, path, nil, &page); err != nil {
			return err
		}
		for _, item := range page.Value {
			if err := each(item); err != nil {
				return err
			}
		}
		next, err := url.Parse(page.NextLink)
		if err != nil {
			return err
		}
		path = next.RequestURI() // of this server, whatever host it thinks it has
		if page.NextLink == "" {
			return nil
		}
	}
	return nil
}

// A document is a resource as the API gives it.
type document struct {
	ID         string          `json:"id"`
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	Properties json.RawMessage `json:"properties"`
}

// registry is the resource id of the login's registry.
func (c *client) registry(ctx context.Context) (id string, err error) {
	var found []string
	err = list(ctx, c, "/providers/Microsoft.ContainerRegistry/registries"+apiVersion, func(d document) error {
		if c.Name == "" || strings.EqualFold(d.Name, c.Name) {
			found = append(found, d.ID)
		}
		return nil
	})
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("this login sees %d registries named %q at %s", len(found), c.Name, c.Server)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}
