package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// sdk [FLAG...] runs the tests of the module testdata/azure against the story's
// server, as the application whose login the story keeps. It is a module of its own,
// because Azure's SDKs are none of the server's dependencies.
func sdk(ts *testscript.TestScript, _ bool, flags []string) {
	checkout, err := os.Getwd()
	ts.Check(err)
	c := exec.Command("go", append([]string{"test", "-count=1"}, flags...)...)
	c.Dir = filepath.Join(checkout, "testdata", "azure")
	c.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "SERVER=https://"+ts.Getenv("HOST"))
	for _, name := range []string{"CA", "TENANT", "SUBSCRIPTION", "CLIENT", "SECRET"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	out, err := c.CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(err)
}
