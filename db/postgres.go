package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// attempts and patience bound how a write tries again after a conflict, or
	// while PostgreSQL restarts: about three seconds in all.
	attempts = 10
	patience = 500 * time.Millisecond
	// migrationLock is held by the one node of many that brings the schema up.
	migrationLock = 0x627265616b776174 // "breakwat"
)

// remote is PostgreSQL: a pool that may write, and one that cannot. A write that
// reads outside its transaction so never waits for other writes.
type remote struct{ readers, writers *pgxpool.Pool }

func openPostgres(ctx context.Context, o Options) (*remote, error) {
	if o.Readers == 0 {
		o.Readers = min(max(4, 2*runtime.GOMAXPROCS(0)), 16)
	}
	source, err := alone(o.Source)
	if err != nil {
		return nil, err
	}
	d := &remote{}
	for _, p := range []struct {
		pool *(*pgxpool.Pool)
		set  map[string]string
	}{
		// The server's defaults do not decide about our promises.
		{&d.readers, map[string]string{"default_transaction_read_only": "on"}},
		{&d.writers, map[string]string{"synchronous_commit": "on", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}},
	} {
		c, err := pgxpool.ParseConfig(source)
		if err != nil {
			return nil, errors.New("db: the address of PostgreSQL is not of the form postgres://user:password@host/database") // the parser's text may hold the password
		}
		if err := o.reach(&c.ConnConfig.Config); err != nil {
			return nil, err
		}
		c.MaxConns = int32(o.Readers)
		c.ConnConfig.RuntimeParams["application_name"] = "breakwater"
		for k, v := range p.set {
			c.ConnConfig.RuntimeParams[k] = v
		}
		if *p.pool, err = pgxpool.NewWithConfig(ctx, c); err != nil {
			d.close()
			return nil, fmt.Errorf("open database: %w", explain(ctx, err))
		}
	}
	if err := d.start(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// outside are the variables by which the environment says where PostgreSQL is, and how
// it is reached, and what an address calls that.
var outside = []struct{ variable, setting string }{
	{"PGHOST", "host"}, {"PGPORT", "port"}, {"PGDATABASE", "dbname"}, {"PGUSER", "user"}, {"PGPASSWORD", "password"}, {"PGPASSFILE", "passfile"},
	{"PGAPPNAME", "application_name"}, {"PGCONNECT_TIMEOUT", "connect_timeout"}, {"PGSSLMODE", "sslmode"}, {"PGSSLKEY", "sslkey"}, {"PGSSLCERT", "sslcert"},
	{"PGSSLCERTMODE", "sslcertmode"}, {"PGSSLSNI", "sslsni"}, {"PGSSLROOTCERT", "sslrootcert"}, {"PGSSLPASSWORD", "sslpassword"}, {"PGSSLNEGOTIATION", "sslnegotiation"},
	{"PGTARGETSESSIONATTRS", "target_session_attrs"}, {"PGSERVICE", "service"}, {"PGSERVICEFILE", "servicefile"}, {"PGTZ", "timezone"}, {"PGOPTIONS", "options"},
	{"PGMINPROTOCOLVERSION", "min_protocol_version"}, {"PGMAXPROTOCOLVERSION", "max_protocol_version"}, {"PGCHANNELBINDING", "channel_binding"}, {"PGREQUIREAUTH", "require_auth"},
}

// home are the settings for which pgx would look into the home directory.
var home = []string{"passfile", "sslcert", "sslkey", "sslrootcert"}

// alone is an address that says everything: what it leaves out is the default, not
// what a variable or the home directory has, of which nobody thinks who reads the
// configuration. A variable that would say it is refused.
func alone(source string) (string, error) {
	u, err := url.Parse(source)
	if err != nil {
		return source, nil // which is refused with the reason
	}
	says := u.Query()
	says.Del("service")
	password, _ := u.User.Password()
	for setting, part := range map[string]string{"host": u.Hostname(), "port": u.Port(), "dbname": strings.Trim(u.Path, "/"), "user": u.User.Username(), "password": password, "passfile": password} {
		if part != "" {
			says.Set(setting, part)
		}
	}
	for _, v := range outside {
		if os.Getenv(v.variable) != "" && !says.Has(v.setting) {
			return "", fmt.Errorf("db: the variable %s is set in the environment, and the address of PostgreSQL does not say %s: put it into the address, or unset the variable", v.variable, v.setting)
		}
	}
	separator := "?"
	if u.RawQuery != "" {
		separator = "&"
	}
	for _, setting := range home {
		if !u.Query().Has(setting) {
			source, separator = source+separator+setting+"=", "&"
		}
	}
	return source, nil
}

// reach makes pgx connect as the options say. A socket of this machine is no network.
func (o Options) reach(c *pgconn.Config) error {
	hosts := []*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}
	for _, h := range append(hosts, c.Fallbacks...) {
		if network, _ := pgconn.NetworkAddress(h.Host, h.Port); o.Proven && network != "unix" &&
			(h.TLSConfig == nil || h.TLSConfig.InsecureSkipVerify) {
			return fmt.Errorf("db: %s would be reached without proof of who it is: put sslmode=verify-full and sslrootcert into its address, or use a socket of this machine", h.Host)
		}
	}
	if o.Dial == nil {
		return nil
	}
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "unix" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return o.Dial(ctx, network, address)
	}
	return nil
}

