package ledger

import (
	"context"
	"sync"
	"time"
)

// A group lets concurrent callers share one commit: while one is under way, the
// next gathers.
type group[T any] struct {
	commit func(ctx context.Context, all []T) error
	mu     sync.Mutex
	next   *batch[T]
	turn   sync.Mutex // held while committing
}

type batch[T any] struct {
	all  []T
	done chan struct{}
	err  error
}

// patience is how long a commit for many may take; the context of the one who
// happens to lead it does not end it for the others.
const patience = 10 * time.Second

// add returns when x is committed. If ctx ends before, x may be committed still.
func (g *group[T]) add(ctx context.Context, x T) error {
	g.mu.Lock()
	b, lead := g.next, g.next == nil
	if lead {
		b = &batch[T]{done: make(chan struct{})}
		g.next = b
	}
	b.all = append(b.all, x)
	g.mu.Unlock()

	if !lead {
		select {
		case <-b.done:
			return b.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	g.turn.Lock()
	defer g.turn.Unlock()
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	defer close(b.done)
	b.err = g.commit(ctx, b.all)
	return b.err
}
