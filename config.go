package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"breakwater/fault"
	"breakwater/network"
	"breakwater/transit"
)

// A config is what the process must know before it can open its database.
// Everything else is a resource and changes through the API while the server
// runs. A flag wins over the file; the environment has no say.
type config struct {
	// Profile "hardened" refuses what a careful operator would not do; "" leaves it to
	// the other settings.
	Profile string `yaml:"profile"`

	Data   string `yaml:"data"`   // directory of keys, objects and, with SQLite, the database
	Listen string `yaml:"listen"` // HOST:PORT of the registry
	Ops    string `yaml:"ops"`    // HOST:PORT of health and metrics; autoOps, or "" for none
	// Listeners are more addresses where the registries answer.
	Listeners []listenerConfig `yaml:"listeners"`
	Link      linkConfig       `yaml:"link"`
	Database  string           `yaml:"database"` // a file or postgres://…; "" is DATA/breakwater.db
	Domain    string           `yaml:"domain"`   // registries answer as NAME.DOMAIN; "" for one registry at any name

	Platform platformConfig `yaml:"platform"`
	TLS      struct {
		Certificate string     `yaml:"certificate"` // PEM chain, reloaded when replaced; "" for the own authority
		Key         string     `yaml:"key"`
		Names       []string   `yaml:"names"`   // more names and addresses for the own authority's certificate
		Minimum     string     `yaml:"minimum"` // "1.2" or "1.3"; "" is 1.2, and 1.3 in the hardened profile
		ACME        acmeConfig `yaml:"acme"`
	} `yaml:"tls"`
	Proxies struct {
		Forwarded network.Proxies `yaml:"forwarded"` // networks whose X-Forwarded-For is believed
		Protocol  network.Proxies `yaml:"protocol"`  // networks that speak the PROXY protocol, and must
	} `yaml:"proxies"`
	Egress struct {
		// Sources are the interfaces or addresses that the server's own connections leave
		// by, for each purpose of them; the routes of the machine decide about the others.
		Sources map[network.Purpose]transit.Source `yaml:"sources"`
	} `yaml:"egress"`
	Limits struct {
		Connections int     `yaml:"connections"` // 0: as many as files and memory allow, up to 8192
		PerAddress  int     `yaml:"perAddress"`  // connections of one address
		Requests    int     `yaml:"requests"`    // under way at once; 0 is the door's own limit, as below
		Caller      float64 `yaml:"caller"`      // requests per second of one identity
		Stranger    float64 `yaml:"stranger"`    // refused or anonymous requests per second of one address
	} `yaml:"limits"`
	ManagedIdentity struct {
		Listen     string       `yaml:"listen"`     // ADDRESS:PORT of this machine's loopback; "" for no such endpoint
		Identities identityList `yaml:"identities"` // resource ids of user-assigned identities: who its workloads are
	} `yaml:"managedIdentity"`
	Sweep struct {
		Every  time.Duration `yaml:"every"`  // between two sweeps
		Grace  time.Duration `yaml:"grace"`  // how long bytes without a name stay
		Unused time.Duration `yaml:"unused"` // how long a blob stays that no manifest needs; 0 is for ever
	} `yaml:"sweep"`
	Scrub struct {
		BytesPerSecond int64 `yaml:"bytesPerSecond"` // of blobs, to find damage before somebody needs them; 0 is no scrub
	} `yaml:"scrub"`
	Keys   keysConfig `yaml:"keys"`
	Ledger struct {
		Strict bool `yaml:"strict"` // a read is recorded beyond a power cut before it is answered
	} `yaml:"ledger"`
	Log struct {
		Level  string `yaml:"level"`  // debug, info, warn, error
		Format string `yaml:"format"` // text or json
	} `yaml:"log"`
}

// platformConfig is where a platform key lies.
type platformConfig struct {
	Key    string `yaml:"key"` // file; "" is DATA/platform.key
	PKCS11 struct {
		Socket string `yaml:"socket"` // of breakwater-pkcs11; "" for a file that holds the key itself
		Label  string `yaml:"label"`  // of the device's key that wraps it
	} `yaml:"pkcs11"`
}

func (p platformConfig) check() error {
	if (p.PKCS11.Socket == "") != (p.PKCS11.Label == "") {
		return errors.New("a socket and the label of a key are given together")
	}
	return nil
}

// keysConfig is how customers' keys are reached (DP-5).
type keysConfig struct {
	Directory string        `yaml:"directory"` // of credentials and sockets, which documents name; "" is DATA/keys
	Roots     string        `yaml:"roots"`     // PEM file of the authorities that sign for providers; "" is the machine's
	Every     time.Duration `yaml:"every"`     // between two looks for new versions, ends and what is due
}

