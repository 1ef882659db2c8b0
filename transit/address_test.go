package transit

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnAddressSaysWhichWayLeadsToIt(t *testing.T) {
	for s, want := range map[string]Address{
		"localhost:8443":       {Host: "localhost", Port: "8443"},
		":443":                 {Port: "443"},
		"10.7.0.1%eth1:443":    {Host: "10.7.0.1", Interface: "eth1", Port: "443"},
		"%eth1.100:443":        {Interface: "eth1.100", Port: "443"},
		"[fe80::1%eth1]:443":   {Host: "fe80::1", Interface: "eth1", Port: "443"},
		"[2001:db8::7]:443":    {Host: "2001:db8::7", Port: "443"},
		"unix:/run/b/w.socket": {Path: "/run/b/w.socket"},
	} {
		if got, err := ParseAddress(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "localhost", "unix:", "unix:run/b", "%:443", "10.0.0.1%:443", "%eth0", "%a/b:1", "%aaaaaaaaaaaaaaaa:1", "a%b%c:1", "h:99999", "h:", "unix:/" + strings.Repeat("a", 107)} {
		if got, err := ParseAddress(s); err == nil {
			t.Errorf("%q is taken for %+v", s, got)
		}
	}
	for s, any := range map[string]bool{":1": true, "0.0.0.0:1": true, "[::]:1": true, "[::ffff:0.0.0.0]:1": true, "%eth0:1": false, "0.0.0.0%eth0:1": false, "127.0.0.1:1": false, "unix:/a": false} {
		if a, err := ParseAddress(s); err != nil || a.Any() != any {
			t.Errorf("%s: %t, %v", s, !any, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"localhost:8443", "10.7.0.1%eth1:443", "%eth1:443", "[fe80::1%eth1]:443", "unix:/run/b", "[::]:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q is %+v, and that is %+v, %v", s, a, again, err)
		}
	})
}

func TestASocketInTheFileSystemIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.socket")
	// Left by a process that was killed.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := Arrived(r)
		_, _ = io.WriteString(w, a.Listener+" "+string(a.Endpoint)+" "+a.From.String())
	}), func(o *Options) { o.Address, o.Endpoint, o.PerAddress = "unix:"+path, "/e", 1 })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info, err)
	}
	for range 3 {
		client := s.client()
		transport := client.Transport.(*http.Transport)
		transport.DisableKeepAlives = false
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		r, err := client.Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		defer transport.CloseIdleConnections()
		if string(text) != "front /e invalid AddrPort" {
			t.Errorf("%s", text)
		}
	}
	if _, err := Listen(t.Context(), Options{Address: "unix:" + path, TLS: Config(nil, false)}); err == nil {
		t.Error("a socket that is served was taken away")
	}
}

func TestWhatIsDialledLeavesFromItsSource(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := netip.MustParseAddr("127.0.0.77")
	c, err := Source{Address: from, Interface: "lo"}.Dialer().DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, _ := addr(c.LocalAddr()); got != from {
		t.Errorf("it left from %s", got)
	}
	if c, err := (Source{Interface: "nosuch0"}).Dialer().DialContext(t.Context(), "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("it left by another interface than the one that was named")
	}
}

func FuzzSource(f *testing.F) {
	for _, s := range []string{"eth0", "10.0.0.5", "10.0.0.5%eth0", "fe80::1%eth0", "::ffff:10.0.0.5", "%", "0.0.0.0", "a%b%c", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		source, err := ParseSource(s)
		if err != nil {
			return
		}
		if source == (Source{}) {
			t.Fatalf("%q leaves it to the routes", s)
		}
		if again, err := ParseSource(source.String()); err != nil || again != source {
			t.Fatalf("%q was read as %v and then as %v, %v", s, source, again, err)
		}
		_ = source.Here()
	})
}
