package network

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"breakwater/network/networktest"
	"breakwater/transit"
)

// told are the refusals that an Egress tells of.
type told struct {
	mu  sync.Mutex
	all []Refusal
}

func (l *told) add(_ context.Context, r Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r)
}

func (l *told) rules() (rules []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.all {
		rules = append(rules, r.Rule)
	}
	return rules
}

// onLoopback are options whose connections never leave this machine, wherever they
// are sent.
func onLoopback(o EgressOptions) EgressOptions {
	o.Sources = map[Purpose]transit.Source{}
	for _, p := range Purposes {
		o.Sources[p] = transit.Source{Interface: "lo"}
	}
	return o
}

// dialled is what comes of dialling where somebody answers, or nobody goes.
func dialled(t testing.TB, w *Way, address string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.Dial(ctx, "tcp", address)
	if err == nil {
		c.Close()
	}
	return err
}

// led dials what leads outside, where nobody answers on the loopback, until it is known
// to lead there.
func led(t testing.TB, w *Way, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		for ctx.Err() == nil && !w.out.Load() {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if c, err := w.Dial(ctx, "tcp", address); err == nil {
		c.Close()
		t.Fatal("the test's own address outside was reached")
	}
	if !w.out.Load() {
		t.Fatalf("%s does not lead outside", address)
	}
}

func refusedBy(t testing.TB, err error, rule string) {
	t.Helper()
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Rule != rule {
		t.Helper()
		t.Errorf("got %v, want a refusal by %s", err, rule)
	}
}

func TestWhoIsReached(t *testing.T) {
	const outside, inside, never = "securityRules/AllowDeclaredOutBound securityRules/AllowDeclaredOutBound", "securityRules/AllowDeclaredOutBound <outside>", "<never> <never>"
	for addresses, want := range map[string]string{ // by the rule; of the operator's, and of one whom somebody outside names
		"93.184.216.34 2606:2800:220:1::1 64:ff9b::5db8:d822 2002:5db8:d822::1":                                                                                outside,
		"10.1.2.3 192.168.1.1 172.31.255.255 127.0.0.1 127.255.255.254 ::1 100.64.0.1 198.18.0.1 fd12::1 ::ffff:10.1.2.3 ::ffff:127.0.0.1":                     inside,
		"64:ff9b::a01:203 2002:a01:203::1 ::10.1.2.3 ::ffff:0:10.1.2.3 2001:db8::200:5efe:a01:203":                                                             inside,
		"2001:0:a01:203:0:0:a247:27dd 2001:0:5db8:d822:0:0:f5fe:fdfc":                                                                                          inside, // Teredo: its server, and its client
		"169.254.169.254 169.254.0.1 ::ffff:169.254.169.254 ::ffff:0:169.254.169.254 ::169.254.169.254":                                                        never,
		"64:ff9b:1::a01:203 64:ff9b:1:a01:2:300:: 64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe 64:ff9b:1:a9fe:a9:fe00:: 2002:a9fe:a9fe::1 2001:db8::5efe:a9fe:a9fe": never,
		"2001:0:a9fe:a9fe:0:0:a247:27dd 2001:0:5db8:d822:0:0:5601:5601":                                                                                        never,
		"fe80::1 fe80::1%lo fe80::a9fe:a9fe%1 fec0::1 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254":                       never,
		"64:ff9b::a83f:8110 2002:6464:64c8::1 0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 224.0.0.1 ff02::1 255.255.255.255 240.0.0.1":                                   never,
	} {
		for _, a := range strings.Fields(addresses) {
			e := NewEgress(EgressOptions{})
			at := netip.AddrPortFrom(netip.MustParseAddr(a), 443)
			own := e.To(ForIssuer, "https://issuer.example/realm").judge(nil, "issuer.example:443", at)
			w := e.To(ForIssuer, "https://other.example")
			if r := w.judge(nil, "other.example:443", netip.MustParseAddrPort("93.184.216.34:443")); !r.Allowed {
				t.Fatal(r)
			}
			w.Also("https://named.example/keys")
			if got := own.Rule + " " + w.judge(nil, "named.example:443", at).Rule; got != want {
				t.Errorf("%s: %s, want %s", a, got, want)
			}
			webhook := e.To(ForWebhook, "https://hook.example").judge(nil, "hook.example:443", at)
			if webhook.Allowed != (want == outside) {
				t.Errorf("%s, for the owner of a registry: %+v", a, webhook)
			}
			if r := e.To(ForIssuer, "https://issuer.example").judge(nil, "elsewhere.example:443", at); r.Allowed {
				t.Errorf("%s, which nobody declares: %+v", a, r)
			}
		}
	}
	if err := NewEgress(EgressOptions{}).To(ForIssuer, "a:1").cross(t.Context(), "a:1").may(t.Context(), "nonsense"); err == nil {
		t.Error("nonsense is reached")
	}
}

func TestADestinationIsItsHostAndPort(t *testing.T) {
	for text, want := range map[string]string{
		"https://issuer.example/a?b=c#d": "issuer.example:443", "https://ISSUER.example.": "issuer.example:443", "https://user:secret@issuer.example:8443/": "issuer.example:8443",
		"http://[FE80::1%25eth0]/": "[fe80::1%eth0]:80", "issuer.example.:443": "issuer.example:443", "[::1]:5432": "[::1]:5432",
		"": "", "issuer.example": "", "https://": "", "https://:443": "", "gopher://x": "", "file:///etc/passwd": "", "https://a b/": "",
	} {
		if got := destination(text); got != want {
			t.Errorf("%q leads to %q, want %q", text, got, want)
		}
	}
}

func FuzzDestination(f *testing.F) {
	for _, s := range []string{"https://user:secret@host:1/path?query=secret", "https://[::1%25a]:1", "host.:1", "://", "https://%zz", "a://b@c@d:1", ".:0", "a..:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to := destination(s)
		if to == "" {
			return
		}
		if again := destination(to); again != to && !strings.Contains(to, "://") {
			t.Fatalf("%q leads to %q, and that to %q", s, to, again)
		}
		if r := named(to); len(r) > longestName {
			t.Fatalf("%q is told as %q", s, r)
		}
	})
}

