package db

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/vfs"
)

const (
	keySize = 32
	// readerMemory and writerMemory bound what SQLite takes for a connection,
	// outside the Go heap where GOMEMLIMIT does not see it. A statement holds a
	// row and its arguments; the largest value is a manifest of 4 MiB.
	readerMemory = 48 << 20
	writerMemory = 96 << 20
	// quickCheckMax is the largest file that Open examines as a whole: about 0.1 s.
	quickCheckMax = 16 << 20
)

// busyTimeout is how long a lock is awaited. Only another process, a backup for instance, could hold one.
const busyTimeout = 5 * time.Second

// both are the settings of every connection.
const both = `
PRAGMA foreign_keys = ON;       -- the database itself refuses a bad delete
PRAGMA temp_store = MEMORY;     -- nothing spills into a directory that we did not choose
PRAGMA mmap_size = 0;           -- an I/O error must be an error, not a SIGBUS; and the cipher needs the reads
PRAGMA trusted_schema = OFF;    -- a damaged or forged schema calls no functions
PRAGMA cell_size_check = ON;    -- damage shows where it is, not later
PRAGMA cache_size = -4096;      -- KiB for each connection, deciphered
PRAGMA secure_delete = ON;      -- what is deleted is overwritten: keys and secrets end with their rows
PRAGMA page_size = 4096;        -- a page is a unit of the cipher
`

// writing are the settings of the writer.
const writing = `
PRAGMA journal_mode = WAL;      -- readers never wait for the writer, a commit is one append and one fsync
PRAGMA synchronous = FULL;      -- the log is fsynced before COMMIT returns: what is acknowledged is durable
PRAGMA wal_autocheckpoint = 0;  -- writer.checkpoint does it: after the commit is answered, and with its error seen
PRAGMA journal_size_limit = 33554432; -- a burst does not keep the log large for ever
`

// reading are the settings of a reader. It never commits, hence never
// checkpoints: versions before 3.51.3 could corrupt the file when a checkpoint
// raced a writer on another connection, so only the writer does it.
const reading = `
PRAGMA query_only = ON;
PRAGMA wal_autocheckpoint = 0;
`

// lite is SQLite: one connection that writes, and a few that read.
type lite struct {
	file    string // path
	name    string // of the VFS that knows the key
	writer  *writer
	readers *pool
}

