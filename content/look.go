package content

import (
	"context"
	"fmt"
	"io"

	"breakwater/ledger"
)

// A look is one examination of a blob, which all share who want to know meanwhile how
// it is: a blob of many gigabytes that nobody has read since proofs are made is read
// once for a crowd, not once for each.
type look struct {
	done    chan struct{} // closed when err is final
	err     error
	end     context.CancelFunc
	waiting int // under Store.looking
}

// A looked is what a look is at.
type looked struct {
	id    int64
	bytes string
}

// examined is examine for whoever asks at the same time. It ends when nobody waits for
// it any more, however it began; what it found is not kept.
func (s *Store) examined(ctx context.Context, e ledger.Event, b stored) error {
	at := looked{b.id, b.bytes}
	s.looking.Lock()
	l := s.looks[at]
	if l == nil {
		l = &look{done: make(chan struct{})}
		run, end := context.WithCancel(context.WithoutCancel(ctx))
		l.end = end
		if s.looks == nil {
			s.looks = map[looked]*look{}
		}
		s.looks[at] = l
		go s.look(run, l, at, e, b)
	}
	l.waiting++
	s.looking.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
	}
	s.looking.Lock()
	l.waiting--
	last := l.waiting == 0
	if last && s.looks[at] == l {
		delete(s.looks, at) // who comes now begins anew
	}
	s.looking.Unlock()
	if last {
		l.end()
		<-l.done
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.err
}

// look answers l, whatever happens.
func (s *Store) look(ctx context.Context, l *look, at looked, e ledger.Event, b stored) {
	defer close(l.done)
	defer func() {
		if p := recover(); p != nil {
			l.err = fmt.Errorf("examine blob %s: panic: %v", b.digest, p)
		}
		s.looking.Lock()
		defer s.looking.Unlock()
		if s.looks[at] == l {
			delete(s.looks, at)
		}
	}()
	l.err = s.examine(ctx, e, b, io.Discard)
}
