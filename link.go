package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"breakwater/network"
	"breakwater/network/link"
	"breakwater/ref"
	"breakwater/transit"
)

// A linkConfig says where the agents of links knock (NS-2).
type linkConfig struct {
	Listen string `yaml:"listen"` // HOST:PORT; "" for no links
	Known  bool   `yaml:"known"`  // only those may ask whose connection the owner made before
}

// linkListener is what rules and the ledger call the streams of links.
const linkListener = "link"

func (l linkConfig) check() error {
	if l.Listen == "" {
		if l.Known {
			return errors.New("known is about the agents that come to listen: set that too")
		}
		return nil
	}
	at, err := transit.ParseAddress(l.Listen)
	if err == nil && at.Path != "" {
		err = errors.New("agents come from elsewhere: HOST:PORT")
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// listenLink binds the port where agents knock; nil if there shall be none.
func listenLink(ctx context.Context, c *config) (net.Listener, error) {
	if c.Link.Listen == "" {
		return nil, nil
	}
	at, err := transit.ParseAddress(c.Link.Listen)
	if err != nil {
		return nil, err
	}
	return at.Listen(ctx)
}

// links lets agents in at the port, and makes what they carry a listener; nil if
// there is no such port.
func (h *house) links(ctx context.Context, c *config, at net.Listener, log *slog.Logger) (*link.Server, *transit.Listener, error) {
	if at == nil {
		return nil, nil, nil
	}
	server := link.New(link.Options{
		Listener: at, Name: linkListener, Certificate: h.shown, Documents: h.documents, Ledger: h.ledger, Log: log, Known: c.Link.Known,
		Standing: h.linkStanding,
		Ask: func(ctx context.Context, a link.Ask) (link.Standing, error) {
			l := network.Linked{Fingerprint: a.Fingerprint, Address: a.From.Address, Asked: time.Now().UTC(), Message: a.Message}
			if err := h.registries.AskLink(ctx, h.settings, a.Registry, a.Name, l, a.From); err != nil {
				return link.Standing{}, err
			}
			return h.linkStanding(ctx, a.Registry, a.Fingerprint.Endpoint())
		},
	})
	served, err := transit.Listen(ctx, transit.Options{
		Name: linkListener, Inner: server, TLS: transit.Config(h.shown, c.tls13()),
		Connections: linkConnections(c.Limits.Connections, debug.SetMemoryLimit(-1)), PerAddress: c.Limits.PerAddress, Log: log,
	})
	return server, served, err
}

// linkConnections is how many connections links carry at most, in a process of so much
// memory: what a client sends ahead lies in it, not in the kernel. It is never none,
// which would be no bound.
func linkConnections(most int, memory int64) int {
	return max(1, min(most, int(min(memory/4/link.Window, 1<<20))))
}

func (h *house) linkStanding(ctx context.Context, name string, endpoint ref.ID) (link.Standing, error) {
	r, c, err := h.registries.Standing(ctx, name, endpoint)
	if err != nil {
		return link.Standing{}, err
	}
	s := link.Standing{Registry: r.ID, UID: r.UID}
	if c != nil {
		s.Connection, s.State = r.ID.Child("privateEndpointConnections", c.Name), c.State
	}
	return s, nil
}

func linkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "link", Short: "Offer a registry in a network that has no other way to it", Args: cobra.NoArgs,
		Long: `Offer a registry on an address of this network, through one outbound connection to
the server's link port. It needs nothing of the server's but that port: neither its
data nor a login. It is known by its key, which the registry's owner approves:

  az acr private-endpoint-connection approve --registry-name REGISTRY --name CONNECTION

Until then it asks, and says so in its log. What clients and the registry say to each
other is TLS between those two; the link carries what it cannot read. It comes again
by itself when the connection breaks, and stops on SIGTERM or SIGINT when what is
under way is done, after at most 30 seconds.`,
		Example: `  breakwater link --server registry.example.com:8444 --registry shop --listen 10.20.0.5:443 --key /var/lib/breakwater-link/link.key --ca ca.pem
  breakwater link fingerprint --key /var/lib/breakwater-link/link.key`,
	}
	key := c.PersistentFlags().String("key", "link.key", "file of the private key; the first use makes it, and nobody but you may read it")
	f := c.Flags()
	server := f.String("server", "", "HOST:PORT of the server's link port")
	name := f.String("registry", registryName, "the registry that is offered")
	at := f.String("listen", "", "HOST:PORT where this network finds the registry; HOST%INTERFACE:PORT takes only what comes in by that interface")
	called := f.String("name", "", "what this link is called where the owner sees it (default the machine's name)")
	message := f.String("message", "", "what the owner is told of it")
	ca := f.String("ca", "", "file with the certificate of the server's authority; without it, whom the system trusts")
	serverName := f.String("server-name", "", "the name in the server's certificate, if it is not that of --server")
	settings := defaults()
	f.StringVar(&settings.Log.Level, "log-level", settings.Log.Level, "debug, info, warn or error")
	f.StringVar(&settings.Log.Format, "log-format", settings.Log.Format, "text or json")
	for _, needed := range []string{"server", "listen"} {
		_ = c.MarkFlagRequired(needed) // fails only for a flag that is not there
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, port, err := net.SplitHostPort(*server); err != nil || port == "" {
			return usagef("link: --server is HOST:PORT, not %q", *server)
		}
		address, err := transit.ParseAddress(*at)
		if err != nil {
			return usagef("link: --listen: %w", err)
		}
		if *called == "" {
			*called = hostLabel()
		}
		if !link.ValidName(*called) {
			return usagef("link: --name has up to 40 lower case letters, digits and hyphens, not %q", *called)
		}
		log, err := logger(settings, c.ErrOrStderr())
		if err != nil {
			return usage{err}
		}
		trust := &tls.Config{ServerName: *serverName}
		if *ca != "" {
			text, err := os.ReadFile(*ca)
			if err != nil {
				return err
			}
			if trust.RootCAs = x509.NewCertPool(); !trust.RootCAs.AppendCertsFromPEM(text) {
				return fmt.Errorf("%s holds no certificate", *ca)
			}
		}
		signer, err := openLinkKey(*key)
		if err != nil {
			return err
		}
		fingerprint, err := link.FingerprintOf(signer)
		if err != nil {
			return err
		}
		limitMemory()
		listener, err := address.Listen(c.Context())
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		log.Info("ready", "listener", listener.Addr().String(), "server", *server, "registry", *name, "fingerprint", string(fingerprint), "version", version())
		agent := link.Agent{
			Server: *server, TLS: trust, Key: signer, Registry: *name, Name: *called, Message: *message, Listener: listener, Log: log,
		}
		return agent.Run(c.Context())
	}
	c.AddCommand(linkFingerprint(key))
	return c
}

