package oci_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/db/dbtest"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
)

// raw sends bytes as they are, over HTTP/1.1, and returns the answers until the
// server closes or says nothing for a second.
func (s *server) raw(t testing.TB, request string) string {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	var answers bytes.Buffer
	_, _ = io.Copy(&answers, c)
	return answers.String()
}

// basic is the owner's Authorization header.
func (s *server) basic() string {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth(s.OwnerName, s.OwnerPassword)
	return r.Header.Get("Authorization")
}

func TestPathThatIsNotCanonicalIsNobodys(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	c.pushImage("team/api", "v1")
	for _, path := range []string{
		"/v2/team%2Fapi%2Fmanifests/v1", "/v2/team/api/manifests%2Fv1", "/v2%2Fteam/api/manifests/v1", "/v2/team%2F/manifests/v1", "/v2/team%252Fapi/manifests/v1", "/v2/team/api/manifests/v%31", "/v2/team/%61pi/manifests/v1",
		"/v2/team/./api/manifests/v1", "/v2/team/x/../api/manifests/v1", "/v2/../v2/team/api/manifests/v1", "/v2/team/%2e%2e/team/api/manifests/v1",
		"/v2//team/api/manifests/v1", "//v2/team/api/manifests/v1", "/v2/team//api/manifests/v1", "/v2/team/api//manifests/v1", "/v2/team/api/manifests//v1",
		"/v2/Team/api/manifests/v1", "/v2/team/API/manifests/v1", "/V2/team/api/manifests/v1", "/v2/team/api/Manifests/v1",
		"/v2/team/api/manifests/v1/", "/v2/team/api/manifests/", "/v2/team/api/manifests", "/v2/team/api", "/v2", "/v2/manifests/v1", "/v2/_catalog/",
		"/v2/team/api;x/manifests/v1", "/v2/team\\api/manifests/v1", "/v2/team/api/manifests/v1%00", "/v2/team/api%0d%0a/manifests/v1",
		"/v2/" + strings.Repeat("a", 256) + "/manifests/v1", "/v2/" + strings.Repeat("a/", 128) + "/manifests/v1", "/v2/-a/manifests/v1", "/v2/a..b/manifests/v1", "/v2/a___b/manifests/v1",
		"/v2/team/api/tags/List", "/v2/team/api/tags/list/", "/v2/team/api/tags/", "/v2/é/manifests/v1",
	} {
		for _, auth := range []string{"", "Authorization: " + s.basic() + "\r\n"} {
			got := s.raw(t, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+auth+"\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 404") && !strings.HasPrefix(got, "HTTP/1.1 400") && !strings.HasPrefix(got, "HTTP/1.1 405") || strings.Contains(got, "schemaVersion") {
				t.Errorf("%s: %.60q", path, got)
			}
		}
	}
	// Azure's SDKs escape the "/" of a name and the ":" of a digest, and nothing else.
	for _, path := range []string{"/v2/team%2fapi/manifests/v1", "/v2/team%2Fapi/manifests/v1", "/v2/team%2Fapi/tags/list"} {
		c.do("GET", path, nil).want(t, 200)
	}
	// An absolute target names the same path; a name may hold the words of the API.
	got := s.raw(t, "GET https://localhost/v2/team/api/manifests/v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: "+s.basic()+"\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("%.60q", got)
	}
	for _, repo := range []string{"manifests/blobs", "blobs/uploads", "a/manifests/b", "tags/list", "v2/v2", "a/blobs/uploads/b", "referrers/manifests/x/tags/list"} {
		c.pushImage(repo, "v1")
		c.do("GET", "/v2/"+repo+"/manifests/v1", nil).want(t, 200)
		c.do("GET", "/v2/"+repo+"/tags/list", nil).want(t, 200)
	}
}

func TestAParameterThatStandsTwiceIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	good, bad := string(ref.SHA256.Sum([]byte("x"))), string(ref.SHA256.Sum([]byte("y")))
	for _, query := range []string{
		"digest=" + good + "&digest=" + bad, "digest=" + bad + "&digest=" + good, "digest=" + good + "&digest=", "mount=" + good + "&mount=" + bad,
		"mount=" + good + "&from=a&from=b", "digest-algorithm=sha256&digest-algorithm=sha512", "mount=" + good + "&digest=" + good, "digest=" + good + ";x=y", "digest=%zz",
	} {
		c.do("POST", "/v2/team/api/blobs/uploads/?"+query, []byte("x")).want(t, 400)
	}
	u := c.do("POST", "/v2/team/api/blobs/uploads/", nil).want(t, 202)
	c.do("PUT", u.Header.Get("Location")+"?digest="+good+"&digest="+bad, []byte("x")).want(t, 400)
	c.do("PUT", u.Header.Get("Location"), []byte("x")).want(t, 400, "DIGEST_INVALID")
	c.do("PUT", u.Header.Get("Location")+"?digest="+good, []byte("x")).want(t, 201)
	if tags := c.do("GET", "/v2/team/api/blobs/"+bad, nil); tags.StatusCode != 404 {
		t.Error(tags.Status)
	}
}

func TestContentRangeThatLiesIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		u := c.do("POST", "/v2/team/api/blobs/uploads/", nil).want(t, 202)
		body := random(100)
		for r, status := range map[string]int{
			"0-98": 400, "0-100": 400, "99-0": 400, "0-": 400, "-99": 400, "x": 400, "bytes 0-99/100": 400, "0-99/100": 400, "+0-99": 400, "0x0-99": 400,
			"1-100": 416, "100-199": 416, "9223372036854775708-9223372036854775807": 416, "99999999999999999999-99999999999999999999": 416,
		} {
			c.do("PATCH", u.Header.Get("Location"), body, header("Content-Range", r)).want(t, status)
		}
	})
}

func TestContentRangeBindsAlsoAStream(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body := random(100)
		for _, r := range []string{"0-49", "0-149"} {
			u := c.do("POST", "/v2/team/api/blobs/uploads/", nil).want(t, 202)
			a := c.do("PATCH", u.Header.Get("Location"), body, header("Content-Range", r), chunked)
			if a.StatusCode < 400 || a.StatusCode >= 500 {
				t.Errorf("%s for 100 bytes: %s", r, a.Status)
			}
		}
	})
}

func TestBodyThatEndsEarlyLeavesNoWrongContent(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		full := random(1000)
		d := string(ref.SHA256.Sum(full))
		send := func(line, headers string, body []byte) string {
			t.Helper()
			conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n%s\r\n%s", line, s.basic(), headers, body)
			_ = conn.CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			var got bytes.Buffer
			_, _ = io.Copy(&got, conn)
			return got.String()
		}
		for _, headers := range []string{"Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"} {
			body := full[:500]
			if strings.HasPrefix(headers, "T") {
				body = append([]byte("3e8\r\n"), body...)
			}
			if got := send("POST /v2/team/api/blobs/uploads/?digest="+d, headers, body); strings.HasPrefix(got, "HTTP/1.1 2") || strings.HasPrefix(got, "HTTP/1.1 5") {
				t.Errorf("%.100q", got)
			}
			if got := send("PUT /v2/team/api/manifests/v1", headers+"Content-Type: "+imageType+"\r\n", body); strings.HasPrefix(got, "HTTP/1.1 2") || strings.HasPrefix(got, "HTTP/1.1 5") {
				t.Errorf("%.100q", got)
			}
			// What arrived of a chunk stays, and the client may go on from there.
			u := c.do("POST", "/v2/team/api/blobs/uploads/", nil).want(t, 202)
			at := u.Header.Get("Location")
			if got := send("PATCH "+at, headers, body); strings.HasPrefix(got, "HTTP/1.1 5") {
				t.Errorf("%.100q", got)
			}
			kept := c.do("GET", at, nil).want(t, 204)
			switch kept.Header.Get("Range") {
			case "0-499":
				c.do("PUT", kept.Header.Get("Location")+"?digest="+d, full[500:], header("Content-Range", "500-999")).want(t, 201)
			case "0-0":
				c.do("PUT", kept.Header.Get("Location")+"?digest="+d, full).want(t, 201)
			default:
				t.Errorf("%v", kept.Header)
			}
			if a := c.do("GET", "/v2/team/api/blobs/"+d, nil).want(t, 200); !bytes.Equal(a.body, full) {
				t.Error("wrong content")
			}
			c.do("DELETE", "/v2/team/api/blobs/"+d, nil).want(t, 202)
		}
		c.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 404)
	})
}

