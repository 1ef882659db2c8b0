package main

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"breakwater/access"
	"breakwater/content"
	"breakwater/ref"
	"breakwater/transit"
)

func serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Start the registry; the first start makes everything it needs",
		Long: `Start the registry. The first start makes everything that it needs in the data
directory: keys, a certificate authority, one registry, and the owner's login in
owner.json. It logs to standard error, and stops on SIGTERM or SIGINT when the
requests under way are answered, after at most 30 seconds.

With --database postgres://… several processes may share one database, if they
share the data directory too. With SQLite, the default, one data directory has
one process; a second one refuses to start.`,
		Args: cobra.NoArgs,
	}
	settings := defaults()
	settings.flags(c.Flags())
	file := c.Flags().String("config", "", "YAML file with settings; a flag wins over it")
	c.RunE = func(c *cobra.Command, _ []string) error {
		limitMemory()
		if *file != "" {
			if err := settings.read(*file, c.Flags()); err != nil {
				return usage{err}
			}
		}
		if err := settings.check(); err != nil {
			return usage{err}
		}
		log, err := logger(settings, c.ErrOrStderr())
		if err != nil {
			return usage{err}
		}
		return runServer(c.Context(), settings, log, c.OutOrStdout())
	}
	return c
}

// runServer serves until ctx ends, and then until the requests under way
// are answered.
func runServer(ctx context.Context, c *config, log *slog.Logger, out io.Writer) (err error) {
	if fips140.Enforced() {
		return errors.New("GODEBUG=fips140=only refuses the counted nonces that content and the spool are sealed with (no two are alike under a key, but the module did not choose them); set GODEBUG=fips140=on")
	}
	unix.Umask(0o077) // of all that is made from here on, only the owner reads anything
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return err
	}
	held, err := hold(c)
	if err != nil {
		return err
	}
	defer held.Close()
	starting, err := begin(ctx, c)
	if err != nil {
		return err
	}
	defer starting.Close()

	// Addresses come first: if one is taken, nothing has been made yet.
	certificate, elsewhere, ca, err := certificate(c, log)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, c, mainListener, c.Listen, certificate, log)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	others, err := listenOthers(ctx, c, certificate, log)
	if err != nil {
		return fmt.Errorf("listeners: %w", err)
	}
	defer closeAll(others)
	host := c.public(listener.Port())
	l := login{Server: "https://" + host, Registry: host, Name: registryName, CAFile: ca}
	opsListener, err := listenOps(ctx, c, certificate, listener.Port(), log)
	if err != nil {
		return fmt.Errorf("ops: %w", err)
	}
	if opsListener != nil {
		defer opsListener.Close()
		l.Ops = "http://" + opsListener.Addr().String()
		if opsListener.Secure() {
			l.Ops = "https://" + opsListener.Addr().String()
		}
	}
	workloads, err := listenWorkloads(ctx, c, log)
	if err != nil {
		return fmt.Errorf("managedIdentity: %w", err)
	}
	if workloads != nil {
		defer workloads.Close()
	}
	o := newOps(append(others, listener))

	h, err := build(ctx, c, host, certificate, log, o.metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.firstStart(ctx, c, l); err != nil {
		return err
	}
	if err := h.private(ctx, c, others, log); err != nil {
		return err
	}
	if elsewhere != nil {
		if err := h.certify(c, elsewhere); err != nil {
			return fmt.Errorf("tls.acme: %w", err)
		}
	}
	if workloads != nil {
		if err := tellWorkloads(c, h.platform, workloads.Addr()); err != nil {
			return err
		}
	}
	starting.Close()

	work, run := errgroup.WithContext(ctx)
	answered, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	if opsListener != nil {
		work.Go(func() error { return opsListener.Serve(answered, o.handler()) })
	}
	handler := h.handler()
	work.Go(func() error {
		defer done()
		return listener.Serve(run, handler)
	})
	for _, l := range others {
		work.Go(func() error { return l.Serve(run, handler) })
	}
	if workloads != nil {
		work.Go(func() error { return workloads.Serve(run, h.gate.Serve(h.host())) })
	}
	work.Go(func() error {
		h.ledger.Lead(run, "sweep", c.Sweep.Every, h.sweep(c, log))
		return nil
	})
	work.Go(func() error {
		h.ledger.Lead(run, "keys", c.Keys.Every, h.registries.TendKeys)
		return nil
	})
	if elsewhere != nil {
		work.Go(func() error {
			h.ledger.Lead(run, "certificates", 2*time.Second, elsewhere.Order)
			return nil
		})
	}
	o.house.Store(h)
	context.AfterFunc(run, func() { o.house.Store(nil) })
	log.Info("ready", "server", l.Server, "listener", listener.Addr().String(), "ops", l.Ops,
		"database", h.db.Engine(), "fips", fips140.Enabled(), "version", version())
	welcome(out, c, l)
	return work.Wait()
}