func (k keysConfig) roots() (*x509.CertPool, error) {
	if k.Roots == "" {
		return nil, nil
	}
	text, err := os.ReadFile(k.Roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate is in " + k.Roots)
	}
	return pool, nil
}

// autoOps is the loopback port that follows the registry's, or any if that one
// is taken: several servers on one machine need no thought.
const autoOps = "auto"

// defaults are safe: only this machine can knock.
func defaults() *config {
	c := new(config)
	c.Data, c.Listen, c.Ops = "./data", "localhost:8443", autoOps
	c.Limits.PerAddress = 1024
	c.Sweep.Every, c.Sweep.Grace, c.Sweep.Unused = time.Hour, 24*time.Hour, 7*24*time.Hour
	c.Keys.Every = time.Minute
	c.Log.Level, c.Log.Format = "info", "text"
	return c
}

// flags of the settings that people change by hand.
func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Data, "data", c.Data, "directory of keys, objects and the database; also of the owner's first login")
	f.StringVar(&c.Listen, "listen", c.Listen, "HOST:PORT of the registry; only this machine can reach the default")
	f.StringVar(&c.Ops, "ops", c.Ops, "HOST:PORT of /healthz, /readyz and /metrics, in clear text on the loopback and with TLS elsewhere; auto is the loopback port that follows --listen's (or any, if that is taken; owner.json has it), empty is none")
	f.StringVar(&c.Database, "database", c.Database, "FILE or postgres://… (default DATA/breakwater.db); several processes may share one PostgreSQL database if they also share DATA")
	f.StringVar(&c.Platform.Key, "platform-key", "", "file of the platform key, best on another volume than the data (default DATA/platform.key)")
	f.StringVar(&c.Keys.Directory, "keys-directory", "", "directory of what proves the server to customers' key providers, and of the sockets of devices (default DATA/keys)")
	f.StringVar(&c.Domain, "domain", c.Domain, "registries answer as NAME.DOMAIN; without it one registry answers at any name")
	f.StringVar(&c.TLS.Certificate, "tls-certificate", "", "PEM file with the certificate chain, reloaded when it is replaced; without it an own authority signs")
	f.StringVar(&c.TLS.Key, "tls-key", "", "PEM file with its private key")
	f.StringVar(&c.ManagedIdentity.Listen, "managed-identity-listen", "", "ADDRESS:PORT of the loopback where workloads of this machine get tokens of managed identities, in clear text; every program here can (default none)")
	f.Var(&c.ManagedIdentity.Identities, "managed-identity-identities", "resource ids of the user-assigned identities that these workloads are, with commas between")
	f.StringVar(&c.Log.Level, "log-level", c.Log.Level, "debug, info, warn or error")
	f.StringVar(&c.Log.Format, "log-format", c.Log.Format, "text or json")
}

