package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"breakwater/fault"
	"breakwater/seal"
)

// window is the length of what must be found nowhere: every run of so many bytes of
// what was pushed or is secret.
const window = 32

// A search finds any window of its needles in whatever it is given.
type search struct {
	seen    []uint64          // bits: which first three bytes a window has
	windows map[uint64][]byte // by the first eight bytes; one is enough to be found
	more    map[uint64][][]byte
}

func newSearch() *search {
	return &search{seen: make([]uint64, 1<<24/64), windows: map[uint64][]byte{}, more: map[uint64][][]byte{}}
}

func (s *search) add(needle []byte) {
	for i := 0; i+window <= len(needle); i++ {
		w := needle[i : i+window]
		short, long := binary.LittleEndian.Uint32(w)&0xffffff, binary.LittleEndian.Uint64(w)
		s.seen[short/64] |= 1 << (short % 64)
		if there, ok := s.windows[long]; !ok {
			s.windows[long] = w
		} else if !bytes.Equal(there, w) {
			s.more[long] = append(s.more[long], w)
		}
	}
}

// in is the first window found, or nil.
func (s *search) in(hay []byte) []byte {
	for i := 0; i+window <= len(hay); i++ {
		if hay[i] == 0 && hay[i+window-1] == 0 && len(bytes.TrimLeft(hay[i:i+window], "\x00")) == 0 {
			i += window - 2 // never written: no needle is only zeros
			continue
		}
		short := binary.LittleEndian.Uint32(hay[i:]) & 0xffffff
		if s.seen[short/64]&(1<<(short%64)) == 0 {
			continue
		}
		long := binary.LittleEndian.Uint64(hay[i:])
		if w, ok := s.windows[long]; ok && bytes.Equal(w, hay[i:i+window]) {
			return w
		}
		for _, w := range s.more[long] {
			if bytes.Equal(w, hay[i:i+window]) {
				return w
			}
		}
	}
	return nil
}

// leaks DIR FILE...: some file below DIR, or of the database if that is "postgres",
// has 32 bytes of one of the files, as they are or (of short ones) in hexadecimal or base64.
func leaks(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: leaks DIR FILE...")
	}
	s := newSearch()
	for _, name := range args[1:] {
		needle := bytes.TrimSpace([]byte(ts.ReadFile(name)))
		if len(needle) < window {
			ts.Fatalf("%s has no %d bytes", name, window)
		}
		s.add(needle)
		if len(needle) <= 4096 {
			s.add([]byte(hex.EncodeToString(needle)))
			for i := range 3 { // as it stands in something longer
				for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
					s.add([]byte(e.EncodeToString(needle[i : len(needle)-(len(needle)-i)%3])))
				}
			}
		}
	}
	searched, found := 0, ""
	look := func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // the server runs: files go
			return nil
		}
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		searched++
		if w := s.in(content); w != nil {
			found = path + " has " + strconv.Quote(string(w))
			return fs.SkipAll
		}
		return nil
	}
	var err error
	if args[0] == "postgres" {
		err = lookThroughPostgres(ts, look)
	} else {
		err = filepath.WalkDir(ts.MkAbs(args[0]), look)
	}
	ts.Check(err)
	switch {
	case searched == 0:
		ts.Fatalf("%s has no files", args[0])
	case neg && found != "":
		ts.Fatalf("%s", found)
	case !neg && found == "":
		ts.Fatalf("nothing was found in %d files", searched)
	}
}

