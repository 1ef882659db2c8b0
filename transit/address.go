package transit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An Address is where something listens (NS-1). It is written
//
//	HOST:PORT                 at the addresses of a name, at one address, or at all ("")
//	HOST%INTERFACE:PORT       there, for what comes in by that interface alone
//	%INTERFACE:PORT           at every address, for what comes in by that interface alone
//	unix:PATH                 at a socket in the file system, for this user and its group
//
// An address alone does not say which way leads to it: a machine with two
// interfaces takes what comes in by one for an address of the other.
type Address struct {
	Host, Interface, Port string
	Path                  string // of a unix socket; then nothing else is there
}

// ParseAddress reads an Address.
func ParseAddress(s string) (a Address, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > 107 || strings.ContainsRune(path, 0) { // of sun_path
			return a, fmt.Errorf("%q is not unix: and an absolute path of at most 107 bytes", s)
		}
		return Address{Path: filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return a, err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
			return a, fmt.Errorf("%q has no port", s)
		}
	}
	a = Address{Host: host, Port: port}
	if before, name, ok := strings.Cut(host, "%"); ok {
		a.Host, a.Interface = before, name
		if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "%/ \x00") {
			return a, fmt.Errorf("%q is not the name of an interface", name)
		}
	}
	return a, nil
}

func (a Address) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	host := a.Host
	if a.Interface != "" {
		host += "%" + a.Interface
	}
	return net.JoinHostPort(host, a.Port)
}

// Any reports whether whoever can reach the machine can knock there: neither an
// address nor an interface is named.
func (a Address) Any() bool {
	if a.Path != "" || a.Interface != "" {
		return false
	}
	ip, err := netip.ParseAddr(a.Host)
	return a.Host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// Addresses are those of this machine that the address stands for, as they are now.
func (a Address) Addresses() (all []netip.Addr) {
	if ip, err := netip.ParseAddr(a.Host); err == nil && !ip.IsUnspecified() {
		return []netip.Addr{ip.Unmap()}
	}
	if a.Path != "" || a.Host != "" && !a.everyHost() {
		return nil
	}
	var given []net.Addr
	if a.Interface == "" {
		given, _ = net.InterfaceAddrs()
	} else if i, err := net.InterfaceByName(a.Interface); err == nil {
		given, _ = i.Addrs()
	}
	for _, g := range given {
		if p, err := netip.ParsePrefix(g.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}

func (a Address) everyHost() bool {
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsUnspecified()
}

// Listen binds the address.
func (a Address) Listen(ctx context.Context) (net.Listener, error) {
	if a.Path != "" {
		return a.socket(ctx)
	}
	host := a.Host
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLinkLocalUnicast() && ip.Is6() && a.Interface != "" {
		host += "%" + a.Interface // without which it is no address
	}
	return (&net.ListenConfig{Control: onInterface(a.Interface)}).Listen(ctx, "tcp", net.JoinHostPort(host, a.Port))
}

// socket binds a path. One that a process left behind that was killed is taken over.
func (a Address) socket(ctx context.Context) (net.Listener, error) {
	if info, err := os.Lstat(a.Path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		c, err := net.DialTimeout("unix", a.Path, time.Second)
		if err == nil {
			c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			if err := os.Remove(a.Path); err != nil {
				return nil, err
			}
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", a.Path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(a.Path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// A Source is where connections of this process leave the machine: by one
// interface, from one address, or both. The zero Source leaves it to the routes.
type Source struct {
	Interface string     `yaml:"interface"`
	Address   netip.Addr `yaml:"address"`
}

// Dialer dials from the source, and nothing else where that cannot be.
func (s Source) Dialer() *net.Dialer {
	d := &net.Dialer{Timeout: 30 * time.Second, Control: onInterface(s.Interface)}
	if s.Address.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Address, 0))
	}
	return d
}

// onInterface binds a socket to an interface; nil for none.
func onInterface(name string) func(network, address string, c syscall.RawConn) error {
	if name == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) (err error) {
		if failed := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); failed != nil {
			return failed
		}
		if err != nil {
			return fmt.Errorf("bind to the interface %s: %w", name, err)
		}
		return nil
	}
}