// Each spelling of a forbidden address is dialled as a client would; some name servers
// and resolvers read those that are none.
func TestNoSpellingLeadsToWhereNobodyGoes(t *testing.T) {
	zone := map[string][]string{}
	for _, s := range []string{"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "metadata.google.internal", "169.254.169.254.nip.example", "1"} {
		zone[s] = []string{"169.254.169.254 fe80::a9fe:a9fe"}
	}
	dns, l := networktest.NewNames(t, zone), new(told)
	e := NewEgress(onLoopback(EgressOptions{Resolver: dns.Resolver, Refused: l.add}))
	for _, url := range []string{
		"https://169.254.169.254/latest", "https://169.254.169.254./", "https://[::ffff:169.254.169.254]/", "https://[::ffff:a9fe:a9fe]/", "https://[64:ff9b::a9fe:a9fe]/",
		"https://[fe80::1%25lo]/", "https://[FE80::1%25lo]/", "https://2852039166/", "https://0xa9fea9fe/", "https://0251.0376.0251.0376/", "https://169.254.43518/", "https://169.16689662/",
		"https://metadata.google.internal/", "https://METADATA.google.internal./", "https://issuer.example@169.254.169.254/", "https://169.254.169.254.nip.example/", "https://[::]/", "https://0/", "https://1/",
		"https://169。254。169。254/", "https://①⑥⑨.254.169.254/",
	} {
		for _, p := range Purposes {
			a, err := e.Client(p, ClientOptions{To: []string{url}, Timeout: 20 * time.Second}).Get(url)
			if err == nil {
				a.Body.Close()
				t.Fatalf("%s was reached for %s", url, p)
			}
			r, refused := errors.AsType[*Refusal](err)
			lookup, absent := errors.AsType[*net.DNSError](err)
			if refused && r.Rule != "<never>" || !refused && (!absent || !lookup.IsNotFound) {
				t.Errorf("%s for %s: %v", url, p, err)
			}
		}
	}
	if len(l.rules()) == 0 || len(l.rules()) > maxRefusals+len(Purposes) {
		t.Errorf("%d refusals were told", len(l.rules()))
	}
	for _, r := range l.all {
		if strings.ContainsAny(r.Destination, "/?@") {
			t.Errorf("a refusal tells %q", r.Destination)
		}
	}
}

