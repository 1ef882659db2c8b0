package objecttest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"breakwater/object"
)

// NewMemory is an empty Store in memory.
func NewMemory() object.Store { return &memory{objects: map[string]stored{}} }

type memory struct {
	mu      sync.Mutex
	objects map[string]stored
}

type stored struct {
	bytes []byte
	at    time.Time
}

func (m *memory) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	if err := object.Check(key); err != nil {
		return 0, err
	}
	var b bytes.Buffer
	if _, err := io.Copy(untilDone{ctx, &b}, r); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		return 0, fs.ErrExist
	}
	m.objects[key] = stored{b.Bytes(), time.Now()}
	return int64(b.Len()), nil
}

type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

func (m *memory) Open(_ context.Context, key string) (object.Object, error) {
	if err := object.Check(key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return reader{bytes.NewReader(o.bytes)}, nil
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

func (m *memory) Delete(_ context.Context, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if err := object.Check(key); err != nil {
			return err
		}
		delete(m.objects, key)
	}
	return nil
}

func (m *memory) List(ctx context.Context, prefix string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if err := ctx.Err(); err != nil {
				yield(object.Info{}, err)
				return
			}
			o := objects[key]
			if strings.HasPrefix(key, prefix) && !yield(object.Info{Key: key, Size: int64(len(o.bytes)), At: o.at}, nil) {
				return
			}
		}
	}
}
