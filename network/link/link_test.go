package link

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/gate/gatetest"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/setting"
	"breakwater/transit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a registry with its owner on one side, and what agents need on the
// other.
type world struct {
	*gatetest.House
	t         testing.TB
	settings  *setting.Store
	authority *transit.Authority
	roots     *x509.CertPool
	address   string // of the link's port
	known     bool
	every     time.Duration
	handler   http.Handler

	server *Server
	stop   func() // ends the server in order, kill at once
	kill   func()
}

// beat is as short as a machine that is busy with other tests bears.
const beat = 2 * time.Second

func open(t testing.TB, change func(*world)) *world {
	t.Helper()
	w := &world{House: gatetest.Open(t, dbtest.SQLite(t), nil), t: t, roots: x509.NewCertPool(), handler: http.HandlerFunc(served), every: beat}
	w.settings = &setting.Store{DB: w.DB, Documents: w.Documents, Ledger: w.Ledger}
	var err error
	if w.authority, err = transit.OpenAuthority(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(w.authority.File())
	if err != nil || !w.roots.AppendCertsFromPEM(text) {
		t.Fatal("no authority", err)
	}
	w.address = "127.0.0.1:0"
	if change != nil {
		change(w)
	}
	w.serve()
	return w
}

// served is a registry that sends as many bytes as it is asked for, or says who asks.
func served(w http.ResponseWriter, r *http.Request) {
	var n int64
	if _, err := fmt.Sscanf(r.URL.Path, "/bytes/%d", &n); err == nil {
		w.Header().Set("Content-Length", fmt.Sprint(n))
		_, _ = io.CopyN(w, zeros{}, n)
		return
	}
	n, _ = io.Copy(io.Discard, r.Body)
	a := transit.Arrived(r)
	fmt.Fprint(w, a.Listener, " ", a.Endpoint.Name(), " ", a.From.Addr(), " ", a.Told, " ", n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (w *world) serve() {
	w.t.Helper()
	at, err := net.Listen("tcp", w.address)
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		at, err = net.Listen("tcp", w.address)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.address = at.Addr().String()
	conns := &remembering{Listener: at}
	log := slog.New(slog.NewTextHandler(testLog{w.t}, nil))
	standing := func(ctx context.Context, name string, endpoint ref.ID) (Standing, error) {
		r, c, err := w.Registries.Standing(ctx, name, endpoint)
		if err != nil {
			return Standing{}, err
		}
		s := Standing{Registry: r.ID, UID: r.UID}
		if c != nil {
			s.Connection, s.State = r.ID.Child("privateEndpointConnections", c.Name), c.State
		}
		return s, nil
	}
	s := New(Options{
		Listener: conns, Name: "link", Certificate: w.authority.Certificate("localhost", "127.0.0.1"),
		Documents: w.Documents, Ledger: w.Ledger, Log: log, Standing: standing, Known: w.known,
		Ask: func(ctx context.Context, a Ask) (Standing, error) {
			l := network.Linked{Fingerprint: a.Fingerprint, Address: a.From.Address, Asked: time.Now(), Message: a.Message}
			if err := w.Registries.AskLink(ctx, w.settings, a.Registry, a.Name, l, a.From); err != nil {
				return Standing{}, err
			}
			return standing(ctx, a.Registry, a.Fingerprint.Endpoint())
		},
	})
	s.every = w.every
	listener, err := transit.Listen(w.t.Context(), transit.Options{
		Name: "link", Inner: s, TLS: transit.Config(w.authority.Certificate("localhost", "127.0.0.1"), false), PerAddress: 1024, Log: log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	tunnels, cut := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cut()
		if err := listener.Serve(run, w.handler); err != nil && !errors.Is(err, net.ErrClosed) { // as it is killed
			w.t.Error(err)
		}
	})
	wg.Go(func() {
		if err := s.Serve(tunnels); err != nil {
			w.t.Error(err)
		}
	})
	w.server, w.stop = s, sync.OnceFunc(func() { stop(); wg.Wait() })
	w.kill = sync.OnceFunc(func() { conns.Close(); conns.reset(); cut(); w.stop() })
	w.t.Cleanup(w.kill)
}

// testLog shows what is logged beside the test that caused it.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// remembering can do to its connections what the end of a process does.
type remembering struct {
	net.Listener
	mu   sync.Mutex
	held []net.Conn
}

func (r *remembering) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err == nil {
		r.mu.Lock()
		r.held = append(r.held, c)
		r.mu.Unlock()
	}
	return c, err
}

func (r *remembering) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.held {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// An office is an agent and its network.
type office struct {
	*Agent
	w           *world
	at          string // where its clients knock
	fingerprint network.Fingerprint
	stop        func() // waits
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) agent(change func(*Agent)) *office {
	w.t.Helper()
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	o := &office{w: w, at: at.Addr().String(), Agent: &Agent{
		Server: w.address, TLS: &tls.Config{RootCAs: w.roots}, Key: newKey(w.t), Registry: "breakwater", Name: "office",
		Message: "the office in the harbour", Listener: at, Log: slog.New(slog.NewTextHandler(testLog{w.t}, nil)), every: beat,
	}}
	if change != nil {
		change(o.Agent)
	}
	if o.fingerprint, err = FingerprintOf(o.Key); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := o.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	o.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(o.stop)
	return o
}

// say is the owner's answer to the agent, or one that nobody asked for.
func (w *world) say(f network.Fingerprint, status string) {
	w.t.Helper()
	var c setting.Setting[network.PrivateEndpointConnection]
	c.P.Link, c.P.State.Status = &network.Linked{Fingerprint: f}, status
	within(w.t, "the owner's word", 10*time.Second, func() bool {
		if c.ID = w.connection(f); c.ID == "" {
			c.ID = w.Registry.ID.Child("privateEndpointConnections", "made-"+string(f[:8]))
		}
		_, err := registry.Connections(w.Documents).Put(w.t.Context(), w.settings, w.House.Server(), c, resource.Any)
		if err != nil && fault.Of(err) != fault.Conflict { // it asked at the same time
			w.t.Fatal(err)
		}
		return err == nil
	})
}

// connection is the id of the agent's connection; "" for none.
func (w *world) connection(f network.Fingerprint) ref.ID {
	w.t.Helper()
	_, c, err := w.Registries.Standing(w.t.Context(), "breakwater", f.Endpoint())
	if err != nil {
		w.t.Fatal(err)
	}
	if c == nil {
		return ""
	}
	return w.Registry.ID.Child("privateEndpointConnections", c.Name)
}

func within(t testing.TB, what string, d time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within ", d, ": ", what)
		}
	}
}

// up lets the agent in, and waits for its tunnel.
func (o *office) up() *office {
	o.w.t.Helper()
	o.w.say(o.fingerprint, network.Approved)
	o.wait(true)
	return o
}

func (o *office) wait(up bool) {
	o.w.t.Helper()
	within(o.w.t, fmt.Sprint("the link is up: ", up), 30*time.Second, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return up == (o.tunnel != nil)
	})
}

