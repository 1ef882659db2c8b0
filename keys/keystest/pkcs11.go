package keystest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A PKCS11 is a token, of SoftHSM 2 or of a TPM, and the process that speaks to it.
type PKCS11 struct {
	Directory string // with hsm.sock
	PIN       string
	t         testing.TB
	library   string
	reload    bool // the library sees keys that others make when it is loaded, and not later
	env       []string
	binary    string
	cmd       *exec.Cmd
}

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// device builds breakwater-pkcs11 once for all tests of a process.
var device = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "breakwater-pkcs11-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "breakwater-pkcs11")
	cmd := exec.Command("go", "build", "-o", path, "breakwater/keys/breakwater-pkcs11")
	// As it is shipped: static, and without the race detector of the tests that start it.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return path, err
})

// newPKCS11 is a token that is still to be made.
func newPKCS11(t testing.TB, library string) *PKCS11 {
	t.Helper()
	tool(t, "pkcs11-tool")
	binary, err := device()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hsm") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &PKCS11{Directory: dir, PIN: "pin-8841-of-the-test", t: t, library: library, env: os.Environ(), binary: binary}
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte(d.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// StartPKCS11 makes an empty token of SoftHSM and serves it as long as the test.
func StartPKCS11(t testing.TB) *PKCS11 {
	t.Helper()
	tool(t, "softhsm2-util")
	d := newPKCS11(t, softHSM)
	dir := d.Directory
	tokens := filepath.Join(dir, "tokens")
	conf := filepath.Join(dir, "softhsm2.conf")
	err := errors.Join(os.Mkdir(tokens, 0o700),
		os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, "SOFTHSM2_CONF="+conf)
	d.run("softhsm2-util", "--init-token", "--free", "--label", "customer", "--pin", d.PIN, "--so-pin", "so-"+d.PIN)
	d.Start()
	t.Cleanup(d.Stop)
	return d
}

func (d *PKCS11) run(name string, args ...string) string {
	d.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = d.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Tool runs pkcs11-tool on the token.
func (d *PKCS11) Tool(args ...string) string {
	d.t.Helper()
	return d.run("pkcs11-tool", append([]string{"--module", d.library, "--token-label", "customer", "--login", "--pin", d.PIN}, args...)...)
}

// Create makes a key of a kind that pkcs11-tool knows: AES:32, rsa:3072, EC:secp256r1.
func (d *PKCS11) Create(label, kind, id string) {
	d.t.Helper()
	defer d.seen()
	if strings.HasPrefix(kind, "AES") {
		d.Tool("--keygen", "--key-type", kind, "--label", label, "--id", id, "--sensitive")
		return
	}
	uses := []string{"--usage-derive", "--usage-decrypt"}
	if d.reload {
		uses = uses[1:] // a TPM's library makes no key that derives
	}
	d.Tool(append([]string{"--keypairgen", "--key-type", kind, "--label", label, "--id", id}, uses...)...)
}

// Delete removes every key of a label.
func (d *PKCS11) Delete(label string) {
	d.t.Helper()
	defer d.seen()
	for _, kind := range []string{"secrkey", "privkey", "pubkey"} {
		for range 4 {
			cmd := exec.Command("pkcs11-tool", "--module", d.library, "--token-label", "customer", "--login", "--pin", d.PIN, "--delete-object", "--type", kind, "--label", label)
			cmd.Env = d.env
			if cmd.Run() != nil {
				break
			}
		}
	}
}

// seen has the process see what was made or deleted.
func (d *PKCS11) seen() {
	d.t.Helper()
	if d.reload && d.cmd != nil {
		d.Stop()
		d.Start()
	}
}

// Start runs the process, if it does not run.
func (d *PKCS11) Start() {
	d.t.Helper()
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(syscall.SIGCONT)
		return
	}
	socket := filepath.Join(d.Directory, "hsm.sock")
	d.cmd = exec.Command(d.binary, "--library", d.library, "--token", "customer", "--pin-file", filepath.Join(d.Directory, "pin"), "--socket", socket)
	d.cmd.Env, d.cmd.Stderr = d.env, os.Stderr
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for range 200 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	d.t.Fatal("breakwater-pkcs11 does not answer")
}

// Freeze stops it in its tracks, until Start: when it returns, all threads have
// stopped.
func (d *PKCS11) Freeze() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGSTOP)
	for range 2000 {
		if d.stopped() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	d.t.Fatal("breakwater-pkcs11 does not stop")
}

func (d *PKCS11) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.cmd.Process.Pid))
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		if after := stat[bytes.LastIndexByte(stat, ')')+1:]; !bytes.HasPrefix(after, []byte(" T")) {
			return false
		}
	}
	return len(threads) > 0
}

// Stop kills it.
func (d *PKCS11) Stop() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}
