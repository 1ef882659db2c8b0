package oci_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"breakwater/db/dbtest"
)

// http.ServeContent reads several ranges in a goroutine that it does not wait for.
// A client that leaves in the middle must not let it go on with a buffer that is
// somebody else's by then: the race detector sees it.
func TestRangesEndWithTheirRequest(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	body := random(3 << 20)
	path := "/v2/team/api/blobs/" + string(c.pushBlob("team/api", body).Digest)
	a := c.do("GET", path, nil, header("Range", "bytes=0-1,100000-100009")).want(t, http.StatusPartialContent)
	if !bytes.Contains(a.body, body[100000:100010]) {
		t.Errorf("two ranges: %v", a.Header)
	}
	a = c.do("GET", path, nil, header("Range", "bytes=0-0"+strings.Repeat(",9-9", 16))).want(t, http.StatusOK)
	if !bytes.Equal(a.body, body) {
		t.Errorf("more ranges than are answered: %d bytes", len(a.body))
	}

	many := "bytes=" + strings.Repeat("0-199999,200000-399999,", 7) + "0-0"
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+c.bearer)
			r.Header.Set("Range", many)
			res, err := s.http.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			_, _ = io.CopyN(io.Discard, res.Body, 70_000)
		})
	}
	clients.Wait()
}