func (d *remote) start(ctx context.Context) error {
	var encoding string
	if err := d.writers.QueryRow(ctx, `SHOW server_encoding`).Scan(&encoding); err != nil {
		return fmt.Errorf("open database: %w", explain(ctx, err))
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database has encoding %s: create it with ENCODING 'UTF8'", encoding)
	}
	lock, err := d.readers.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("open database: %w", explain(ctx, err))
	}
	defer lock.Release()
	if _, err := lock.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return fmt.Errorf("wait for another node's migration: %w", explain(ctx, err))
	}
	defer lock.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	migrator := stdlib.OpenDBFromPool(d.writers)
	defer migrator.Close()
	return explain(ctx, migrate(ctx, migrator, Postgres))
}

func (d *remote) query(ctx context.Context, text string, args []any) (*Rows, error) {
	return queryRemote(ctx, d.readers, text, args)
}

func (d *remote) read(ctx context.Context, fn func(*Tx) error) error {
	tx, err := d.readers.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return away(ctx, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	return (&Tx{run: remoteTx{tx}}).call(fn)
}

// write runs fn until it met no conflict, within bounds. Before the commit is
// sent nothing can have happened, so a lost connection is a conflict too.
func (d *remote) write(ctx context.Context, relaxed bool, fn func(*Tx) error) error {
	var err error
	for n := range attempts {
		var again bool
		if err, again = d.attempt(ctx, relaxed, fn); !again {
			return err
		}
		pause := min(time.Millisecond<<n, patience)
		select {
		case <-time.After(pause/2 + rand.N(pause)): // apart from whom it met
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (d *remote) attempt(ctx context.Context, relaxed bool, fn func(*Tx) error) (err error, again bool) {
	options := pgx.TxOptions{BeginQuery: `BEGIN ISOLATION LEVEL READ COMMITTED`}
	if relaxed {
		options.BeginQuery += `; SET LOCAL synchronous_commit = off`
	}
	tx, err := d.writers.BeginTx(ctx, options)
	if err != nil {
		err = away(ctx, err)
		return err, absent(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // does nothing after a commit
	if err := (&Tx{run: remoteTx{tx}}).call(fn); err != nil {
		return err, conflict(err) || absent(err)
	}
	// A commit is not interrupted: its outcome would be unknown.
	err = tx.Commit(context.WithoutCancel(ctx))
	if err == nil {
		return nil, false
	}
	if state(err) == "" {
		return away(ctx, fmt.Errorf("whether the commit succeeded is unknown: %w", err)), false
	}
	return away(ctx, err), conflict(err)
}

func (d *remote) settle(context.Context) error { return nil }

func (d *remote) check(ctx context.Context) error {
	return row(d.query(ctx, `SELECT 1`, nil)).Scan(new(int))
}

func (d *remote) close() error {
	for _, p := range []*pgxpool.Pool{d.readers, d.writers} {
		if p != nil {
			p.Close()
		}
	}
	return nil
}

// away explains an error of PostgreSQL; one that the server did not send is a
// lost connection, unless it is the context's or ours.
func away(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return explain(ctx, err)
	}
	if state(err) == "" && lost(err) {
		err = fmt.Errorf("%w: %w", errLostConnection, err)
	}
	return explain(ctx, err)
}

// remoteTx is the open transaction on PostgreSQL.
type remoteTx struct{ tx pgx.Tx }

func (t remoteTx) query(ctx context.Context, text string, args []any) (*Rows, error) {
	return queryRemote(ctx, t.tx, text, args)
}

func (t remoteTx) exec(ctx context.Context, text string, args []any) (int64, error) {
	args, err := plainAll(args)
	if err != nil {
		return 0, err
	}
	tag, err := t.tx.Exec(ctx, text, args...)
	return tag.RowsAffected(), away(ctx, err)
}

func queryRemote(ctx context.Context, on interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, text string, args []any) (*Rows, error) {
	args, err := plainAll(args)
	if err != nil {
		return nil, err
	}
	rows, err := on.Query(ctx, text, args...)
	if err != nil {
		return nil, away(ctx, err)
	}
	return &Rows{cursor: &remoteRows{ctx, rows}}, nil
}

// remoteRows is the cursor of PostgreSQL. The context is that of the query, to explain what ended it.
type remoteRows struct {
	ctx  context.Context
	rows pgx.Rows
}

func (r *remoteRows) next() bool { return r.rows.Next() }

func (r *remoteRows) end() error {
	r.rows.Close()
	return away(r.ctx, r.rows.Err())
}

func (r *remoteRows) scan(dest []any) error {
	for i, d := range dest {
		if t, ok := d.(*time.Time); ok {
			dest[i] = micros{t}
		}
	}
	return r.rows.Scan(dest...)
}
