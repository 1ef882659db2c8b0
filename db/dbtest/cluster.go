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

// start makes and starts the cluster, and its keeper. It loses data in a power cut, so that the tests do not wait.
func start(bin, dir string) error {
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
	run := func(name string, args ...string) error {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir = data
		c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	if err := run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return err
	}
	settings := "-c listen_addresses='' -c unix_socket_directories=" + socket +
		" -c max_connections=300 -c shared_buffers=64MB -c fsync=off -c full_page_writes=off"
	if err := run("pg_ctl", "-D", data, "-w", "-l", filepath.Join(data, "log"), "-o", settings, "start"); err != nil {
		return err
	}
	keeper := exec.Command("flock", "--exclusive", filepath.Join(dir, "users.lock"), "sh", "-c",
		`kill -QUIT "$(head -n 1 "$0"/data/postmaster.pid)"; sleep 1; rm -rf "$0"/data "$0"/socket`, dir)
	keeper.Dir = "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupted test does not take it along
	return keeper.Start()
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