func linkFingerprint(key *string) *cobra.Command {
	return &cobra.Command{
		Use: "fingerprint", Short: "Print what the owner compares: the SHA-256 of the link's public key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			signer, err := openLinkKey(*key)
			if err != nil {
				return err
			}
			f, err := link.FingerprintOf(signer)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), f)
			return err
		},
	}
}

// hostLabel is the machine's name as a link may be called; "link" if it has none.
func hostLabel() string {
	host, _ := os.Hostname()
	label, _, _ := strings.Cut(strings.ToLower(host), ".")
	if !link.ValidName(label) {
		return "link"
	}
	return label
}

// openLinkKey reads the key of a link, or makes it.
func openLinkKey(path string) (crypto.Signer, error) {
	key, err := readLinkKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeLinkKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the link's key: %w", err)
		}
		return readLinkKey(path) // somebody else may have made it
	}
	return key, err
}

func readLinkKey(path string) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is not a file that only its owner may read, and so nobody's secret: chmod 600 it if nobody has read it, or remove it for another key that the owner has to approve", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 16<<10))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no private key (PKCS #8, PEM)", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok || !link.ValidKey(signer) {
		return nil, fmt.Errorf("%s: a link's key is P-256 or Ed25519", path)
	}
	return signer, nil
}

// makeLinkKey makes a key that is whole on disk, or not there: what an owner
// approves must not be lost.
func makeLinkKey(path string) (err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".link-*.key") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer func() { err = cmp.Or(err, f.Close()) }()
	if err := pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it takes nobody's place
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