func TestChunkedAndLengthTogetherCannotSmuggle(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	smuggled := "DELETE /v2/team/api/manifests/v1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + s.basic() + "\r\n\r\n"
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	c.pushImage("team/api", "v1")
	for _, headers := range []string{
		"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n",
		"Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding : chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
	} {
		got := s.raw(t, "POST /v2/team/api/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n"+headers+"\r\n0\r\n\r\n"+smuggled)
		if strings.Contains(got, "HTTP/1.1 202") || strings.Count(got, "HTTP/1.1 ") > 1 {
			t.Errorf("%q: %.300q", headers, got)
		}
	}
	c.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 200)
}

func TestHeaderFloodIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	flood := strings.Repeat("X-Flood: "+strings.Repeat("x", 1000)+"\r\n", 100)
	if got := s.raw(t, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"+flood+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("%.100q", got)
	}
	for _, h := range []string{"Content-Type", "Content-Range"} {
		got := s.raw(t, "PUT /v2/team/api/manifests/v1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: "+s.basic()+"\r\n"+h+": a\r\n"+h+": b\r\nContent-Length: 2\r\n\r\n{}")
		if !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("%s twice: %.100q", h, got)
		}
	}
	ranges := "bytes=" + strings.TrimSuffix(strings.Repeat("0-,", 5000), ",")
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	body := random(100_000)
	d := c.pushBlob("team/api", body)
	if a := c.do("GET", "/v2/team/api/blobs/"+string(d.Digest), nil, header("Range", ranges)); a.StatusCode >= 500 || len(a.body) > len(body) {
		t.Errorf("%s, %d bytes", a.Status, len(a.body))
	}
}

// The Azure SDK sends its first request without body and Content-Type, to be
// challenged: who calls is asked before what it brings.
func TestCallerIsAskedBeforeItsBodyIsJudged(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, "", "")
	for _, line := range []string{"PUT manifests/v1", "PUT manifests/sha256:x", "POST blobs/uploads/?digest=x", "PATCH blobs/uploads/x", "PUT blobs/uploads/x", "PUT blobs/uploads/x?digest=y", "GET blobs/x", "GET tags/list?n=x"} {
		method, path, _ := strings.Cut(line, " ")
		a := c.once(method, "/v2/team/api/"+path, []byte{}).want(t, 401, "UNAUTHORIZED")
		_, q := challenge(t, a.Header.Get("WWW-Authenticate"))
		want := "repository:team/api:pull"
		if method != "GET" {
			want += ",push"
		}
		if q.Get("scope") != want {
			t.Errorf("%s: scope %q", line, q.Get("scope"))
		}
	}
	a := c.once("POST", "/v2/team/api/blobs/uploads/?mount="+string(ref.SHA256.Sum(nil))+"&from=other/repo", []byte{}).want(t, 401)
	if _, q := challenge(t, a.Header.Get("WWW-Authenticate")); !slices.Equal(q["scope"], []string{"repository:team/api:pull,push", "repository:other/repo:pull"}) {
		t.Errorf("%q", q["scope"])
	}
	a = c.once("GET", "/v2/_catalog", nil).want(t, 401)
	if _, q := challenge(t, a.Header.Get("WWW-Authenticate")); q.Get("scope") != "registry:catalog:*" {
		t.Errorf("%q", q["scope"])
	}
}

