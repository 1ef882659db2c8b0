package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/transit"
)

// An acmeConfig says which authority elsewhere signs the server's certificates (DP-3).
type acmeConfig struct {
	Directory string   `yaml:"directory"` // URL; "" for none
	Agree     bool     `yaml:"agree"`     // to the authority's terms of service
	Contact   []string `yaml:"contact"`   // e-mail addresses
	Trust     string   `yaml:"trust"`     // PEM file of who signed the directory's own certificate; "" is the system's
	Binding   struct { // an account that some authorities want to know beforehand
		ID  string `yaml:"id"`
		Key string `yaml:"key"` // file
	} `yaml:"binding"`
}

func (a acmeConfig) check() error {
	if a.Directory == "" {
		if a.Agree || a.Contact != nil || a.Trust != "" || a.Binding.ID != "" || a.Binding.Key != "" {
			return errors.New("a directory is needed")
		}
		return nil
	}
	u, err := url.Parse(a.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("directory: the https:// address of an authority, not %q", a.Directory)
	}
	if !a.Agree {
		return errors.New("agree: true says that you agree to the terms of service of the authority")
	}
	if (a.Binding.ID == "") != (a.Binding.Key == "") {
		return errors.New("binding: an id and the file of its key are given together")
	}
	return nil
}

// client asks the authority, and nobody else: no host that its directory names beside
// its own.
func (a acmeConfig) client(out *network.Egress) (*http.Client, error) {
	o := network.ClientOptions{To: []string{a.Directory}, Timeout: time.Minute}
	if a.Trust != "" {
		text, err := os.ReadFile(a.Trust)
		if err != nil {
			return nil, err
		}
		if o.Roots = x509.NewCertPool(); !o.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", a.Trust)
		}
	}
	return out.Client(network.ForACME, o), nil
}

// certify lets what is shown come from the authority of the configuration.
func (h *house) certify(c *config, shown *transit.ACME) error {
	a := c.TLS.ACME
	client, err := a.client(h.egress)
	if err != nil {
		return err
	}
	var binding []byte
	if a.Binding.Key != "" {
		text, err := os.ReadFile(a.Binding.Key)
		if err != nil {
			return err
		}
		if binding, err = transit.BindingKey(text); err != nil {
			return fmt.Errorf("%s: %w", a.Binding.Key, err)
		}
	}
	return shown.Open(transit.ACMEOptions{
		Directory: a.Directory, Contact: a.Contact, BindingID: a.Binding.ID, BindingKey: binding, Client: client,
		Names: func(ctx context.Context) ([]string, error) { return h.publicNames(ctx, c) },
		DB:    h.db, Documents: h.documents, Ledger: h.ledger, Who: identity.ThisServer().Who(), Key: h.platform.Derive("transit-certificates"),
	})
}

// publicNames are those of the configuration, and of the registries that there are with
// their data endpoints.
func (h *house) publicNames(ctx context.Context, c *config) ([]string, error) {
	names := append([]string{c.host()}, c.TLS.Names...)
	if c.Domain == "" {
		return names, nil
	}
	names = append(names, c.Domain)
	g := access.ServerGrant(access.Registry{}, access.Call{})
	for after := ref.ID(""); ; {
		some, err := h.registries.List(ctx, g, "", after, 1000)
		if err != nil || len(some) == 0 {
			return names, err
		}
		for _, r := range some {
			names, after = append(names, strings.ToLower(r.Name+"."+c.Domain)), r.ID
			if r.DataHost != "" {
				host, _, _ := strings.Cut(r.DataHost, ":")
				names = append(names, host)
			}
		}
	}
}
