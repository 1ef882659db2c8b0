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
	"slices"
	"strconv"
	"strings"
	"sync"
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
	papers, err := identification(c, log)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, c, mainListener, c.Listen, papers.shown, log)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	others, err := listenOthers(ctx, c, papers.shown, log)
	if err != nil {
		return fmt.Errorf("listeners: %w", err)
	}
	defer closeAll(others)
	agents, err := listenLink(ctx, c)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if agents != nil {
		defer agents.Close()
	}
	host := c.public(listener.Port())
	l := login{Server: "https://" + host, Registry: host, Name: registryName, CAFile: papers.ca}
	opsListener, err := listenOps(ctx, c, papers.shown, listener.Port(), log)
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

	h, err := build(ctx, c, host, papers, log, o.metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.firstStart(ctx, c, l); err != nil {
		return err
	}
	if err := h.settle(ctx, log); err != nil {
		return fmt.Errorf("platform key: %w", err)
	}
	if err := h.private(ctx, c, others, log); err != nil {
		return err
	}
	var watchAgents func(context.Context)
	if agents != nil { // judged as they knock, and then what they carry
		agents, watchAgents = h.border.Court().Over(agents, transit.Arrival{Listener: linkListener})
	}
	tunnels, linked, err := h.links(ctx, c, agents, log)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if linked != nil {
		o.links(tunnels, linked)
	}
	if papers.learned != nil {
		papers.learned.Open(h.isDataEndpoint)
	}
	if papers.acme != nil {
		if err := h.certify(c, papers.acme); err != nil {
			return fmt.Errorf("tls.acme: %w", err)
		}
	}
	if workloads != nil {
		if err := tellWorkloads(c, h.platform, workloads.Addr()); err != nil {
			return err
		}
	}
	for _, l := range append(slices.Clone(others), listener, linked, opsListener, workloads) {
		if l != nil {
			l.Judged(h.border.Court())
		}
	}
	starting.Close()

	// What became of connections is noted until the last of them is over.
	var noting sync.WaitGroup
	open, over := context.WithCancel(context.WithoutCancel(ctx))
	noting.Go(func() { h.border.Run(open) })
	defer noting.Wait()
	defer over()
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
	if linked != nil {
		answered, done := context.WithCancel(context.WithoutCancel(ctx))
		work.Go(func() error {
			defer done() // until then links hold what is under way
			return linked.Serve(run, handler)
		})
		work.Go(func() error {
			watchAgents(answered)
			return nil
		})
		work.Go(func() error { return tunnels.Serve(answered) })
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
	work.Go(func() error {
		h.ledger.Lead(run, "approvals", time.Minute, h.approvals.Tend)
		return nil
	})
	work.Go(func() error {
		h.ledger.Lead(run, rootChanges, c.Keys.Every, h.recordRoot)
		return nil
	})
	work.Go(func() error { // of each process, whoever leads
		h.rings.Run(run, c.Keys.Every)
		return nil
	})
	if c.Scrub.BytesPerSecond > 0 {
		work.Go(func() error {
			h.ledger.Lead(run, "scrub", 24*time.Hour, h.scrub(c, log))
			return nil
		})
	}
	if papers.acme != nil {
		work.Go(func() error {
			h.ledger.Lead(run, "certificates", 2*time.Second, papers.acme.Order)
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

// papers are what the server proves with that it is who clients call.
type papers struct {
	shown   transit.Certificate
	learned *transit.Learned // for names that the database has; nil for none
	acme    *transit.ACME    // an authority elsewhere; nil for none
	ca      string           // file of the own authority, if the owner has to trust that

	// believed reports whether clients believe what is shown for a name; nil is always.
	believed func(ctx context.Context, name string) bool
}

// identification is what the configuration says of the server's papers. What the
// database has to do with them is still to be opened.
func identification(c *config, log *slog.Logger) (p papers, err error) {
	if c.TLS.Certificate != "" {
		p.shown, err = transit.Files(c.TLS.Certificate, c.TLS.Key, log)
		p.believed = func(_ context.Context, name string) bool { return p.shown.Names(name) }
		return p, err
	}
	authority, err := transit.OpenAuthority(filepath.Join(c.Data, "tls"))
	if err != nil {
		return p, err
	}
	if left := time.Until(authority.Until()); left < 365*24*time.Hour {
		log.Warn("clients will soon stop trusting the own authority: give the server another certificate, or remove the directory and have clients trust the new one",
			"file", authority.File(), "until", authority.Until())
	}
	p.learned = authority.Learning(authority.Certificate(c.names()...))
	p.shown, p.ca = p.learned.Certificate, authority.File()
	if c.TLS.ACME.Directory == "" {
		return p, nil
	}
	p.acme = transit.NewACME(p.shown)
	p.shown, p.believed = p.acme.Certificate, p.acme.Shows
	if transit.Certifiable(c.host()) {
		p.ca = ""
	}
	return p, nil
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

// scrub reads all that is stored, once.
func (h *house) scrub(c *config, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		n, err := h.content.Scrub(ctx, c.Scrub.BytesPerSecond)
		log.Info("scrubbed", "blobs", n.Blobs, "manifests", n.Manifests, "damaged", n.Damaged)
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
