package network

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"breakwater/transit"
)

// A Purpose is why the server connects to somebody.
type Purpose string

const (
	ForIssuer   Purpose = "issuer"   // what external issuers say of themselves, and their tokens
	ForWebhook  Purpose = "webhook"  // where a registry's owner wants to hear of events
	ForImport   Purpose = "import"   // registries that images are imported from
	ForCache    Purpose = "cache"    // registries that images are cached from
	ForKey      Purpose = "key"      // where customers' keys lie
	ForSink     Purpose = "sink"     // where logs are sent
	ForPeer     Purpose = "peer"     // other nodes and regions
	ForDatabase Purpose = "database" // PostgreSQL
	ForACME     Purpose = "acme"     // the authority that signs the server's certificate
)

// Purposes are all there are.
var Purposes = []Purpose{ForIssuer, ForWebhook, ForImport, ForCache, ForKey, ForSink, ForPeer, ForDatabase, ForACME}

// operated are those whose destinations the operator declares, who may mean an
// address inside. What a registry's owner declares leads inside by a rule alone.
var operated = []Purpose{ForIssuer, ForKey, ForSink, ForPeer, ForDatabase, ForACME}

// configured are those whose destinations stand in the configuration of the process.
// That is their rule: the others lie in the database, which has to be reached first.
var configured = []Purpose{ForDatabase, ForACME}

// EgressOptions say what an Egress goes by. The zero value has no rules, and leaves
// the way out to the machine's routes.
type EgressOptions struct {
	Sources  map[Purpose]transit.Source // interface or address that connections of a purpose leave by
	Hardened bool                       // nothing is reached but by a rule, or because the configuration says so
	Resolver *net.Resolver              // nil is the machine's
	// Refused is told who was not reached, before the caller is. What is refused again
	// and again is told now and then, with how often it was.
	Refused func(ctx context.Context, r Refusal)
	// Rules are the security rules of now, nil for none; an error refuses. Ended is told
	// of each connection that was made, at its end. A Border has both.
	Rules func(context.Context) (*Rules, error)
	Ended func(Ended)
}

// An Egress is the one way by which the server connects to others (NS-1): who is
// reached must be declared or allowed by a rule, and is looked at as it is dialled,
// whatever name led to it. Link-local addresses, metadata services and the like are
// never reached, in no spelling. A nil Egress reaches nobody.
type Egress struct {
	o       EgressOptions
	refused refusals

	mu      sync.Mutex
	outside map[string]bool // names by purpose that were outside once: they are never inside again
}

// NewEgress makes the way out of this process.
func NewEgress(o EgressOptions) *Egress { return &Egress{o: o, outside: map[string]bool{}} }

// A Ruling is a decision about a connection, and by which rule.
type Ruling struct {
	Allowed bool
	Rule    string // securityRules/NAME, or in angle brackets what no rule is about
	Reason  string
}

// Dial connects to a destination that the caller has from a document or the
// configuration.
func (e *Egress) Dial(ctx context.Context, p Purpose, network, address string) (net.Conn, error) {
	return e.To(p, address).Dial(ctx, network, address)
}

// Dialer is Dial for one purpose.
func (e *Egress) Dialer(p Purpose) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return e.Dial(ctx, p, network, address)
	}
}

// A Way is one conversation: with destinations that are declared, and those that
// they name. Who is outside cannot lead it inside.
type Way struct {
	e       *Egress
	purpose Purpose
	out     atomic.Bool // somebody outside was reached

	mu       sync.Mutex
	declared []string // HOST:PORT, in lower case
}

// To is a way to declared destinations: URLs, or HOST:PORT.
func (e *Egress) To(p Purpose, declared ...string) *Way {
	w := &Way{e: e, purpose: p}
	w.Also(declared...)
	return w
}

// Also adds destinations that one of the declared ones has named.
func (w *Way) Also(named ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range named {
		if to := destination(n); to != "" && !slices.Contains(w.declared, to) {
			w.declared = append(w.declared, to)
		}
	}
}

// destination is the HOST:PORT of a URL, or of itself; "" if there is none.
func destination(s string) string {
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return ""
		}
		s = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme]))
	}
	host, port, err := net.SplitHostPort(s)
	host = strings.TrimRight(strings.ToLower(host), ".")
	if err != nil || host == "" || port == "" {
		return ""
	}
	return net.JoinHostPort(host, port)
}

func (w *Way) declares(address string) bool {
	to := destination(address)
	w.mu.Lock()
	defer w.mu.Unlock()
	return to != "" && slices.Contains(w.declared, to)
}

// Dial connects. Each address that the name leads to is looked at when it is
// dialled, so that no answer of a name server counts longer than it is used.
func (w *Way) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !slices.Contains([]string{"tcp", "tcp4", "tcp6"}, network) {
		return nil, fmt.Errorf("%s is not spoken to %s", network, address)
	}
	if w.e == nil {
		return nil, errors.New("there is no way out")
	}
	d := w.e.o.Sources[w.purpose].Dialer()
	d.Resolver = w.e.o.Resolver
	d.Timeout = min(d.Timeout, dialTime)
	bind := d.Control
	d.Control = nil
	crossing := w.cross(ctx, address)
	d.ControlContext = func(ctx context.Context, network, at string, c syscall.RawConn) error {
		if err := crossing.may(ctx, at); err != nil {
			return err
		}
		if bind == nil {
			return nil
		}
		return bind(network, at, c)
	}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return crossing.over(c), nil
}