func TestANameThatMovesInsideIsNotFollowed(t *testing.T) {
	here := httptest.NewServer(http.NotFoundHandler())
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Listener.Addr().String())
	dns := networktest.NewNames(t, map[string][]string{
		"rebinds.example": {"203.0.113.7", "127.0.0.1"}, "metadata.example": {"203.0.113.7", "169.254.169.254"}, "inner.example": {"127.0.0.1"},
		"both.example": {"169.254.169.254 127.0.0.1"}, "outer.example": {"203.0.113.7"},
	})
	l := new(told)
	e := NewEgress(onLoopback(EgressOptions{Resolver: dns.Resolver, Refused: l.add}))
	to := func(name string) string { return name + ":" + port }

	led(t, e.To(ForIssuer, to("rebinds.example")), to("rebinds.example"))
	refusedBy(t, dialled(t, e.To(ForIssuer, to("rebinds.example")), to("rebinds.example")), "<rebound>")
	refusedBy(t, dialled(t, e.To(ForIssuer, to("rebinds.example.")), to("REBINDS.example.")), "<rebound>")
	led(t, e.To(ForIssuer, to("metadata.example")), to("metadata.example"))
	refusedBy(t, dialled(t, e.To(ForIssuer, to("metadata.example")), to("metadata.example")), "<never>")

	// Within one conversation the one outside cannot name another name that is inside.
	w := e.To(ForIssuer, to("outer.example"))
	led(t, w, to("outer.example"))
	w.Also(to("inner.example"))
	refusedBy(t, dialled(t, w, to("inner.example")), "<outside>")
	if err := dialled(t, e.To(ForIssuer, to("inner.example")), to("inner.example")); err != nil {
		t.Errorf("what the operator declares inside: %v", err)
	}
	refusedBy(t, dialled(t, e.To(ForWebhook, to("inner.example")), to("inner.example")), "<inside>")

	// Of two addresses the forbidden one is not dialled, whichever comes first.
	if err := dialled(t, e.To(ForIssuer, to("both.example")), to("both.example")); err != nil {
		t.Error(err)
	}
	refusedBy(t, dialled(t, e.To(ForIssuer, to("other.example")), to("inner.example")), "securityRules/DenyAllOutBound")
	for _, rule := range []string{"<rebound>", "<never>", "<outside>", "<inside>", "securityRules/DenyAllOutBound"} {
		if !slices.Contains(l.rules(), rule) {
			t.Errorf("nobody was told of %s", rule)
		}
	}
}

// secure serves with TLS, and is who its CA says it is.
func secure(t testing.TB, h http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, roots
}

