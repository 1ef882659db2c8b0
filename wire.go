package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"breakwater/access"
	"breakwater/acr"
	"breakwater/approval"
	"breakwater/arm"
	"breakwater/authority"
	"breakwater/content"
	"breakwater/db"
	"breakwater/directory"
	"breakwater/gate"
	"breakwater/graph"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/object"
	"breakwater/oci"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/setting"
	"breakwater/transit"
)

// house is every room, put together. The zero house has no content, but it has
// its surfaces.
type house struct {
	platform   *keys.Platform  // the root, from which everything follows
	root       *keys.Root      // and which platform keys open it
	border     *network.Border // where connections are judged
	egress     *network.Egress // the way out
	db         *db.DB
	ledger     *ledger.Ledger
	documents  *resource.Store
	rings      *keys.Rings
	identity   *identity.Store
	access     *access.Store
	directory  *directory.Store
	registries *registry.Store
	settings   *setting.Store
	approvals  *approval.Store
	content    *content.Store
	receipts   *receipt.Store
	gate       *gate.Gate
	server     string // https://host[:port]
	domain     string // of registries by host name
	shown      transit.Certificate
}

// build opens the rooms from the ground up. host is what clients call the
// server, with its port, and shown what they see that proves it. What it opened before an error is closed again.
func build(ctx context.Context, c *config, host string, shown papers, log *slog.Logger, metrics prometheus.Registerer) (_ *house, err error) {
	h := &house{server: "https://" + host, domain: c.domain(host), shown: shown.shown}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	// A process that cannot say any more what is on disk must not go on answering:
	// the next one reads the disk and knows.
	fatal := func(err error) {
		log.Error("stopped: the disk can no longer be trusted", "err", err)
		os.Exit(failure)
	}
	bytes := filepath.Join(c.Data, "objects")
	c.sources(log)
	h.border = new(network.Border)
	for _, direction := range []string{network.Inbound, network.Outbound} {
		metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "breakwater_flows_refused_total", Help: "Connections that a security rule refused or cut.", ConstLabels: prometheus.Labels{"direction": direction},
		}, func() float64 { return float64(h.border.Refused(direction)) }))
	}
	h.egress = network.NewEgress(network.EgressOptions{
		Sources: c.Egress.Sources, Hardened: c.Profile == hardened, Refused: h.refusedOut(log), Rules: h.border.Rules, Ended: h.border.Ended,
	})
	open := func(key []byte) (err error) {
		if h.db, err = db.Open(ctx, db.Options{
			Source: c.Database, Key: key, Fatal: fatal,
			Dial: h.egress.Dialer(network.ForDatabase), Proven: c.Profile == hardened,
		}); err != nil {
			return fmt.Errorf("database: %w", err)
		}
		return nil
	}
	fresh := absent(bytes)
	if c.postgres() {
		if err := open(nil); err != nil {
			return nil, err
		}
		stored, err := keys.Stored(ctx, h.db)
		if err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		fresh = fresh && !stored
	} else {
		fresh = fresh && absent(c.Database)
	}
	if err := h.openRoot(ctx, c, fresh); err != nil {
		return nil, err
	}
	objects, err := object.NewDisk(bytes, fatal)
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	if !c.postgres() {
		if err := open(h.platform.Derive("database")); err != nil {
			return nil, h.rootless(c, err)
		}
	}
	spool := filepath.Join(c.Data, "spool") // of SQLite's ledger only
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return nil, err
	}
	h.ledger, err = ledger.Open(ctx, h.db, ledger.Options{
		Spool: spool, Key: h.platform.Derive("ledger-spool"), Strict: c.Ledger.Strict, Fatal: fatal,
	})
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "breakwater_damage_total", Help: "Things stored that were found not to be what was stored. Each is refused and on record.",
	}, func() float64 { return float64(h.ledger.Alarms()) }))
	h.documents = resource.New(h.db)
	h.border.Open(h.documents, h.ledger)
	h.rings = keys.NewRings(h.db, h.platform)
	if err := h.rings.Fit(ctx); err != nil {
		return nil, h.rootless(c, err)
	}
	if err := h.entrust(c, metrics); err != nil {
		return nil, err
	}
	h.identity, err = identity.New(identity.Options{
		DB: h.db, Documents: h.documents, Ledger: h.ledger, Vault: h.platform, Check: h.platform.Derive("token-check"), Tickets: h.platform.Derive("data-tickets"),
		Tenant: ref.DerivedGUID(h.platform.Derive("tenant")[:16]), Host: c.workloads(h.platform), Egress: h.egress,
	})
	if err != nil {
		return nil, err
	}
	h.access = &access.Store{DB: h.db, Documents: h.documents, Ledger: h.ledger, Identity: h.identity}
	h.directory = &directory.Store{DB: h.db, Documents: h.documents, Ledger: h.ledger, Identity: h.identity}
	h.settings = &setting.Store{DB: h.db, Documents: h.documents, Ledger: h.ledger}
	h.approvals = &approval.Store{DB: h.db, Documents: h.documents, Ledger: h.ledger, Access: h.access}
	h.receipts = &receipt.Store{Documents: h.documents, Ledger: h.ledger, Identity: h.identity}
	h.content = content.New(h.db, objects, h.rings, h.ledger, h.platform.Derive("upload-session"))
	h.registries = registry.New(registry.Options{
		DB: h.db, Documents: h.documents, Ledger: h.ledger, Rings: h.rings, Identity: h.identity, Access: h.access, Approvals: h.approvals,
		Receipts: h.receipts, Contents: h.content.Contents(),
		Default: registryName, Host: host, Domain: h.domain, Shown: shown.believed,
	})
	h.gate = gate.New(gate.Options{
		Documents: h.documents, Registries: h.registries, Identity: h.identity, Access: h.access, Ledger: h.ledger,
		Proxies: c.Proxies.Forwarded, Log: log, Metrics: metrics,
		Limits: gate.Limits{Requests: c.Limits.Requests, Caller: c.Limits.Caller, Stranger: c.Limits.Stranger},
	})
	return h, nil
}

