package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"breakwater/hammer"
)

// writes are the system calls that change what a disk holds.
var writes = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_WRITEV: "writev", unix.SYS_PWRITEV: "pwritev",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC_FILE_RANGE: "sync_file_range",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_LINKAT: "linkat",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_OPENAT: "openat",
}

// A verdict says what happens to one write-type system call.
type verdict struct {
	kill bool
	fail syscall.Errno // 0 lets it through
}

// A tracer counts the write-type system calls of a process on files below a
// directory, over all of its threads, and decides on each before it happens.
// (strace counts for each thread by itself, which for a Go program is no order.)
// It stays until the process ends.
type tracer struct {
	pid   int
	below string // only calls on files below this directory count

	mu     sync.Mutex
	count  int
	decide func(n int, name, path string) verdict // nil lets everything through
}

// trace attaches to a running process.
func trace(t *testing.T, pid int, below string) *tracer {
	t.Helper()
	tr := &tracer{pid: pid, below: below}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // ptrace belongs to one thread; it ends with the goroutine
		if err := tr.run(ready); err != nil {
			t.Errorf("trace %d: %v", pid, err)
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("trace %d: %v", pid, err)
	}
	return tr
}

// from counts from 1 again, and has decide decide.
func (tr *tracer) from(decide func(n int, name, path string) verdict) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.count, tr.decide = 0, decide
}

func (tr *tracer) verdict(name, path string) verdict {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.decide == nil {
		return verdict{}
	}
	tr.count++
	return tr.decide(tr.count, name, path)
}

func (tr *tracer) run(ready chan<- error) error {
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD
	inside := map[int]bool{} // is the thread in a system call?
	failing := map[int]syscall.Errno{}
	for seized := -1; seized < len(inside); { // until there is no thread that another has started meanwhile
		seized = len(inside)
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", tr.pid))
		if err != nil || len(tasks) == 0 {
			ready <- fmt.Errorf("no such process: %v", err)
			return nil
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(filepath.Base(task))
			if _, done := inside[tid]; done {
				continue
			}
			if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0); errno == unix.ESRCH || errno == unix.EPERM {
				continue // gone, or a child of one that is traced, and so traced already
			} else if errno != 0 {
				ready <- fmt.Errorf("seize %d: %w", tid, errno)
				return nil
			}
			inside[tid] = false
			_ = unix.PtraceInterrupt(tid)
		}
	}
	ready <- nil
	for len(inside) > 0 {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil // nothing left to wait for
		}
		if status.Exited() || status.Signaled() {
			delete(inside, tid)
			continue
		}
		pass := 0
		switch sig := status.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			inside[tid] = !inside[tid]
			tr.atSyscall(tid, inside[tid], failing)
		case status>>16 != 0: // an event: a clone, or the stop of an interrupt
		case sig == unix.SIGTRAP || sig == unix.SIGSTOP:
		default:
			pass = int(sig)
		}
		if _, known := inside[tid]; !known {
			inside[tid] = false
		}
		if err := unix.PtraceSyscall(tid, pass); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("go on %d: %w", tid, err)
		}
	}
	return nil
}

// atSyscall decides at the entry of a call, and at its exit puts the error in
// that a refused call returns.
func (tr *tracer) atSyscall(tid int, entry bool, failing map[int]syscall.Errno) {
	var regs unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &regs) != nil {
		return
	}
	if !entry {
		if errno := failing[tid]; errno != 0 {
			delete(failing, tid)
			regs.Rax = uint64(-int64(errno))
			_ = unix.PtraceSetRegs(tid, &regs)
		}
		return
	}
	name, ok := writes[regs.Orig_rax]
	if !ok {
		return
	}
	path := ""
	switch regs.Orig_rax {
	case unix.SYS_OPENAT:
		if regs.Rdx&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			return
		}
		path = tr.text(tid, uintptr(regs.Rsi))
	case unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		path = tr.text(tid, uintptr(regs.Rsi))
	case unix.SYS_RENAME, unix.SYS_UNLINK:
		path = tr.text(tid, uintptr(regs.Rdi))
	default:
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, regs.Rdi))
	}
	if rel, err := filepath.Rel(tr.below, path); err != nil || rel == ".." || len(rel) > 2 && rel[:3] == "../" {
		return
	}
	v := tr.verdict(name, path)
	if v.kill {
		_ = unix.Kill(tr.pid, unix.SIGKILL)
	}
	if v.fail != 0 {
		failing[tid] = v.fail
		regs.Orig_rax = ^uint64(0) // no such call: the kernel skips it
		_ = unix.PtraceSetRegs(tid, &regs)
	}
}

