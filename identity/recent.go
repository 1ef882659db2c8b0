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

// guess counts a wrong password and tells how long to wait if there were too
// many.
func (s *Store) guess(r Realm, c Credentials, from network.Origin) time.Duration {
	return s.guesses.take(guesser{neighbourhood(from.Counted()), r.UID + "\x00" + strings.ToLower(c.Name)}, guessBurst, guessEvery)
}

// A bucket is when nothing is left to the account of its key.
type bucket struct {
	mu    sync.Mutex
	clear time.Time
}

// A throttle lets each key do something a few times at once, then at a pace.
type throttle[K comparable] struct{ recent[K, *bucket] }

// take counts one, and tells how long to wait if it is one too many.
func (t *throttle[K]) take(k K, burst int, every time.Duration) time.Duration {
	b, ok := t.get(k)
	if !ok {
		b = new(bucket)
		t.add(k, b)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.clear.Before(now) {
		b.clear = now
	}
	if wait := b.clear.Sub(now) - time.Duration(burst-1)*every; wait > 0 {
		return wait
	}
	b.clear = b.clear.Add(every)
	return 0
}

// neighbourhood is the network that counts as one caller: an IPv6 caller has a
// whole /64.
func neighbourhood(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
