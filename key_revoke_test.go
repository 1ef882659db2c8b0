package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/db/dbtest"
	"breakwater/keys/keystest"
	"breakwater/ref"
)

// closes is how long the content of a registry may be served after its key was taken
// away (docs/keys.md), and a while for a machine that has other things to do.
const closes = 48*time.Second + 12*time.Second

// What a customer takes away is closed on every node, and what is under way there is
// broken: a pull, and a push. Nodes know what another did with keys, and let go of
// those of a registry that another deleted.
func TestAKeyThatIsTakenAwayBreaksWhatIsUnderWayOnEveryNode(t *testing.T) {
	for engine, nodes := range map[string]int{"SQLite": 1, "PostgreSQL": 2} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			testTakenAway(t, nodes)
		})
	}
}

func testTakenAway(t *testing.T, nodes int) {
	vault := keystest.StartTransit(t)
	vault.Create("root", "aes256-gcm96")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("token", keystest.TransitToken)
	flags := []string{"--domain", streetDomain, "--keys-directory", dir, "--config", file("config.yaml", "keys:\n  every: 2s\n")}
	if nodes > 1 {
		flags = append(flags, "--database", dbtest.PostgresURL(t))
	}
	data := filepath.Join(t.TempDir(), "data")
	var all []node
	for range nodes {
		p := newPatient(t, data, flags...)
		all = append(all, node{p.street(), p.ops})
	}
	first, last := all[0], all[nodes-1]

	// The key is switched on through one node, and used by the other.
	id := first.create("shop1")
	small := first.push("small")
	large := first.push(strings.Repeat("large ", 8<<20)) // at the pace of pulls, longer than it may take
	if last.pull(small) != http.StatusOK {
		t.Error("the other node has not what was pushed")
	}
	first.want(201, first.owner.Registry, "PUT", "/providers/Breakwater.Keys/providers/vault", `{"properties":{"kind":"Transit","endpoint":"`+vault.URL+`","credential":"token"}}`, first.login())
	first.patch(id, `"encryption":{"status":"enabled","keyVaultProperties":{"keyIdentifier":"https://vault/keys/root"}}`)
	before := last.metric(`breakwater_key_checks_total{outcome="good"}`)
	for _, n := range all {
		if n.pull(small) != http.StatusOK {
			t.Error("a node does not open what it has with the customer's key")
		}
	}
	if n := last.metric(`breakwater_key_checks_total{outcome="good"}`); nodes > 1 && n == before {
		t.Error("the other node did not ask the customer")
	}

	opened := make(map[string]float64) // with those of the registry that the server has anyway, if they are
	for _, n := range all {
		opened[n.ops] = n.metric("breakwater_keys_open")
	}

	var hurry atomic.Bool
	var underway sync.WaitGroup
	begun := make(chan struct{}, 2*nodes)
	for _, n := range all {
		underway.Go(func() {
			if got, err := n.pullSlowly(large, begun, &hurry); err == nil {
				t.Errorf("a pull of %d bytes came to its end", got)
			}
		})
		underway.Go(func() { n.pushSlowly(begun) })
	}
	for range 2 * nodes {
		<-begun
	}
	vault.Mode("denied")
	began := time.Now()
	for _, n := range all {
		n.until("refused", closes-time.Since(began), func() bool { return n.pull(small) == http.StatusForbidden })
	}
	t.Logf("refused after %v", time.Since(began))
	time.AfterFunc(3*time.Second, func() { hurry.Store(true) }) // what has left the server may be read fast
	underway.Wait()
	took := time.Since(began)
	t.Logf("broken, and the rest of it read, after %v", took)
	if took > closes {
		t.Errorf("what was under way went on for %v", took)
	}

	// Each node says so, has no opened key of it, and is open again when it is given back.
	for _, n := range all {
		if !n.notUsable(id) {
			t.Error("the owner is not told")
		}
		n.until("the keys have left the memory", closes, func() bool {
			return n.metric("breakwater_keys_open") == opened[n.ops]-1 && n.metric("breakwater_keys_refused") == 1
		})
	}
	vault.Mode("well")
	for _, n := range all {
		n.until("open again", time.Minute, func() bool { return n.pull(small) == http.StatusOK })
		n.until("told", time.Minute, func() bool { return !n.notUsable(id) })
		if n.metric("breakwater_keys_open") != opened[n.ops] {
			t.Error("the keys are not open")
		}
	}

	// A registry that one node deletes is in no memory.
	first.want(200, first.owner.Registry, "DELETE", id, "", first.login())
	for _, n := range all {
		n.until("the destroyed keys have left the memory", time.Minute, func() bool { return n.metric("breakwater_keys_open") == opened[n.ops]-1 })
	}
}

