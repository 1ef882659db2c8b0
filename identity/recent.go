package identity

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"breakwater/network"
)

// maxRecent is how many entries one half of a recent keeps.
const maxRecent = 8192

// recent keeps the entries that were used last, between maxRecent and twice as
// many: when the young half is full it becomes the old one, and what the old one
// still held is forgotten.
type recent[K comparable, V any] struct {
	mu         sync.Mutex
	young, old map[K]V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.young[k]; ok {
		return v, true
	}
	v, ok := r.old[k]
	if ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) add(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(k, v)
}

func (r *recent[K, V]) put(k K, v V) {
	if r.young == nil || len(r.young) >= maxRecent {
		r.young, r.old = make(map[K]V), r.young
	}
	r.young[k] = v
}

// Wrong passwords: guessBurst at once, then one each guessEvery.
const (
	guessBurst = 10
	guessEvery = 3 * time.Second
)

// A guesser is who tries what: an IPv6 caller has a whole /64.
type guesser struct {
	network netip.Prefix
	account string
}

// A bucket is when its guesser will have no wrong password left to its account.
type bucket struct {
	mu    sync.Mutex
	clear time.Time
}

// guess counts a wrong password and tells how long to wait if there were too
// many.
func (s *Store) guess(r Realm, c Credentials, from network.Origin) time.Duration {
	bits := from.Addr.BitLen()
	if from.Addr.Is6() {
		bits = 64
	}
	network, _ := from.Addr.Prefix(bits)
	g := guesser{network, r.UID + "\x00" + strings.ToLower(c.Name)}
	b, ok := s.guesses.get(g)
	if !ok {
		b = new(bucket)
		s.guesses.add(g, b)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.clear.Before(now) {
		b.clear = now
	}
	if wait := b.clear.Sub(now) - (guessBurst-1)*guessEvery; wait > 0 {
		return wait
	}
	b.clear = b.clear.Add(guessEvery)
	return 0
}
