package main

import (
	"go/ast"
	"go/parser"
	position "go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// outbound are what makes a connection, or asks a name server: by import path, "*" for
// all of a package.
var outbound = map[string][]string{
	"net": {"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Dialer", "ListenUDP", "ListenPacket", "Resolver", "DefaultResolver",
		"LookupHost", "LookupIP", "LookupAddr", "LookupCNAME", "LookupTXT", "LookupMX", "LookupNS", "LookupSRV", "ResolveTCPAddr", "ResolveUDPAddr", "ResolveIPAddr"},
	"net/http":                            {"Get", "Post", "PostForm", "Head", "Client", "DefaultClient", "Transport", "DefaultTransport", "ProxyFromEnvironment", "ProxyURL"},
	"net/http/httputil":                   {"ReverseProxy", "NewSingleHostReverseProxy", "NewClientConn"},
	"net/rpc":                             {"*"},
	"net/smtp":                            {"*"},
	"log/syslog":                          {"*"},
	"crypto/tls":                          {"Dial", "DialWithDialer", "Dialer"},
	"syscall":                             {"Connect", "Socket"},
	"golang.org/x/sys/unix":               {"Connect", "Socket"},
	"golang.org/x/crypto/acme":            {"Client"},
	"golang.org/x/net/proxy":              {"*"},
	"golang.org/x/net/websocket":          {"*"},
	"golang.org/x/net/http2":              {"Transport"},
	"github.com/jackc/pgx/v5":             {"Connect", "ConnectConfig", "ParseConfig"},
	"github.com/jackc/pgx/v5/pgconn":      {"Connect", "ConnectConfig", "ParseConfig"},
	"github.com/jackc/pgx/v5/pgxpool":     {"New", "NewWithConfig", "ParseConfig"},
	"github.com/aws/aws-sdk-go-v2/config": {"*"},
}

// Who connects in another way than by network.Egress, to whom, and why that may be.
// The rows are folders or files.
var otherWays = []struct{ place, why string }{
	{"network/egress.go", "it is the one way"},
	{"transit/address.go", "the dialer of the one way; and whether somebody still listens at a socket of this machine"},
	{"transit/acme.go", "speaks by the client that it is given"},
	{"db/postgres.go", "dials by the function that it is given; a socket of this machine is no way out"},
	{"keys/client.go", "dials by the function that it is given, or not at all"},
	{"keys/pkcs11.go", "a device at a socket of this machine"},
	{"client.go", "the command line is a client of the server"},
	{"hammer", "the hammer is a client of the server"},
	{"network/link/agent.go", "the agent runs elsewhere, and knows its server alone"},
	{"db/dbtest", "for tests"},
	{"keys/breakwater-pkcs11", "another program, for tests"},
	{"keys/keystest", "for tests"},
	{"identity/identitytest", "for tests"},
	{"network/networktest", "for tests"},
}

// What the server reaches, it reaches by the one way out: no package of it connects to
// anybody in another way, and the exceptions are these.
func TestNobodyIsReachedButByTheOneWayOut(t *testing.T) {
	used := map[string]bool{}
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "scripts") {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		for _, call := range connects(t, path) {
			i := slices.IndexFunc(otherWays, func(w struct{ place, why string }) bool {
				return path == w.place || strings.HasPrefix(path, w.place+"/")
			})
			if i < 0 {
				t.Errorf("%s: %s is another way out than network.Egress: take that, or say in this test why not", path, call)
				continue
			}
			used[otherWays[i].place] = true
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Fatalf("%d files were read: %v", files, err)
	}
	for _, w := range otherWays {
		if !used[w.place] {
			t.Errorf("%s connects to nobody: take its row away", w.place)
		}
	}
}

// connects is what a file uses of outbound.
func connects(t *testing.T, path string) (calls []string) {
	set := position.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	called := map[string][]string{} // what the file calls a package, and what of it connects
	for _, i := range file.Imports {
		from, _ := strconv.Unquote(i.Path.Value)
		names, watched := outbound[from]
		if !watched {
			continue
		}
		name := from[strings.LastIndex(from, "/")+1:]
		if name == "v5" {
			name = "pgx"
		}
		if i.Name != nil {
			name = i.Name.Name
		}
		if name == "." || name == "_" || names[0] == "*" {
			calls = append(calls, from)
		}
		called[name] = names
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if p, ok := n.(*ast.StarExpr); ok { // who is given a *http.Client has not made it
			s, ok := p.X.(*ast.SelectorExpr)
			return !ok || !slices.Contains([]string{"Client", "Transport", "Dialer", "Resolver"}, s.Sel.Name)
		}
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && slices.Contains(called[x.Name], s.Sel.Name) {
			calls = append(calls, x.Name+"."+s.Sel.Name+" at line "+strconv.Itoa(set.Position(s.Pos()).Line))
		}
		return true
	})
	return calls
}
