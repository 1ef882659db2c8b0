package hammer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Throng is who stands at the door while somebody pulls: connections that were
// answered once and are kept, and some that send a byte of a header every two
// seconds and come back when they are hung up on.
type Throng struct {
	Target     Target
	Idle, Slow int
	Pulls      int
	Bytes      int // of the blob that is pulled
}

// Thronged is what came of it, in milliseconds.
type Thronged struct {
	Idle    int     `json:"idle"`    // that were open at the end of the pulls
	Slow    int     `json:"slow"`    // the same
	Returns int64   `json:"returns"` // how often a slow one came back
	Before  float64 `json:"before"`  // a pull with nobody there, the median
	During  float64 `json:"during"`  // with everybody there
	Worst   float64 `json:"worst"`
}

// Crowd pulls with nobody there and then through a throng. Connections of the
// loopback come from many of its addresses, so that the bound of one does not count.
func Crowd(ctx context.Context, t Throng, report func() error) (sum Thronged, err error) {
	c, err := newClient(t.Target)
	if err != nil {
		return sum, err
	}
	defer c.http.CloseIdleConnections()
	content := make([]byte, t.Bytes)
	_, _ = rand.Read(content)
	blob := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	if err := c.crowdAsk(ctx, http.MethodPost, "/v2/hammer/crowd/blobs/uploads/?digest="+blob, content, http.StatusCreated); err != nil {
		return sum, err
	}
	pulls := func() (times []float64, err error) {
		for range t.Pulls {
			start := time.Now()
			if err := c.crowdAsk(ctx, http.MethodGet, "/v2/hammer/crowd/blobs/"+blob, nil, http.StatusOK); err != nil {
				return nil, err
			}
			times = append(times, float64(time.Since(start).Microseconds())/1000)
		}
		slices.Sort(times)
		return times, nil
	}
	times, err := pulls()
	if err != nil {
		return sum, err
	}
	sum.Before = times[len(times)/2]

	u, err := url.Parse(t.Target.Server)
	if err != nil {
		return sum, err
	}
	secure := c.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	secure.ServerName = u.Hostname()
	var from atomic.Uint32
	enter := func(ctx context.Context) (*tls.Conn, error) {
		d := &net.Dialer{Timeout: 30 * time.Second}
		if ip, err := net.ResolveIPAddr("ip4", u.Hostname()); err == nil && ip.IP.IsLoopback() {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(2+from.Add(1)%200))}
		}
		inner, err := (&tls.Dialer{NetDialer: d, Config: secure}).DialContext(ctx, "tcp4", u.Host)
		if err != nil {
			return nil, err
		}
		return inner.(*tls.Conn), nil
	}
	leave, stop := context.WithCancel(ctx)
	var slow sync.WaitGroup
	defer slow.Wait()
	defer stop()

	idle := make([]*tls.Conn, t.Idle)
	errs := make([]error, t.Idle)
	defer func() {
		for _, c := range idle {
			if c != nil {
				c.Close()
			}
		}
	}()
	var work sync.WaitGroup
	turn := make(chan int)
	for range 32 {
		work.Go(func() {
			for i := range turn {
				if idle[i], errs[i] = enter(leave); errs[i] == nil {
					errs[i] = greeted(idle[i], u.Host)
				}
			}
		})
	}
	for i := range t.Idle {
		turn <- i
	}
	close(turn)
	work.Wait()
	if err := errors.Join(errs...); err != nil {
		return sum, err
	}
	var here, returns atomic.Int64
	for range t.Slow {
		slow.Go(func() {
			for leave.Err() == nil {
				c, err := enter(leave)
				if err != nil {
					time.Sleep(100 * time.Millisecond)
					continue
				}
				here.Add(1)
				dribble(leave, c)
				here.Add(-1)
				returns.Add(1)
			}
		})
	}
	for end := time.Now().Add(30 * time.Second); here.Load() < int64(t.Slow)*9/10 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
	}
	if times, err = pulls(); err != nil {
		return sum, err
	}
	sum.During, sum.Worst, sum.Slow, sum.Returns = times[len(times)/2], times[len(times)-1], int(here.Load()), returns.Load()
	err = report()
	for _, c := range idle {
		if greeted(c, u.Host) == nil {
			sum.Idle++
		}
	}
	return sum, err
}

// greeted reports whether the connection is answered.
func greeted(c *tls.Conn, host string) error {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// dribble sends a header that never ends until it is hung up on.
func dribble(ctx context.Context, c *tls.Conn) {
	stop := context.AfterFunc(ctx, func() { c.NetConn().Close() })
	defer stop()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer c.NetConn().Close()
	reading.Go(func() { // until the server hangs up
		defer c.NetConn().Close()
		_, _ = io.Copy(io.Discard, c)
	})
	text := strings.NewReader("GET /v2/ HTTP/1.1\r\nX-Slow: " + strings.Repeat("x", 1000))
	for {
		if _, err := io.CopyN(c, text, 1); err != nil {
			return
		}
		time.Sleep(2 * time.Second)
	}
}

func (c *client) crowdAsk(ctx context.Context, method, path string, body []byte, want int) error {
	q, err := http.NewRequestWithContext(ctx, method, c.target.Server+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.SetBasicAuth(c.target.Username, c.target.Password)
	q.Header.Set("Content-Type", "application/octet-stream")
	r, err := c.http.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != want {
		return fmt.Errorf("%s %s: %s", method, path, r.Status)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}
