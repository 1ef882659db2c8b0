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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"breakwater/fault"
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
		if !interfaceName(name) {
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
// address nor an interface is named. Some resolvers read 0 as 0.0.0.0.
func (a Address) Any() bool {
	if a.Path != "" || a.Interface != "" {
		return false
	}
	ip, err := netip.ParseAddr(a.Host)
	return strings.Trim(a.Host, "0x.") == "" || err == nil && ip.Unmap().IsUnspecified()
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
// interface, from one address, or both. The zero Source leaves it to the routes. It
// is written ADDRESS, INTERFACE or ADDRESS%INTERFACE.
type Source struct {
	Interface string
	Address   netip.Addr
}

// ParseSource reads a Source that is not zero.
func ParseSource(s string) (Source, error) {
	address, name, both := strings.Cut(s, "%")
	ip, err := netip.ParseAddr(address)
	if err != nil && !both {
		name, both = s, true
		ip, err = netip.Addr{}, nil
	}
	local := ip.IsLinkLocalUnicast() && ip.Is6()
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || both && !interfaceName(name) || local && !both {
		return Source{}, fault.New(fault.BadRequest, "%q is not ADDRESS, INTERFACE or ADDRESS%%INTERFACE of this machine", s)
	}
	if local {
		ip = ip.WithZone(name) // without which it is no address
	}
	return Source{Interface: name, Address: ip.Unmap()}, nil
}

func interfaceName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) < unix.IFNAMSIZ && !strings.ContainsAny(s, "%/: \t\n\x00")
}

func (s Source) String() string {
	switch {
	case !s.Address.IsValid():
		return s.Interface
	case s.Interface == "":
		return s.Address.String()
	}
	return s.Address.WithZone("").String() + "%" + s.Interface
}

func (s *Source) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSource(string(text))
	return err
}

// Here reports whether the machine has the interface and the address now.
func (s Source) Here() bool {
	var given []net.Addr
	if s.Interface == "" {
		given, _ = net.InterfaceAddrs()
	} else if i, err := net.InterfaceByName(s.Interface); err != nil {
		return false
	} else if given, _ = i.Addrs(); !s.Address.IsValid() {
		return true
	}
	return slices.ContainsFunc(given, func(g net.Addr) bool {
		p, err := netip.ParsePrefix(g.String())
		return err == nil && (p.Addr().Unmap() == s.Address.WithZone("") || s.Address.IsLoopback() && p.Addr().IsLoopback())
	})
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