// lookThroughPostgres looks at the files of the story's database and at the newest of
// the log.
func lookThroughPostgres(ts *testscript.TestScript, look fs.WalkDirFunc) error {
	at, err := url.Parse(ts.Getenv("DATABASE"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, ts.Getenv("DATABASE"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, `CHECKPOINT`); err != nil {
		return err
	}
	var oid uint32
	var log string
	if err := c.QueryRow(ctx, `SELECT oid, pg_walfile_name(pg_current_wal_lsn()) FROM pg_database WHERE datname = current_database()`).Scan(&oid, &log); err != nil {
		return err
	}
	data := filepath.Join(filepath.Dir(at.Query().Get("host")), "data")
	err = filepath.WalkDir(filepath.Join(data, "base", strconv.FormatUint(uint64(oid), 10)), look)
	if err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(data, "pg_wal", log), look)
}

// damage HOW SIZE does something to the objects in $DATA that hold so many bytes of
// content; damage flip FILE changes a bit in the middle of any file. From here on the
// log may have errors that tell of damage.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: damage HOW SIZE|FILE")
	}
	ts.Value(theServer).(*server).damaged = true
	var files []string
	if size, err := strconv.ParseInt(args[1], 10, 64); err != nil {
		files = []string{ts.MkAbs(args[1])}
	} else {
		all, err := filepath.Glob(ts.Getenv("DATA") + "/objects/*/*")
		ts.Check(err)
		for _, f := range all {
			info, err := os.Stat(f)
			ts.Check(err)
			if n, err := seal.Size(info.Size()); err == nil && n == size {
				files = append(files, f)
			}
		}
	}
	if len(files) == 0 {
		ts.Fatalf("no object has %s bytes", args[1])
	}
	content := make([][]byte, len(files))
	for i, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		content[i] = b
	}
	const segment = 1 << 16
	for i, f := range files {
		b := bytes.Clone(content[i])
		switch args[0] {
		case "flip":
			b[len(b)/2] ^= 1
		case "flip-head": // of the key's version
			b[11] ^= 1
		case "flip-end":
			b[len(b)-1] ^= 1
		case "cut": // at the end of a segment
			b = b[:2*segment]
		case "grow":
			b = append(b, 0)
		case "empty":
			b = nil
		case "reorder":
			copy(b[segment:], content[i][2*segment:3*segment])
			copy(b[2*segment:], content[i][segment:2*segment])
		case "repeat":
			copy(b[2*segment:3*segment], content[i][segment:2*segment])
		case "swap":
			if len(files) != 2 {
				ts.Fatalf("%d objects have %s bytes, not two", len(files), args[1])
			}
			b = content[1-i]
		case "keep": // the story gives it back
			ts.Check(os.WriteFile(ts.MkAbs("kept"), b, 0o600))
			continue
		case "back":
			b = []byte(ts.ReadFile("kept"))
		case "remove":
			ts.Check(os.Remove(f))
			continue
		default:
			ts.Fatalf("damage: how is %q?", args[0])
		}
		ts.Check(os.WriteFile(f, b, 0o600))
	}
}

// pull PATH FILE is what a client gets who checks nothing: the whole file, or nothing
// that is not its beginning. ! pull: and it is told that this is not all, by a status of
// 500 that says what to do or by a broken connection.
func pull(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] pull PATH FILE")
	}
	want := []byte(ts.ReadFile(args[1]))
	r, err := http.NewRequest("GET", "https://"+ts.Getenv("HOST")+args[0], nil)
	ts.Check(err)
	r.SetBasicAuth(ts.Getenv("USERNAME"), ts.Getenv("PASSWORD"))
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM([]byte(ts.ReadFile(ts.Getenv("CA"))))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	ts.Check(err)
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	switch {
	case response.StatusCode == fault.Damaged.Row().Status && neg:
		if err != nil || !strings.Contains(string(got), "damaged") || !strings.Contains(string(got), "push it again") {
			ts.Fatalf("%v %s", err, got)
		}
	case response.StatusCode != http.StatusOK:
		ts.Fatalf("%s %s", response.Status, got)
	case !bytes.HasPrefix(want, got):
		ts.Fatalf("%d bytes came that are not the beginning of %s", len(got), args[1])
	case neg && err == nil:
		ts.Fatalf("%d of %d bytes came, and no error", len(got), len(want))
	case !neg && (err != nil || len(got) != len(want)):
		ts.Fatalf("%d of %d bytes came: %v", len(got), len(want), err)
	}
}