// A node is one of the processes that are a server.
type node struct {
	*street
	ops string
}

// push puts a blob into the registry shop1.
func (n node) push(body string) string {
	n.t.Helper()
	d := string(ref.SHA256.Sum([]byte(body)))
	n.want(201, n.host("shop1"), "POST", "/v2/team/api/blobs/uploads/?digest="+d, body, n.login())
	return d
}

// pull is the status with which a blob of shop1 is answered.
func (n node) pull(d string) int {
	n.t.Helper()
	a, text := n.ask(n.host("shop1"), "GET", "/v2/team/api/blobs/"+d, "", n.login())
	if a.StatusCode == http.StatusForbidden && !strings.Contains(text, "was taken away") {
		n.t.Errorf("nobody is told why: %s", text)
	}
	return a.StatusCode
}

// do sends a request to shop1 whose body, or whose answer's body, takes its time.
func (n node) do(method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(n.t.Context(), method, "https://"+n.host("shop1")+path, body)
	if err != nil {
		return nil, err
	}
	r.SetBasicAuth(n.owner.Username, n.owner.Password)
	r.Header.Set("Content-Type", "application/octet-stream")
	return n.client.Do(r)
}

// piece is what moves at once, about every pause.
const (
	piece = 64 << 10
	pause = 60 * time.Millisecond
)

// pullSlowly pulls a blob at a megabyte a second, until there is hurry.
func (n node) pullSlowly(d string, begun chan<- struct{}, hurry *atomic.Bool) (got int, err error) {
	a, err := n.do("GET", "/v2/team/api/blobs/"+d, nil)
	begun <- struct{}{}
	if err != nil {
		n.t.Error(err)
		return 0, nil
	}
	defer a.Body.Close()
	for buf := make([]byte, piece); ; {
		m, err := io.ReadFull(a.Body, buf)
		if got += m; err == io.EOF {
			return got, nil
		} else if err != nil {
			return got, err
		}
		if !hurry.Load() {
			time.Sleep(pause)
		}
	}
}

// pushSlowly pushes in the same way. It does not come to its end by itself in time.
func (n node) pushSlowly(begun chan<- struct{}) {
	a, text := n.ask(n.host("shop1"), "POST", "/v2/team/api/blobs/uploads/", "", n.login())
	at := strings.TrimPrefix(a.Header.Get("Location"), "https://"+n.host("shop1"))
	if a.StatusCode != http.StatusAccepted {
		n.t.Error(a.Status, text)
	}
	r, w := io.Pipe()
	var once sync.Once
	var over atomic.Bool
	var writing sync.WaitGroup
	writing.Go(func() {
		end := time.Now().Add(2 * closes)
		for buf := make([]byte, piece); !over.Load(); time.Sleep(pause) {
			if time.Now().After(end) {
				n.t.Error("a push goes on and on")
				_ = w.CloseWithError(io.ErrUnexpectedEOF)
			}
			if _, err := w.Write(buf); err != nil {
				return
			}
			once.Do(func() { begun <- struct{}{} })
		}
	})
	a, err := n.do("PATCH", at, r)
	over.Store(true)
	_ = r.CloseWithError(io.ErrClosedPipe)
	writing.Wait()
	if err != nil {
		return // the connection was broken
	}
	defer a.Body.Close()
	if said, _ := io.ReadAll(a.Body); a.StatusCode != http.StatusForbidden || !strings.Contains(string(said), "was taken away") {
		n.t.Errorf("the push was answered with %s %s", a.Status, said)
	}
}

// notUsable reports whether the owner is told that the key of a registry is not usable.
func (n node) notUsable(id string) bool {
	n.t.Helper()
	_, text := n.want(200, n.owner.Registry, "GET", id, "", n.login())
	return strings.Contains(text, "KeyNotUsable")
}

func (n node) until(what string, in time.Duration, is func() bool) {
	n.t.Helper()
	for end := time.Now().Add(in); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("not within %v: %s", in, what)
		}
	}
}

// metric is the value of a metric; 0 if it is not there.
func (n node) metric(name string) (value float64) {
	n.t.Helper()
	a, err := http.Get("http://" + n.ops + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(text); found != nil {
		_, _ = fmt.Sscan(string(found[1]), &value)
	}
	return value
}
