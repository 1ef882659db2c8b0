package transit

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is an authority and a listener that it signs for, with a client that
// trusts it.
type site struct {
	*Listener
	address string
	pool    *x509.CertPool
	stop    context.CancelFunc
	ended   chan error
}

func open(t *testing.T, h http.Handler, adjust func(*Options)) *site {
	t.Helper()
	a, err := OpenAuthority(filepath.Join(t.TempDir(), "tls"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Name: "front", Address: "127.0.0.1:0", TLS: Config(a.Certificate("localhost", "127.0.0.1"), false),
		Log: slog.New(slog.DiscardHandler),
	}
	if adjust != nil {
		adjust(&o)
	}
	l, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Listener: l, address: l.Addr().String(), pool: x509.NewCertPool(), ended: make(chan error, 1)}
	text, err := os.ReadFile(a.File())
	if err != nil {
		t.Fatal(err)
	}
	s.pool.AppendCertsFromPEM(text)
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	go func() { s.ended <- l.Serve(ctx, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) trust(adjust func(*tls.Config)) *tls.Config {
	c := &tls.Config{RootCAs: s.pool, ServerName: "localhost"}
	if adjust != nil {
		adjust(c)
	}
	return c
}

func (s *site) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: s.trust(nil), DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

// greet tells the listener's name and the caller's address.
func greet(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprint(w, Arrived(r).Listener, " ", host)
}

func TestNothingBelowTheFloorIsSpoken(t *testing.T) {
	s := open(t, http.HandlerFunc(greet), nil)
	strict := open(t, http.HandlerFunc(greet), func(o *Options) { o.TLS = Config(o.TLS.GetCertificate, true) })
	for _, test := range []struct {
		name   string
		site   *site
		adjust func(*tls.Config)
		ok     bool
	}{
		{"TLS 1.0", s, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		{"TLS 1.1", s, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, false},
		{"TLS 1.2", s, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"TLS 1.2 with CBC", s, func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, false},
		{"TLS 1.2 without forward secrecy", s, func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}, false},
		{"TLS 1.3", s, nil, true},
		{"TLS 1.2 where 1.3 is the floor", strict, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
		{"TLS 1.3 where 1.3 is the floor", strict, nil, true},
	} {
		c, err := tls.Dial("tcp", test.site.address, test.site.trust(test.adjust))
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

func TestBothHTTPVersionsKnowTheListener(t *testing.T) {
	s := open(t, http.HandlerFunc(greet), nil)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: s.trust(nil), ForceAttemptHTTP2: h2}
		r, err := (&http.Client{Transport: transport}).Get("https://" + s.address)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		transport.CloseIdleConnections()
		if string(text) != "front 127.0.0.1" || (r.ProtoMajor == 2) != h2 {
			t.Errorf("%s: %s", r.Proto, text)
		}
	}
}

func TestTheAuthorityStaysTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	var wg sync.WaitGroup
	texts := make([]string, 8)
	for i := range texts { // as processes that start at once
		wg.Go(func() {
			a, err := OpenAuthority(dir)
			if err != nil {
				t.Error(err)
				return
			}
			text, err := os.ReadFile(a.File())
			if err != nil {
				t.Error(err)
			}
			texts[i] = string(text)
		})
	}
	wg.Wait()
	for _, text := range texts {
		if text == "" || text != texts[0] {
			t.Error("two authorities were made")
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("more than the key and the certificate is left: %v, %v", files, err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is readable: %v, %v", info.Mode(), err)
	}
}

func TestAnAuthorityThatWasHalfMadeIsFinished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(a.File()); err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !a.cert.PublicKey.(*ecdsa.PublicKey).Equal(b.cert.PublicKey) {
		t.Error("the key was not kept")
	}
	// A certificate without its key signs nothing that anybody would trust.
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil {
		t.Error("a certificate of another key was accepted")
	}
}

func TestTheServersCertificateIsRenewedBeforeItEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(a.cert)
		get := a.Certificate("registry.example.com", "*.registry.example.com", "192.0.2.1", "::1")
		seen := map[string]bool{}
		for range 100 {
			c, err := get(nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, host := range []string{"registry.example.com", "shop.registry.example.com", "192.0.2.1", "::1"} {
				if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: time.Now()}); err != nil {
					t.Fatalf("%s: %v", host, err)
				}
			}
			seen[c.Leaf.SerialNumber.String()] = true
			time.Sleep(24 * time.Hour)
		}
		if len(seen) < 4 || len(seen) > 6 {
			t.Errorf("%d certificates in 100 days", len(seen))
		}
	})
}