func TestNobodyIsFollowedElsewhere(t *testing.T) {
	var asked atomic.Int32
	other, _ := secure(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	l := new(told)
	e := NewEgress(EgressOptions{Refused: l.add})
	var location string
	s, roots := secure(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	for _, location = range []string{other.URL + "/?token=secret", "https://169.254.169.254/latest?token=secret", "http://[fe80::1%25lo]/", "//user:secret@metadata.google.internal/", "/same", "gopher://127.0.0.1:25/", s.URL} {
		a, err := e.Client(ForIssuer, ClientOptions{To: []string{s.URL}, Roots: roots}).Get(s.URL)
		if err != nil || a.StatusCode != http.StatusTemporaryRedirect {
			t.Fatalf("%s: %v %v", location, a, err)
		}
		a.Body.Close()
	}
	if asked.Load() != 0 {
		t.Error("a redirect was followed")
	}
	if got := l.rules(); len(got) != 5 || slices.ContainsFunc(got, func(rule string) bool { return rule != "<redirect>" }) {
		t.Errorf("told of %v", l.all)
	}
	if strings.Contains(fmt.Sprint(l.all), "secret") {
		t.Errorf("a secret was told: %v", l.all)
	}
}

func TestTheEnvironmentsProxyIsNotAsked(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxy.Close()
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	t.Setenv("NO_PROXY", "nobody.example")
	client := NewEgress(EgressOptions{}).Client(ForIssuer, ClientOptions{})
	if p := client.Transport.(*bounded).Proxy; p != nil {
		t.Error("the client asks for a proxy")
	}
	s, roots := secure(t, func(w http.ResponseWriter, r *http.Request) {})
	a, err := NewEgress(EgressOptions{}).Client(ForIssuer, ClientOptions{To: []string{s.URL}, Roots: roots}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
}

func TestAnswersAreBounded(t *testing.T) {
	drip := func(w http.ResponseWriter, r *http.Request, text string) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, text); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			if len(text) == 1 {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	s, roots := secure(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			drip(w, r, "x")
		case "/endless":
			drip(w, r, strings.Repeat("x", 1<<16))
		case "/long":
			w.Header().Set("Content-Length", "1000000000")
			drip(w, r, strings.Repeat("x", 1<<16))
		case "/header":
			for i := range 4000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 100))
			}
		case "/silent":
			<-r.Context().Done()
		case "/packed":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("\x1f\x8b"))
		}
	})
	o := ClientOptions{To: []string{s.URL}, Roots: roots, Timeout: time.Second, Answer: 100_000, Once: true}
	c := NewEgress(EgressOptions{}).Client(ForIssuer, o)
	const most = 20 * time.Second // on a busy machine; without bounds it would be for ever
	for _, path := range []string{"/slow", "/endless", "/long", "/header", "/silent"} {
		start := time.Now()
		a, err := c.Get(s.URL + path)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(a.Body)
			a.Body.Close()
		}
		if err == nil || len(body) > 100_000 || time.Since(start) > most {
			t.Errorf("%s: %d bytes in %v: %v", path, len(body), time.Since(start), err)
		}
	}
	o.Timeout = 20 * time.Second
	a, err := NewEgress(EgressOptions{}).Client(ForIssuer, o).Get(s.URL + "/packed")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if body, _ := io.ReadAll(a.Body); !bytes.Equal(body, []byte("\x1f\x8b")) {
		t.Errorf("an answer was unpacked: %q", body)
	}
}

func TestOnlyWhoProvesWhoItIsIsSpokenTo(t *testing.T) {
	var asked atomic.Int32
	answer := func(http.ResponseWriter, *http.Request) { asked.Add(1) }
	s, roots := secure(t, answer)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	dns := networktest.NewNames(t, map[string][]string{"example.com": {"127.0.0.1"}, "other.test": {"127.0.0.1"}})
	old := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	clear := httptest.NewServer(http.HandlerFunc(answer))
	defer clear.Close()
	for why, row := range map[string]struct {
		url   string
		roots *x509.CertPool
	}{
		"a CA of nobody":     {s.URL, nil},
		"another name":       {"https://other.test:" + port, roots},
		"a TLS of yesterday": {old.URL, roots},
		"no TLS":             {strings.Replace(clear.URL, "http:", "https:", 1), roots},
	} {
		e := NewEgress(EgressOptions{Resolver: dns.Resolver})
		if a, err := e.Client(ForIssuer, ClientOptions{To: []string{row.url}, Roots: row.roots}).Get(row.url); err == nil {
			a.Body.Close()
			t.Errorf("%s: spoken to", why)
		}
	}
	if asked.Load() != 0 {
		t.Error("somebody heard a question")
	}
	good := "https://example.com:" + port // httptest's certificate has the name
	a, err := NewEgress(EgressOptions{Resolver: dns.Resolver}).Client(ForIssuer, ClientOptions{To: []string{good}, Roots: roots}).Get(good)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
}

