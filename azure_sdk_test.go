package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// sdk MODULE [FLAG...] runs the tests of a module below testdata/azure against the
// story's server, as the application whose login the story keeps. It is a module of
// its own, because Azure's SDKs are none of the server's dependencies.
func sdk(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: sdk MODULE [FLAG...]")
	}
	checkout, err := os.Getwd()
	ts.Check(err)
	c := exec.Command("go", append([]string{"test", "-count=1"}, args[1:]...)...)
	c.Dir = filepath.Join(checkout, "testdata", "azure", args[0])
	c.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "SERVER=https://"+ts.Getenv("HOST"))
	for _, name := range []string{"CA", "TENANT", "SUBSCRIPTION", "CLIENT", "SECRET"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	out, err := c.CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(err)
}