func TestTokenOpensWhatItWasAskedForAndNoMore(t *testing.T) {
	each(t, func(t *testing.T, s *server, owner *client) {
		owner.pushImage("team/api", "v1")
		owner.pushImage("team/web", "v1")
		owner.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 200)
		a := owner.once("GET", "/v2/team/web/manifests/v1", nil).want(t, 401, "UNAUTHORIZED")
		if h := a.Header.Get("WWW-Authenticate"); !strings.Contains(h, `scope="repository:team/web:pull",error="insufficient_scope"`) {
			t.Errorf("%q", h)
		}
		owner.once("DELETE", "/v2/team/api/manifests/v1", nil).want(t, 401)
		owner.once("PUT", "/v2/team/api/manifests/v1", []byte("{}")).want(t, 401)

		user, password := s.Token(t, "reader", "repositories/team/api/content/read")
		reader := s.login(t, user, password)
		reader.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 200)
		for line, status := range map[string]int{
			"GET team/web/manifests/v1": 401, "GET absent/manifests/v1": 401, "DELETE team/api/manifests/v1": 401,
			"PUT team/api/manifests/v2": 401, "POST team/api/blobs/uploads/": 401, "GET team/api/tags/list": 200,
		} {
			method, path, _ := strings.Cut(line, " ")
			reader.do(method, "/v2/"+path, nil).want(t, status)
		}
		reader.do("GET", "/v2/_catalog", nil).want(t, 401)
		// Foreign and missing look alike.
		foreign := reader.do("GET", "/v2/team/web/manifests/v1", nil)
		missing := reader.do("GET", "/v2/team/xyz/manifests/v1", nil)
		if !bytes.Equal(bytes.ReplaceAll(foreign.body, []byte("web"), []byte("xyz")), missing.body) {
			t.Errorf("%s\n%s", foreign.body, missing.body)
		}
	})
}

func TestMountIsNoOracle(t *testing.T) {
	each(t, func(t *testing.T, s *server, owner *client) {
		d := string(owner.pushBlob("secret/repo", random(100)).Digest)
		absent := string(ref.SHA256.Sum(random(100)))
		user, password := s.Token(t, "writer", "repositories/mine/content/read", "repositories/mine/content/write")
		writer := s.login(t, user, password)
		var answers []string
		for _, query := range []string{d + "&from=secret/repo", absent + "&from=secret/repo", absent + "&from=absent/repo", d + "&from=absent/repo", d, absent} {
			u := writer.do("POST", "/v2/mine/blobs/uploads/?mount="+query, nil).want(t, 202)
			answers = append(answers, fmt.Sprint(u.StatusCode, string(u.body), u.Header.Get("Range"), u.Header.Get("Docker-Content-Digest")))
		}
		if len(slices.Compact(slices.Clone(answers))) != 1 {
			t.Errorf("%q", answers)
		}
		writer.do("GET", "/v2/mine/blobs/"+d, nil).want(t, 404, "BLOB_UNKNOWN")
		// A token for one repository only does not reach into another of its owner.
		owner.do("GET", "/v2/team/api/tags/list", nil)
		owner.pushBlob("team/api", []byte("x"))
		owner.once("POST", "/v2/team/api/blobs/uploads/?mount="+d+"&from=secret/repo", nil).want(t, 401)
		owner.once("POST", "/v2/team/api/blobs/uploads/?mount="+d, nil).want(t, 401)
		owner.do("POST", "/v2/team/api/blobs/uploads/?mount="+d+"&from=secret/repo", nil).want(t, 201)
	})
}

