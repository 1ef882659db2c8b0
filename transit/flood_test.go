package transit

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// speakHTTP2 opens a connection on which a test writes frames itself.
func speakHTTP2(t *testing.T, s *site) (net.Conn, *http2.Framer) {
	t.Helper()
	c, err := tls.Dial("tcp", s.address, s.trust(func(c *tls.Config) { c.NextProtos = []string{"h2"} }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, preface(t, c)
}

func preface(t *testing.T, c io.ReadWriter) *http2.Framer {
	f := http2.NewFramer(c, c)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

func headers(more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "localhost"}, {Name: ":path", Value: "/"}}, more...) {
		_ = e.WriteField(f)
	}
	return b.Bytes()
}

// ended drains what the server says and returns the code of its GOAWAY.
func ended(f *http2.Framer) <-chan http2.ErrCode {
	code := make(chan http2.ErrCode, 1)
	go func() {
		defer close(code)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if g, ok := frame.(*http2.GoAwayFrame); ok && g.ErrCode != http2.ErrCodeNo {
				code <- g.ErrCode
				return
			}
		}
	}()
	return code
}

func TestStreamsThatAreResetAtOnceDoNotPileUp(t *testing.T) { // CVE-2023-44487
	var now, most atomic.Int64
	release := make(chan bool)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			return
		}
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release // as one that does not look whether somebody still waits
	}), nil)
	defer close(release)
	_, f := speakHTTP2(t, s)
	code := ended(f)
	sent := 0
	for id := uint32(1); id < 40_000; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers(), EndStream: true, EndHeaders: true}) != nil ||
			f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
		sent++
	}
	if got := <-code; got != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("after %d streams the server said %v", sent, got)
	}
	if n := most.Load(); n > 128 {
		t.Errorf("%d requests of one connection were under way", n)
	}
	r, err := s.client().Get("https://" + s.address + "/other")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
}

func TestAHeaderWithoutEndIsCutOff(t *testing.T) { // CVE-2023-45288
	var asked atomic.Bool
	s := open(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }), nil)
	_, f := speakHTTP2(t, s)
	code := ended(f)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(), EndStream: true}); err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat(headers(hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 1000)})[4:], 8)
	sent := 0
	for ; sent < 64<<20; sent += len(piece) {
		if f.WriteContinuation(1, false, piece) != nil {
			break
		}
	}
	<-code
	if sent > 8<<20 || asked.Load() { // what lies in buffers between here and there is the most of it
		t.Errorf("the server took %d KiB of a header", sent>>10)
	}
}

func TestPingsAndSettingsThatNobodyReadsTheAnswersOfDoNotPileUp(t *testing.T) { // CVE-2019-9512, CVE-2019-9515
	s := open(t, http.HandlerFunc(greet), nil)
	for name, write := range map[string]func(*http2.Framer) error{
		"pings": func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) },
		"settings": func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		},
	} {
		c, f := speakHTTP2(t, s)
		// Nothing is read: the answers fill the kernel's buffers, then the server's queue,
		// and then it hangs up or takes no more.
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_ = c.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
		n := 0
		for ; n < 4_000_000 && write(f) == nil; n++ {
		}
		if n == 4_000_000 {
			t.Errorf("%s: %d were taken", name, n)
		}
	}
}

// In a bubble of bent time, connections come through pipes.
func TestWhoIsSlowIsGivenUp(t *testing.T) {
	request := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	drip := func(c io.Writer, text string) {
		for _, b := range []byte(text) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
	for _, row := range []struct {
		name   string
		within time.Duration
		protos []string
		act    func(*testing.T, net.Conn, *tls.Conn)
	}{
		{"says nothing", headerTimeout, nil, nil},
		{"begins a handshake and stops", headerTimeout, nil, func(_ *testing.T, raw net.Conn, _ *tls.Conn) {
			drip(raw, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+strings.Repeat("r", 100))
		}},
		{"shakes hands and says nothing", idleTimeout, nil, func(t *testing.T, _ net.Conn, c *tls.Conn) { shake(t, c) }},
		{"a byte of a header each second", headerTimeout + time.Second, nil, func(t *testing.T, _ net.Conn, c *tls.Conn) {
			shake(t, c)
			drip(c, "GET / HTTP/1.1\r\nX-Slow: "+strings.Repeat("x", 1000))
		}},
		{"asks once and stays", idleTimeout, nil, func(t *testing.T, _ net.Conn, c *tls.Conn) {
			shake(t, c)
			_, _ = io.WriteString(c, request)
		}},
		{"HTTP/2 and then nothing", idleTimeout, []string{"h2"}, func(t *testing.T, _ net.Conn, c *tls.Conn) {
			shake(t, c)
			preface(t, c)
		}},
		{"HTTP/2 without its first frames", headerTimeout + time.Second, []string{"h2"}, func(t *testing.T, _ net.Conn, c *tls.Conn) {
			shake(t, c)
			_, _ = io.WriteString(c, http2.ClientPreface[:10])
		}},
		{"half a header of HTTP/2", time.Minute + headerTimeout, []string{"h2"}, func(t *testing.T, _ net.Conn, c *tls.Conn) {
			shake(t, c)
			_ = preface(t, c).WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(), EndStream: true})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			authority, err := OpenAuthority(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				f := &feed{conns: make(chan net.Conn), ended: make(chan struct{})}
				l, err := Listen(t.Context(), Options{Name: "front", Inner: f, TLS: Config(authority.Certificate("localhost"), false), Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				served := make(chan error, 1)
				go func() { served <- l.Serve(ctx, http.HandlerFunc(greet)) }()
				far, near := net.Pipe()
				f.conns <- near
				start := time.Now()
				c := tls.Client(far, &tls.Config{InsecureSkipVerify: true, NextProtos: row.protos})
				acted := make(chan bool)
				go func() {
					defer close(acted)
					if row.act != nil {
						row.act(t, far, c)
					}
				}()
				if row.act == nil || strings.HasPrefix(row.name, "begins") {
					_, _ = io.Copy(io.Discard, far)
				} else {
					_, _ = io.Copy(io.Discard, c)
				}
				if took := time.Since(start); took > row.within || took < time.Second {
					t.Errorf("given up after %v", took)
				}
				<-acted
				far.Close()
				synctest.Wait()
				if l.Held() != 0 {
					t.Errorf("%d connections are still held", l.Held())
				}
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func shake(t *testing.T, c *tls.Conn) {
	if err := c.Handshake(); err != nil {
		t.Error(err)
	}
}
