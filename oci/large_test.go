package oci_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"breakwater/db/dbtest"
)

// Who announces many large manifests and then dawdles is told to wait, and keeps
// nobody from pushing those of the usual size.
func TestLargeManifestsWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	c.pushImage("team/api", "small")
	const slow = 20
	status := make(chan int, slow)
	var pipes []*io.PipeWriter
	for range slow {
		r, w := io.Pipe()
		pipes = append(pipes, w)
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/v2/team/api/manifests/large", r)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+c.bearer)
		go func() {
			a, err := s.http.Do(q)
			if err != nil {
				status <- 0
				return
			}
			a.Body.Close()
			status <- a.StatusCode
		}()
		go func() { _, _ = io.WriteString(w, "{"+strings.Repeat(" ", 100<<10)) }()
	}
	for range slow - 16 {
		select {
		case got := <-status:
			if got != http.StatusTooManyRequests {
				t.Errorf("a large manifest too many: %d", got)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("all large manifests are taken")
		}
	}
	c.pushImage("team/api", "small")
	for _, w := range pipes {
		w.Close()
	}
	for range 16 {
		if got := <-status; got != http.StatusBadRequest {
			t.Errorf("half a manifest: %d", got)
		}
	}
}