// read takes the settings of a YAML file, except those that a flag was given
// for. A key that does not exist is refused: a setting that silently does
// nothing is worse than a server that does not start.
func (c *config) read(path string, f *pflag.FlagSet) error {
	given := map[string]string{}
	f.Visit(func(flag *pflag.Flag) { given[flag.Name] = flag.Value.String() })
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	before := *c
	err = yaml.NewDecoder(file, yaml.Strict()).Decode(c)
	if at, ok := errors.AsType[yaml.Error](err); ok {
		return fmt.Errorf("%s:%d: %s", path, at.GetToken().Position.Line, at.GetMessage())
	} else if f, ok := errors.AsType[*fault.Error](err); ok { // a value whose type says what is wrong with it
		return fmt.Errorf("%s: %s", path, f.Message)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	if reflect.ValueOf(*c).IsZero() { // a file of comments sets nothing; the decoder takes it for null
		*c = before
	}
	for name, value := range given {
		if err := f.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// check refuses what cannot work, and fills in what follows from the rest.
func (c *config) check() (err error) {
	if c.Data == "" {
		return errors.New("data: a directory is needed")
	}
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return err
	}
	if c.Database == "" {
		c.Database = filepath.Join(c.Data, "breakwater.db")
	}
	if c.Platform.Key == "" {
		c.Platform.Key = filepath.Join(c.Data, "platform.key")
	}
	if err := c.Platform.check(); err != nil {
		return fmt.Errorf("platform.pkcs11: %w", err)
	}
	if at, err := transit.ParseAddress(c.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	} else if at.Path != "" {
		return errors.New("listen: HOST:PORT; a socket in the file system is one of listeners")
	}
	if c.Domain != "" && !isDomain(c.Domain) {
		return fmt.Errorf("domain: a name such as registries.example.com, without a port, not %q", c.Domain)
	}
	if c.Ops != "" && c.Ops != autoOps {
		if _, _, err := net.SplitHostPort(c.Ops); err != nil {
			return fmt.Errorf("ops: %w", err)
		}
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		return errors.New("tls: a certificate and its key are given together")
	}
	if err := c.TLS.ACME.check(); err != nil {
		return fmt.Errorf("tls.acme: %w", err)
	}
	if c.TLS.ACME.Directory != "" && c.TLS.Certificate != "" {
		return errors.New("tls: certificates come from a file or by ACME, not both")
	}
	if !slices.Contains([]string{"", "1.2", "1.3"}, c.TLS.Minimum) {
		return fmt.Errorf(`tls.minimum: "1.2" or "1.3", not %q`, c.TLS.Minimum)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		return fmt.Errorf(`log.format: "text" or "json", not %q`, c.Log.Format)
	}
	if c.Keys.Directory == "" {
		c.Keys.Directory = filepath.Join(c.Data, "keys")
	}
	if c.Keys.Every <= 0 {
		return errors.New("keys.every: a time is needed")
	}
	if c.Sweep.Every <= 0 || c.Sweep.Grace < 0 || c.Sweep.Unused < 0 {
		return errors.New("sweep: a time between sweeps is needed, and none is negative")
	}
	if c.Scrub.BytesPerSecond < 0 {
		return errors.New("scrub.bytesPerSecond: none, or how many")
	}
	if err := c.checkWorkloads(); err != nil {
		return fmt.Errorf("managedIdentity: %w", err)
	}
	if err := c.checkListeners(); err != nil {
		return fmt.Errorf("listeners: %w", err)
	}
	for p := range c.Egress.Sources {
		if !slices.Contains(network.Purposes, p) {
			return fmt.Errorf("egress.sources: the server connects to nobody for the purpose %q, but for %s", p, network.Purposes)
		}
	}
	if err := c.Link.check(); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if err := c.harden(); err != nil {
		return err
	}
	if c.Limits.Connections == 0 {
		share := 1 + len(c.Listeners)
		if c.Link.Listen != "" {
			share++
		}
		c.Limits.Connections = connections() / share
	}
	return nil
}

// isDomain reports whether registries can have names below s.
func isDomain(s string) bool {
	for label := range strings.SplitSeq(strings.ToLower(s), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

func (c *config) postgres() bool {
	return strings.HasPrefix(c.Database, "postgres://") || strings.HasPrefix(c.Database, "postgresql://")
}

// host is the name that this machine's clients use.
func (c *config) host() string {
	at, _ := transit.ParseAddress(c.Listen)
	host := at.Host
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		return "localhost"
	}
	return host
}

// public is what clients call the server that listens at a port.
func (c *config) public(port int) string {
	if port == 443 {
		return c.host()
	}
	return net.JoinHostPort(c.host(), strconv.Itoa(port))
}

// domain is the Domain with the port of host.
func (c *config) domain(host string) string {
	_, port, err := net.SplitHostPort(host)
	if c.Domain == "" || err != nil {
		return c.Domain
	}
	return net.JoinHostPort(c.Domain, port)
}

// names are what the own authority's certificate is for.
func (c *config) names() []string {
	names := []string{"localhost", "127.0.0.1", "::1", c.host()}
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	if c.Domain != "" {
		names = append(names, c.Domain, "*."+c.Domain, c.privateNames())
	}
	names = append(names, called(c.Listen)...)
	for _, l := range c.Listeners {
		names = append(names, called(l.Address)...)
	}
	if c.Link.Listen != "" {
		names = append(names, called(c.Link.Listen)...)
	}
	return append(names, c.TLS.Names...)
}

// called is what clients may call who listens at the address: every address of the
// machine, or of an interface, if it does not say which.
func called(address string) (names []string) {
	at, err := transit.ParseAddress(address)
	if err != nil || at.Path != "" {
		return nil
	}
	if ip, err := netip.ParseAddr(at.Host); at.Host != "" && (err != nil || !ip.IsUnspecified()) {
		return []string{at.Host}
	}
	var addresses []net.Addr
	if on, err := net.InterfaceByName(at.Interface); err == nil {
		addresses, _ = on.Addrs()
	} else if at.Interface == "" {
		addresses, _ = net.InterfaceAddrs()
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			names = append(names, p.Addr().String())
		}
	}
	return names
}

// connections is how many the machine bears: half of the files, and 128 KiB of
// the memory each.
func connections() int {
	n := 8192
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		n = int(min(uint64(n), files.Cur/2))
	}
	return int(min(int64(n), debug.SetMemoryLimit(-1)/(128<<10)))
}
