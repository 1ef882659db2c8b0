package arm

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
)

const eventsType = "Breakwater.Ledger/events"

var eventsRoute = gate.Route{
	Method: http.MethodGet, Pattern: "/providers/" + eventsType,
	Operation: string(access.EventRead), Action: access.EventRead,
}

func (a *API) routeEvents(r *http.Request) (gate.Call, error) {
	if r.Method != http.MethodGet {
		return gate.Call{}, notOffered(r.Method)
	}
	return gate.Call{
		Operation: string(access.EventRead), Category: ledger.Administrative, Read: true, Plane: identity.ControlPlane,
		Needs:   []gate.Need{{Action: access.EventRead}},
		Handler: a.events,
	}, nil
}

// events answers with what happened in the registry that is called, and in the
// server itself if the caller may know, in the order of time as far as each
// ledger keeps it. ?since= and ?until= are times, ?category= is one category.
func (a *API) events(w http.ResponseWriter, r *http.Request, g access.Grant) error {
	if err := g.Allows(access.EventRead, g.Scope()); err != nil {
		return err
	}
	q := r.URL.Query()
	top, after, err := page(q)
	if err != nil {
		return err
	}
	if q.Get("$top") == "" {
		top = maxPage
	}
	wanted := ledger.Query{Category: q.Get("category"), Limit: top + 1}
	if strings.ContainsFunc(wanted.Category, func(r rune) bool { return r|0x20 < 'a' || r|0x20 > 'z' }) {
		return fault.New(fault.BadRequest, "category is one word, such as %s or %s", ledger.Administrative, ledger.Security)
	}
	for name, t := range map[string]*time.Time{"since": &wanted.Since, "until": &wanted.Until} {
		if s := q.Get(name); s != "" {
			if *t, err = time.Parse(time.RFC3339, s); err != nil {
				return fault.New(fault.BadRequest, "%s is a time such as 2026-11-23T18:00:00Z", name)
			}
		}
	}
	var mark [2]int64 // the last Seq of the registry and of the server that was given
	if after != "" {
		if _, err := fmt.Sscanf(after, "%d.%d", &mark[0], &mark[1]); err != nil {
			return fault.New(fault.BadRequest, "$skipToken is not one that was given")
		}
	}
	ctx := r.Context()
	registry, server := wanted, wanted
	registry.Registry, registry.After, server.After = g.Registry(), mark[0], mark[1]
	sources := []iter.Seq2[ledger.Event, error]{a.o.Ledger.Events(ctx, registry)}
	if g.Can(access.EventRead, ref.Everything) {
		sources = append(sources, a.o.Ledger.Events(ctx, server))
	}
	items := []json.RawMessage{}
	next := ""
	for e, err := range inTime(sources) {
		if err != nil {
			return err
		}
		if len(items) == top {
			next = fmt.Sprintf("%d.%d", mark[0], mark[1])
			break
		}
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		items = append(items, text)
		if e.Registry == "" {
			mark[1] = e.Seq
		} else {
			mark[0] = e.Seq
		}
	}
	return answerPage(w, r, items, next)
}

// inTime merges what comes in order.
func inTime(sources []iter.Seq2[ledger.Event, error]) iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		type head struct {
			event ledger.Event
			err   error
			ok    bool
			next  func() (ledger.Event, error, bool)
		}
		heads := make([]*head, len(sources))
		for i, s := range sources {
			next, stop := iter.Pull2(s)
			defer stop()
			h := &head{next: next}
			h.event, h.err, h.ok = next()
			heads[i] = h
		}
		for {
			var first *head
			for _, h := range heads {
				if h.ok && (first == nil || h.err != nil || first.err == nil && h.event.Time.Before(first.event.Time)) {
					first = h
				}
			}
			if first == nil || !yield(first.event, first.err) || first.err != nil {
				return
			}
			first.event, first.err, first.ok = first.next()
		}
	}
}