// client asks the registry from the office's network.
func (o *office) client() *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.w.roots, ServerName: "localhost"}}
	o.w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func (o *office) get(path string) (string, error) {
	client := o.client()
	defer client.CloseIdleConnections()
	r, err := client.Get("https://" + o.at + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return string(text), err
}

func (w *world) events(operation string) (all []ledger.Event) {
	w.t.Helper()
	for _, e := range w.Events(w.t.(*testing.T)) {
		if e.Operation == operation {
			all = append(all, e)
		}
	}
	return all
}

func TestAnAgentAsksWaitsAndIsLetInForAsLongAsTheOwnerWants(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	o := w.agent(nil)
	within(t, "it asks", 20*time.Second, func() bool { return w.connection(o.fingerprint) != "" })
	_, c, _ := w.Registries.Standing(t.Context(), "breakwater", o.fingerprint.Endpoint())
	if c.State.Status != network.Pending || c.Link == nil || c.Link.Fingerprint != o.fingerprint || c.Link.Message != o.Message ||
		c.Link.Address.String() != "127.0.0.1" || time.Since(c.Link.Asked) > time.Minute || c.Name != "office."+string(o.fingerprint[:16]) || c.State.Description != o.Message {
		t.Errorf("%+v %+v", c, c.Link)
	}
	begun := time.Now()
	if _, err := o.get("/"); err == nil || time.Since(begun) > patient {
		t.Errorf("%v, after %v", err, time.Since(begun))
	}
	o.up()
	if text, err := o.get("/"); err != nil || text != "link "+string(o.fingerprint)+" 127.0.0.1 true 0" {
		t.Errorf("%q, %v", text, err)
	}

	// What is under way ends with the approval, and so does what might begin.
	client := o.client()
	r, err := client.Get("https://" + o.at + "/bytes/100000000000")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	w.say(o.fingerprint, network.Rejected)
	said := time.Now()
	if n, err := io.Copy(io.Discard, r.Body); err == nil || n == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if d := time.Since(said); d > 10*time.Second {
		t.Errorf("it was cut after %v", d)
	}
	o.wait(false)
	within(t, "it hears of that", 10*time.Second, func() bool { return len(w.events(OpRefused)) > 0 })
	o.up()
	if _, err := o.get("/"); err != nil {
		t.Error(err)
	}

	// A connection that is gone is asked for again.
	id := w.connection(o.fingerprint)
	if _, err := registry.Connections(w.Documents).Delete(t.Context(), w.settings, w.House.Server(), id, resource.Any); err != nil {
		t.Fatal(err)
	}
	within(t, "it asks again", 30*time.Second, func() bool {
		_, c, err := w.Registries.Standing(t.Context(), "breakwater", o.fingerprint.Endpoint())
		return err == nil && c != nil && c.State.Status == network.Pending
	})
	o.wait(false)
	o.stop()
	ups, downs := w.events(OpUp), w.events(OpDown)
	if len(ups) != 2 || len(downs) != 2 || ups[0].Category != ledger.Security || ups[0].Who != (ledger.Who{Kind: "link", ID: string(o.fingerprint)}) ||
		ups[0].From.Endpoint != o.fingerprint.Endpoint() || ups[0].From.Told || ups[0].From.Address.String() != "127.0.0.1" ||
		downs[0].Detail.More["why"] != "it is not approved any more" || downs[0].Registry != w.Registry.UID {
		t.Errorf("%+v\n%+v", ups, downs)
	}
}

func TestADeletedRegistryTakesItsLinksAlong(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	id := w.Registry.ID.Parent().Parent().Extension(registry.Type, "shop1")
	if _, err := w.Registries.Create(t.Context(), w.House.Server(), id, "local", nil, registry.Properties{}); err != nil {
		t.Fatal(err)
	}
	o := w.agent(func(a *Agent) { a.Registry = "shop1" })
	var c setting.Setting[network.PrivateEndpointConnection]
	c.ID = id.Child("privateEndpointConnections", "made")
	c.P.Link, c.P.State.Status = &network.Linked{Fingerprint: o.fingerprint}, network.Approved
	within(t, "the owner says yes", 20*time.Second, func() bool {
		_, err := registry.Connections(w.Documents).Put(t.Context(), w.settings, w.House.Server(), c, resource.Any)
		if err == nil {
			return true
		}
		_, was, _ := w.Registries.Standing(t.Context(), "shop1", o.fingerprint.Endpoint())
		if was != nil {
			c.ID = id.Child("privateEndpointConnections", was.Name) // it asked first
		}
		return false
	})
	o.wait(true)
	if _, err := w.Registries.Delete(t.Context(), w.House.Server(), id, resource.Any); err != nil {
		t.Fatal(err)
	}
	within(t, "it is cut", 10*time.Second, func() bool { return w.server.Held() == 0 })
	// A registry of that name is another one, which has to be asked.
	if _, err := w.Registries.Create(t.Context(), w.House.Server(), id, "local", nil, registry.Properties{}); err != nil {
		t.Fatal(err)
	}
	within(t, "it asks the other one", 60*time.Second, func() bool {
		_, c, err := w.Registries.Standing(t.Context(), "shop1", o.fingerprint.Endpoint())
		return err == nil && c != nil && c.State.Status == network.Pending
	})
	if n := w.server.Held(); n != 0 {
		t.Errorf("%d links", n)
	}
}

func TestOnlyKnownAgentsAreHeard(t *testing.T) {
	t.Parallel()
	w := open(t, func(w *world) { w.known = true })
	stranger := w.knock(newKey(t), hello{Registry: "breakwater", Name: "stranger"})
	nowhere := w.knock(newKey(t), hello{Registry: "nowhere", Name: "stranger"})
	if stranger.Status != refused || stranger != nowhere {
		t.Errorf("%+v, and of a registry that does not exist %+v", stranger, nowhere)
	}
	key := newKey(t)
	f, _ := FingerprintOf(key)
	w.say(f, network.Approved)
	w.agent(func(a *Agent) { a.Key = key }).wait(true)
}

// dial is a connection to the link's port with this certificate.
func (w *world) dial(config *tls.Config) (*tls.Conn, error) {
	config.RootCAs, config.ServerName = w.roots, "localhost"
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", w.address, config)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c, err
}

// knock is what an agent with this key is answered.
func (w *world) knock(key crypto.Signer, h hello) answer {
	w.t.Helper()
	certificate, err := certify(key)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.dial(&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{certificate}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	var a answer
	if err := send(c, h); err != nil {
		w.t.Fatal(err)
	}
	if err := receive(c, &a); err != nil {
		w.t.Fatal(err)
	}
	return a
}

func TestWhoDoesNotSpeakTheProtocolHearsNothing(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	good, err := certify(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	expensive, err := certify(big)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := certify(curve)
	if err != nil {
		t.Fatal(err)
	}
	twice := good
	twice.Certificate = append(twice.Certificate[:1:1], twice.Certificate[0])
	fine := hello{Registry: "breakwater", Name: "office"}
	for name, knock := range map[string]struct {
		config *tls.Config
		says   any
	}{
		"no certificate":     {&tls.Config{NextProtos: []string{protocol}}, fine},
		"two certificates":   {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{twice}}, fine},
		"an RSA key":         {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{expensive}}, fine},
		"another curve":      {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{other}}, fine},
		"no protocol":        {&tls.Config{Certificates: []tls.Certificate{good}}, fine},
		"another protocol":   {&tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{good}}, fine},
		"TLS 1.2":            {&tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{protocol}, Certificates: []tls.Certificate{good}}, fine},
		"no name":            {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{good}}, hello{Registry: "breakwater"}},
		"a name with a path": {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{good}}, hello{Registry: "breakwater", Name: "../x"}},
		"a control in it":    {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{good}}, hello{Registry: "breakwater", Name: "office", Message: "a\nb"}},
		"no hello":           {&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{good}}, 7},
	} {
		c, err := w.dial(knock.config)
		if err != nil {
			continue
		}
		_ = send(c, knock.says)
		var a answer
		if err := receive(c, &a); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
		c.Close()
	}
	if _, c, err := w.Registries.Standing(t.Context(), "breakwater", ""); err != nil || c != nil {
		t.Errorf("%v, %v", c, err)
	}
	// And an agent does not speak to whatever else listens there.
	s := gatetest.Serve(t, w.handler)
	o := w.agent(nil)
	o.stop()
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	a := &Agent{Server: strings.TrimPrefix(s.URL, "https://"), TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"}, Key: newKey(t), Name: "a", Log: o.Log}
	config, err := a.config()
	if err != nil {
		t.Fatal(err)
	}
	if was, err := a.meet(t.Context(), config); err == nil || was.Status != "" {
		t.Errorf("%+v, %v", was, err)
	}
	// … nor to a server whose certificate nobody vouches for.
	a.Server, a.TLS.RootCAs = w.address, x509.NewCertPool()
	if config, err = a.config(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.meet(t.Context(), config); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func TestAFloodOfKnocksIsBoundedAndStopsNobody(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	// Those who say nothing: each neighbourhood has a few places.
	var silent []net.Conn
	for i := range 60 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/30))}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	within(t, "two neighbourhoods have 16 places each", 10*time.Second, func() bool {
		w.server.lobby.mu.Lock()
		defer w.server.lobby.mu.Unlock()
		return w.server.lobby.held == 2*lobbyEach && len(w.server.lobby.of) == 2
	})
	// Those who ask with one key after the other: the owner is asked a few times.
	statuses := map[string]int{}
	for range 40 {
		statuses[w.knock(newKey(t), hello{Registry: "breakwater", Name: "crowd"}).Status]++
	}
	if statuses[network.Pending] == 0 || statuses[network.Pending] > 16 || statuses[refused] < 24 {
		t.Errorf("%v", statuses)
	}
	if n := len(w.events(OpRefused)); n == 0 || n > 10 {
		t.Errorf("the ledger heard it %d times", n)
	}
	// The owner's own agent comes in meanwhile.
	key := newKey(t)
	f, _ := FingerprintOf(key)
	w.say(f, network.Approved)
	o := w.agent(func(a *Agent) { a.Key = key })
	o.wait(true)
	if _, err := o.get("/"); err != nil {
		t.Error(err)
	}
}

