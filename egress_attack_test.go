package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"breakwater/db/dbtest"
	"breakwater/identity/identitytest"
	"breakwater/ledger"
	"breakwater/network/networktest"
	"breakwater/transit"
)

// alone is set for the second process of the test below, which has a network and a
// file of name servers of its own.
const alone = "BREAKWATER_TEST_ALONE"

// Issuers outside do to the real server what those do who want into a network: they
// move their name, redirect, name others, drip, and never end. The forbidden places
// are really there, with certificates that are believed, so that nothing but the one
// way out keeps the server from them. The whole world lies on the loopback of a
// network namespace.
func TestAnIssuerOutsideLeadsNowhere(t *testing.T) {
	if os.Getenv(alone) != "" {
		attackByIssuers(t)
		return
	}
	if os.Getuid() != 0 {
		if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
			t.Fatal("only root makes a network namespace")
		}
		t.Skip("only root makes a network namespace")
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	again.Env = append(os.Environ(), alone+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if out, err := again.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else if !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("it did not run:\n%s", out)
	}
}

// world is what the server can find in the namespace.
type world struct {
	*testing.T
	dir  string
	cert transit.Certificate
	ca   string

	mu     sync.Mutex
	visits map[string][]string // by place and path: who came
}

func (w *world) visit(place string, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visits[place+r.URL.Path] = append(w.visits[place+r.URL.Path], r.RemoteAddr)
}

func (w *world) came(place string) (from []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for where, who := range w.visits {
		if strings.HasPrefix(where, place) {
			from = append(from, who...)
		}
	}
	return from
}

// place answers at an address with TLS.
func (w *world) place(address string, h http.HandlerFunc) {
	w.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		w.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}, TLS: &tls.Config{GetCertificate: w.cert}}
	s.StartTLS()
	w.Cleanup(func() { s.CloseClientConnections(); s.Close() })
}

func (w *world) run(command string) {
	w.Helper()
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		w.Fatalf("%s: %v: %s", command, err, out)
	}
}

