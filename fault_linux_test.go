package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"breakwater/db/dbtest"
	"breakwater/hammer"
)

// Faults are tried on the real binary: the hammer works, something breaks, the
// server comes back, and the hammer's journal is held against the registry
// (threats.md §2.3 and §2.4).

// A patient is a server that may die, its data, and the judge's journal, which
// lies on another file system where there is one.
type patient struct {
	t       *testing.T
	data    string
	journal string
	args    []string
	ops     string
	cmd     *exec.Cmd
	gone    chan error
	log     *os.File
	target  hammer.Target // the owner's login
}

func newPatient(t *testing.T, data string, flags ...string) *patient {
	t.Helper()
	memory, err := os.MkdirTemp("/dev/shm", "journal")
	if err != nil {
		memory = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	s := &patient{t: t, data: data, journal: filepath.Join(memory, "journal"), ops: "127.0.0.1:" + freePort(t)}
	s.args = append([]string{"serve", "--data", data, "--listen", "localhost:" + freePort(t), "--ops", s.ops}, flags...)
	if s.log, err = os.Create(filepath.Join(t.TempDir(), "serve.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			text, _ := os.ReadFile(s.log.Name())
			t.Logf("the end of the server's log:\n%s", text[max(0, len(text)-8<<10):])
		}
	})
	return s
}

// start returns when the server is ready; after a crash that needs no human and
// takes less than 5 s of a processor. How long that is depends on who else is here.
func (s *patient) start() {
	s.t.Helper()
	binary, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(binary, s.args...)
	s.cmd.Args[0] = "breakwater"
	s.cmd.Stderr, s.cmd.Stdout = s.log, s.log
	if s.gone, err = traceable(s.cmd); err != nil {
		s.t.Fatal(err)
	}
	begun := time.Now()
	for !s.ready() {
		select {
		case err := <-s.gone:
			s.t.Fatalf("the server does not start: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if used := processorTime(s.cmd.Process.Pid); used > 5*time.Second || time.Since(begun) > time.Minute {
			s.t.Fatalf("the server is not ready after %v, of which it had a processor for %v", time.Since(begun), used)
		}
	}
	owner, err := dial(filepath.Join(s.data, "owner.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.target = owner.target()
}

// traceable starts a process that a tracer may attach to, and tells how it ends.
func traceable(c *exec.Cmd) (gone chan error, err error) {
	var process int
	c.SysProcAttr = &syscall.SysProcAttr{PidFD: &process}
	if err := c.Start(); err != nil {
		return nil, err
	}
	gone = make(chan error, 1)
	go func() {
		// Wait alone would also take the stops that are meant for a tracer.
		for err := error(unix.EINTR); err == unix.EINTR; {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, -1)
		}
		_ = unix.Close(process)
		gone <- c.Wait()
	}()
	return gone, nil
}

// processorTime is what a process has used so far (clock_getcpuclockid(3)); 0 if it
// has ended.
func processorTime(pid int) time.Duration {
	var used unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &used) != nil {
		return 0
	}
	return time.Duration(used.Nano())
}

func (s *patient) ready() bool {
	answer, err := http.Get("http://" + s.ops + "/readyz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// kill is kill -9, if the server still runs.
func (s *patient) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.gone
		s.cmd = nil
	}
}

// died waits a moment for the server to end by itself.
func (s *patient) died() bool {
	select {
	case err := <-s.gone:
		s.gone <- err
		return true
	case <-time.After(300 * time.Millisecond):
		return false
	}
}

func (s *patient) hammer(o hammer.Options) hammer.Summary {
	s.t.Helper()
	o.Target, o.Journal, o.Prefix = s.target, s.journal, "hammer"
	sum, err := hammer.Run(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	return sum
}

// verify holds the journal against the registry and its ledger.
func (s *patient) verify() hammer.Report {
	s.t.Helper()
	owner, err := dial(filepath.Join(s.data, "owner.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.judge(false, owner.hammered)
}

// verifyLastRun reads back only what the last run of the hammer touched.
func (s *patient) verifyLastRun() {
	s.t.Helper()
	s.judge(true, nil)
}

func (s *patient) judge(lastRun bool, events func(context.Context) ([]hammer.Event, error)) hammer.Report {
	s.t.Helper()
	report, err := hammer.Verify(s.t.Context(), s.target, s.journal, lastRun, events)
	if err != nil {
		s.t.Fatal(err)
	}
	if !report.OK() {
		text, _ := json.MarshalIndent(report, "", "  ")
		s.t.Fatalf("%s", text)
	}
	return report
}

// count is the number in an environment variable, by which CI and longer
// campaigns ask for more than a developer's run.
func count(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// F-01: kill -9 at any time.
func TestAcknowledgedWritesSurviveKill9(t *testing.T) {
	cycles := count("BREAKWATER_TEST_KILLS", 8)
	for engine, flags := range map[string]func(*testing.T) []string{
		"SQLite":     func(*testing.T) []string { return nil },
		"PostgreSQL": func(t *testing.T) []string { return []string{"--database", dbtest.PostgresURL(t)} },
	} {
		t.Run(engine, func(t *testing.T) {
			s := newPatient(t, t.TempDir(), flags(t)...)
			var all hammer.Summary
			for cycle := range cycles {
				s.start()
				if cycle > 0 {
					s.verifyLastRun()
				}
				time.AfterFunc(time.Duration(100+(cycle*389)%900)*time.Millisecond, func() { _ = s.cmd.Process.Kill() })
				sum := s.hammer(hammer.Options{Workers: 6, Duration: 10 * time.Second, Seed: uint64(cycle)})
				all.Acknowledged += sum.Acknowledged
				all.Unknown += sum.Unknown
				s.kill()
			}
			s.start()
			report := s.verify()
			t.Logf("%d kills, %d steps acknowledged, %d without an answer; judged %d names, %d tags, %d events: nothing lost",
				cycles, all.Acknowledged, all.Unknown, report.Keys, report.Checked, report.Events)
			if all.Acknowledged < int64(cycles) || all.Unknown == 0 {
				t.Errorf("the hammer did not hit: %+v", all)
			}
		})
	}
}

// F-05 on a real full disk: pushes are refused, reads go on, and when there is
// room again pushes succeed without a restart.
func TestAFullDiskRefusesPushesAndNothingElse(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=192m"); err != nil {
		if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
			t.Fatal(err)
		}
		t.Skip("no file system can be mounted here: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	s := newPatient(t, filepath.Join(disk, "data"))
	s.start()
	s.hammer(hammer.Options{Workers: 4, Steps: 6, Duration: time.Minute})

	filler := filepath.Join(disk, "filler")
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	sum := s.hammer(hammer.Options{Workers: 4, Steps: 20, Duration: 20 * time.Second, Seed: 1})
	if sum.Refused == 0 || sum.Unknown > 0 {
		t.Errorf("on a full disk: %+v; want refusals and an answer to everything", sum)
	}
	s.judge(false, nil) // reads go on; the ledger's list waits for room, rather than leave out the newest
	if s.died() {
		t.Fatal("the server stopped")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if sum := s.hammer(hammer.Options{Workers: 4, Steps: 6, Duration: time.Minute, Seed: 2}); sum.Refused > 0 || sum.Unknown > 0 {
		t.Errorf("with room again: %+v; want every push acknowledged", sum)
	}
	s.verify()
}

// fill takes all the room there is.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		piece := make([]byte, size)
		rand.Read(piece)
		for err == nil {
			_, err = f.Write(piece)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}