func TestUploadSessionIsItsOwners(t *testing.T) {
	each(t, func(t *testing.T, s *server, owner *client) {
		user, password := s.Token(t, "writer", "repositories/mine/content/read", "repositories/mine/content/write", "repositories/other/content/write")
		writer := s.login(t, user, password)
		at := writer.do("POST", "/v2/mine/blobs/uploads/", nil).want(t, 202).Header.Get("Location")
		at = writer.do("PATCH", at, []byte("mine")).want(t, 202).Header.Get("Location")
		elsewhere := strings.Replace(at, "/mine/", "/other/", 1)
		for _, try := range []struct {
			who *client
			at  string
		}{{owner, at}, {writer, elsewhere}, {owner, elsewhere}, {writer, at + "x"}, {writer, at[:len(at)-1]}} {
			try.who.do("GET", try.at, nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			try.who.do("PATCH", try.at, []byte("x")).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			try.who.do("PUT", try.at+"?digest="+string(ref.SHA256.Sum([]byte("mine"))), []byte{}).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
			try.who.do("DELETE", try.at, nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		}
		writer.do("PUT", at+"?digest="+string(ref.SHA256.Sum([]byte("mine"))), []byte{}).want(t, 201)
	})
}

func TestEachFactHasOneEvent(t *testing.T) {
	each(t, func(t *testing.T, s *server, c *client) {
		body, d := c.pushImage("team/api", "v1")
		c.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 200)
		c.do("HEAD", "/v2/team/api/manifests/v1", nil).want(t, 200)
		c.do("GET", "/v2/team/api/tags/list", nil).want(t, 200)
		c.do("GET", "/v2/team/api/manifests/v2", nil).want(t, 404)
		c.do("PUT", "/v2/team/api/manifests/v2", []byte("{"), header("Content-Type", imageType)).want(t, 400)
		c.do("DELETE", "/v2/team/api/manifests/v1", nil).want(t, 202)
		c.do("DELETE", "/v2/team/api/manifests/"+string(d.Digest), nil).want(t, 202)
		count := map[string]int{}
		for _, e := range s.Events(t) {
			if e.Category != ledger.Repository || e.Reason == "Unauthenticated" || e.Reason == "Denied" {
				continue
			}
			count[fmt.Sprint(e.Operation, " ", e.Status, " ", e.Outcome)]++
			if e.Operation == "PullManifest" && e.Outcome == ledger.Success &&
				(e.Detail.Tag != "v1" || e.Detail.Digest != d.Digest || e.Detail.Size != int64(len(body)) || e.Detail.MediaType != imageType || e.Who.Name != "owner") {
				t.Errorf("%+v", e)
			}
		}
		t.Log(count)
		for _, n := range count {
			if n != 1 && n != 2 { // two blobs were pushed
				t.Errorf("%v", count)
			}
		}
		for _, want := range []string{"PullManifest 200 success", "HeadManifest 200 success", "ListTags 200 success", "PullManifest 404 refused", "PushManifest 400 refused"} {
			if count[want] != 1 {
				t.Errorf("%s: %d", want, count[want])
			}
		}
	})
}

func TestNetworkRuleHoldsForTokensToo(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	c.pushImage("team/api", "v1")
	s.Update(t, func(r *registry.Registry) { r.PublicNetworkAccess = network.Disabled })
	c.do("GET", "/v2/team/api/manifests/v1", nil).want(t, 403, "DENIED")
	c.do("GET", "/v2/", nil).want(t, 403, "DENIED")
	c.once("GET", "/oauth2/token?scope=repository:team/api:pull", nil).want(t, 403, "DENIED")
}

func TestRequestsInAPipelineAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	one := "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + s.basic() + "\r\n\r\n"
	bad := "GET /v2/x/manifests/v1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + s.basic() + "\r\n\r\n"
	in := bufio.NewReader(strings.NewReader(s.raw(t, one+bad+one)))
	for _, want := range []int{200, 404, 200} {
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != want {
			t.Fatalf("%v %v, want %d", res, err, want)
		}
		_, _ = io.Copy(io.Discard, res.Body)
	}
}

func TestClientThatLeavesIsNoFailure(t *testing.T) {
	t.Parallel()
	s := serve(t, dbtest.SQLite(t))
	c := s.login(t, s.OwnerName, s.OwnerPassword)
	d := c.pushBlob("team/api", random(8<<20))
	c.do("HEAD", "/v2/team/api/blobs/"+string(d.Digest), nil).want(t, 200)
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/v2/team/api/blobs/"+string(d.Digest), nil)
	r.Header.Set("Authorization", "Bearer "+c.bearer)
	res, err := s.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = res.Body.Read(make([]byte, 1000))
	cancel()
	res.Body.Close()
	c.do("GET", "/v2/team/api/blobs/"+string(d.Digest), nil).want(t, 200)
	for _, e := range s.Events(t) {
		if e.Outcome == ledger.Failure {
			t.Errorf("%+v", e)
		}
	}
}
