package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"breakwater/keys/keystest"
)

// keepers are those who keep the customers' keys of a story.
type keepers struct {
	hsm     *keystest.PKCS11 // or a TPM
	transit *keystest.Transit
}

// A storyTB is a story, for what wants a test.
type storyTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (t storyTB) Helper()                           {}
func (t storyTB) Cleanup(f func())                  { t.ts.Defer(f) }
func (t storyTB) Fatal(args ...any)                 { t.ts.Fatalf("%v", args) }
func (t storyTB) Fatalf(format string, args ...any) { t.ts.Fatalf(format, args...) }
func (t storyTB) Skip(args ...any)                  { t.ts.Value(theTest).(testscript.T).Skip(args...) }

// keeper hsm|tpm|transit opens a device of SoftHSM, a TPM in software or an engine of Vault's
// Transit, where customers keep keys: the device first, if there are both; a second one takes
// the place of the first. $KEYS is then the directory
// of sockets and credentials for the server, and $TRANSIT the engine's address.
// Afterwards
//
//	keeper hsm|tpm create NAME KIND ID | delete NAME | stop | freeze | start
//	keeper transit create NAME KIND | rotate NAME | delete NAME | mode MODE
func keeper(ts *testscript.TestScript, _ bool, args []string) {
	k, t := ts.Value(theKeepers).(*keepers), storyTB{ts: ts}
	args = append(args, "", "", "", "")
	switch args[0] + " " + args[1] {
	case "hsm ":
		k.hsm = keystest.StartPKCS11(t)
		ts.Setenv("KEYS", k.hsm.Directory)
	case "tpm ":
		k.hsm = keystest.StartTPM(t)
		ts.Setenv("KEYS", k.hsm.Directory)
	case "hsm create", "tpm create":
		k.hsm.Create(args[2], args[3], args[4])
	case "hsm delete", "tpm delete":
		k.hsm.Delete(args[2])
	case "hsm stop", "tpm stop":
		k.hsm.Stop()
	case "hsm freeze", "tpm freeze":
		k.hsm.Freeze()
	case "hsm start", "tpm start":
		k.hsm.Start()
	case "transit ":
		k.transit = keystest.StartTransit(t)
		ts.Setenv("TRANSIT", k.transit.URL)
		if k.hsm == nil {
			ts.Setenv("KEYS", ts.MkAbs("keys"))
			ts.Check(os.MkdirAll(ts.MkAbs("keys"), 0o700))
		}
		ts.Check(os.WriteFile(filepath.Join(ts.Getenv("KEYS"), "transit-token"), []byte(keystest.TransitToken), 0o600))
	case "transit create":
		k.transit.Create(args[2], args[3])
	case "transit rotate":
		k.transit.Rotate(args[2])
	case "transit delete":
		k.transit.Delete(args[2])
	case "transit mode":
		k.transit.Mode(args[2])
	default:
		ts.Fatalf("keeper: what is %q?", args[:2])
	}
}