// openSQLite opens the file through base, the operating system's VFS but in tests of its failures.
func openSQLite(ctx context.Context, o Options, base vfs.VFS) (*lite, error) {
	if len(o.Key) != keySize {
		return nil, fmt.Errorf("db: SQLite needs a key of %d bytes", keySize)
	}
	file, err := filepath.Abs(o.Source)
	if err != nil {
		return nil, err
	}
	if err := own(file); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if o.Readers == 0 {
		o.Readers = min(max(4, 2*runtime.GOMAXPROCS(0)), 16)
	}
	d := &lite{file: file, name: "breakwater-" + rand.Text()}
	vfs.Register(d.name, &cipherVFS{VFS: base, key: bytes.Clone(o.Key)})
	d.readers = &pool{slots: make(chan struct{}, o.Readers), open: func(ctx context.Context) (*conn, error) {
		return d.connect(ctx, readerMemory, both+reading)
	}}
	if err := d.start(ctx, o); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// own makes sure that the files are ours alone, before SQLite makes them with the umask's mode.
func own(file string) error {
	dir := filepath.Dir(file)
	for _, name := range []string{file, file + "-wal", file + "-shm"} {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		err = f.Chmod(0o600)
		f.Close()
		if err != nil {
			return err
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d *lite) start(ctx context.Context, o Options) error {
	c, err := d.connect(ctx, writerMemory, both)
	if err == nil {
		// Each page carries a checksum under the cipher, verified whenever it is read:
		// a flipped bit anywhere in the page makes noise of it, and the noise is an
		// error instead of an answer. A new file is rewritten for it, another has it.
		if err = c.EnableChecksums("main"); err == nil {
			err = c.Exec(writing + `SELECT count(*) FROM sqlite_schema`) // and the log is open, and stays
		}
	}
	if errors.Is(err, sqlite3.NOTADB) {
		return fmt.Errorf("open database %s: it is no database of Breakwater, or its key is another one", d.file)
	}
	if err != nil {
		return fmt.Errorf("open database %s: %w", d.file, explain(ctx, err))
	}
	d.writer = newWriter(c, o.Fatal)
	migrator, err := driver.Open(d.uri(), func(c *sqlite3.Conn) error { return c.Exec(both + writing) })
	if err != nil {
		return err
	}
	defer migrator.Close()
	migrator.SetMaxOpenConns(1)
	if err := migrate(ctx, migrator, SQLite); err != nil {
		return explain(ctx, err)
	}
	if info, err := os.Stat(d.file); err == nil && info.Size() <= quickCheckMax {
		if err := quickCheck(ctx, migrator); err != nil {
			return err
		}
	}
	return own(d.file) // SQLite has made the index of the log anew
}

func quickCheck(ctx context.Context, pool *sql.DB) error {
	var verdict string
	if err := pool.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return fmt.Errorf("examine the database: %w", explain(ctx, err))
	}
	if verdict != "ok" {
		return fmt.Errorf("the database is damaged (%s): restore it from a backup", verdict)
	}
	return nil
}

func (d *lite) uri() string {
	q := url.Values{"vfs": {d.name}, "modeof": {d.file}}
	escaped := strings.ReplaceAll(q.Encode(), "+", "%20") // SQLite knows no other space
	return (&url.URL{Scheme: "file", Path: d.file, RawQuery: escaped}).String()
}

func (d *lite) connect(ctx context.Context, memory int64, settings string) (*conn, error) {
	s, err := sqlite3.OpenContext(sqlite3.WithMaxMemory(ctx, memory), d.uri())
	if err != nil {
		return nil, err
	}
	s.Config(sqlite3.DBCONFIG_DEFENSIVE, true)
	s.Config(sqlite3.DBCONFIG_ENABLE_QPSG, true) // else a statement is parsed again whenever its arguments could change its plan
	s.BusyTimeout(busyTimeout)
	s.SetInterrupt(context.Background())
	if err := s.Exec(settings); err != nil {
		s.Close()
		return nil, err
	}
	return &conn{Conn: s, stmts: make(map[string]*stmt)}, nil
}

func (d *lite) query(ctx context.Context, text string, args []any) (*Rows, error) {
	c, err := d.readers.get(ctx)
	if err != nil {
		return nil, explain(ctx, err)
	}
	r, err := c.query(ctx, text, args)
	if err != nil {
		d.readers.put(c)
		return nil, err
	}
	r.cursor.(*stmt).back = d.readers
	return r, nil
}

func (d *lite) read(ctx context.Context, fn func(*Tx) error) error {
	c, err := d.readers.get(ctx)
	if err != nil {
		return explain(ctx, err)
	}
	defer d.readers.put(c)
	if _, err := c.exec(ctx, `BEGIN`, nil); err != nil {
		return err
	}
	defer c.exec(context.Background(), `ROLLBACK`, nil)
	return (&Tx{run: c}).call(fn)
}

func (d *lite) write(ctx context.Context, _ bool, fn func(*Tx) error) error {
	return explain(ctx, d.writer.write(ctx, fn))
}

func (d *lite) settle(ctx context.Context) error { return d.writer.settle(ctx) }

func (d *lite) check(ctx context.Context) error {
	return row(d.query(ctx, `SELECT count(*) FROM sqlite_schema`, nil)).Scan(new(int))
}

func (d *lite) close() error {
	err := d.readers.close()
	if d.writer != nil {
		err = errors.Join(err, d.writer.close())
	}
	vfs.Unregister(d.name)
	return err
}

// pool keeps idle readers, the last used on top: its pages are the warmest.
type pool struct {
	open  func(context.Context) (*conn, error)
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

func (p *pool) get(ctx context.Context) (*conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.slots
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	c, err := p.open(ctx)
	if err != nil {
		<-p.slots
	}
	return c, err
}

func (p *pool) put(c *conn) {
	c.SetInterrupt(context.Background())
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	<-p.slots
}

// close waits for the readers in use.
func (p *pool) close() error {
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	var err error
	for _, c := range idle {
		err = errors.Join(err, c.close())
	}
	for range cap(p.slots) {
		<-p.slots
	}
	return err
}

// conn is one connection and its prepared statements, by text.
type conn struct {
	*sqlite3.Conn
	stmts  map[string]*stmt
	steady bool // no context interrupts a statement
}

// stmtsMax bounds the prepared statements of a connection. There are as many as
// texts in the program; multi-row inserts of varying length could make more.
const stmtsMax = 256

// stmt is a prepared statement, and the cursor over its rows: it runs once at a time.
type stmt struct {
	*sqlite3.Stmt
	c      *conn
	order  []int // parameter i+1 takes argument order[i], counted from 1
	args   int   // how many arguments there are
	cols   int
	cached bool
	inUse  bool
	back   *pool // where the connection goes at the end, nil inside a transaction
}

// prepare finds or compiles text. SQLite numbers $n in the order in which it
// meets them, PostgreSQL by n: so each parameter is asked for its name.
func (c *conn) prepare(text string) (*stmt, error) {
	if s := c.stmts[text]; s != nil && !s.inUse {
		s.inUse = true
		return s, nil
	}
	compiled, tail, err := c.PrepareFlags(text, sqlite3.PREPARE_PERSISTENT)
	if err != nil {
		return nil, err
	}
	s := &stmt{Stmt: compiled, c: c, inUse: true}
	if compiled == nil || strings.TrimSpace(tail) != "" {
		compiled.Close()
		return nil, errors.New("db: a text has one statement")
	}
	for i := range compiled.BindCount() {
		name := compiled.BindName(i + 1)
		n, err := strconv.Atoi(strings.TrimPrefix(name, "$"))
		if err != nil || n < 1 || n > 999 || name[0] != '$' {
			compiled.Close()
			return nil, fmt.Errorf("db: a placeholder is $1 to $999, not %q", name)
		}
		s.order = append(s.order, n)
		s.args = max(s.args, n)
	}
	s.cols = compiled.ColumnCount()
	if c.stmts[text] != nil {
		return s, nil // the cached one is in use
	}
	if len(c.stmts) >= stmtsMax {
		for text, old := range c.stmts {
			if !old.inUse {
				old.Close()
				delete(c.stmts, text)
			}
		}
	}
	s.cached = true
	c.stmts[text] = s
	return s, nil
}

// start prepares text and binds args.
func (c *conn) start(ctx context.Context, text string, args []any) (*stmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !c.steady {
		c.SetInterrupt(ctx)
	}
	s, err := c.prepare(text)
	if err != nil {
		return nil, explain(ctx, err)
	}
	if err := s.bind(args); err != nil {
		s.end()
		return nil, explain(ctx, err)
	}
	return s, nil
}

func (c *conn) query(ctx context.Context, text string, args []any) (*Rows, error) {
	s, err := c.start(ctx, text, args)
	if err != nil {
		return nil, err
	}
	return &Rows{cursor: s}, nil
}

func (c *conn) exec(ctx context.Context, text string, args []any) (int64, error) {
	s, err := c.start(ctx, text, args)
	if err != nil {
		return 0, err
	}
	err = s.Exec()
	n := c.Changes()
	s.end()
	if err != nil {
		return 0, explain(ctx, err)
	}
	return n, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return c.Conn.Close()
}

func (s *stmt) bind(args []any) error {
	if len(args) != s.args {
		return fmt.Errorf("db: the text has %d placeholders, there are %d arguments", s.args, len(args))
	}
	for i, n := range s.order {
		if err := s.bindOne(i+1, args[n-1]); err != nil {
			return fmt.Errorf("argument $%d: %w", n, err)
		}
	}
	return nil
}

func (s *stmt) bindOne(i int, v any) error {
	switch v := v.(type) {
	case nil:
		return s.BindNull(i)
	case string:
		return s.BindText(i, v)
	case int64:
		return s.BindInt64(i, v)
	case int:
		return s.BindInt64(i, int64(v))
	case bool:
		return s.BindBool(i, v)
	case []byte:
		return s.BindBlob(i, v)
	case float64:
		return s.BindFloat(i, v)
	}
	v, err := plain(v)
	if err != nil {
		return err
	}
	return s.bindOne(i, v)
}

func (s *stmt) next() bool { return s.Step() }

// end makes the statement, and outside a transaction its connection, ready for the next.
func (s *stmt) end() error {
	if !s.inUse {
		return nil
	}
	err := s.Err()
	if err != nil {
		err = explain(s.c.GetInterrupt(), err)
	}
	s.Reset()
	s.ClearBindings() // a manifest's bytes are not kept
	s.inUse = false
	if !s.cached {
		s.Close()
	}
	if p := s.back; p != nil {
		s.back = nil
		p.put(s.c)
	}
	return err
}

func (s *stmt) scan(dest []any) error {
	if len(dest) != s.cols {
		return fmt.Errorf("db: the row has %d columns, there are %d destinations", s.cols, len(dest))
	}
	for i, d := range dest {
		if err := s.column(i, d); err != nil {
			return fmt.Errorf("scan column %d (%s): %w", i+1, s.ColumnName(i), err)
		}
	}
	return s.Err()
}

// column copies one column. It is as strict as PostgreSQL: text is no number.
func (s *stmt) column(i int, dest any) error {
	kind := s.ColumnType(i)
	switch d := dest.(type) {
	case *string:
		if kind != sqlite3.TEXT {
			break
		}
		*d = s.ColumnText(i)
		return nil
	case *[]byte:
		switch kind {
		case sqlite3.NULL:
			*d = nil
		case sqlite3.BLOB, sqlite3.TEXT:
			raw := s.ColumnRawBlob(i)
			*d = append(make([]byte, 0, len(raw)), raw...)
		default:
			return mismatch(kind, dest)
		}
		return nil
	case *int64:
		if kind != sqlite3.INTEGER {
			break
		}
		*d = s.ColumnInt64(i)
		return nil
	case *int:
		if kind != sqlite3.INTEGER {
			break
		}
		*d = int(s.ColumnInt64(i))
		return nil
	case *bool:
		if kind != sqlite3.INTEGER {
			break
		}
		*d = s.ColumnInt64(i) != 0
		return nil
	case *float64:
		if kind != sqlite3.FLOAT && kind != sqlite3.INTEGER {
			break
		}
		*d = s.ColumnFloat(i)
		return nil
	case *time.Time:
		return micros{d}.Scan(s.value(i, kind))
	case *any:
		*d = s.value(i, kind)
		return nil
	case sql.Scanner:
		return d.Scan(s.value(i, kind))
	default:
		return assign(dest, kind == sqlite3.NULL, func(basic any) error { return s.column(i, basic) })
	}
	return mismatch(kind, dest)
}

func (s *stmt) value(i int, kind sqlite3.Datatype) any {
	switch kind {
	case sqlite3.INTEGER:
		return s.ColumnInt64(i)
	case sqlite3.FLOAT:
		return s.ColumnFloat(i)
	case sqlite3.TEXT:
		return s.ColumnText(i)
	case sqlite3.BLOB:
		return s.ColumnBlob(i, []byte{})
	}
	return nil
}
