package gate

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// known bounds how many callers one meter remembers. A caller that is forgotten
// starts with a full bucket, so a flood of addresses costs memory of this size
// and no more.
const known = 16 << 10

// window is the span in which refusals for haste become one event of a caller.
const window = time.Minute

// A meter holds one token bucket for each caller that came lately.
type meter[K comparable] struct {
	each  rate.Limit
	burst int

	mu     sync.Mutex
	bucket map[K]*list.Element
	recent list.List // of *bucket[K], the latest in front
}

type bucket[K comparable] struct {
	key     K
	limiter *rate.Limiter
	told    time.Time // when the ledger was last told of refusals
	quiet   int64     // refusals since then
}

func newMeter[K comparable](perSecond float64) *meter[K] {
	return &meter[K]{each: rate.Limit(perSecond), burst: int(2 * perSecond), bucket: map[K]*list.Element{}}
}

// take takes one request from k's bucket. If it is empty, wait says when to come
// again; tell says that the ledger shall hear of it, and of how many before.
func (m *meter[K]) take(k K) (wait time.Duration, tell bool, before int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.bucket[k]
	if ok {
		m.recent.MoveToFront(e)
	} else {
		if len(m.bucket) >= known {
			oldest := m.recent.Back()
			delete(m.bucket, m.recent.Remove(oldest).(*bucket[K]).key)
		}
		e = m.recent.PushFront(&bucket[K]{key: k, limiter: rate.NewLimiter(m.each, m.burst)})
		m.bucket[k] = e
	}
	b, now := e.Value.(*bucket[K]), time.Now()
	if b.limiter.AllowN(now, 1) {
		return 0, false, 0
	}
	wait = time.Second
	if now.Sub(b.told) < window {
		b.quiet++
		return wait, false, 0
	}
	before, b.told, b.quiet = b.quiet, now, 0
	return wait, true, before
}

// neighbourhood is what one stranger can call from: an IPv4 address, or the /64
// that a single IPv6 host commands.
func neighbourhood(a netip.Addr) netip.Addr {
	if a.Is6() && !a.Is4In6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}