func TestTheHardenedProfileReachesWhomTheConfigurationSays(t *testing.T) {
	for _, p := range Purposes {
		e := NewEgress(EgressOptions{Hardened: true})
		for _, at := range []string{"127.0.0.1:443", "93.184.216.34:443"} {
			r := e.To(p, "https://a.example").judge(nil, "a.example:443", netip.MustParseAddrPort(at))
			if r.Allowed != (p == ForDatabase || p == ForACME) {
				t.Errorf("%s at %s: %+v", p, at, r)
			}
			if r := e.To(p, "https://b.example").judge(nil, "a.example:443", netip.MustParseAddrPort(at)); r.Allowed {
				t.Errorf("%s at %s, which nobody declares: %+v", p, at, r)
			}
			if r := e.To(p, "https://a.example").judge(nil, "a.example:443", netip.MustParseAddrPort("169.254.169.254:443")); r.Allowed {
				t.Errorf("%s: %+v", p, r)
			}
		}
	}
}

func TestConnectionsLeaveByTheirSource(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().String()
	e := NewEgress(EgressOptions{Sources: map[Purpose]transit.Source{
		ForDatabase: {Address: netip.MustParseAddr("127.0.0.66")},
		ForKey:      {Interface: "lo"},
		ForPeer:     {Interface: "no-such-thing"},
		ForSink:     {Address: netip.MustParseAddr("::1")},
		ForIssuer:   {Address: netip.MustParseAddr("192.0.2.1")},
	}})
	for p, from := range map[Purpose]string{ForDatabase: "127.0.0.66", ForKey: "127.0.0.1", ForACME: "127.0.0.1"} {
		c, err := e.Dial(t.Context(), p, "tcp", at)
		if err != nil {
			t.Fatal(p, err)
		}
		if got := c.LocalAddr().(*net.TCPAddr).IP.String(); got != from {
			t.Errorf("%s left by %s, want %s", p, got, from)
		}
		c.Close()
	}
	for _, p := range []Purpose{ForPeer, ForSink, ForIssuer} {
		if c, err := e.Dial(t.Context(), p, "tcp", at); err == nil {
			t.Errorf("%s left by %s", p, c.LocalAddr())
			c.Close()
		}
	}
}

func TestNobodyIsReachedWithoutAnEgress(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	var none *Egress
	if _, err := none.Client(ForIssuer, ClientOptions{To: []string{s.URL}}).Get(s.URL); err == nil {
		t.Error("somebody was reached")
	}
	e := NewEgress(EgressOptions{})
	for _, network := range []string{"udp", "unix", "ip4:1"} {
		if _, err := e.Dial(t.Context(), ForKey, network, s.Listener.Addr().String()); err == nil {
			t.Errorf("%s was spoken", network)
		}
	}
}

func TestRefusalsAreToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(told)
		e := NewEgress(EgressOptions{Refused: l.add})
		same := Refusal{Purpose: ForIssuer, Destination: "a.example:443", Ruling: Ruling{Rule: "<never>"}}
		for range 5 {
			if err := e.refuse(t.Context(), same); err == nil {
				t.Fatal("a refusal is no error")
			}
		}
		if len(l.all) != 1 || l.all[0].Before != 0 {
			t.Errorf("told of %v", l.all)
		}
		time.Sleep(refusalRest)
		_ = e.refuse(t.Context(), same)
		if len(l.all) != 2 || l.all[1].Before != 4 {
			t.Errorf("told of %v", l.all)
		}
		// Whoever invents names fills nothing.
		for i := range 10_000 {
			r := same
			r.Destination = fmt.Sprint("invented-", i)
			_ = e.refuse(t.Context(), r)
		}
		if n := len(l.all); n > maxRefusals+len(Purposes)+2 {
			t.Errorf("told of %d", n)
		}
		time.Sleep(refusalRest)
		_ = e.refuse(t.Context(), same)
		if last := l.all[len(l.all)-1]; last.Destination != same.Destination {
			t.Errorf("it is never quiet again: %v", last)
		}
		if n := len(e.refused.told); n > maxRefusals+len(Purposes) {
			t.Errorf("%d are remembered", n)
		}
	})
}
