package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// knock FROM PATH [to HOST:PORT] [proxy v1=ADDRESS|v2=ADDRESS] [user NAME:PASSWORD]
// [header 'NAME: VALUE'] asks the server from one of this machine's addresses, as a
// socket that is really bound there, and prints status, headers and body. What comes
// before TLS may be a PROXY header. "! knock" is a connection that got no answer.
func knock(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: knock FROM PATH [to|proxy|user|header VALUE]...")
	}
	to, hello := ts.Getenv("HOST"), ""
	r, err := http.NewRequest("GET", "https://"+to+args[1], nil)
	ts.Check(err)
	for i := 2; i < len(args); i += 2 {
		name, value := args[i], args[i+1]
		switch name {
		case "to":
			to = value
		case "proxy":
			version, address, _ := strings.Cut(value, "=")
			hello = proxyHeader(version, netip.MustParseAddr(address))
		case "user":
			user, password, _ := strings.Cut(value, ":")
			r.SetBasicAuth(user, password)
		case "header":
			name, value, _ := strings.Cut(value, ": ")
			r.Header.Add(name, value)
		default:
			ts.Fatalf("knock: what is %q?", name)
		}
	}
	response, err := func() (*http.Response, error) {
		dialer := net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[0])}}
		c, err := dialer.Dial("tcp", to)
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, hello); err != nil {
			return nil, err
		}
		authority := x509.NewCertPool()
		authority.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("CA"))))
		t := tls.Client(c, &tls.Config{RootCAs: authority, ServerName: "localhost"})
		if err := r.Write(t); err != nil {
			return nil, err
		}
		return http.ReadResponse(bufio.NewReader(t), r)
	}()
	if neg {
		if err == nil {
			ts.Fatalf("the connection was answered: %s", response.Status)
		}
		return
	}
	ts.Check(err)
	defer response.Body.Close()
	fmt.Fprintln(ts.Stdout(), response.Status)
	response.Header.Write(ts.Stdout())
	_, err = io.Copy(ts.Stdout(), response.Body)
	ts.Check(err)
}

// linger FROM HOST:PORT has a connection that was asked once, and stays open; cut is
// told when the server ends it, which is soon.
func linger(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: linger FROM HOST:PORT")
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("CA"))))
	dialer := &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[0])}}
	c, err := tls.DialWithDialer(dialer, "tcp", args[1], &tls.Config{RootCAs: authority, ServerName: "localhost"})
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	ts.Check(err)
	_, err = c.Read(make([]byte, 4096))
	ts.Check(err)
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}()
	ts.Value(theLingering).(chan (<-chan error)) <- ended
}

func cut(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case err := <-<-ts.Value(theLingering).(chan (<-chan error)):
		if errors.Is(err, os.ErrDeadlineExceeded) {
			ts.Fatalf("the connection was not ended")
		}
	case <-time.After(20 * time.Second):
		ts.Fatalf("the connection is still open")
	}
}

// proxyHeader is what a proxy says before the connection that it carries.
func proxyHeader(version string, from netip.Addr) string {
	if version == "v1" {
		return fmt.Sprintf("PROXY TCP%c %s %s 4711 443\r\n", "46"[from.BitLen()/128], from, from)
	}
	family, length := byte(0x11), 12
	if from.Is6() {
		family, length = 0x21, 36
	}
	h := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21"), family)
	h = binary.BigEndian.AppendUint16(h, uint16(length))
	h = append(append(h, from.AsSlice()...), from.AsSlice()...)
	return string(append(h, 0x12, 0x67, 0x01, 0xbb))
}

// cable makes a network of its own with one cable to this machine: $HERE is its
// end here, $THERE and $THERE6 the other network's addresses, and "ip netns exec $NS"
// runs a program there.
func cable(ts *testscript.TestScript, _ bool, args []string) {
	var port int
	_, err := fmt.Sscan(ts.Getenv("PORT"), &port)
	ts.Check(err)
	name := fmt.Sprint("bw-r", port)
	net4, net6 := fmt.Sprintf("10.%d.%d.", 128+port>>8&127, port&255), fmt.Sprintf("fd77:%x::", port)
	run := func(words string) {
		if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			ts.Fatalf("ip %s: %v: %s", words, err, out)
		}
	}
	run("netns add " + name)
	ts.Defer(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
	run("link add " + name + " type veth peer name eth0 netns " + name)
	ts.Defer(func() { _ = exec.Command("ip", "link", "delete", name).Run() })
	run("address add " + net4 + "1/24 dev " + name)
	run("address add " + net6 + "1/64 dev " + name + " nodad")
	run("link set " + name + " up")
	run("-n " + name + " address add " + net4 + "2/24 dev eth0")
	run("-n " + name + " address add " + net6 + "2/64 dev eth0 nodad")
	run("-n " + name + " link set eth0 up")
	for key, value := range map[string]string{"NS": name, "HERE": net4 + "1", "HERE6": "[" + net6 + "1]", "THERE": net4 + "2", "THERE6": net6 + "2"} {
		ts.Setenv(key, value)
	}
}
