package gate_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
)

// A hall is a surface with one path for each thing that can happen behind the door.
type hall struct{}

var readsTeam = []gate.Need{{Action: access.ContentRead, Repository: "team/api"}}

func (hall) Routes() []gate.Route { return nil }

func (hall) Route(r *http.Request) (gate.Call, error) {
	detail := &ledger.Detail{Repository: "team/api"}
	call := gate.Call{Operation: strings.TrimPrefix(r.URL.Path, "/"), Category: ledger.Repository, Needs: readsTeam, Read: true, Detail: detail}
	switch r.URL.Path {
	case "/read":
		call.Handler = func(w http.ResponseWriter, _ *http.Request, _ access.Grant) error {
			detail.Digest = "sha256:abc"
			w.Header().Set("X-Content", "yes")
			_, err := io.WriteString(w, "content")
			return err
		}
	case "/mute":
		call.Handler = func(http.ResponseWriter, *http.Request, access.Grant) error { return nil }
	case "/missing":
		call.Handler = func(w http.ResponseWriter, _ *http.Request, _ access.Grant) error {
			w.Header().Set("X-Content", "yes")
			return fault.New(fault.ManifestUnknown, "there is no such manifest")
		}
	case "/broken":
		call.Handler = func(http.ResponseWriter, *http.Request, access.Grant) error {
			return errors.New("the secret is 1234")
		}
	case "/panic":
		call.Handler = func(http.ResponseWriter, *http.Request, access.Grant) error { panic("the secret is 1234") }
	case "/half":
		call.Handler = func(w http.ResponseWriter, _ *http.Request, _ access.Grant) error {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			return errors.New("the disk broke")
		}
	case "/source-breaks":
		call.Handler = func(w http.ResponseWriter, _ *http.Request, _ access.Grant) error {
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader("half"), brokenReader{}))
			return nil
		}
	case "/large":
		call.Handler = func(w http.ResponseWriter, _ *http.Request, _ access.Grant) error {
			_, err := io.CopyN(w, zeros{}, 64<<20)
			return err
		}
	case "/upload":
		call.Read = false
		call.Handler = func(w http.ResponseWriter, r *http.Request, _ access.Grant) error {
			n, err := io.Copy(io.Discard, r.Body)
			if err == nil {
				_, err = fmt.Fprint(w, n)
			}
			return err
		}
	case "/whoever":
		call.Needs, call.Anyone = nil, true
		call.Handler = func(w http.ResponseWriter, _ *http.Request, g access.Grant) error {
			_, err := io.WriteString(w, string(g.Principal().Kind))
			return err
		}
	case "/somebody":
		call.Needs = nil
		call.Handler = func(http.ResponseWriter, *http.Request, access.Grant) error { return nil }
	case "/control":
		call.Plane = identity.ControlPlane
		call.Handler = func(http.ResponseWriter, *http.Request, access.Grant) error { return nil }
	default:
		return gate.Call{}, fault.New(fault.NotFound, "there is nothing at this path")
	}
	return call, nil
}