// entrust lets customers hold keys, in services and devices outside this process.
func (h *house) entrust(c *config, metrics prometheus.Registerer) error {
	roots, err := c.Keys.roots()
	if err != nil {
		return fmt.Errorf("keys.roots: %w", err)
	}
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "breakwater_key_checks_total", Help: "Questions to customers' key providers, by outcome.",
	}, []string{"outcome"})
	count := func(name, help string, n func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(n()) })
	}
	metrics.MustRegister(checks,
		count("breakwater_keys_open", "Registries whose keys lie open in the memory of this process.", func() int { return h.rings.Open() }),
		count("breakwater_keys_refused", "Registries whose customers refuse this process their keys.", func() int { n, _ := h.rings.Closed(); return n }),
		count("breakwater_keys_unreachable", "Registries whose customers' key providers do not answer this process.", func() int { _, n := h.rings.Closed(); return n }))
	h.rings.Entrust(&keys.Custody{
		Documents: h.documents, Ledger: h.ledger, Who: identity.ThisServer().Who(),
		Reach:   keys.Reach{Dial: h.egress.Dialer(network.ForKey), Directory: c.Keys.Directory, Roots: roots},
		Checked: func(outcome string) { checks.WithLabelValues(outcome).Inc() },
	})
	return nil
}

func absent(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// close leaves the rooms from the top down; everything noted is a row then.
func (h *house) close() error {
	var err error
	if h.rings != nil {
		h.rings.Close()
	}
	if h.ledger != nil {
		err = h.ledger.Close()
	}
	if h.db != nil {
		err = errors.Join(err, h.db.Close())
	}
	return err
}

// An api is a surface and which paths are its own.
type api struct {
	serves func(path string) bool
	gate.Surface
}

func below(prefix string) func(string) bool {
	return func(path string) bool { return strings.HasPrefix(path, prefix) }
}

// surfaces are the APIs behind the door. The last one answers for every path
// that no other has, and for targets that are no path ("*", or CONNECT's).
func (h *house) surfaces() []api {
	issuer := authority.New(authority.Options{Identity: h.identity, Registries: h.registries, Named: h.shown.Names, Key: h.derive("sign-in")})
	return []api{
		{below("/v2"), &oci.API{Content: h.content, Registries: h.registries, Identity: h.identity}},
		{acr.Serves, &acr.API{Identity: h.identity, Registries: h.registries, Content: h.content}},
		{issuer.Serves, issuer},
		{below(graph.Root), &graph.API{Directory: h.directory, Identity: h.identity}},
		{below(""), arm.New(arm.Options{Documents: h.documents, Ledger: h.ledger, Identity: h.identity, Domain: h.domain},
			arm.Above(h.documents, h.identity, h.settings),
			arm.Locks(h.settings),
			arm.Registries(h.registries, h.access, h.documents, h.border, h.content, h.receipts, h.approvals),
			arm.Authorization(h.access),
			arm.Directory(h.directory, h.identity),
			arm.Settings(h.settings, h.identity, h.registries),
			arm.Borders(h.settings, h.border, h.egress),
			arm.Keys(h.settings, h.rings),
			arm.Approvals(h.approvals),
			arm.Receipts(h.receipts),
		)},
	}
}

// derive is a key of one purpose; none in the zero house.
func (h *house) derive(purpose string) []byte {
	if h.platform == nil {
		return nil
	}
	return h.platform.Derive(purpose)
}

// host is what the listener for this machine's workloads serves.
func (h *house) host() gate.Surface {
	return &authority.Host{Identity: h.identity, Registries: h.registries, Server: h.server}
}

// data is what dedicated data endpoints serve, which are hosts of their own.
func (h *house) data() gate.Surface { return &oci.Data{Content: h.content} }

// isDataEndpoint reports whether a registry has its data endpoint at the host.
func (h *house) isDataEndpoint(ctx context.Context, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // a handshake waits for the answer
	defer cancel()
	_, err := h.registries.ByDataHost(ctx, host)
	return err == nil
}

// handler is what the registry's listener serves. There is one path that does
// not lead to the door: whether somebody is at home.
func (h *house) handler() http.Handler {
	type entry struct {
		serves func(string) bool
		http.Handler
	}
	var entries []entry
	for _, a := range h.surfaces() {
		entries = append(entries, entry{a.serves, h.gate.Serve(a)})
	}
	data := h.gate.Serve(h.data())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.registries.IsDataHost(r.Host) {
			data.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == "/healthz" {
			healthy(w, r)
			return
		}
		for _, e := range entries {
			if e.serves(r.URL.Path) {
				e.ServeHTTP(w, r)
				return
			}
		}
	})
}
