// Command breakwater-pkcs11 lets breakwater use the keys of a PKCS #11 token: a
// hardware security module, or SoftHSM. It holds the token's PIN and its library, so
// that neither is in the process that the network talks to, and answers on a unix
// socket, to the users that it is told only (DP-5, DP-6).
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"breakwater/keys/device"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "breakwater-pkcs11:", err)
		os.Exit(1)
	}
}

func run() error {
	library := flag.String("library", "", "the device's PKCS #11 library, such as /usr/lib/softhsm/libsofthsm2.so")
	label := flag.String("token", "", "label of the token")
	pin := flag.String("pin-file", "", "file with the PIN of its user, that nobody else may read")
	socket := flag.String("socket", "", "unix socket to answer on, in a directory that only its users enter")
	users := flag.String("users", "", "who may ask besides this user itself: names or numbers, with commas between")
	flag.Parse()
	if *library == "" || *label == "" || *pin == "" || *socket == "" || flag.NArg() > 0 {
		flag.Usage()
		return errors.New("library, token, pin-file and socket are needed")
	}
	allowed, err := numbers(*users)
	if err != nil {
		return err
	}
	t := &token{library: *library, label: *label, pin: func() ([]byte, error) { return secretFile(*pin) }}
	if _, err := t.pin(); err != nil {
		return err
	}
	if err := t.open(); err != nil { // it may come later, but who starts this by hand wants to know
		slog.Warn("the token is out of reach", "err", err)
	}
	unix.Umask(0o007)
	if info, err := os.Lstat(*socket); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", *socket); err == nil {
			c.Close()
			return errors.New("somebody answers on the socket already")
		}
		_ = os.Remove(*socket) // of a process that was killed
	}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s := &http.Server{
		Handler: t.handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 4096,
	}
	context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(last)
	})
	slog.Info("ready", "socket", *socket, "token", *label)
	if err := s.Serve(known{l, allowed}); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func numbers(users string) (map[uint32]bool, error) {
	all := map[uint32]bool{uint32(os.Getuid()): true}
	for name := range strings.SplitSeq(users, ",") {
		if name == "" {
			continue
		}
		if u, err := user.Lookup(name); err == nil {
			name = u.Uid
		}
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("there is no user %q", name)
		}
		all[uint32(n)] = true
	}
	return all, nil
}

func secretFile(path string) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > 4096 {
		return nil, fmt.Errorf("%s: no small file that only its owner may read", path)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b, "\r\n"), nil
}

// known lets in who the kernel says is one of the users.
type known struct {
	net.Listener
	users map[uint32]bool
}

func (k known) Accept() (net.Conn, error) {
	for {
		c, err := k.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, err := peer(c)
		if err == nil && k.users[who] {
			return c, nil
		}
		slog.Warn("refused", "uid", who, "err", err)
		c.Close()
	}
}

func peer(c net.Conn) (uint32, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

func (t *token) handler() http.Handler {
	mux := http.NewServeMux()
	for path, do := range map[string]func(device.Ask) (device.Answer, error){device.Describe: t.Describe, device.Wrap: t.Wrap, device.Unwrap: t.Unwrap} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			var ask device.Ask
			d := json.NewDecoder(http.MaxBytesReader(w, r.Body, device.MaxBody))
			d.DisallowUnknownFields()
			if err := d.Decode(&ask); err != nil || ask.Name == "" || len(ask.Name) > 127 || len(ask.Version) > 512 || len(ask.Data) > 4096 || path != device.Describe && len(ask.Data) == 0 {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			a, err := do(ask)
			clear(ask.Data)
			status := http.StatusOK
			switch {
			case errors.Is(err, errGone):
				status, a = http.StatusForbidden, device.Answer{State: "deleted"}
			case errors.Is(err, errUnfit):
				status, a = http.StatusForbidden, device.Answer{State: "disabled"}
			case errors.Is(err, errBarred):
				status, a = http.StatusForbidden, device.Answer{State: errBarred.Error()}
			case errors.Is(err, errInvalid):
				status, a = http.StatusUnprocessableEntity, device.Answer{}
			case err != nil:
				slog.Error("the token is out of reach", "what", path, "err", err)
				status, a = http.StatusServiceUnavailable, device.Answer{}
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(a)
			clear(a.Data)
		})
	}
	return mux
}
