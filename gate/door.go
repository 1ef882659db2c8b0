package gate

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/transit"
)

// A Gate is the door. Its surfaces share it: limits are for callers, not for
// dialects.
type Gate struct {
	o         Options
	underway  atomic.Int64
	callers   *meter[string]
	strangers *meter[netip.Addr]
	metrics   metrics
	kept      resource.Cache[string, network.ControlPlane] // the rules of the control plane
}

// New makes the door of this process.
func New(o Options) *Gate {
	l := &o.Limits
	if l.Requests == 0 {
		l.Requests = 2048
	}
	if l.Caller == 0 {
		l.Caller = 20_000
	}
	if l.Stranger == 0 {
		l.Stranger = 1_000
	}
	if l.Stall == 0 {
		l.Stall = time.Minute
	}
	return &Gate{
		o:         o,
		callers:   newMeter[string](l.Caller),
		strangers: newMeter[netip.Addr](l.Stranger),
		metrics:   newMetrics(o.Metrics),
	}
}

// Serve lets requests for one surface in.
func (g *Gate) Serve(s Surface) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.serve(s, w, r)
	})
}

// A visit is one request on its way through the door.
type visit struct {
	answer
	start       time.Time
	correlation string
	call        Call
	registry    *registry.Registry // that the host means; nil until it is found
	about       *registry.Registry // that the call is about; nil is none
	origin      network.Origin
	principal   identity.Principal // zero until it is proven
	shown       bool               // a credential was shown
	password    bool               // … which is a password, not a token in its place
	bypass      bool               // only a trusted service may come in from there
	throttled   bool               // refused for haste
	silent      bool               // … and the ledger knows about this caller already
	more        map[string]string  // for the event
}

