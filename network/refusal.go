package network

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// A Refusal is why somebody is not reached. Nothing in it is a secret: of a URL it has
// the host alone.
type Refusal struct {
	Purpose     Purpose
	Destination string // HOST:PORT that was to be reached
	Address     string // … and which of its addresses; "" if it was not looked up
	Ruling
	Before int // how many of the kind came since the last one that was told
}

func (r *Refusal) Error() string {
	if r.Address == r.Destination || r.Address == "" {
		return fmt.Sprintf("%s is not reached for the purpose %s: %s (%s)", r.Destination, r.Purpose, r.Reason, r.Rule)
	}
	return fmt.Sprintf("%s, which is %s, is not reached for the purpose %s: %s (%s)", r.Destination, r.Address, r.Purpose, r.Reason, r.Rule)
}

// longestName is that of a host in DNS, with its port.
const longestName = 253 + len(":65535")

// named is a destination as it may be told: others chose it.
func named(destination string) string {
	return strings.ToValidUTF8(destination[:min(len(destination), longestName)], "?")
}

// refuse tells of the refusal, and is the error of who dialled.
func (e *Egress) refuse(ctx context.Context, r Refusal) error {
	if before, tell := e.refused.tell(r); tell && e.o.Refused != nil {
		told := r
		told.Before = before
		e.o.Refused(ctx, told)
	}
	return &r
}

// Refusals of one kind are told once in refusalRest, of maxRefusals kinds at a time:
// who makes the server dial must not be able to fill the ledger.
const (
	refusalRest = 10 * time.Minute
	maxRefusals = 200
)

// A refusalKind is what is counted together. Beyond maxRefusals, all that is refused
// for one purpose is of one kind.
type refusalKind struct {
	purpose           Purpose
	destination, rule string
}

// refusals remember what was told.
type refusals struct {
	mu   sync.Mutex
	told map[refusalKind]*silence
}

type silence struct {
	until time.Time
	kept  int
}

// tell reports whether this one is told, and how many were not since the last.
func (s *refusals) tell(r Refusal) (before int, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	kind := refusalKind{r.Purpose, r.Destination, r.Rule}
	if s.told[kind] == nil && len(s.told) >= maxRefusals {
		for k, t := range s.told {
			if !now.Before(t.until) {
				delete(s.told, k)
			}
		}
		if len(s.told) >= maxRefusals {
			kind = refusalKind{purpose: r.Purpose}
		}
	}
	t := s.told[kind]
	if t == nil {
		if s.told == nil {
			s.told = map[refusalKind]*silence{}
		}
		t = new(silence)
		s.told[kind] = t
	}
	if now.Before(t.until) {
		t.kept++
		return 0, false
	}
	before, *t = t.kept, silence{until: now.Add(refusalRest)}
	return before, true
}
