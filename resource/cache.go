package resource

import (
	"context"
	"sync"
)

// A Cache keeps what was derived from documents until any document changes. The
// zero Cache is ready.
type Cache[K comparable, V any] struct {
	mu   sync.Mutex
	at   int64 // generation of what is kept
	kept map[K]V
}

// cacheMax bounds what is kept: keys may come from callers.
const cacheMax = 1 << 14

// Get returns the value for key as of now: the kept one, or what load makes of
// the documents. Errors are not kept.
func (c *Cache[K, V]) Get(ctx context.Context, s *Store, key K, load func(context.Context) (V, error)) (V, error) {
	now, err := s.Generation(ctx)
	if err != nil {
		var none V
		return none, err
	}
	c.mu.Lock()
	v, ok := c.kept[key]
	ok = ok && c.at == now
	c.mu.Unlock()
	if ok {
		return v, nil
	}
	if v, err = load(ctx); err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at > now {
		return v, nil // others have gone on already
	}
	if c.at < now || c.kept == nil || len(c.kept) >= cacheMax {
		c.at, c.kept = now, make(map[K]V)
	}
	c.kept[key] = v
	return v, nil
}
