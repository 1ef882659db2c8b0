package keys_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/keys"
	"breakwater/keys/keystest"
)

func reach(t *testing.T, files map[string]string) keys.Reach {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return keys.Reach{Dial: new(net.Dialer).DialContext, Directory: dir}
}

func TestTransitIsAProvider(t *testing.T) {
	for _, c := range []struct{ method, role, credential string }{
		{"token", "", keystest.TransitToken},
		{"approle", "", `{"role_id": "role", "secret_id": "secret of ` + keystest.TransitToken + `"}`},
		{"jwt", "registry", "jwt of " + keystest.TransitToken},
	} {
		t.Run(c.method, func(t *testing.T) {
			keystest.Run(t, func(t *testing.T) *keystest.World {
				server := keystest.StartTransit(t)
				r := reach(t, map[string]string{"credential": c.credential})
				p, err := keys.NewTransit(keys.TransitOptions{Reach: r, Endpoint: server.URL, Method: c.method, Role: c.role, Credential: "credential"})
				if err != nil {
					t.Fatal(err)
				}
				w := &keystest.World{Provider: p, Keys: map[string]string{}, Secrets: []string{keystest.TransitToken}, Rotate: server.Rotate, Delete: server.Delete, Well: func() { server.Mode("well") },
					Deny: func() { server.Mode("denied") }, Outages: map[string]func(){}}
				for kind, algorithm := range map[string]string{"aes256-gcm96": keys.AES, "chacha20-poly1305": keys.ChaCha20, "rsa-3072": keys.RSA} {
					if c.method != "token" && kind != "aes256-gcm96" {
						continue // the way in makes no difference to them
					}
					server.Create("k-"+kind, kind)
					w.Keys["k-"+kind] = algorithm
				}
				for _, kind := range []string{"aes128-gcm96", "ecdsa-p256", "ed25519"} {
					server.Create("k-"+kind, kind)
					w.Weak = append(w.Weak, "k-"+kind)
				}
				for _, mode := range []string{"sealed", "throttled", "slow", "broken", "empty", "nothing", "page"} {
					w.Outages[mode] = func() { server.Mode(mode) }
				}
				return w
			})
		})
	}
}

func TestPKCS11IsAProvider(t *testing.T) {
	for _, kind := range []string{"AES:32", "rsa:3072", "EC:secp384r1"} {
		t.Run(kind, func(t *testing.T) {
			keystest.Run(t, func(t *testing.T) *keystest.World {
				d := keystest.StartPKCS11(t)
				p, err := keys.NewPKCS11(keys.Reach{Directory: d.Directory, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("by the socket") }}, "hsm.sock")
				if err != nil {
					t.Fatal(err)
				}
				algorithm := map[string]string{"AES:32": keys.AES, "rsa:3072": keys.RSASHA1, "EC:secp384r1": keys.EC}[kind]
				d.Create("root", kind, "01")
				w := &keystest.World{Provider: p, Keys: map[string]string{"root": algorithm}, Secrets: []string{d.PIN}, Well: d.Start,
					Rotate: func(name string) { d.Create(name, kind, "02") }, Delete: d.Delete, Outages: map[string]func(){"down": d.Stop, "frozen": d.Freeze}}
				if kind == "AES:32" {
					d.Create("weak", "AES:16", "01")
					w.Weak = []string{"weak"}
				}
				return w
			})
		})
	}
}

// A TPM is a PKCS #11 device through Debian's library: of what wraps it has RSA with OAEP.
func TestATPMIsAProvider(t *testing.T) {
	keystest.Run(t, func(t *testing.T) *keystest.World {
		d := keystest.StartTPM(t)
		p, err := keys.NewPKCS11(keys.Reach{Directory: d.Directory}, "hsm.sock")
		if err != nil {
			t.Fatal(err)
		}
		d.Create("root", "rsa:2048", "01")
		d.Create("small", "rsa:1024", "01")
		return &keystest.World{Provider: p, Keys: map[string]string{"root": keys.RSA}, Weak: []string{"small"}, Secrets: []string{d.PIN}, Well: d.Start,
			Rotate: func(name string) { d.Create(name, "rsa:2048", "02") }, Delete: d.Delete, Outages: map[string]func(){"down": d.Stop, "frozen": d.Freeze}}
	})
}