func (g *Gate) serve(s Surface, w http.ResponseWriter, r *http.Request) {
	v := &visit{start: time.Now(), correlation: correlation(r.Header)}
	control := http.NewResponseController(w)
	v.outlet = outlet{ResponseWriter: w, pace: pace{deadline: control.SetWriteDeadline, stall: g.o.Limits.Stall}}
	if r.ProtoMajor == 1 {
		v.free = chunk // of so little the listener takes care
		defer v.rest() // the next request has the same connection
	}
	v.uncover()
	if r.ProtoMajor == 1 && r.TransferEncoding != nil {
		// A request that was framed twice looks the same here, and what follows it on
		// this connection might be somebody's forgery.
		w.Header()["Connection"] = []string{"close"}
	}
	if r.ContentLength != 0 {
		r.Body = &body{r.Body, pace{deadline: control.SetReadDeadline, stall: g.o.Limits.Stall}}
	}
	underway := g.underway.Add(1)
	defer func() {
		g.underway.Add(-1)
		broken := false
		if p := recover(); p == http.ErrAbortHandler {
			broken = true
		} else if p != nil {
			g.metrics.panics.Inc()
			broken = !g.refuse(s, v, r, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
		g.metrics.count(v.call.Operation, v.status, time.Since(v.start))
		if broken {
			panic(http.ErrAbortHandler)
		}
	}()
	err := error(nil)
	if underway > int64(g.o.Limits.Requests) {
		err = fault.New(fault.TooManyRequests, "the server is busy; try again").After(time.Second)
	} else if err = g.pass(s, v, r); err == nil {
		v.WriteHeader(http.StatusOK) // for a handler that had nothing to say
	}
	if v.err != nil {
		err = v.err // what the handler saw of it is less
	}
	if err != nil && !g.refuse(s, v, r, err) {
		panic(http.ErrAbortHandler)
	}
}

// pass is the way in. Whatever it returns is said no to in one place, refuse.
func (g *Gate) pass(s Surface, v *visit, r *http.Request) error {
	ctx := r.Context()
	v.origin = g.o.Proxies.Origin(transit.Arrived(r), r.Header)
	var err error
	if v.call, err = s.Route(r); err != nil {
		return g.stranger(v, err)
	}
	// Who may come in is decided as of one moment.
	now := g.o.Documents.Pin(ctx)
	if v.registry, err = g.called(now, v.call.Plane, r.Host); err != nil {
		return g.stranger(v, err)
	}
	if v.about = v.registry; v.call.Registry != "" {
		if v.about, err = g.o.Registries.ByID(now, v.call.Registry); err != nil && fault.Of(err) != fault.NotFound {
			return err
		}
	}
	if v.call.Plane == identity.ContentPlane || v.call.Plane == identity.DataPlane {
		verdict := v.registry.Reach(v.origin)
		if !verdict.Allowed && !verdict.Bypass {
			return g.shut(v, verdict)
		}
		v.bypass = verdict.Bypass
		g.watch(ctx, v, r)
	} else {
		rules, err := g.control(now)
		if err != nil {
			return err
		}
		if verdict := rules.Decide(v.origin); !verdict.Allowed {
			return g.shut(v, verdict)
		}
	}
	if err := g.identify(now, v, r); err != nil {
		return err
	}
	if err := g.alarm(ctx, v, r); err != nil {
		return err
	}
	about := access.Registry{}
	if v.about != nil {
		about = v.about.Ref()
	}
	given := about
	if v.call.Plane == identity.ControlPlane {
		given = access.Registry{} // at any, whichever host was asked
	}
	assignments, err := g.o.Access.LoadAssignments(now, given, v.principal)
	if err != nil {
		return err
	}
	grant := access.NewGrant(about, v.principal, assignments, access.Call{
		Correlation: v.correlation, Operation: v.call.Operation, From: v.from(r), Start: v.start,
	})
	if len(v.call.Needs) == 0 && !v.call.Anyone && !v.principal.Proven() {
		return fault.New(fault.Denied, "") // which becomes a challenge
	}
	for _, n := range v.call.Needs {
		if err := g.admit(ctx, v, r, grant, n); err != nil {
			return err
		}
	}
	if v.call.Read {
		v.before = func(status int) error {
			return g.o.Ledger.Note(ctx, v.event(r, status, ""))
		}
	}
	if v.call.Registry != "" && v.about != nil {
		r = r.WithContext(resource.During(ctx, v.about.ID, v.about.UID))
	}
	return v.call.Handler(&v.answer, r, grant)
}

// admit asks the grant. What rules say about a caller who comes in all the same is
// on record before it does (IM-7).
func (g *Gate) admit(ctx context.Context, v *visit, r *http.Request, grant access.Grant, n Need) error {
	scope := n.at(grant)
	d := grant.Admits(n.Action, scope)
	if !d.Allowed {
		if d.Rule != "" {
			v.more = map[string]string{"rule": d.Rule}
		}
		return access.Refusal(n.Action, scope)
	}
	more := func(rules []string) map[string]string {
		return map[string]string{"rules": strings.Join(rules, " "), "operation": v.call.Operation, "action": string(n.Action)}
	}
	if len(d.BrokeGlass) > 0 {
		if err := g.o.Ledger.Record(ctx, v.security(r, access.PolicyBreakGlass, scope, more(d.BrokeGlass))); err != nil {
			return err
		}
	}
	if len(d.Reported) > 0 {
		return g.o.Ledger.Note(ctx, v.security(r, access.PolicyReport, scope, more(d.Reported)))
	}
	return nil
}

// alarm records that a password of the admin user was used (PA-1): it is nobody's,
// so somebody should know whose hands it is in.
func (g *Gate) alarm(ctx context.Context, v *visit, r *http.Request) error {
	if v.principal.Kind != identity.Admin || !v.password {
		return nil
	}
	e := v.security(r, access.AdminUserUse, v.registry.ID.Scope(), map[string]string{"operation": v.call.Operation})
	e.Registry = v.registry.UID // whose password it is
	return g.o.Ledger.Record(ctx, e)
}

// security is an event that somebody should look at although nothing was refused.
func (v *visit) security(r *http.Request, a access.Action, scope ref.Scope, more map[string]string) ledger.Event {
	e := v.event(r, 0, "")
	e.Category, e.Operation, e.Scope, e.Detail = ledger.Security, string(a), scope, ledger.Detail{More: more}
	return e
}

// identify finds out who calls, and slows down who calls too often.
func (g *Gate) identify(ctx context.Context, v *visit, r *http.Request) (err error) {
	shown := v.call.Credentials
	if shown == nil {
		of, err := identity.FromRequest(r)
		if err != nil {
			v.shown = true
			if v.bypass {
				return g.distrust(v, err)
			}
			return g.stranger(v, err)
		}
		shown = &of
	}
	v.shown, v.password = !shown.None(), shown.Method == identity.Basic && shown.Name != identity.RefreshUser
	v.principal, err = g.o.Identity.Authenticate(ctx, v.registry.Realm(), v.call.Plane, *shown, v.origin)
	if v.bypass && !v.trusted() {
		return g.distrust(v, err)
	}
	if err != nil {
		return g.stranger(v, err)
	}
	if v.principal.ID == "" {
		return g.stranger(v, nil)
	}
	wait, tell, before := g.callers.take(v.principal.ID)
	return v.hasty(nil, wait, tell, before)
}

// stranger charges a request that nobody answers for to its address. It returns
// the reason err, unless that address has asked too often.
func (g *Gate) stranger(v *visit, err error) error {
	wait, tell, before := g.strangers.take(neighbourhood(v.origin.Counted()))
	return v.hasty(err, wait, tell, before)
}

func (v *visit) hasty(err error, wait time.Duration, tell bool, before int64) error {
	if wait == 0 {
		return err
	}
	f := fault.New(fault.TooManyRequests, "too many requests; wait, then try again").After(wait)
	switch v.throttled = true; {
	case !tell:
		v.silent = true
	case before > 0:
		v.more = map[string]string{"refusedBefore": strconv.FormatInt(before, 10)}
	}
	return f
}

func (n Need) at(g access.Grant) ref.Scope {
	switch {
	case n.Scope != "":
		return n.Scope
	case n.Repository != "":
		return g.RepositoryScope(n.Repository)
	}
	return g.Scope()
}

// refuse is the one place where an error becomes an answer, a line in the ledger
// and a line in the log. It returns false if the answer had begun: then all that
// is left is to break the connection.
func (g *Gate) refuse(s Surface, v *visit, r *http.Request, err error) bool {
	f := fault.From(err)
	if f.Code == fault.Denied && !v.shown {
		f = fault.New(fault.Unauthenticated, "authentication required")
	}
	if db.IsDamaged(err) {
		e := ledger.Event{Who: identity.ThisServer().Who(), Correlation: v.correlation}
		g.o.Ledger.Alarm(r.Context(), ledger.Damage(e, "database", "page"), err, nil)
	}
	gone := r.Context().Err() != nil || v.lost // a write may hear of it first
	if level := severity(f, gone); g.o.Log.Enabled(r.Context(), level) {
		g.o.Log.LogAttrs(r.Context(), level, "request failed",
			slog.String("correlation", v.correlation), slog.String("operation", v.call.Operation),
			slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath()),
			slog.String("address", v.origin.String()), slog.Any("error", err))
	}
	if v.status != 0 {
		if f.Code == fault.NetworkDenied || f.Code == fault.KeyRefused { // its beginning is on record as a success
			if err := g.record(v, r, f); err != nil {
				g.o.Log.ErrorContext(r.Context(), "the ledger took no refusal", "correlation", v.correlation, "error", err)
			}
		}
		return false
	}
	if gone && f.Code == fault.Internal {
		return false // nobody waits for an answer, and nothing was decided
	}
	v.before, v.err, v.still = nil, nil, nil // a refusal is told, whatever forbids the rest
	if !v.silent {
		if err := g.record(v, r, f); err != nil {
			g.o.Log.ErrorContext(r.Context(), "the ledger took no refusal", "correlation", v.correlation, "error", err)
			f = fault.New(fault.Unavailable, "the server cannot record what it does, so it does nothing; try again").After(time.Second)
		}
	}
	v.uncover()
	if f.Retry > 0 {
		v.Header().Set("Retry-After", strconv.Itoa(int((f.Retry+time.Second-1)/time.Second)))
	}
	s.Error(&v.answer, r, f)
	v.WriteHeader(f.Code.Row().Status)
	return true
}

// record puts a refusal or failure in the ledger: on disk if somebody who shows a
// credential was refused, so that guesses and probes outlive a power cut. A
// request without any is only asked who it is, or asks for what is not there, and
// must not be able to keep the disk busy.
func (g *Gate) record(v *visit, r *http.Request, f *fault.Error) error {
	if v.call.Operation == "" {
		return nil // nothing of ours was asked for
	}
	ctx := context.WithoutCancel(r.Context())
	e := v.event(r, f.Code.Row().Status, f.Code.String())
	if v.shown && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden || v.throttled) {
		if err := g.o.Ledger.Record(ctx, e); err == nil {
			return nil
		}
		// A full disk takes no row, but what was set aside for notes it has.
	}
	return g.o.Ledger.Note(ctx, e)
}