func (hall) Error(w http.ResponseWriter, _ *http.Request, f *fault.Error) {
	http.Error(w, f.Code.String()+": "+f.Message, f.Code.Row().Status)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the disk broke") }

type visitor struct {
	t              testing.TB
	client         *http.Client
	url            string
	user, password string
}

func (v visitor) get(path string, change ...func(*http.Request)) (*http.Response, string) {
	v.t.Helper()
	r, err := http.NewRequest("GET", v.url+path, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	if v.user != "" {
		r.SetBasicAuth(v.user, v.password)
	}
	for _, c := range change {
		c(r)
	}
	res, err := v.client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return res, string(body)
}

// open starts a server and returns its owner and a stranger.
func open(t *testing.T, d *db.DB, change func(*gate.Options)) (*gatetest.House, visitor, visitor) {
	h := gatetest.Open(t, d, change)
	s := gatetest.Serve(t, h.Gate.Serve(hall{}))
	owner := visitor{t, s.Client(), s.URL, h.OwnerName, h.OwnerPassword}
	return h, owner, visitor{t: t, client: s.Client(), url: s.URL}
}

// last is the latest event of an operation, and how many there are.
func last(t *testing.T, h *gatetest.House, operation string) (e ledger.Event, n int) {
	t.Helper()
	for _, x := range h.Events(t) {
		if x.Operation == operation {
			e, n = x, n+1
		}
	}
	return e, n
}

// A connection may be found broken by a write, before its request is told. That is a
// client that left, and no error of the server; what the server could not read still is.
func TestAClientThatLeavesIsNoErrorOfTheServer(t *testing.T) {
	var log bytes.Buffer
	h := gatetest.Open(t, dbtest.SQLite(t), func(o *gate.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, row := range []struct {
		path  string
		write error
		tells bool
	}{
		{"/large", errors.New("stream closed"), false},
		{"/large", fmt.Errorf("write: %w", http.ErrBodyNotAllowed), true},
		{"/large", fmt.Errorf("write: %w", http.ErrContentLength), true},
		{"/source-breaks", nil, true},
	} {
		log.Reset()
		r := httptest.NewRequest("GET", row.path, nil)
		r.SetBasicAuth(h.OwnerName, h.OwnerPassword)
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					t.Errorf("%s: %v", row.path, p)
				}
			}()
			h.Gate.Serve(hall{}).ServeHTTP(left{httptest.NewRecorder(), row.write}, r)
		}()
		if tells := strings.Contains(log.String(), "level=ERROR"); tells != row.tells {
			t.Errorf("%s, %v: %s", row.path, row.write, &log)
		}
	}
}

// left takes an answer to nowhere.
type left struct {
	*httptest.ResponseRecorder
	err error
}

func (l left) Write(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	return len(p), nil
}

func TestReadIsRecordedOnceWithWhatTheHandlerLearned(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, owner, _ := open(t, d, nil)
		res, body := owner.get("/read", func(r *http.Request) { r.Header.Set("User-Agent", "tester/1") })
		if res.StatusCode != 200 || body != "content" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
		e, n := last(t, h, "read")
		if n != 1 || e.Outcome != ledger.Success || e.Status != 200 || e.Who.Name != "owner" || e.Detail.Digest != "sha256:abc" ||
			e.Detail.Repository != "team/api" || e.Scope != ref.RepositoryScope(h.Registry.ID, "team/api") ||
			e.From.Address.String() != "127.0.0.1" || e.From.UserAgent != "tester/1" ||
			e.Correlation != res.Header.Get("X-Ms-Correlation-Request-Id") || e.Correlation == "" {
			t.Fatalf("%d events, the last is %+v", n, e)
		}
	})
}

func TestHandlerThatSaysNothingIsAnswered200AndRecorded(t *testing.T) {
	h, owner, _ := open(t, dbtest.SQLite(t), nil)
	if res, _ := owner.get("/mute"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if _, n := last(t, h, "mute"); n != 1 {
		t.Fatalf("%d events", n)
	}
}

func TestWithoutLedgerThereIsNoAnswer(t *testing.T) {
	h, owner, stranger := open(t, dbtest.SQLite(t), nil)
	if res, _ := owner.get("/read"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if err := h.Ledger.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/read", "/missing"} {
		res, body := owner.get(path)
		if res.StatusCode != 503 || res.Header.Get("X-Content") != "" || strings.Contains(body, "content") || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %q %v", path, res.Status, body, res.Header)
		}
	}
	if res, _ := stranger.get("/read"); res.StatusCode != 503 {
		t.Error(res.Status)
	}
}

func TestStrangerIsAskedWhoItIs(t *testing.T) {
	h, _, stranger := open(t, dbtest.SQLite(t), nil)
	for path, want := range map[string]int{"/read": 401, "/somebody": 401, "/whoever": 200, "/nowhere": 404} {
		if res, body := stranger.get(path); res.StatusCode != want {
			t.Errorf("%s: %s %q, want %d", path, res.Status, body, want)
		}
	}
	if e, n := last(t, h, "read"); n != 1 || e.Outcome != ledger.Refused || e.Reason != "Unauthenticated" || e.Status != 401 || e.Who.ID != "" {
		t.Errorf("%d events, the last is %+v", n, e)
	}
	if _, n := last(t, h, ""); n != 0 {
		t.Error("a path that is nobody's is in the ledger")
	}
}

func TestWrongCredentialIsNotAnonymous(t *testing.T) {
	h, owner, _ := open(t, dbtest.SQLite(t), nil)
	h.Update(t, func(r *registry.Registry) { r.AnonymousPullEnabled = true })
	for name, change := range map[string]func(*http.Request){
		"wrong password": func(r *http.Request) { r.SetBasicAuth("owner", "wrong") },
		"wrong bearer":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer x.y.z") },
		"unknown scheme": func(r *http.Request) { r.Header.Set("Authorization", "Digest x") },
		"two headers":    func(r *http.Request) { r.Header.Add("Authorization", "Basic eDp5") },
	} {
		for _, path := range []string{"/read", "/whoever", "/somebody"} {
			if res, body := owner.get(path, change); res.StatusCode != 401 {
				t.Errorf("%s: %s %s %q", name, path, res.Status, body)
			}
		}
	}
	if e, _ := last(t, h, "read"); e.Outcome != ledger.Refused || e.Reason != "Unauthenticated" {
		t.Errorf("%+v", e)
	}
}

func TestRightsCountFromTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, token, stranger := open(t, d, nil)
		token.user, token.password = h.Token(t, "reader", "repositories/other/content/read")
		if res, _ := token.get("/read"); res.StatusCode != 403 {
			t.Fatal(res.Status)
		}
		if e, n := last(t, h, "read"); n != 1 || e.Reason != "Denied" || e.Who.Name != "reader" {
			t.Errorf("%d events, the last is %+v", n, e)
		}
		_, err := h.Access.PutScopeMap(context.Background(), h.Server(), "reader", "", []string{"repositories/team/*/content/read"}, "")
		if err != nil {
			t.Fatal(err)
		}
		if res, _ := token.get("/read"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		if err := h.Access.DeleteToken(context.Background(), h.Server(), "reader", ""); err != nil {
			t.Fatal(err)
		}
		if res, _ := token.get("/read"); res.StatusCode != 401 {
			t.Fatal(res.Status)
		}
		h.Update(t, func(r *registry.Registry) { r.AnonymousPullEnabled = true })
		if res, _ := stranger.get("/read"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		h.Update(t, func(r *registry.Registry) { r.AnonymousPullEnabled = false })
		if res, _ := stranger.get("/read"); res.StatusCode != 401 {
			t.Fatal(res.Status)
		}
	})
}

func TestNetworkIsAskedBeforeAnybodyIsKnown(t *testing.T) {
	h, owner, stranger := open(t, dbtest.SQLite(t), nil)
	h.Update(t, func(r *registry.Registry) { r.PublicNetworkAccess = network.Disabled })
	for _, v := range []visitor{owner, stranger} {
		if res, body := v.get("/read"); res.StatusCode != 403 || !strings.Contains(body, "127.0.0.1") {
			t.Errorf("%s %q", res.Status, body)
		}
	}
	if res, _ := owner.get("/control"); res.StatusCode != 200 {
		t.Error("the owner cannot correct the rule:", res.Status)
	}
	if e, n := last(t, h, "read"); n != 2 || e.Reason != "NetworkDenied" || e.Who.ID != "" {
		t.Errorf("%d events, the last is %+v", n, e)
	}
}

func TestUnknownRegistryIsNotFound(t *testing.T) {
	_, owner, _ := open(t, dbtest.SQLite(t), nil)
	res, _ := owner.get("/read", func(r *http.Request) { r.Host = "absent.registries.test" })
	if res.StatusCode != 404 {
		t.Fatal(res.Status)
	}
}