const dialTime = 10 * time.Second

// judge is the whole order: never, who led there, rules, who declared it.
func (w *Way) judge(rules *Rules, address string, to netip.AddrPort) Ruling {
	ip := to.Addr()
	if why := never(ip); why != "" {
		return Ruling{Rule: "<never>", Reason: why}
	}
	in := inside(ip)
	if in && w.out.Load() {
		return Ruling{Rule: "<outside>", Reason: "it is inside, and who led there is outside"}
	}
	r, decided := rules.Decide(w.flow(address, to))
	if !decided {
		r = w.standard(address, in)
	}
	if r.Allowed && !in {
		w.out.Store(true)
		w.e.wasOutside(w.purpose, address)
	}
	return r
}

// standard is for what no rule decides.
func (w *Way) standard(address string, in bool) Ruling {
	switch {
	case w.e.o.Hardened && !slices.Contains(configured, w.purpose):
		return Ruling{Rule: called(DenyAllOutBound), Reason: "the hardened profile reaches nobody without a rule"}
	case !w.declares(address):
		return Ruling{Rule: called(DenyAllOutBound), Reason: "neither a document nor the configuration declares it"}
	case in && !slices.Contains(operated, w.purpose):
		return Ruling{Rule: "<inside>", Reason: "it is inside, and no rule leads there"}
	case in && w.e.hasBeenOutside(w.purpose, address):
		return Ruling{Rule: "<rebound>", Reason: "the name was that of somebody outside, and is now inside"}
	}
	return Ruling{Allowed: true, Rule: called(AllowDeclaredOutBound), Reason: "it is declared"}
}

// maxOutside bounds the names that are remembered; beyond it, some are forgotten.
const maxOutside = 4096

func (e *Egress) wasOutside(p Purpose, address string) {
	if host, _, err := net.SplitHostPort(address); err != nil || !slices.Contains(operated, p) || isAddr(host) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for some := range e.outside {
		if len(e.outside) < maxOutside {
			break
		}
		delete(e.outside, some)
	}
	e.outside[string(p)+" "+destination(address)] = true
}

func (e *Egress) hasBeenOutside(p Purpose, address string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.outside[string(p)+" "+destination(address)]
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// ClientOptions say what an HTTP client is for. Zero values are sensible.
type ClientOptions struct {
	To           []string          // declared destinations: URLs, or HOST:PORT
	Roots        *x509.CertPool    // whose certificates are believed; nil is the system's
	Certificates []tls.Certificate // what is shown to who asks for one
	Timeout      time.Duration     // for a whole answer; 0 is 10 s, negative is none
	Answer       int64             // bytes of an answer's body; 0 is 1 MiB, negative is any
	Once         bool              // connections are not kept for the next request
}

// Client speaks HTTP to declared destinations, and follows no redirect: where an
// answer points is not declared.
func (e *Egress) Client(p Purpose, o ClientOptions) *http.Client {
	return e.To(p, o.To...).Client(o)
}

// Client speaks HTTP on this way; o.To adds to where it leads.
func (w *Way) Client(o ClientOptions) *http.Client {
	w.Also(o.To...)
	t := &http.Transport{ // no proxy of the environment: nobody would see who is reached
		DialContext:            w.Dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Roots, Certificates: o.Certificates},
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 32 << 10,
		DisableCompression:     true,
		DisableKeepAlives:      o.Once,
		MaxConnsPerHost:        16, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
	}
	return &http.Client{
		Transport:     &bounded{t, cmp.Or(o.Answer, 1<<20)},
		CheckRedirect: func(next *http.Request, _ []*http.Request) error { return w.redirected(next) },
		Timeout:       max(0, cmp.Or(o.Timeout, 10*time.Second)),
	}
}

// redirected leaves the caller with the answer that points elsewhere, and tells of it
// if that is nobody whom the caller means to reach.
func (w *Way) redirected(next *http.Request) error {
	if to := next.URL.String(); w.e != nil && !w.declares(to) {
		_ = w.e.refuse(next.Context(), Refusal{Purpose: w.purpose, Destination: named(cmp.Or(destination(to), next.URL.Host)),
			Ruling: Ruling{Rule: "<redirect>", Reason: "an answer points there, and no redirect is followed"}})
	}
	return http.ErrUseLastResponse
}

// bounded cuts answers that are too long.
type bounded struct {
	*http.Transport
	most int64
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := b.Transport.RoundTrip(r)
	if err == nil && b.most > 0 {
		if a.ContentLength > b.most && r.Method != http.MethodHead {
			a.Body.Close()
			return nil, errors.New("the answer is too long")
		}
		a.Body = http.MaxBytesReader(nil, a.Body, b.most)
	}
	return a, err
}