func attackByIssuers(t *testing.T) {
	w := &world{T: t, dir: t.TempDir(), visits: map[string][]string{}}
	w.run("ip link set lo up")
	for _, a := range []string{"203.0.113.7/32", "203.0.113.66/32", "169.254.169.254/32", "10.0.0.9/32"} {
		w.run("ip address add " + a + " dev lo")
	}
	names := filepath.Join(w.dir, "resolv.conf")
	if err := errors.Join(
		os.WriteFile(names, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644),
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount(names, "/etc/resolv.conf", "", unix.MS_BIND, ""),
	); err != nil {
		t.Fatal(err)
	}
	const outside = "203.0.113.7"
	zone := map[string][]string{
		"moves.example": {outside, "10.0.0.9"}, "metadata.example": {outside, "169.254.169.254"}, "both.example": {outside + " 169.254.169.254"},
		"inner.example": {"10.0.0.9"}, "2852039166": {"169.254.169.254"},
	}
	for _, name := range []string{"good", "names-inner", "names-metadata", "names-mapped", "redirects", "redirects-inner", "drips", "endless"} {
		zone[name+".example"] = []string{outside}
	}
	issuers := map[string]string{"decimal": "https://2852039166", "by-number": "https://169.254.169.254"}
	for name := range zone {
		if name, ok := strings.CutSuffix(name, ".example"); ok && name != "inner" {
			issuers[name] = "https://" + name + ".example"
		}
	}
	dns, err := networktest.OpenNames("127.0.0.1:53", maps.Clone(zone))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(dns.Serve)
	t.Cleanup(func() { dns.Close(); serving.Wait() })

	authority, err := transit.OpenAuthority(filepath.Join(w.dir, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{outside, "169.254.169.254", "10.0.0.9", "2852039166"}
	for name := range zone {
		hosts = append(hosts, name)
	}
	w.cert = authority.Certificate(hosts...)
	ca, err := os.ReadFile(authority.File())
	if err != nil {
		t.Fatal(err)
	}
	w.ca = string(ca)

	key := identitytest.EC("key")
	set := identitytest.JWKS(key)
	for _, forbidden := range []string{"169.254.169.254", "10.0.0.9"} {
		w.place(forbidden+":443", func(_ http.ResponseWriter, r *http.Request) { w.visit(forbidden, r) })
	}
	drip := func(a http.ResponseWriter, r *http.Request, text string, rest time.Duration) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(a, text); err != nil || http.NewResponseController(a).Flush() != nil {
				return
			}
			time.Sleep(rest)
		}
	}
	w.place(outside+":443", func(a http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(r.Host, ".")
		w.visit(name, r)
		keys := "https://" + r.Host + "/keys"
		switch {
		case r.URL.Path == "/keys":
			a.Write(set)
			return
		case name == "names-inner":
			keys = "https://inner.example/keys"
		case name == "names-metadata":
			keys = "https://169.254.169.254/keys?token=a-secret"
		case name == "names-mapped":
			keys = "https://[::ffff:169.254.169.254]/keys"
		case name == "redirects":
			http.Redirect(a, r, "https://169.254.169.254/latest?token=a-secret", http.StatusFound)
			return
		case name == "redirects-inner":
			http.Redirect(a, r, "https://inner.example/", http.StatusPermanentRedirect)
			return
		case name == "drips":
			drip(a, r, " ", 50*time.Millisecond)
			return
		case name == "endless":
			drip(a, r, strings.Repeat(" ", 64<<10), 0)
			return
		}
		fmt.Fprintf(a, `{"issuer":%q,"jwks_uri":%q}`, "https://"+r.Host, keys)
	})

	// The environment names a proxy, which nobody asks.
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	s := startServer(t, w.dir, "egress: {sources: {issuer: 203.0.113.66}}", "HTTPS_PROXY="+proxy.URL, "https_proxy="+proxy.URL, "HTTP_PROXY="+proxy.URL, "ALL_PROXY="+proxy.URL)

	var asking sync.WaitGroup
	for name, issuer := range issuers {
		body, _ := json.Marshal(map[string]any{"properties": map[string]any{"issuer": issuer, "audiences": []string{"registry"}, "principalType": "ServicePrincipal", "caCertificates": w.ca, "status": "enabled"}})
		s.command("rest", "--method", "put", "/providers/Breakwater.Identity/issuers/"+name, "--body", string(body))
		asking.Go(func() {
			now := time.Now().Unix()
			token := key.Sign(map[string]any{"alg": "ES256", "kid": "key", "typ": "JWT"}, map[string]any{"iss": issuer, "sub": "pod", "aud": "registry", "iat": now, "exp": now + 600})
			start := time.Now()
			want := http.StatusServiceUnavailable
			if name == "good" || name == "both" {
				want = http.StatusOK
			}
			if got := s.ask("pod", token); got != want || time.Since(start) > 30*time.Second {
				t.Errorf("%s: a token is answered %d after %v, want %d", name, got, time.Since(start), want)
			}
		})
	}
	asking.Wait()

	for _, forbidden := range []string{"169.254.169.254", "10.0.0.9"} {
		if from := w.came(forbidden); len(from) > 0 {
			t.Errorf("%s was reached: %v", forbidden, from)
		}
	}
	if proxied.Load() > 0 {
		t.Error("the proxy of the environment was asked")
	}
	if len(w.came("good/keys")) != 1 {
		t.Errorf("the good issuer was asked for its keys %d times", len(w.came("good/keys")))
	}
	for _, from := range w.came("") {
		if !strings.HasPrefix(from, "203.0.113.66:") {
			t.Errorf("an issuer was asked from %s, which is not the source of the configuration", from)
		}
	}

	// Each refusal is on record, once, with nothing that is secret.
	found := map[string]int{}
	text := s.command("logs", "--category", ledger.Security, "--output", "json")
	for line := range strings.Lines(text) {
		var e ledger.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if m := e.Detail.More; e.Operation == egressRefused && e.Outcome == ledger.Refused && m["purpose"] == "issuer" && m["why"] != "" {
			found[m["destination"]+" "+m["rule"]]++
		}
	}
	want := []string{
		"169.254.169.254:443 <never>", "169.254.169.254:443 <redirect>", "inner.example:443 <outside>", "inner.example:443 <redirect>", "moves.example:443 <outside>",
		"metadata.example:443 <never>", "[::ffff:169.254.169.254]:443 <never>",
	}
	for _, e := range want {
		if found[e] != 1 {
			t.Errorf("%q is on record %d times", e, found[e])
		}
		delete(found, e)
	}
	// Which of two addresses is dialled first is the resolver's, and whether a number is a name.
	delete(found, "both.example:443 <never>")
	delete(found, "2852039166:443 <never>")
	if len(found) > 0 {
		t.Errorf("on record, too: %v", found)
	}
	logged, _ := os.ReadFile(s.log)
	if strings.Contains(text, "a-secret") || bytes.Contains(logged, []byte("a-secret")) {
		t.Errorf("a query is on record:\n%s%s", text, logged)
	}
}

