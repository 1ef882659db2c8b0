package keystest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TransitToken is what the Transit of tests lets in.
const TransitToken = "hvs.the-token-of-this-test"

// tool is a program that scripts/install-test-tools makes, or skips the test.
func tool(t testing.TB, name string) string {
	t.Helper()
	checkout, err := filepath.Abs(".") // a test runs in the folder of its package
	for err == nil && !isFile(filepath.Join(checkout, "go.mod")) && checkout != filepath.Dir(checkout) {
		checkout = filepath.Dir(checkout)
	}
	if path := filepath.Join(checkout, ".bin", name); isFile(path) {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
		t.Fatalf("%s is missing; scripts/install-test-tools installs what tests need", name)
	}
	t.Skip(name + " is missing; scripts/install-test-tools installs what tests need")
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// A Transit is the real engine of HashiCorp Vault 1.21 behind an HTTP server of ours,
// testdata/transit.
type Transit struct {
	URL string
	t   testing.TB
}

// StartTransit runs one as long as the test.
func StartTransit(t testing.TB) *Transit {
	t.Helper()
	cmd := exec.Command(tool(t, "transit"), TransitToken)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &Transit{strings.TrimSpace(url), t}
}

func (s *Transit) call(method, path string, body any) {
	s.t.Helper()
	var b []byte
	switch body := body.(type) {
	case string:
		b = []byte(body)
	case nil:
	default:
		b, _ = json.Marshal(body)
	}
	r, err := http.NewRequest(method, s.URL+path, bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", TransitToken)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		s.t.Fatalf("%s %s: %s", method, path, a.Status)
	}
}

func (s *Transit) Mode(mode string) { s.t.Helper(); s.call("PUT", "/mode", mode) }
func (s *Transit) Create(name, kind string) {
	s.t.Helper()
	s.call("POST", "/v1/transit/keys/"+name, map[string]any{"type": kind})
}
func (s *Transit) Rotate(name string) {
	s.t.Helper()
	s.call("POST", "/v1/transit/keys/"+name+"/rotate", map[string]any{})
}
func (s *Transit) Delete(name string) {
	s.t.Helper()
	s.call("POST", "/v1/transit/keys/"+name+"/config", map[string]any{"deletion_allowed": true})
	s.call("DELETE", "/v1/transit/keys/"+name, nil)
}