func severity(f *fault.Error, gone bool) slog.Level {
	switch {
	case gone || f.Code.Row().Status < 500:
		return slog.LevelDebug
	case f.Code == fault.Internal:
		return slog.LevelError
	}
	return slog.LevelWarn
}

// event is what the ledger shall know about this visit.
func (v *visit) event(r *http.Request, status int, reason string) ledger.Event {
	now := time.Now()
	e := ledger.Event{
		Time: now, Category: v.call.Category, Operation: v.call.Operation,
		Who: v.principal.Who(), From: v.from(r), Outcome: ledger.Success, Reason: reason, Status: status,
		Correlation: v.correlation, Duration: now.Sub(v.start),
	}
	switch {
	case status >= 500:
		e.Outcome = ledger.Failure
	case status >= 400:
		e.Outcome = ledger.Refused
	}
	if v.about != nil {
		e.Registry, e.Scope = v.about.UID, v.about.ID.Scope()
	}
	if needs := v.call.Needs; len(needs) > 0 && needs[0].Scope != "" {
		e.Scope = needs[0].Scope
	}
	if v.call.Detail != nil {
		e.Detail = *v.call.Detail
		if e.Detail.Repository != "" && v.about != nil {
			e.Scope = ref.RepositoryScope(v.about.ID, e.Detail.Repository)
		}
	}
	if v.more != nil {
		e.Detail.More = v.more
	}
	return e
}

func (v *visit) from(r *http.Request) ledger.From {
	return ledger.From{Address: v.origin.Addr, Listener: v.origin.Listener, Endpoint: v.origin.Endpoint, Told: v.origin.Told, Host: r.Host, UserAgent: r.UserAgent()}
}

// uncover leaves only the headers that every answer has.
func (v *visit) uncover() {
	h := v.Header()
	for k := range h {
		if k != "Connection" && k != "Strict-Transport-Security" {
			delete(h, k)
		}
	}
	h["X-Ms-Correlation-Request-Id"] = []string{v.correlation}
	h["X-Content-Type-Options"] = []string{"nosniff"}
}
