package dbtest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// cluster is the address of the PostgreSQL cluster that the test processes of
// one user share, "" where PostgreSQL is not installed.
//
// The first process starts it. Each holds a shared lock while it lives, which
// the kernel takes back however it ends; a keeper beside the cluster waits for
// the exclusive lock, then stops the cluster and removes it.
var cluster = sync.OnceValues(func() (string, error) {
	bin := newest("/usr/lib/postgresql/*/bin")
	if bin == "" {
		return "", nil
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("breakwater-postgres-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	starting, err := lock(filepath.Join(dir, "start.lock"), syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer starting.Close()
	users, err := lock(filepath.Join(dir, "users.lock"), syscall.LOCK_SH) // waits for a keeper at work
	if err != nil {
		return "", err
	}
	inUse = users
	address := "postgres://postgres@/postgres?host=" + dir + "/socket"
	if admin(address, `SELECT 1`) == nil {
		return address, nil
	}
	if err := start(bin, dir); err != nil {
		return "", err
	}
	return address, nil
})

// inUse is the shared lock, held until the process ends.
//
//lint:ignore U1000 a lock is held by a file that nobody reads and nothing collects
var inUse *os.File

func newest(pattern string) string {
	found, _ := filepath.Glob(pattern)
	return slices.MaxFunc(append(found, ""), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) // 9 before 15
	})
}

func lock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// start makes and starts the cluster, and its keeper.
func start(bin, dir string) error {
	if err := create(bin, dir); err != nil {
		return err
	}
	if err := control(bin, dir, "start"); err != nil {
		return err
	}
	keeper := exec.Command("flock", "--exclusive", filepath.Join(dir, "users.lock"), "sh", "-c",
		`kill -QUIT "$(head -n 1 "$0"/data/postmaster.pid)"; sleep 1; rm -rf "$0"/data "$0"/socket`, dir)
	keeper.Dir = "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupted test does not take it along
	return keeper.Start()
}

// create makes a cluster in dir.
func create(bin, dir string) error {
	as, err := account()
	if err != nil {
		return err
	}
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "socket")
	for _, d := range []string{data, socket} {
		if err := errors.Join(os.RemoveAll(d), os.Mkdir(d, 0o700)); err != nil {
			return err
		}
		if as != nil {
			if err := os.Chown(d, int(as.Uid), int(as.Gid)); err != nil {
				return err
			}
		}
	}
	return run(bin, dir, as, "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
}

// control starts or stops the cluster in dir. It loses data in a power cut, so that the
// tests do not wait.
func control(bin, dir string, what ...string) error {
	as, err := account()
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	settings := "-c listen_addresses='' -c unix_socket_directories=" + filepath.Join(dir, "socket") +
		" -c max_connections=300 -c shared_buffers=64MB -c fsync=off -c full_page_writes=off"
	return run(bin, dir, as, "pg_ctl", append([]string{"-D", data, "-w", "-l", filepath.Join(data, "log"), "-o", settings}, what...)...)
}

func run(bin, dir string, as *syscall.Credential, name string, args ...string) error {
	c := exec.Command(filepath.Join(bin, name), args...)
	c.Dir = filepath.Join(dir, "data")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// A Cluster is a PostgreSQL that a test has for itself, to take it away.
type Cluster struct {
	URL string // of its database, which is empty at first

	t        testing.TB
	bin, dir string
}

// Alone starts a cluster that ends with the test, which is skipped where PostgreSQL is
// not installed.
func Alone(t testing.TB) *Cluster {
	t.Helper()
	bin := newest("/usr/lib/postgresql/*/bin")
	if bin == "" {
		missing(t)
	}
	dir, err := os.MkdirTemp("", "postgres") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), create(bin, dir)); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{"postgres://postgres@/postgres?sslmode=disable&host=" + dir + "/socket", t, bin, dir}
	c.Start()
	t.Cleanup(func() { _ = control(bin, dir, "stop", "-m", "immediate") })
	return c
}

// Start starts it again, with what it had.
func (c *Cluster) Start() {
	c.t.Helper()
	if err := control(c.bin, c.dir, "start"); err != nil {
		c.t.Fatal(err)
	}
}

// Stop ends it and every connection: in order (fast), or as a crash does (immediate).
func (c *Cluster) Stop(mode string) {
	c.t.Helper()
	if err := control(c.bin, c.dir, "stop", "-m", mode); err != nil {
		c.t.Fatal(err)
	}
}

// account is who PostgreSQL runs as: it refuses root.
func account() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}