// A startedServer is the real binary, until the test ends.
type startedServer struct {
	testing.TB
	dir, log string
	env      []string
	owner    login
	client   *http.Client
}

// startServer serves from a directory with a configuration, on ports of its own.
func startServer(t testing.TB, dir, config string, env ...string) *startedServer {
	t.Helper()
	s := &startedServer{TB: t, dir: dir, log: filepath.Join(dir, "serve.log"), env: env}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := s.binary("serve", "--data", "data", "--listen", "localhost:0", "--config", "config.yaml")
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() { c.Process.Kill(); <-ended })
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, _ := os.ReadFile(s.log)
		if strings.Contains(string(text), "msg=ready") {
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, text)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the server is not ready:\n%s", text)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "data/owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s.owner); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.owner.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: identitytest.Pool(string(ca))}}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return s
}

func (s *startedServer) binary(args ...string) *exec.Cmd {
	name, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	c := exec.CommandContext(s.Context(), name, args...)
	c.Args[0], c.Dir = "breakwater", s.dir // which the test binary takes as its name
	c.Env = append(append(os.Environ(), "HOME="+s.dir), s.env...)
	return c
}

// command is what the command line prints.
func (s *startedServer) command(args ...string) string {
	s.Helper()
	var out, errs bytes.Buffer
	c := s.binary(args...)
	c.Env = append(os.Environ(), "HOME="+s.dir)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		s.Fatalf("breakwater %v: %v: %s", args, err, errs.String())
	}
	return out.String()
}

// ask shows a credential to the registry, and is the status of the answer.
func (s *startedServer) ask(user, password string) int {
	r, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.owner.Server+"/v2/", nil)
	if err != nil {
		s.Error(err)
		return 0
	}
	r.SetBasicAuth(user, password)
	a, err := s.client.Do(r)
	if err != nil {
		s.Error(err)
		return 0
	}
	a.Body.Close()
	return a.StatusCode
}

// The database is reached by its name and from where the configuration says, and in the
// hardened profile not at all unless it proves who it is.
func TestTheDatabaseIsReachedByItsSource(t *testing.T) {
	real, err := pgconn.ParseConfig(dbtest.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	var served atomic.Int32
	connections.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if from := c.RemoteAddr().String(); !strings.HasPrefix(from, "127.0.0.67:") {
				t.Errorf("the database was reached from %s", from)
			}
			served.Add(1)
			connections.Go(func() {
				defer c.Close()
				kind, address := pgconn.NetworkAddress(real.Host, real.Port)
				to, err := net.Dial(kind, address)
				if err != nil {
					t.Error(err)
					return
				}
				defer to.Close()
				connections.Go(func() { io.Copy(to, c); to.Close() })
				io.Copy(c, to)
			})
		}
	})
	t.Cleanup(func() { l.Close(); connections.Wait() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	u := url.URL{Scheme: "postgres", User: url.UserPassword(real.User, real.Password), Host: "localhost:" + port, Path: "/" + real.Database, RawQuery: "sslmode=disable"}

	dir := t.TempDir()
	s := startServer(t, dir, fmt.Sprintf("database: %q\negress: {sources: {database: 127.0.0.67}}\n", u.String()))
	if got := s.ask(s.owner.Username, s.owner.Password); got != http.StatusOK {
		t.Errorf("the owner is answered %d", got)
	}
	if served.Load() == 0 {
		t.Error("nobody came to the database by its address")
	}

	c := s.binary("serve", "--data", filepath.Join(dir, "other"), "--listen", "localhost:0", "--database", u.String(), "--config", "hardened.yaml")
	if err := os.WriteFile(filepath.Join(dir, "hardened.yaml"), []byte("profile: hardened\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "sslmode=verify-full") {
		t.Errorf("%v: %s", err, out)
	}
}
