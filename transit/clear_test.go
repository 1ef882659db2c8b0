package transit

import (
	"log/slog"
	"net"
	"testing"
)

func TestClearTextIsForTheLoopbackAlone(t *testing.T) {
	addresses, _ := net.InterfaceAddrs()
	outside := []string{"0.0.0.0:0", "[::]:0", ":0"}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			outside = append(outside, net.JoinHostPort(ip.IP.String(), "0"))
		}
	}
	for _, address := range outside {
		if l, err := Listen(t.Context(), Options{Address: address, Clear: true, Log: slog.Default()}); err == nil {
			l.Close()
			t.Errorf("a listener in clear text at %s", address)
		}
	}
}

func TestAServerHasTheNamesOfItsCertificate(t *testing.T) {
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := a.Certificate("localhost", "127.0.0.1", "::1", "registry.example", "*.registry.example")
	for host, want := range map[string]bool{"localhost": true, "LOCALHOST": true, "127.0.0.1": true, "::1": true, "registry.example": true, "shop.registry.example": true,
		"": false, "127.0.0.2": false, "evil.example": false, "a.b.registry.example": false, "registry.example.evil.example": false} {
		if c.Names(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
}

func TestClearTextAtHomeIsTLSElsewhere(t *testing.T) {
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for address, secure := range map[string]bool{"127.0.0.1:0": false, "[::1]:0": false, "0.0.0.0:0": true, ":0": true} {
		l, err := Listen(t.Context(), Options{Address: address, Clear: true, TLS: Config(a.Certificate("localhost"), false), Log: slog.Default()})
		if err != nil {
			t.Fatal(err)
		}
		if l.Secure() != secure {
			t.Errorf("%s: %t", address, !secure)
		}
		l.Close()
	}
}