func TestTheOwnerIsAskedByNoMoreThanAFew(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	from := ledger.From{Address: netip.MustParseAddr("192.0.2.1")}
	ask := func() error {
		f, _ := FingerprintOf(newKey(t))
		return w.Registries.AskLink(t.Context(), w.settings, "breakwater", "crowd", network.Linked{Fingerprint: f, Asked: time.Now()}, from)
	}
	for range registry.MaxWaiting {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "wait") {
		t.Error(err)
	}
	if a := w.knock(newKey(t), hello{Registry: "breakwater", Name: "late"}); a.Status != refused {
		t.Errorf("%+v", a)
	}
	f, _ := FingerprintOf(newKey(t))
	w.say(f, network.Approved) // which the owner can say all the same
}

func TestOneKeyHasOneTunnel(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	key := newKey(t)
	f, _ := FingerprintOf(key)
	w.say(f, network.Approved)
	a := w.agent(func(a *Agent) { a.Key = key })
	a.wait(true)
	b := w.agent(func(a *Agent) { a.Key = key })
	within(t, "the second one takes the first one's place", 20*time.Second, func() bool {
		for _, e := range w.events(OpDown) {
			if e.Detail.More["why"] == "the agent came again" {
				return true
			}
		}
		return false
	})
	if n := w.server.Held(); n > 1 {
		t.Errorf("%d links", n)
	}
	a.stop()
	b.wait(true)
	within(t, "the one that is left serves", 20*time.Second, func() bool { _, err := b.get("/"); return err == nil })
}

