package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"breakwater/db/dbtest"
	"breakwater/ref"
)

// The test binary is also the breakwater command of the stories, so a race in
// the server fails the story that met it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"breakwater": main, helperName: main})
}

// Stories run the real binary with real clients, each in a folder, on ports and
// with a home of its own. What they can say beside testscript's own commands is
// the table storyCommands.
func TestStories(t *testing.T) {
	tellStories(t, "[^p]*", os.Getenv("GODEBUG"), func() string { return "" })
}

// The stories about the server itself and about who may do what are told again on
// PostgreSQL, with servers and clients in FIPS 140-3 mode, and those that only
// PostgreSQL can tell.
func TestStoriesOnPostgreSQL(t *testing.T) {
	tellStories(t, "[psIP]*-*", "fips140=on", func() string { return dbtest.PostgresURL(t) })
}

// A storyKey names what a story keeps in its environment.
type storyKey int

const (
	theTest storyKey = iota
	theServer
	theIssuers
	theLingering
	theKeepers
)

// A server is one breakwater serve at a time, on the same data and ports.
type server struct {
	cmd  *exec.Cmd
	done chan error
	log  *os.File

	damaged bool // the story has damaged what is stored
}

func tellStories(t *testing.T, names, godebug string, database func() string) {
	files, err := filepath.Glob("testdata/script/" + names + ".txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories match ", names)
	}
	checkout, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:               files,
		Cmds:                storyCommands,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			home, run := env.WorkDir+"/home", env.WorkDir+"/run"
			if err := errors.Join(os.MkdirAll(home, 0o700), os.MkdirAll(run, 0o700)); err != nil {
				return err
			}
			port := freePort(t)
			storage := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", home+"/graph", run)
			for name, value := range map[string]string{
				"PATH":                    checkout + "/.bin:" + env.Getenv("PATH"),
				"HOME":                    home,
				"XDG_RUNTIME_DIR":         run,
				"CONTAINERS_STORAGE_CONF": home + "/storage.conf",
				"DATA":                    env.WorkDir + "/data",
				"PORT":                    port,
				"HOST":                    "localhost:" + port,
				"OPS":                     "127.0.0.1:" + freePort(t),
				"OTHER":                   "localhost:" + freePort(t),   // for a second server
				"SUFFIX":                  ".azurecr.localhost:" + port, // what stands behind the name of a registry of the story
				"DATABASE":                database(),
				"GODEBUG":                 godebug,
			} {
				env.Setenv(name, value)
			}
			s := &server{}
			env.Values[theTest], env.Values[theServer], env.Values[theIssuers] = env.T(), s, map[string]*storyIssuer{}
			env.Values[theLingering] = make(chan (<-chan error), 1)
			env.Values[theKeepers] = &keepers{}
			env.Defer(func() {
				s.end(syscall.SIGKILL)
				complain(env, s.damaged)
			})
			return os.WriteFile(home+"/storage.conf", []byte(storage), 0o600)
		},
	})
}

// complain tells what the server called an error: no story is a reason for one, but
// damage is one for errors that say so.
func complain(env *testscript.Env, damaged bool) {
	log, _ := os.ReadFile(filepath.Join(env.WorkDir, "serve.log"))
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "level=ERROR") && !(damaged && strings.Contains(line, "damaged")) || strings.Contains(line, "DATA RACE") {
			env.T().Log(line)
			defer env.T().FailNow()
		}
	}
}

var storyCommands = map[string]func(*testscript.TestScript, bool, []string){
	"needs":  needs,
	"answer": answer,
	"serve":  serve,
	"crash":  crash,
	"halt":   halt,
	"keep":   keep,
	"http":   request,
	"random": random,
	"sum":    sum,
	"until":  until,
	"issuer": issuer,
	"assign": assign,
	"form":   form,
	"sdk":    sdk,
	"names":  names,
	"azure":  azure,
	"ports":  ports,
	"knock":  knock,
	"cable":  cable,
	"linger": linger,
	"cut":    cut,
	"leaks":  leaks,
	"damage": damage,
	"pull":   pull,
	"keeper": keeper,
}

// needs COMMAND...: the story is about these clients; "root" is the right to
// mount. Without them it is skipped, in CI it fails.
func needs(ts *testscript.TestScript, neg bool, commands []string) {
	for _, c := range commands {
		switch {
		case c == "root" && os.Getuid() == 0, c != "root" && onPath(ts.Getenv("PATH"), c):
			continue
		case os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "":
			ts.Fatalf("%s is missing; scripts/install-test-tools installs what stories need", c)
		}
		ts.Value(theTest).(testscript.T).Skip(c + " is missing; scripts/install-test-tools installs what stories need")
	}
}

