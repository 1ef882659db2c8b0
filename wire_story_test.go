package main

import (
	"net"

	"github.com/rogpeppe/go-internal/testscript"
)

// ports NAME... takes ports of the loopback that nobody listens on as variables.
func ports(ts *testscript.TestScript, neg bool, names []string) {
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer l.Close() // when all are taken
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ts.Setenv(name, port)
	}
}
