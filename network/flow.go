package network

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"breakwater/ledger"
	"breakwater/ref"
)

// Operations of flow events, whose category is ledger.Flow.
const (
	inboundFlow  = "InboundFlow"
	outboundFlow = "OutboundFlow"
)

// Ended is a connection that is over, or was refused.
type Ended struct {
	Flow
	Endpoint ref.ID
	Told     bool
	Rule     string
	Refused  bool
	Start    time.Time
	In, Out  int64 // bytes that came and went

	end time.Time
}

// Bounds of what is noted, so that a flood of connections is few events: each stranger
// has one at once and one each minute for all that came since; who comes when too many
// are known counts together with all others. Those that were accepted have one each, as
// long as they are few in a second.
const (
	flowWindow   = time.Minute
	flowKinds    = 1024
	flowSingles  = 256
	flowInterval = time.Second
)

// flows are the connections that the ledger has not heard of.
type flows struct {
	mu      sync.Mutex
	singles []Ended
	sums    map[flowKind]*flowSum
	kinds   map[bool]int // how many sums are of refusals, and how many are not: neither take the others' place
	refused map[string]int64
}

// A flowKind is what flows have in common that are counted together.
type flowKind struct {
	from     netip.Addr // invalid when too many are known
	listener string
	purpose  Purpose
	name     string
	rule     string
	refused  bool
}

type flowSum struct {
	first   Ended // since the ledger was told
	count   int64
	in, out int64
	told    time.Time
}

// kind of e: an IPv6 host has a whole /64 to come from.
func (e *Ended) kind() flowKind {
	k := flowKind{from: plain(e.Source.Addr()), listener: e.Listener, purpose: e.Purpose, name: e.Name, rule: e.Rule, refused: e.Refused}
	if e.Direction == Outbound {
		k.from = plain(e.Destination.Addr())
	} else if k.from.Is6() {
		p, _ := k.from.Prefix(64)
		k.from = p.Addr()
	}
	return k
}

// Ended notes a connection, and waits for nothing.
func (b *Border) Ended(e Ended) {
	e.end = time.Now()
	f := &b.flows
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Refused {
		if f.refused == nil {
			f.refused = map[string]int64{}
		}
		f.refused[e.Direction]++
	}
	if !e.Refused && len(f.singles) < flowSingles {
		f.singles = append(f.singles, e)
		return
	}
	f.add(flowSum{first: e, count: 1, in: e.In, out: e.Out})
}

// Refused is how many connections of one direction were refused by a rule, or cut.
func (b *Border) Refused(direction string) int64 {
	b.flows.mu.Lock()
	defer b.flows.mu.Unlock()
	return b.flows.refused[direction]
}

// add counts some more with those that are like them.
func (f *flows) add(more flowSum) {
	if f.sums == nil {
		f.sums, f.kinds = map[flowKind]*flowSum{}, map[bool]int{}
	}
	k := more.first.kind()
	s := f.sums[k]
	if s == nil && f.kinds[k.refused] >= flowKinds {
		k.from, k.name = netip.Addr{}, ""
		s = f.sums[k]
	}
	if s == nil {
		s = new(flowSum)
		f.sums[k] = s
		f.kinds[k.refused]++
	}
	if s.count == 0 {
		s.first = more.first
	}
	s.count += more.count
	s.in += more.in
	s.out += more.out
}

// Run has the ledger hear of flows, until ctx ends and it has heard of all.
func (b *Border) Run(ctx context.Context) {
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.tell(ctx, false)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
			defer cancel()
			b.tell(last, true)
			return
		}
	}
}

// tell writes what is due. What the ledger does not take is counted on.
func (b *Border) tell(ctx context.Context, all bool) {
	due := b.flows.due(time.Now(), all)
	if len(due) == 0 {
		return
	}
	rules, err := b.Rules(ctx)
	log := FlowLog{} // while nobody can say what is wanted: refusals
	if err == nil {
		log = rules.Flows
	}
	for i := range due {
		s := &due[i]
		if !log.records(s.first.Refused) {
			continue
		}
		if err := b.ledger.Note(ctx, s.event()); err != nil {
			slog.WarnContext(ctx, "the ledger took no flow events; they are counted on", "events", len(due)-i, "err", err)
			b.flows.again(due[i:])
			return
		}
	}
}

// due takes out what the ledger is to hear now.
func (f *flows) due(now time.Time, all bool) (due []flowSum) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.singles {
		due = append(due, flowSum{first: e, count: 1, in: e.In, out: e.Out})
	}
	f.singles = nil
	for k, s := range f.sums {
		switch waited := now.Sub(s.told) >= flowWindow; {
		case s.count > 0 && (waited || all):
			due = append(due, *s)
			*s = flowSum{told: now}
		case s.count == 0 && waited:
			delete(f.sums, k)
			f.kinds[k.refused]--
		}
	}
	return due
}

func (f *flows) again(untold []flowSum) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range untold {
		f.add(s)
	}
}

// event is what the ledger hears of flows that have all in common but their ports:
// the five-tuple of the first, and how many there were.
func (s *flowSum) event() ledger.Event {
	e := &s.first
	more := map[string]string{
		"direction": e.Direction, "protocol": "Tcp", "source": point(e.Source), "destination": point(e.Destination),
		"rule": e.Rule, "bytesIn": strconv.FormatInt(s.in, 10), "bytesOut": strconv.FormatInt(s.out, 10),
		"verdict": Ruling{Allowed: !e.Refused}.outcome(),
	}
	if s.count > 1 {
		more["flows"] = strconv.FormatInt(s.count, 10)
	}
	event := ledger.Event{Category: ledger.Flow, Operation: inboundFlow, Outcome: ledger.Success, Detail: ledger.Detail{More: more}}
	if e.Direction == Outbound {
		event.Operation = outboundFlow
		more["purpose"] = string(e.Purpose)
		if e.Name != "" {
			more["name"] = e.Name
		}
	} else {
		event.From = ledger.From{Address: plain(e.Source.Addr()), Listener: e.Listener, Endpoint: e.Endpoint, Told: e.Told}
	}
	if e.Refused {
		event.Outcome, event.Reason = ledger.Refused, "NetworkDenied"
	}
	event.Time, event.Duration = e.end, e.end.Sub(e.Start)
	return event
}

func point(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unknown"
	}
	return netip.AddrPortFrom(plain(a.Addr()), a.Port()).String()
}