func onPath(path, command string) bool {
	for _, dir := range filepath.SplitList(path) {
		if info, err := os.Stat(filepath.Join(dir, command)); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// serve [FLAG...] starts the server of the story and waits until it is ready.
// Afterwards $HOST is its registry, $USERNAME and $PASSWORD (together $OWNER) the
// owner's login and $CA its authority.
func serve(ts *testscript.TestScript, neg bool, flags []string) {
	s := ts.Value(theServer).(*server)
	if s.cmd != nil {
		ts.Fatalf("the server runs already; crash or halt it first")
	}
	args := []string{"serve", "--data", ts.Getenv("DATA"), "--listen", ts.Getenv("HOST"), "--ops", ts.Getenv("OPS")}
	if url := ts.Getenv("DATABASE"); url != "" {
		args = append(args, "--database", url)
	}
	log, err := os.OpenFile(ts.MkAbs("serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	binary, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(binary, append(args, flags...)...)
	cmd.Args[0] = "breakwater" // which the test binary takes as its name
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "GODEBUG="+ts.Getenv("GODEBUG"))
	if proxy := ts.Getenv("HTTPS_PROXY"); proxy != "" {
		cmd.Env = append(cmd.Env, "HTTPS_PROXY="+proxy)
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Stderr, cmd.Stdout = log, log
	ts.Check(cmd.Start())
	s.cmd, s.done, s.log = cmd, make(chan error, 1), log
	go func() { s.done <- cmd.Wait() }()

	deadline := time.Now().Add(60 * time.Second)
	for {
		response, err := ready(ts.Getenv("OPS"))
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-s.done:
			s.done <- err
			ts.Fatalf("the server ended before it was ready: %v\n%s", err, ts.ReadFile("serve.log"))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the server is not ready:\n%s", ts.ReadFile("serve.log"))
		}
	}
	var owner struct{ Registry, Username, Password, CAFile string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(ts.Getenv("DATA")+"/owner.json")), &owner))
	ts.Setenv("HOST", owner.Registry)
	ts.Setenv("USERNAME", owner.Username)
	ts.Setenv("PASSWORD", owner.Password)
	ts.Setenv("OWNER", owner.Username+":"+owner.Password)
	ts.Setenv("CA", owner.CAFile)
}

// ready asks the operator's listener, which speaks clear text or TLS.
func ready(at string) (*http.Response, error) {
	response, err := http.Get("http://" + at + "/readyz")
	if err != nil || response.StatusCode != http.StatusBadRequest {
		return response, err
	}
	response.Body.Close()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	return c.Get("https://" + at + "/readyz")
}

// crash kills the server with signal 9.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(theServer).(*server).end(syscall.SIGKILL)
}

// halt asks the server to stop, which it does in order: with status 0.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Value(theServer).(*server).end(syscall.SIGTERM))
}

func (s *server) end(signal os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	s.cmd.Process.Signal(signal)
	err := <-s.done
	s.log.Close()
	s.cmd = nil
	return err
}

// keep NAME PATTERN takes what the first group of the pattern matches in the
// last standard output as the variable NAME.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: keep NAME PATTERN")
	}
	out := ts.ReadFile("stdout")
	found := regexp.MustCompile(args[1]).FindStringSubmatch(out)
	if len(found) != 2 {
		ts.Fatalf("%s is not in %q", args[1], out)
	}
	ts.Setenv(args[0], found[1])
}

// http METHOD PATH [user USER:PASSWORD] [bearer TOKEN] [header 'NAME: VALUE'] [body FILE]
// asks the server and prints status, headers and body.
func request(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: http METHOD PATH [user|bearer|header|body VALUE]...")
	}
	var body io.Reader
	header := http.Header{}
	for i := 2; i < len(args); i += 2 {
		switch value := args[i+1]; args[i] {
		case "user":
			r := http.Request{Header: header}
			name, password, _ := strings.Cut(value, ":")
			r.SetBasicAuth(name, password)
		case "bearer":
			header.Set("Authorization", "Bearer "+value)
		case "header":
			name, value, _ := strings.Cut(value, ": ")
			header.Set(name, value)
		case "body":
			content, err := os.ReadFile(ts.MkAbs(value))
			ts.Check(err)
			body = bytes.NewReader(content)
			if header.Get("Content-Type") == "" {
				header.Set("Content-Type", "application/octet-stream")
			}
		default:
			ts.Fatalf("http: what is %q?", args[i])
		}
	}
	r, err := http.NewRequest(args[0], "https://"+ts.Getenv("HOST")+args[1], body)
	ts.Check(err)
	r.Header = header
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("CA"))))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	ts.Check(err)
	defer response.Body.Close()
	fmt.Fprintln(ts.Stdout(), response.Status)
	var answered strings.Builder
	response.Header.Write(&answered)
	fmt.Fprintln(ts.Stdout(), strings.ReplaceAll(answered.String(), "\r\n", "\n"))
	_, err = io.Copy(ts.Stdout(), response.Body)
	ts.Check(err)
}

// random FILE BYTES writes bytes that do not compress; the same for one size.
func random(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: random FILE BYTES")
	}
	var size int64
	_, err := fmt.Sscan(args[1], &size)
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)}), size)
	ts.Check(errors.Join(err, f.Close()))
}

// sum NAME FILE [ALGORITHM] takes the digest of the file, sha256 unless told
// otherwise, as the variable NAME.
func sum(ts *testscript.TestScript, neg bool, args []string) {
	algorithm := ref.SHA256
	if len(args) == 3 {
		algorithm = ref.Algorithm(args[2])
	} else if len(args) != 2 {
		ts.Fatalf("usage: sum NAME FILE [ALGORITHM]")
	}
	ts.Setenv(args[0], algorithm.Sum([]byte(ts.ReadFile(args[1]))).String())
}

// until COMMAND... runs a command again until it succeeds, for up to a minute.
func until(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
	}
}

// freePort is a port of the loopback addresses that nobody listens on now, that
// nobody in this process was told before, and that the system gives to nobody who
// asks for any: servers start a while after they were told theirs.
func freePort(t interface{ Fatalf(string, ...any) }) string {
	for range 1000 {
		port := strconv.Itoa(12000 + int(lastPort.Add(1)%20000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatalf("no port is free")
	return ""
}

var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) } // another place in each process
