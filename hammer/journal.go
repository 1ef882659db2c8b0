package hammer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// A kind of thing that has a name in a repository.
type kind string

const (
	kindTag      kind = "tag"
	kindManifest kind = "manifest"
	kindBlob     kind = "blob"
)

// A key names one thing whose history is checked by itself.
type key struct {
	kind kind
	repo string
	name string // tag or digest
}

func (k key) String() string { return string(k.kind) + " " + k.repo + " " + k.name }

func (k key) path() string {
	place := "/manifests/"
	if k.kind == kindBlob {
		place = "/blobs/"
	}
	return "/v2/" + k.repo + place + k.name
}

func parseKey(s string) (key, error) {
	f := strings.Fields(s)
	if len(f) != 3 {
		return key{}, fmt.Errorf("%q is no key", s)
	}
	return key{kind(f[0]), f[1], f[2]}, nil
}

// What a step does to a key.
const (
	doPut    = "put"
	doDelete = "delete"
	doGet    = "get"
)

// A line of the journal. A step has two lines: one before it is asked for and
// one after it was answered. A step without a second line, or with Unknown in
// it, may or may not have happened.
type line struct {
	Run     int64  `json:"run"` // number of the hammer run
	Step    int64  `json:"step"`
	At      int64  `json:"at"` // nanoseconds since 1970
	Do      string `json:"do,omitempty"`
	Key     string `json:"key,omitempty"`
	Value   string `json:"value,omitempty"` // put: the digest; get, at the end: the digest seen, or "" for absent
	End     bool   `json:"end,omitempty"`
	Unknown bool   `json:"unknown,omitempty"`
	Nothing bool   `json:"nothing,omitempty"` // delete: there was nothing
	Refused bool   `json:"refused,omitempty"` // certainly not done
	Implied bool   `json:"implied,omitempty"` // the request of another step did it; it has no event of its own
}

// A journal is the memory of the judge. It belongs on another file system than
// the registry's data; a line is on disk before write returns.
type journal struct {
	mu   sync.Mutex
	file *os.File
	run  int64
	step int64
}

// openJournal continues the journal at path with a new run.
func openJournal(path string) (*journal, error) {
	old, err := readJournal(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, run: 1}
	if n := len(old); n > 0 {
		j.run = old[n-1].Run + 1
	}
	return j, j.write(line{}) // the start of a run bounds what was under way in the last one
}

func (j *journal) write(l line) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	l.Run, l.At = j.run, time.Now().UnixNano()
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(text, '\n')); err != nil {
		return err
	}
	return j.file.Sync()
}

// begin writes that a step will be asked for, and returns its number.
func (j *journal) begin(l line) (int64, error) {
	j.mu.Lock()
	j.step++
	l.Step = j.step
	j.mu.Unlock()
	return l.Step, j.write(l)
}

func (j *journal) Close() error { return j.file.Close() }

// readJournal reads all whole lines; a torn last line was never acted upon.
func readJournal(path string) ([]line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []line
	r := bufio.NewReader(f)
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, len(lines)+1, err)
		}
		lines = append(lines, l)
	}
}