func TestCauseOfFailureStaysInside(t *testing.T) {
	h, owner, _ := open(t, dbtest.SQLite(t), nil)
	for _, path := range []string{"/broken", "/panic"} {
		res, body := owner.get(path)
		if res.StatusCode != 500 || strings.Contains(body, "1234") || res.Header.Get("X-Ms-Correlation-Request-Id") == "" {
			t.Errorf("%s: %s %q", path, res.Status, body)
		}
		if e, n := last(t, h, path[1:]); n != 1 || e.Outcome != ledger.Failure || e.Reason != "Internal" {
			t.Errorf("%d events, the last is %+v", n, e)
		}
	}
	if res, _ := owner.get("/missing"); res.StatusCode != 404 || res.Header.Get("X-Content") != "" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

func TestHalfAnAnswerIsNotTakenForAWholeOne(t *testing.T) {
	_, owner, _ := open(t, dbtest.SQLite(t), nil)
	two := owner.client.Transport.(*http.Transport).Clone()
	one := two.Clone()
	one.ForceAttemptHTTP2, one.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	one.TLSClientConfig.NextProtos = []string{"http/1.1"}
	for version, transport := range map[int]*http.Transport{1: one, 2: two} {
		for _, path := range []string{"/half", "/source-breaks"} {
			r, _ := http.NewRequest("GET", owner.url+path, nil)
			r.SetBasicAuth(owner.user, owner.password)
			res, err := (&http.Client{Transport: transport}).Do(r)
			if err != nil {
				continue // broken so early that no header arrived
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if res.ProtoMajor != version {
				t.Fatalf("spoke HTTP/%d", res.ProtoMajor)
			}
			if err == nil {
				t.Errorf("HTTP/%d %s: %q arrived without an error", version, path, body)
			}
		}
	}
}

func TestCorrelationOfTheCallerIsKeptIfItIsAGUID(t *testing.T) {
	_, _, stranger := open(t, dbtest.SQLite(t), nil)
	const given = "0f8fad5b-d9cb-469f-a165-70867728950e"
	for sent, kept := range map[string]bool{given: true, "x": false, given + "\tz": false, strings.Repeat("a", 36): false, "": false} {
		res, _ := stranger.get("/whoever", func(r *http.Request) { r.Header.Set("X-Ms-Correlation-Request-Id", sent) })
		if got := res.Header.Get("X-Ms-Correlation-Request-Id"); (got == sent) != kept || len(got) != 36 {
			t.Errorf("%q became %q", sent, got)
		}
	}
}

func TestWhoCallsTooOftenWaitsAndTheLedgerHearsItOnce(t *testing.T) {
	h, owner, stranger := open(t, dbtest.SQLite(t), func(o *gate.Options) { o.Limits = gate.Limits{Caller: 5, Stranger: 5} })
	for who, v := range map[string]visitor{"read": owner, "whoever": stranger} {
		refused := 0
		for range 30 {
			if res, _ := v.get("/" + who); res.StatusCode == 429 {
				if res.Header.Get("Retry-After") != "1" {
					t.Errorf("Retry-After: %q", res.Header.Get("Retry-After"))
				}
				refused++
			}
		}
		if refused < 10 {
			t.Errorf("%s: %d of 30 were refused", who, refused)
		}
		count := 0
		for _, e := range h.Events(t) {
			if e.Operation == who && e.Reason == "TooManyRequests" {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%s: %d events about %d refusals", who, count, refused)
		}
	}
}

func TestConnectionEndsAfterAChunkedRequest(t *testing.T) {
	_, owner, _ := open(t, dbtest.SQLite(t), nil)
	transport := owner.client.Transport.(*http.Transport).Clone()
	transport.ForceAttemptHTTP2 = false
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	owner.client = &http.Client{Transport: transport}
	for chunked, want := range map[bool]bool{true: true, false: false} {
		res, body := owner.get("/upload", func(r *http.Request) {
			r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("0123456789"))
			if r.ContentLength = 10; chunked {
				r.ContentLength = -1
			}
		})
		if res.StatusCode != 200 || body != "10" || res.Close != want {
			t.Errorf("chunked %v: %s %q, closes: %v", chunked, res.Status, body, res.Close)
		}
	}
}

func TestBodyThatDoesNotComeIsGivenUp(t *testing.T) {
	h := gatetest.Open(t, dbtest.SQLite(t), func(o *gate.Options) { o.Limits.Stall = 2 * time.Second })
	s := gatetest.Serve(t, h.Gate.Serve(hall{}))
	c, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, _ := http.NewRequest("POST", s.URL+"/upload", nil)
	r.SetBasicAuth(h.OwnerName, h.OwnerPassword)
	fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Length: 1000000\r\n\r\nx", r.Header.Get("Authorization"))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var answer bytes.Buffer
	start := time.Now()
	if _, err := io.Copy(&answer, c); errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if took := time.Since(start); took < time.Second || took > 8*time.Second || !strings.HasPrefix(answer.String(), "HTTP/1.1 408") {
		t.Fatalf("after %s: %q", took, answer.String())
	}
}

func TestAnswerThatIsNotTakenIsGivenUp(t *testing.T) {
	h := gatetest.Open(t, dbtest.SQLite(t), func(o *gate.Options) { o.Limits.Stall = 2 * time.Second })
	ended := make(chan any, 1)
	s := gatetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			ended <- p
			panic(p)
		}()
		h.Gate.Serve(hall{}).ServeHTTP(w, r)
	}))
	for _, version := range []int{1, 2} {
		transport := s.Client().Transport.(*http.Transport).Clone()
		if version == 1 {
			transport.ForceAttemptHTTP2, transport.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
			transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
		}
		r, _ := http.NewRequest("GET", s.URL+"/large", nil)
		r.SetBasicAuth(h.OwnerName, h.OwnerPassword)
		start := time.Now()
		res, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil || res.StatusCode != 200 || res.ProtoMajor != version {
			t.Fatal(res, err)
		}
		select {
		case p := <-ended:
			if took := time.Since(start); p != http.ErrAbortHandler || took < time.Second {
				t.Errorf("HTTP/%d: ended with %v after %s", version, p, took)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("HTTP/%d: a client that takes nothing keeps its request", version)
		}
		res.Body.Close()
		transport.CloseIdleConnections()
	}
}

func TestNothingOpensToTheZeroGrant(t *testing.T) {
	var g access.Grant
	if g.Can(access.ContentRead, ref.Everything) || g.Registry() != "" {
		t.Fatal("it does")
	}
}