// writePair puts a certificate for a name into two files.
func writePair(t *testing.T, a *Authority, name, chain, key string) {
	t.Helper()
	c, err := a.sign([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		chain: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAReplacedCertificateIsShownWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	a, err := OpenAuthority(filepath.Join(dir, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	chain, key := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	if _, err := Files(chain, key, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("files that are not there were accepted")
	}
	writePair(t, a, "first", chain, key)
	shown, err := Files(chain, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		time.Sleep(1100 * time.Millisecond) // files are looked at once a second
		c, err := shown(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.Subject.CommonName
	}
	writePair(t, a, "second", chain, key)
	if got := name(); got != "second" {
		t.Errorf("shown: %s", got)
	}
	if err := os.WriteFile(key, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "second" {
		t.Errorf("with a broken key, shown: %s", got)
	}
	writePair(t, a, "third", chain, key)
	if got := name(); got != "third" {
		t.Errorf("shown: %s", got)
	}
}

func TestNobodyLosesAConnectionOverANewCertificate(t *testing.T) {
	dir := t.TempDir()
	a, err := OpenAuthority(filepath.Join(dir, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	chain, key := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	writePair(t, a, "localhost", chain, key)
	shown, err := Files(chain, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	half, release := make(chan bool), make(chan bool)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pull" {
			_, _ = io.WriteString(w, "first half")
			_ = http.NewResponseController(w).Flush()
			half <- true
			<-release
			_, _ = io.WriteString(w, ", second half")
		}
	}), func(o *Options) { o.TLS = Config(shown, false) })
	s.pool = x509.NewCertPool()
	s.pool.AddCert(a.cert)
	kept := s.idle(t, "127.0.0.2").(*tls.Conn)
	answer := make(chan string, 1)
	go func() {
		text := []byte("nothing")
		if r, err := s.client().Get("https://localhost:" + fmt.Sprint(s.Port()) + "/pull"); err == nil {
			text, _ = io.ReadAll(r.Body)
			r.Body.Close()
		}
		answer <- string(text)
	}()
	<-half
	serial := func(c *tls.Conn) string { return c.ConnectionState().PeerCertificates[0].SerialNumber.String() }
	before := serial(kept)
	writePair(t, a, "localhost", chain, key)
	time.Sleep(1100 * time.Millisecond)
	if next := s.idle(t, "127.0.0.2").(*tls.Conn); serial(next) == before {
		t.Error("a new connection is shown the old certificate")
	}
	release <- true
	if got := <-answer; got != "first half, second half" || !asks(kept) {
		t.Errorf("the pull that was under way got %q", got)
	}
}

// proxied asks through a connection that begins with header.
func (s *site) proxied(header string) (string, error) {
	c, err := net.DialTimeout("tcp", s.address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, header); err != nil {
		return "", err
	}
	secure := tls.Client(c, s.trust(nil))
	if _, err := io.WriteString(secure, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(secure), nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return string(text), err
}

func TestOnlyAListedProxyIsBelievedAboutItsClient(t *testing.T) {
	const header = "PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n"
	open1 := open(t, http.HandlerFunc(greet), nil)
	if text, err := open1.proxied(header); err == nil {
		t.Errorf("a header from anybody was taken: %s", text)
	}
	if text, err := open1.proxied(""); err != nil || text != "front 127.0.0.1" {
		t.Errorf("%s, %v", text, err)
	}
	behind := open(t, http.HandlerFunc(greet), func(o *Options) { o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	if text, err := behind.proxied(header); err != nil || text != "front 203.0.113.7" {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := behind.proxied(""); err == nil {
		t.Errorf("a proxy that forgot its header was taken for a client: %s", text)
	}
	other := open(t, http.HandlerFunc(greet), func(o *Options) { o.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	if text, err := other.proxied(header); err == nil {
		t.Errorf("a header from elsewhere was taken: %s", text)
	}
}

// A proxy elsewhere may tell of its own machine; that is not ours.
func TestAProxyElsewhereDoesNotTellOfThisMachine(t *testing.T) {
	for _, row := range []struct{ proxy, header, want string }{
		{"192.0.2.9", "PROXY TCP4 127.0.0.1 192.0.2.1 1234 443\r\n", "192.0.2.9"},
		{"192.0.2.9", "PROXY TCP4 127.0.0.2 192.0.2.1 1234 443\r\n", "192.0.2.9"},
		{"192.0.2.9", "PROXY TCP6 ::1 2001:db8::1 1234 443\r\n", "192.0.2.9"},
		{"192.0.2.9", "PROXY TCP6 ::ffff:127.0.0.1 ::ffff:192.0.2.1 1234 443\r\n", "192.0.2.9"},
		{"192.0.2.9", "PROXY TCP4 203.0.113.7 192.0.2.1 1234 443\r\n", "203.0.113.7"},
		{"127.0.0.1", "PROXY TCP4 127.0.0.1 192.0.2.1 1234 443\r\n", "127.0.0.1"},
	} {
		near, far := net.Pipe()
		go func() { _, _ = io.WriteString(far, row.header) }()
		c := client{proxyproto.NewConn(from{near, row.proxy})}
		if a, ok := addr(c.RemoteAddr()); !ok || a.String() != row.want {
			t.Errorf("%s of %q: %s, not %s", row.proxy, row.header, a, row.want)
		}
		c.Close()
		far.Close()
	}
}

// from is a connection from an address.
type from struct {
	net.Conn
	address string
}

func (f from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(f.address), 1))
}

// idle opens a connection that has been answered once and is kept.
func (s *site) idle(t *testing.T, from string) net.Conn {
	t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", s.address, s.trust(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if !asks(c) {
		t.Fatal("a new connection is not answered")
	}
	return c
}

func asks(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return false
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil && r.Body.Close() == nil
}

func TestWhoHoardsConnectionsLosesThemToOthers(t *testing.T) {
	s := open(t, http.HandlerFunc(greet), func(o *Options) { o.Connections = 8 })
	guest := s.idle(t, "127.0.0.2")
	var hoard []net.Conn
	for range 20 {
		hoard = append(hoard, s.idle(t, "127.0.0.3"))
	}
	if held := s.Held(); held > 8 {
		t.Errorf("%d connections are held", held)
	}
	if !asks(guest) {
		t.Error("the guest with one connection lost it")
	}
	if asks(hoard[0]) || !asks(hoard[19]) {
		t.Error("not the longest idle connection of the hoarder was closed")
	}
}

func TestAnAddressHasItsOwnBound(t *testing.T) {
	begun, release := make(chan bool), make(chan bool)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- true
			<-release
		}
	}), func(o *Options) { o.PerAddress = 2 })
	var slow sync.WaitGroup
	for range 2 {
		slow.Go(func() {
			if r, err := s.client().Get("https://" + s.address + "/slow"); err != nil {
				t.Error(err)
			} else {
				r.Body.Close()
			}
		})
		<-begun
	}
	if r, err := s.client().Get("https://" + s.address); err == nil {
		r.Body.Close()
		t.Error("a third connection was let in while two requests were under way")
	}
	if s.Refused() == 0 {
		t.Error("the refusal was not counted")
	}
	s.idle(t, "127.0.0.2").Close()
	close(release)
	slow.Wait()
}

func TestAStopWaitsForWhatIsUnderWay(t *testing.T) {
	begun := make(chan bool)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		time.Sleep(300 * time.Millisecond)
		fmt.Fprint(w, "whole")
	}), nil)
	answer := make(chan string)
	go func() {
		r, err := s.client().Get("https://" + s.address)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		answer <- string(text)
	}()
	<-begun
	s.stop()
	if got := <-answer; got != "whole" {
		t.Errorf("the request under way got %q", got)
	}
	if _, err := net.DialTimeout("tcp", s.address, time.Second); err == nil {
		t.Error("the listener is still open")
	}
}

func TestAHeaderHasBounds(t *testing.T) {
	s := open(t, http.HandlerFunc(greet), nil)
	q, err := http.NewRequest(http.MethodGet, "https://"+s.address, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("X-Large", strings.Repeat("x", 2*headerBytes))
	r, err := s.client().Do(q)
	if err != nil {
		return // cut off before it was read
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("answered with %s", r.Status)
	}
}

func TestATakenAddressFailsAtOnce(t *testing.T) {
	s := open(t, http.HandlerFunc(greet), nil)
	l, err := Listen(t.Context(), Options{Address: s.address, TLS: &tls.Config{}})
	if err == nil {
		l.Close()
		t.Fatal("two listeners on one address")
	}
	if _, err := Listen(t.Context(), Options{Address: "127.0.0.1:0"}); err == nil {
		t.Error("a listener without TLS")
	}
}

func TestAPeerThatTakesNothingIsGivenUpFromItsFirstAnswerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &conn{Conn: near, crowd: newCrowd(Options{})}
		defer c.Close()
		go func() { _, _ = far.Read(make([]byte, 100)) }()
		if _, err := c.Write([]byte("handshake")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetWriteDeadline(time.Time{}) // as net/http does when TLS is there
		start := time.Now()
		if _, err := c.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > stallTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		start = time.Now()
		_ = c.SetWriteDeadline(start.Add(time.Hour)) // somebody above knows better
		if _, err := c.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestTheKernelKeepsLittleOfWhatASlowClientDoesNotTake(t *testing.T) {
	var written atomic.Int64
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			n, err := w.Write(make([]byte, 16<<10))
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	}), nil)
	d := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
	}}
	c, err := tls.DialWithDialer(d, "tcp", s.address, s.trust(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for last := int64(-1); written.Load() == 0 || last != written.Load(); time.Sleep(100 * time.Millisecond) {
		last = written.Load()
	}
	if n := written.Load(); n > 4*unsent {
		t.Errorf("%d KiB wait for a client that takes nothing", n>>10)
	}
}