func TestALinkComesAgain(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	proxy := newProxy(t, w.address)
	key := newKey(t)
	direct := w.agent(func(a *Agent) { a.Key = key }).up()
	far := w.agent(func(a *Agent) { a.Server = proxy.at }).up()
	carries := func(o *office) {
		t.Helper()
		within(t, "it carries", 30*time.Second, func() bool { _, err := o.get("/"); return err == nil })
	}
	carries(direct)
	carries(far)

	// The server is killed, and comes back.
	w.kill()
	direct.wait(false)
	far.wait(false)
	w.serve()
	carries(direct)
	carries(far)

	// The agent is killed: the server sees that, and the next one with its key comes in.
	direct.stop()
	within(t, "the server sees it", 10*time.Second, func() bool { return w.server.Held() == 1 })
	carries(w.agent(func(a *Agent) { a.Key = key }))

	// The network carries nothing any more and says nothing: both sides find out, and
	// who had asked is told.
	began := make(chan error, 1)
	go func() {
		_, err := far.get("/bytes/100000000000")
		began <- err
	}()
	within(t, "a pull is under way", 10*time.Second, func() bool { return proxy.moved.Load() > 10<<20 })
	proxy.silent.Store(true)
	if err := <-began; err == nil {
		t.Error("a pull through a dead network ended well")
	}
	far.wait(false)
	within(t, "the server sees it", 30*time.Second, func() bool { return w.server.Held() == 1 })
	proxy.silent.Store(false)
	carries(far)
}