// certificate is what the server shows, and the file of the own authority if the
// owner has to trust that. An ACME is still to be opened; nil for none.
func certificate(c *config, log *slog.Logger) (shown transit.Certificate, elsewhere *transit.ACME, ca string, err error) {
	if c.TLS.Certificate != "" {
		shown, err = transit.Files(c.TLS.Certificate, c.TLS.Key, log)
		return shown, nil, "", err
	}
	authority, err := transit.OpenAuthority(filepath.Join(c.Data, "tls"))
	if err != nil {
		return nil, nil, "", err
	}
	if left := time.Until(authority.Until()); left < 365*24*time.Hour {
		log.Warn("clients will soon stop trusting the own authority: give the server another certificate, or remove the directory and have clients trust the new one",
			"file", authority.File(), "until", authority.Until())
	}
	shown = authority.Certificate(c.names()...)
	if c.TLS.ACME.Directory == "" {
		return shown, nil, authority.File(), nil
	}
	elsewhere = transit.NewACME(shown)
	if transit.Certifiable(c.host()) {
		return elsewhere.Certificate, elsewhere, "", nil
	}
	return elsewhere.Certificate, elsewhere, authority.File(), nil
}

func listen(ctx context.Context, c *config, name, address string, shown transit.Certificate, log *slog.Logger) (*transit.Listener, error) {
	secure := transit.Config(shown, c.tls13())
	if c.TLS.ACME.Directory != "" {
		secure.NextProtos = transit.ACMEProtocols
	}
	return transit.Listen(ctx, transit.Options{
		Name: name, Address: address, TLS: secure,
		Proxies: c.Proxies.Protocol.Prefixes(), Forwarders: c.Proxies.Forwarded.Prefixes(),
		Connections: c.Limits.Connections, PerAddress: c.Limits.PerAddress, Log: log,
	})
}

// sweep removes what nobody names, once.
func (h *house) sweep(c *config, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		swept, err := h.content.Sweep(ctx, content.Sweep{Grace: c.Sweep.Grace, Unused: c.Sweep.Unused, Objects: true, Registries: h.rules})
		err = errors.Join(err, h.identity.SweepSignIns(ctx))
		if swept != (content.Swept{}) {
			log.Info("swept", "uploads", swept.Uploads, "manifests", swept.Manifests, "repositories", swept.Repositories, "links", swept.Links, "blobs", swept.Blobs, "objects", swept.Objects)
		}
		return err
	}
}

// rules are those of the registries that there are, by UID.
func (h *house) rules(ctx context.Context) (map[string]content.Rules, error) {
	rules := map[string]content.Rules{}
	g := access.ServerGrant(access.Registry{}, access.Call{})
	for after := ref.ID(""); ; {
		some, err := h.registries.List(ctx, g, "", after, 1000)
		if err != nil || len(some) == 0 {
			return rules, err
		}
		for _, r := range some {
			rules[r.UID], after = content.RulesOf(r), r.ID
		}
	}
}

// listenOps opens the operator's listener; nil if there shall be none. port is
// the registry's.
func listenOps(ctx context.Context, c *config, shown transit.Certificate, port int, log *slog.Logger) (*transit.Listener, error) {
	listen := func(address string) (*transit.Listener, error) {
		return transit.Listen(ctx, transit.Options{
			Name: "ops", Address: address, Clear: c.Profile != hardened, TLS: transit.Config(shown, c.tls13()),
			Connections: 256, Log: log,
		})
	}
	switch c.Ops {
	case "":
		return nil, nil
	case autoOps:
		if l, err := listen(fmt.Sprintf("127.0.0.1:%d", port%65535+1)); err == nil {
			return l, nil
		}
		return listen("127.0.0.1:0")
	}
	return listen(c.Ops)
}

// welcome tells a person what to do next.
func welcome(out io.Writer, c *config, l login) {
	owner := filepath.Join(c.Data, "owner.json")
	fmt.Fprintf(out, "\nBreakwater is ready at %s\n\nThe owner's login is in %s\n", l.Server, owner)
	if l.CAFile != "" {
		lines := trustLines(l)
		fmt.Fprintf(out, "\nClients come to trust it by\n  %s\n  %s\n", lines[0], lines[1])
	}
	fmt.Fprintf(out, "\nMore: breakwater trust --owner-file %s\n", quote(owner))
}

func logger(c *config, to io.Writer) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return nil, fmt.Errorf("log.level: debug, info, warn or error, not %q", c.Log.Level)
	}
	o.Level = level
	var h slog.Handler = slog.NewTextHandler(to, &o)
	if c.Log.Format == "json" {
		h = slog.NewJSONHandler(to, &o)
	}
	log := slog.New(h)
	slog.SetDefault(log) // for what has no door to report to, such as a follower
	return log, nil
}

// limitMemory keeps the collector below the container's limit when GOMEMLIMIT
// does not say otherwise. A quarter is left for what Go does not count: SQLite's
// memory and the kernel's buffers. Below that, what lives is so little that
// collecting it less often costs some megabytes and saves a tenth of a pull.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit < 1<<50 { // v1 writes "no limit" as a huge one
			debug.SetMemoryLimit(limit / 4 * 3)
		}
	}
}
