package main

import (
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/db/dbtest"
	"breakwater/hammer"
	"breakwater/ref"
)

// While PostgreSQL is away every request is told so and when to come again, within
// seconds; nothing is lost or done twice, and with the database all is back by itself.
func TestPostgreSQLMayGoAndComeBack(t *testing.T) {
	cluster := dbtest.Alone(t)
	s := newPatient(t, filepath.Join(t.TempDir(), "data"), "--database", cluster.URL)
	s.start()
	c, err := dial(filepath.Join(s.data, "owner.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, client: c}
	s.hammer(hammer.Options{Workers: 4, Steps: 6, Duration: time.Minute})
	const body = "a blob"
	digest := string(ref.SHA256.Sum([]byte(body)))
	push := func() (*http.Response, string) {
		return d.ask("POST", "/v2/team/api/blobs/uploads/?digest="+digest, body, "Content-Type", "application/octet-stream")
	}
	pull := func() (*http.Response, string) { return d.ask("GET", "/v2/team/api/blobs/"+digest, "") }
	if r, text := push(); r.StatusCode != http.StatusCreated {
		t.Fatal(r.Status, text)
	}

	var sum hammer.Summary
	var hammering sync.WaitGroup
	hammering.Go(func() {
		sum, err = hammer.Run(t.Context(), hammer.Options{Target: s.target, Journal: s.journal, Prefix: "hammer", Workers: 6, Duration: 7 * time.Second, Seed: 1})
	})
	time.Sleep(time.Second) // to be in the middle of something
	for _, how := range []string{"fast", "immediate"} {
		cluster.Stop(how)
		for what, ask := range map[string]func() (*http.Response, string){"push": push, "pull": pull} {
			began := time.Now()
			r, text := ask()
			if again, _ := strconv.Atoi(r.Header.Get("Retry-After")); r.StatusCode != http.StatusServiceUnavailable || again < 1 || !strings.Contains(text, "try again") {
				t.Errorf("%s: %s %v %s", what, r.Status, r.Header, text)
			}
			if took := time.Since(began); took > 15*time.Second { // a write is tried for three
				t.Errorf("%s: answered after %v", what, took)
			}
		}
		if ready, says := s.readiness(); ready != http.StatusServiceUnavailable || !strings.Contains(says, "database") {
			t.Errorf("ready: %d %s", ready, says)
		}
		cluster.Start()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if r, text := pull(); r.StatusCode == http.StatusOK && text == body && s.ready() {
				break
			} else if time.Now().After(end) {
				t.Fatalf("it is not back: %s %s", r.Status, text)
			}
		}
		if r, text := push(); r.StatusCode != http.StatusCreated {
			t.Errorf("a push afterwards: %s %s", r.Status, text)
		}
	}
	hammering.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if sum.Refused == 0 || sum.Unknown > 0 || sum.Acknowledged == 0 {
		t.Errorf("%+v; want refusals and an answer to everything", sum)
	}
	if s.died() {
		t.Fatal("the server ended")
	}
	report := s.verify()
	t.Logf("%+v; judged %d names, %d tags, %d events: nothing lost", sum, report.Keys, report.Checked, report.Events)
	if n := (node{&street{t: t}, s.ops}).metric("breakwater_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}

// readiness is what the operator's listener says.
func (s *patient) readiness() (status int, says string) {
	s.t.Helper()
	a, err := http.Get("http://" + s.ops + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	text, _ := io.ReadAll(a.Body)
	return a.StatusCode, string(text)
}