// A proxy is a network that may stop carrying without a word.
type proxy struct {
	at     string
	silent atomic.Bool
	moved  atomic.Int64
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{at: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			for p.silent.Load() && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
				n = 0 // lost
			}
			if err != nil {
				return
			}
			p.moved.Add(int64(n))
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			_ = stop
			wg.Go(func() { pass(near, far) })
			wg.Go(func() { pass(far, near) })
		}
	})
	return p
}

func TestASlowClientStopsNobodyAndCostsAWindow(t *testing.T) {
	w := open(t, nil)
	o := w.agent(nil).up()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const slow = 24
	for range slow {
		r, err := o.client().Get("https://" + o.at + "/bytes/10000000000")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close() // and nobody reads it
	}
	// Some others come and go, at the pace that they have.
	for range 6 {
		begun := time.Now()
		if text, err := o.get("/bytes/2000000"); err != nil || len(text) != 2000000 {
			t.Fatal(len(text), err)
		}
		if d := time.Since(begun); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	}
	if grown := int64(heap() - before); grown > slow*3*Window {
		t.Errorf("%d slow clients cost %d MiB", slow, grown>>20)
	} else {
		t.Logf("%d slow clients cost %d MiB", slow, grown>>20)
	}
	// A slow registry is as bad as a slow client: an upload that nobody reads.
	pipe, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = io.CopyN(feed, zeros{}, 1<<20) }()
	q, _ := http.NewRequest("POST", "https://"+o.at+"/", pipe)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := o.client().Do(q.WithContext(ctx)); done <- err }()
	if _, err := o.get("/"); err != nil {
		t.Error(err)
	}
	cancel()
	pipe.CloseWithError(errors.New("gone"))
	<-done
}

