package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"breakwater/ledger"
	"breakwater/resource"
	"breakwater/transit"
)

// A Border is where each connection of the process is judged by the security rules,
// and where what became of it is noted (NS-1).
//
// The zero Border has no rules yet, and refuses: what the process has to reach before
// it can read them asks for none.
type Border struct {
	kept    resource.Cache[struct{}, *Rules]
	looking sync.Mutex // held while rules are looked up
	read    *Rules     // the last, and of which documents
	of      string

	mu        sync.Mutex
	documents *resource.Store
	ledger    *ledger.Ledger
	next      *look

	flows flows
}

// Open says where the rules are, and who hears of flows.
func (b *Border) Open(documents *resource.Store, l *ledger.Ledger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.documents, b.ledger = documents, l
}

// A look is one look-up that all share who came before it began: a flood of
// connections asks the database one question at a time.
type look struct {
	done  chan struct{}
	rules *Rules
	err   error
}

// lookTime is how long a look-up may take.
const lookTime = 5 * time.Second

var (
	errNotRead = errors.New("the security rules were not read in time")
	errNotOpen = errors.New("the security rules cannot be read yet")
)

// Rules are those of now: no change was answered before the call that they lack. An
// error is a reason to refuse.
func (b *Border) Rules(ctx context.Context) (*Rules, error) {
	b.mu.Lock()
	if b.documents == nil {
		b.mu.Unlock()
		return nil, errNotOpen
	}
	documents, l, first := b.documents, b.next, b.next == nil
	if first {
		l = &look{done: make(chan struct{})}
		b.next = l
	}
	b.mu.Unlock()
	if first {
		go b.answer(l, documents) // it is for many: who asked first waits no longer than others
	}
	select {
	case <-l.done:
		return l.rules, l.err
	case <-ctx.Done():
		return nil, errNotRead
	}
}

// answer looks up l, and answers it whatever happens.
func (b *Border) answer(l *look, documents *resource.Store) {
	defer close(l.done)
	b.looking.Lock()
	defer b.looking.Unlock()
	b.mu.Lock()
	b.next = nil // who comes from now on wants to know later
	b.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			l.err = fmt.Errorf("look up the security rules: panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	l.rules, l.err = b.kept.Get(ctx, documents, struct{}{}, b.load)
}

// load reads the documents. Rules stay the same as long as they do, so that nobody is
// judged again because something else was changed.
func (b *Border) load(ctx context.Context) (*Rules, error) {
	var of strings.Builder
	rules, err := ReadRules(func(typ string) ([]resource.Resource, error) {
		docs, err := b.documents.Find(ctx, resource.Query{Type: typ})
		for _, doc := range docs {
			of.WriteString(doc.ID.Key() + " " + doc.Etag + "\n")
		}
		return docs, err
	})
	if err != nil {
		return nil, err
	}
	if b.read == nil || b.of != of.String() { // under looking
		b.read, b.of = rules, of.String()
	}
	return b.read, nil
}

// Court judges the connections that come.
func (b *Border) Court() transit.Court {
	return transit.Court{
		Law: func(ctx context.Context) (transit.Law, error) {
			rules, err := b.Rules(ctx)
			if err != nil {
				return nil, err
			}
			return rules, nil
		},
		Ended: func(f transit.Flow) {
			flow := inbound(&f)
			flow.Source = f.From
			b.Ended(Ended{
				Flow: flow, Endpoint: f.Endpoint, Told: f.Told, Rule: f.Rule, Refused: f.Refused,
				Start: f.Start, In: f.In, Out: f.Out,
			})
		},
	}
}
