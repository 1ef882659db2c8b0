package transit

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/ledger"
	"breakwater/resource"
)

// pebble is a real authority that speaks ACME, for names that all mean the
// loopback at port. It returns its directory and how it is asked.
func pebble(t *testing.T, port int) (directory string, client *http.Client) {
	t.Helper()
	for _, c := range []string{"pebble", "pebble-challtestsrv"} {
		if _, err := exec.LookPath(c); err != nil {
			if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	writePair(t, a, "localhost", filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem"))
	var free [4]string
	for i, first := 0, 10_000+mathrand.N(1000); i < len(free); first++ {
		// Of those that the system gives to nobody who asks for any: pebble takes its own a
		// while later.
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			free[i] = address
			i++
		}
	}
	config, _ := json.Marshal(map[string]any{"pebble": map[string]any{"listenAddress": free[0], "managementListenAddress": free[1],
		"certificate": "chain.pem", "privateKey": "key.pem", "httpPort": 1, "tlsPort": port}})
	if err := os.WriteFile(filepath.Join(dir, "pebble.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", free[2], "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", free[3]},
		{"pebble", "-strict", "-config", "pebble.json", "-dnsserver", free[2]},
	} {
		c := exec.Command(args[0], args[1:]...)
		c.Dir, c.Env = dir, append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	_, p, _ := net.SplitHostPort(free[0])
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	directory, client = "https://localhost:"+p+"/dir", &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for range 200 {
		if r, err := client.Get(directory); err == nil {
			r.Body.Close()
			return directory, client
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("pebble does not answer")
	return
}

func TestOneNodeAsksAndEveryNodeAnswersAndShows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		documents := resource.New(d)
		l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		own, err := OpenAuthority(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		otherwise := own.Certificate("localhost")
		answers, asks := NewACME(otherwise), NewACME(otherwise)
		// The authority comes to the node that does not ask.
		s := open(t, http.HandlerFunc(greet), func(o *Options) {
			o.TLS = Config(answers.Certificate, false)
			o.TLS.NextProtos = ACMEProtocols
		})
		directory, client := pebble(t, s.Port())
		names := []string{"a.registry.example", "localhost", "192.0.2.1", "*.registry.example", "b.registry.example", "a.registry.example"}
		o := ACMEOptions{Directory: directory, Client: client, DB: d, Documents: documents, Ledger: l, Who: ledger.Who{ID: "server"}, Key: make([]byte, 32),
			Names: func(context.Context) ([]string, error) { return append([]string(nil), names...), nil }}
		_, _ = rand.Read(o.Key)
		for _, a := range []*ACME{answers, asks} {
			if err := a.Open(o); err != nil {
				t.Fatal(err)
			}
		}
		show := func(name string) *x509.Certificate {
			c, err := tls.Dial("tcp", s.address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0]
		}
		if got := show("a.registry.example"); got.Issuer.CommonName != own.cert.Subject.CommonName {
			t.Errorf("before there is any other, %s signed", got.Issuer)
		}
		believed := func(names map[string]bool) {
			t.Helper()
			for name, want := range names {
				if answers.Shows(t.Context(), name) != want {
					t.Errorf("clients believe what is shown for %s: %t", name, !want)
				}
			}
		}
		believed(map[string]bool{"a.registry.example": false, "localhost": true, "192.0.2.1": true})
		if err := asks.Order(t.Context()); err != nil {
			t.Fatal(err)
		}
		believed(map[string]bool{"a.registry.example": true, "b.registry.example": true, "c.registry.example": false})
		for _, name := range names[:2] {
			if got := show(name); (got.VerifyHostname(name) == nil && strings.HasPrefix(got.Issuer.CommonName, "Pebble")) != Certifiable(name) {
				t.Errorf("%s: %s signed %v", name, got.Issuer, got.DNSNames)
			}
		}
		// Nothing is asked for twice, by whichever node, and nothing that is sealed lies open.
		before := show("b.registry.example").SerialNumber
		for _, a := range []*ACME{asks, answers} {
			if err := a.Order(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if show("b.registry.example").SerialNumber.Cmp(before) != 0 {
			t.Error("a certificate that holds was replaced")
		}
		for _, typ := range []string{CertificateType, accountType, challengeType} {
			docs, err := documents.List(t.Context(), "", typ, "", 0)
			if want := map[string]int{CertificateType: 2, accountType: 1}[typ]; err != nil || len(docs) != want {
				t.Errorf("%d %s, %v", len(docs), typ, err)
			}
			for _, doc := range docs {
				if text, _ := json.Marshal(doc); strings.Contains(string(text), "PRIVATE") {
					t.Errorf("%s", text)
				}
			}
		}
		// With the key of another installation nothing is shown, rather than something else.
		stranger := NewACME(otherwise)
		o.Key = make([]byte, 32)
		if err := stranger.Open(o); err != nil {
			t.Fatal(err)
		}
		if pair, err := stranger.Certificate(&tls.ClientHelloInfo{ServerName: names[0]}); err == nil {
			t.Errorf("%v was opened with another key", pair.Leaf.DNSNames)
		}
		// A name that cannot be proven rests, and holds up no other; one that is gone is forgotten.
		s.stop()
		names = []string{"a.registry.example", "c.registry.example"}
		asks.opened.Load().seen = -1
		if err := asks.Order(t.Context()); err == nil {
			t.Error("a name was certified that nobody proved")
		}
		if err := asks.Order(t.Context()); err != nil {
			t.Errorf("a name that failed was tried again at once: %v", err)
		}
		docs, err := documents.List(t.Context(), "", CertificateType, "", 0)
		if err != nil || len(docs) != 1 || docs[0].ID.Name() != "a.registry.example" {
			t.Errorf("%v, %v", docs, err)
		}
		outcomes := map[string]int{}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for e, err := range l.Events(t.Context(), ledger.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			outcomes[e.Operation+" "+string(e.Outcome)]++
		}
		if fmt.Sprint(outcomes) != fmt.Sprint(map[string]int{CertificateType + "/write success": 2, CertificateType + "/write failure": 1, CertificateType + "/delete success": 1, accountType + "/write success": 1}) {
			t.Errorf("on record: %v", outcomes)
		}
	})
}

func TestNoStrangerHasAnythingAskedFor(t *testing.T) {
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	closed := NewACME(a.Certificate("localhost"))
	if c, err := closed.Certificate(&tls.ClientHelloInfo{ServerName: "a.example"}); err != nil || c.Leaf.DNSNames[0] != "localhost" {
		t.Errorf("%v", err)
	}
	if _, err := closed.Certificate(&tls.ClientHelloInfo{ServerName: "a.example", SupportedProtos: []string{"acme-tls/1"}}); err == nil {
		t.Error("a challenge that nobody made was answered")
	}
	for name, want := range map[string]bool{"a.example": true, "xn--bcher-kva.example": true, "a-1.b.c": true,
		"": false, "a": false, "localhost": false, "b.localhost": false, "*.a.example": false, "127.0.0.1": false, "::1": false, "A.example": false,
		"a..b": false, ".a": false, "a.": false, "a_b.c": false, "a/b.c": false, strings.Repeat("a", 64) + ".c": false, strings.Repeat("a.", 127) + "aa": false} {
		if Certifiable(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

func TestACertificateIsRenewedInTheLastThirdOfItsLifeHoweverLong(t *testing.T) {
	start := time.Now()
	for _, life := range []time.Duration{6 * 24 * time.Hour, 45 * 24 * time.Hour, 90 * 24 * time.Hour} {
		pair := &tls.Certificate{Leaf: &x509.Certificate{NotBefore: start, NotAfter: start.Add(life)}}
		if due(pair, start.Add(life*64/100)) || !due(pair, start.Add(life*68/100)) {
			t.Errorf("%v", life)
		}
	}
	r := rest{}
	for range 20 {
		r = r.longer(start)
	}
	if r.last != longestRest || !due(nil, start) {
		t.Error(r.last)
	}
}