func TestWhatIsUnderWayEndsInOrder(t *testing.T) {
	t.Parallel()
	begun := make(chan bool, 2)
	w := open(t, func(w *world) {
		w.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				_, _ = io.WriteString(rw, "slow ")
				_ = http.NewResponseController(rw).Flush()
				begun <- true
				for range 10 {
					time.Sleep(100 * time.Millisecond)
					_, _ = io.WriteString(rw, ".")
					_ = http.NewResponseController(rw).Flush()
				}
				return
			}
			served(rw, r)
		})
	})
	for name, end := range map[string]func(*office){
		"the agent":  func(o *office) { o.stop() },
		"the server": func(o *office) { w.stop() },
	} {
		if w.server == nil {
			w.serve()
		}
		o := w.agent(nil).up()
		// Somebody keeps a connection for later, which must not hold up anybody.
		idle := o.client()
		r, err := idle.Get("https://" + o.at + "/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		got := make(chan string, 1)
		go func() {
			text, err := o.get("/slow")
			got <- fmt.Sprint(text, err)
		}()
		select {
		case <-begun:
		case text := <-got:
			t.Fatal(name, ": ", text)
		}
		at := time.Now()
		end(o)
		if text := <-got; text != "slow ..........<nil>" {
			t.Errorf("%s: %s", name, text)
		}
		if d := time.Since(at); d > 15*time.Second {
			t.Errorf("%s took leave for %v", name, d)
		}
		o.stop()
		w.kill()
		w.server = nil
	}
}