func TestWhatADocumentNamesStaysInTheDirectory(t *testing.T) {
	r := reach(t, map[string]string{"good": "x", ".hidden": "x"})
	for _, name := range []string{"", ".", "..", ".hidden", "../etc/passwd", "/etc/passwd", "a/b", "a\x00b", "-x", "a..b"} {
		if _, err := keys.NewPKCS11(r, name); err == nil {
			t.Errorf("the socket %q was taken", name)
		}
	}
	if err := os.Chmod(filepath.Join(r.Directory, "good"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := keys.NewTransit(keys.TransitOptions{Reach: r, Endpoint: "http://127.0.0.1:1", Credential: "good"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Describe(t.Context(), keys.Key{Name: "k"}); err == nil || !strings.Contains(err.Error(), "everybody") {
		t.Errorf("a credential that everybody reads: %v", err)
	}
	for _, e := range []string{"", "http://example.com", "https://u:p@example.com", "https://example.com?x", "ftp://x", "https://", "unix:/run/docker.sock", "file:///etc/passwd", "https://example.com#x"} {
		if _, err := keys.NewTransit(keys.TransitOptions{Reach: r, Endpoint: e}); err == nil {
			t.Errorf("the endpoint %q was taken", e)
		}
	}
}

// A redirect would carry a token to whoever the server names.
func TestProvidersFollowNoRedirect(t *testing.T) {
	asked := false
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = asked || r.URL.Path == "/elsewhere"
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})}
	go s.Serve(l)
	defer s.Close()
	p, err := keys.NewTransit(keys.TransitOptions{Reach: reach(t, map[string]string{"c": "t"}), Endpoint: "http://" + l.Addr().String(), Credential: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Describe(t.Context(), keys.Key{Name: "k"}); err == nil || asked {
		t.Errorf("%v, followed: %v", err, asked)
	}
}

// A platform key that a device wraps is opened by that device and nothing else, and the
// file tells nothing.
func TestAPlatformKeyIsWrappedByADevice(t *testing.T) {
	d := keystest.StartPKCS11(t)
	d.Create("platform", "AES:32", "01")
	d.Create("pair", "rsa:2048", "02")
	d.Create("short", "AES:16", "03")
	device, err := keys.NewPKCS11(keys.Reach{Directory: d.Directory}, "hsm.sock")
	if err != nil {
		t.Fatal(err)
	}
	open := func(path, key string) (*keys.Platform, error) {
		return keys.OpenWrappedPlatform(t.Context(), path, device, key)
	}
	for _, key := range []string{"platform", "pair"} {
		path := filepath.Join(t.TempDir(), "platform.key")
		first, err := open(path, key)
		if err != nil {
			t.Fatal(key, err)
		}
		again, err := open(path, key)
		if err != nil || !bytes.Equal(first.Derive("a purpose"), again.Derive("a purpose")) {
			t.Errorf("%s: another key the second time: %v", key, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
		if _, err := keys.OpenPlatform(path); err == nil {
			t.Error("a wrapped key was taken for one that is not")
		}
		if _, err := open(path, "another"); err == nil || !strings.Contains(err.Error(), "not \"another\"") {
			t.Errorf("by another key: %v", err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(text, []byte(`"wrapped":"`)) + 40
		for what, bad := range map[string][]byte{
			"flipped": slices.Concat(text[:at], []byte{text[at] ^ 1}, text[at+1:]),
			"cut":     text[:at], "empty": nil, "of nobody": make([]byte, keys.Size),
		} {
			broken := filepath.Join(t.TempDir(), "platform.key")
			if err := os.WriteFile(broken, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := open(broken, key); err == nil {
				t.Errorf("%s: opened", what)
			}
			if is, _ := os.ReadFile(broken); !bytes.Equal(is, bad) {
				t.Errorf("%s: the file was changed", what)
			}
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := open(path, key); err == nil || !strings.Contains(err.Error(), "others may read it") {
			t.Errorf("readable by others: %v", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		d.Stop()
		if _, err := open(path, key); fault.Of(err) != fault.Unavailable {
			t.Errorf("without the device: %v", err)
		}
		d.Start()
		if _, err := open(path, key); err != nil {
			t.Errorf("with the device again: %v", err)
		}
	}
	for _, key := range []string{"short", "nothing"} {
		path := filepath.Join(t.TempDir(), "platform.key")
		if _, err := open(path, key); err == nil {
			t.Errorf("%s wrapped a platform key", key)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a file was left", key)
		}
	}
}
