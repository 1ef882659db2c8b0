package main

import "github.com/rogpeppe/go-internal/testscript"

// ports NAME... takes ports of the loopback that nobody listens on as variables.
func ports(ts *testscript.TestScript, neg bool, names []string) {
	for _, name := range names {
		ts.Setenv(name, freePort(ts))
	}
}
