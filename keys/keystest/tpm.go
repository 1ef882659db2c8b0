package keystest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// StartTPM makes a TPM 2.0 in software, with nothing in it, and serves it as long as the
// test through Debian's libtpm2_pkcs11. A resource manager stands between, as the one of
// the kernel does before a TPM of hardware.
func StartTPM(t testing.TB) *PKCS11 {
	t.Helper()
	chip, manager, bus := tool(t, "swtpm"), tool(t, "tpm2-abrmd"), tool(t, "dbus-daemon")
	found, _ := filepath.Glob("/usr/lib/*/libtpm2_pkcs11.so.1")
	if len(found) == 0 {
		tool(t, "libtpm2_pkcs11.so.1")
	}
	d := newPKCS11(t, found[0])
	d.reload = true
	in := func(name string) string { return filepath.Join(d.Directory, name) }
	d.env = append(d.env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+in("bus"), "TPM2_PKCS11_TCTI=tabrmd:bus_type=session", "TPM2_PKCS11_STORE="+in("store"))
	if err := errors.Join(os.Mkdir(in("chip"), 0o700), os.Mkdir(in("store"), 0o700)); err != nil {
		t.Fatal(err)
	}
	d.beside(chip, "socket", "--tpm2", "--tpmstate", "dir="+in("chip"), "--flags", "not-need-init,startup-clear",
		"--server", "type=unixio,path="+in("tpm"), "--ctrl", "type=unixio,path="+in("tpm.ctrl"))
	d.beside(bus, "--session", "--nofork", "--nopidfile", "--address=unix:path="+in("bus"))
	for _, socket := range []string{"tpm", "tpm.ctrl", "bus"} {
		d.await(func() bool { _, err := os.Stat(in(socket)); return err == nil })
	}
	d.beside(manager, "--session", "--allow-root", "--tcti=swtpm:path="+in("tpm"))
	tool := func(args ...string) func() bool {
		return func() bool {
			cmd := exec.Command("pkcs11-tool", append([]string{"--module", d.library}, args...)...)
			cmd.Env = d.env
			return cmd.Run() == nil
		}
	}
	d.await(tool("--show-info")) // which the manager's answer is needed for
	d.run("pkcs11-tool", "--module", d.library, "--init-token", "--slot-index", "0", "--label", "customer", "--so-pin", "so-"+d.PIN)
	d.run("pkcs11-tool", "--module", d.library, "--token-label", "customer", "--login", "--login-type", "so", "--so-pin", "so-"+d.PIN, "--init-pin", "--pin", d.PIN)
	d.Start()
	t.Cleanup(d.Stop)
	return d
}

// beside runs a process as long as the test.
func (d *PKCS11) beside(name string, args ...string) {
	d.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = d.env
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
}

func (d *PKCS11) await(ready func() bool) {
	d.t.Helper()
	for range 1000 {
		if ready() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	d.t.Fatal("the TPM does not answer")
}