// text reads a path from the memory of the process.
func (tr *tracer) text(tid int, at uintptr) string {
	var buf [4096]byte
	n, _ := unix.PtracePeekData(tid, at, buf[:256])
	for i, c := range buf[:n] {
		if c == 0 {
			return string(buf[:i])
		}
	}
	return string(buf[:n])
}

// F-02: kill -9 at every write-type system call of a push, whichever comes.
func TestAcknowledgedWritesSurviveKillAtEveryWriteOfAPush(t *testing.T) {
	s := newPatient(t, t.TempDir())
	s.start()
	s.hammer(hammer.Options{Workers: 1, Steps: 1, Duration: time.Minute})
	points := 0
	for n, at := 1, "its start"; at != ""; n += count("BREAKWATER_TEST_STRIDE", 1) {
		at = ""
		tr := trace(t, s.cmd.Process.Pid, s.data)
		tr.from(func(i int, name, path string) verdict {
			if i == n {
				at = name + " " + filepath.Base(path)
			}
			return verdict{kill: i == n}
		})
		sum := s.hammer(hammer.Options{Workers: 1, Steps: 1, Duration: time.Minute, Seed: 7})
		s.kill()
		tr.from(nil)
		if at != "" {
			points++
		} else if sum.Unknown > 0 {
			t.Fatalf("nobody was killed, and yet %+v", sum)
		}
		s.start()
		s.verifyLastRun()
	}
	s.verify()
	t.Logf("killed at each of %d writes", points)
	if points < 10 {
		t.Errorf("a push has only %d writes?", points)
	}
}

// F-05, F-08, F-09: every write of a push fails once. A refusal is clean, what
// was there stays readable, and after a failed fsync the process stops itself.
func TestAFailedWriteIsACleanRefusal(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			s := newPatient(t, t.TempDir())
			s.start()
			s.hammer(hammer.Options{Workers: 1, Steps: 4, Duration: time.Minute})
			stops, refusals := 0, int64(0)
			tr := trace(t, s.cmd.Process.Pid, s.data)
			for n, at := 1, "its start"; at != ""; n += count("BREAKWATER_TEST_STRIDE", 1) {
				at = ""
				tr.from(func(i int, name, path string) verdict {
					if i != n {
						return verdict{}
					}
					at = name + " " + filepath.Base(path)
					return verdict{fail: errno}
				})
				sum := s.hammer(hammer.Options{Workers: 1, Steps: 1, Duration: time.Minute, Seed: uint64(n)})
				tr.from(nil)
				refusals += sum.Refused
				switch died := s.died(); {
				case died:
					stops++
					s.kill()
					s.start()
					tr = trace(t, s.cmd.Process.Pid, s.data)
				case sum.Unknown > 0:
					t.Errorf("%v at %s: no answer, and the process lives", errno, at)
				case errno == syscall.EIO && strings.Contains(at, "sync "):
					t.Errorf("%v at %s: the process goes on after a failed fsync", errno, at)
				}
				s.verifyLastRun()
			}
			s.verify()
			t.Logf("%d clean refusals, %d stops", refusals, stops)
			if refusals == 0 || stops == 0 {
				t.Error("nothing was refused, or nothing stopped: the faults did not hit")
			}
		})
	}
}