func TestWhatAClientLeavesIsGivenUp(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	w := open(t, func(w *world) {
		w.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, err := io.CopyN(rw, zeros{}, 10<<30)
			gone <- err
		})
	})
	o := w.agent(nil).up()
	client := o.client()
	r, err := client.Get("https://" + o.at + "/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
	r.Body.Close()
	client.CloseIdleConnections()
	select {
	case err := <-gone:
		if err == nil {
			t.Error("it was all written")
		}
	case <-time.After(30 * time.Second):
		t.Error("the registry still writes to somebody who is gone")
	}
	within(t, "the agent forgets it", 10*time.Second, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.clients) == 0
	})
}

// It counts the goroutines of the process, and so runs alone.
func TestAnAgentThatFloodsIsReadSlowlyOrCut(t *testing.T) {
	w := open(t, func(w *world) { w.every = 0 })
	key := newKey(t)
	f, _ := FingerprintOf(key)
	w.say(f, network.Approved)
	certificate, err := certify(key)
	if err != nil {
		t.Fatal(err)
	}
	tunnel := func() *tls.Conn {
		t.Helper()
		c, err := w.dial(&tls.Config{NextProtos: []string{protocol}, Certificates: []tls.Certificate{certificate}})
		if err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := errors.Join(send(c, hello{Registry: "breakwater", Name: "hostile"}), receive(c, &a)); err != nil || a.Status != network.Approved {
			t.Fatal(a, err)
		}
		return c
	}
	frame := func(kind, flags byte, stream, length uint32) []byte {
		return []byte{0, kind, 0, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream), byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}
	}
	ended := func(c *tls.Conn) {
		t.Helper()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		within(t, "it is gone", 20*time.Second, func() bool { return w.server.Held() == 0 }) // or the next one displaces it
	}
	// A frame of 4 GiB, for a stream that is not there.
	c := tunnel()
	_, _ = c.Write(frame(frameData, 0, 99, 1<<32-1))
	ended(c)
	// More than a window.
	c = tunnel()
	_, _ = c.Write(frame(1, flagSYN, 1, 0))
	for range 3 {
		_, _ = c.Write(append(frame(frameData, 0, 1, Window/2), make([]byte, Window/2)...))
	}
	ended(c)
	// More streams than anybody may have, that say nothing.
	c = tunnel()
	opening := make(chan struct{})
	go func(c *tls.Conn) {
		defer close(opening)
		for i := range uint32(20 * streamMax) {
			if i%100 == 0 {
				time.Sleep(20 * time.Millisecond) // more at once than are accepted are reset
			}
			if _, err := c.Write(frame(1, flagSYN, 2*i+1, 0)); err != nil {
				return
			}
		}
	}(c)
	ended(c)
	<-opening
	// Pings without end are answered at the pace of a dozen a second.
	goroutines := runtime.NumGoroutine()
	c = tunnel()
	var b []byte
	for range 100 {
		b = append(b, frame(framePing, flagSYN, 0, 7)...)
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	for range 1000 {
		if _, err := c.Write(b); err != nil {
			break
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines+300 {
		t.Errorf("%d goroutines, before %d", n, goroutines)
	}
	c.Close()
	within(t, "all are gone", 20*time.Second, func() bool { return w.server.Held() == 0 })
	whys := ""
	for _, e := range w.events(OpDown) {
		whys += e.Detail.More["why"] + "\n"
	}
	// Whether it opened too many, or more at once than were accepted, is the machine's.
	// … and so is whether yamux tells why it ends before it is over.
	for _, want := range []string{"a frame longer than any window\n", "(recv window exceeded|session shutdown)\n"} {
		if !regexp.MustCompile(want).MatchString(whys) {
			t.Errorf("the links went down because:\n%snot: %s", whys, want)
		}
	}
}

func TestAddressesThatAreToldAreReadAsTheyAreMeant(t *testing.T) {
	for _, s := range []string{"192.0.2.7:1", "[2001:db8::7]:65535", "[::1]:0"} {
		a := netip.MustParseAddrPort(s)
		if got := getAddress([addressBytes]byte(putAddress(a))); got != a {
			t.Errorf("%s became %s", a, got)
		}
	}
	for _, a := range []netip.AddrPort{{}, netip.MustParseAddrPort("[::]:7"), netip.MustParseAddrPort("0.0.0.0:7")} {
		if got := getAddress([addressBytes]byte(putAddress(a))); got.IsValid() {
			t.Errorf("%s became %s", a, got)
		}
	}
}

func FuzzReceive(f *testing.F) {
	for _, h := range []any{hello{Registry: "breakwater", Name: "office", Message: "x"}, answer{Status: network.Approved, Retry: 2}, 7} {
		text, _ := json.Marshal(h)
		f.Add(append([]byte{byte(len(text) >> 8), byte(len(text))}, text...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := strings.NewReader(string(b))
		var h hello
		if receive(in, &h) != nil {
			return
		}
		if taken := len(b) - in.Len(); taken > 2+messageMax {
			t.Errorf("%d bytes were read", taken)
		}
		var out strings.Builder
		if err := send(&out, h); err != nil {
			return // escaped, it is longer
		}
		var again hello
		if err := receive(strings.NewReader(out.String()), &again); err != nil || again != h {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
	})
}

// What comes in is the same to the watch, however it is cut into pieces.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x05hello\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"), uint8(3))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		whole, parts := newFramed(nil), newFramed(nil)
		for _, f := range []*framed{whole, parts} {
			f.opens.SetLimit(1e9)
			f.pings.SetLimit(1e9)
		}
		want := whole.watch(b)
		var got error
		for len(b) > 0 && got == nil {
			n := min(len(b), int(size)+1)
			got, b = parts.watch(b[:n]), b[n:]
		}
		if !errors.Is(got, want) || want == nil && (whole.have != parts.have || whole.body != parts.body) {
			t.Errorf("%v %d %d, in pieces %v %d %d", want, whole.have, whole.body, got, parts.have, parts.body)
		}
	})
}

// What a link costs beside a connection of one's own: both ends and the agent are
// this process, whose CPU time is told.
func BenchmarkPull(b *testing.B) {
	const size = 64 << 20
	w := open(b, nil)
	o := w.agent(nil).up()
	direct, err := transit.Listen(b.Context(), transit.Options{
		Name: "direct", Address: "127.0.0.1:0", TLS: transit.Config(w.authority.Certificate("localhost"), false), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = direct.Serve(run, w.handler) })
	defer wg.Wait()
	defer stop()
	cpu := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	client := o.client()
	defer client.CloseIdleConnections()
	pull := func(at string) {
		r, err := client.Get(fmt.Sprintf("https://%s/bytes/%d", at, size))
		if err != nil {
			b.Fatal(err)
		}
		defer r.Body.Close()
		if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
	}
	// In turn, so that a busy machine is as busy for both.
	var took, cost [2]time.Duration
	rounds := 0
	for b.Loop() {
		for i, at := range []string{direct.Addr().String(), o.at} {
			begun, used := time.Now(), cpu()
			pull(at)
			took[i] += time.Since(begun)
			cost[i] += cpu() - used
		}
		rounds++
	}
	for i, name := range []string{"direct", "link"} {
		b.ReportMetric(float64(rounds)*size/1e6/took[i].Seconds(), name+"-MB/s")
		b.ReportMetric(float64(cost[i].Microseconds())/float64(rounds)/1e3, name+"-cpu-ms")
	}
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "time-ratio")
	b.ReportMetric(cost[1].Seconds()/cost[0].Seconds(), "cpu-ratio")
}
