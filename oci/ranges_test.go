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

// http.ServeContent reads many ranges in a goroutine that it does not wait for.
// A client that leaves in the middle would let it go on with a buffer that is
// somebody else's by then. So an answer has one range or all of the content.
func TestManyRangesAreAnsweredWithTheWhole(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	body := random(3 << 20)
	path := "/v2/team/api/blobs/" + string(c.pushBlob("team/api", body).Digest)
	for _, ranges := range []string{"bytes=0-1,5-6", "bytes=0-1, 5-6", "bytes=-1,0-0", "bytes=0-0,"} {
		a := c.do("GET", path, nil, header("Range", ranges)).want(t, http.StatusOK)
		if !bytes.Equal(a.body, body) || a.Header.Get("Content-Range") != "" {
			t.Errorf("%s: %d bytes, Content-Range %q", ranges, len(a.body), a.Header.Get("Content-Range"))
		}
		c.do("HEAD", path, nil, header("Range", ranges)).want(t, http.StatusOK)
	}
	c.do("GET", path, nil, header("Range", "bytes=1-2")).want(t, http.StatusPartialContent)

	many := "bytes=" + strings.Repeat("0-99999,200000-299999,", 10) + "0-0"
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
