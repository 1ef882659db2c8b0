// Package objecttest is the suite that every object.Store passes, and a Store
// in memory for tests.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"breakwater/object"
)

// Run proves that the stores that open makes keep the promises of object.Store.
// Each test gets an empty store.
func Run(t *testing.T, open func(t *testing.T) object.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s object.Store)
	}{
		{"what is put is read back", putRead},
		{"an object is written once", once},
		{"a failed put leaves nothing", failed},
		{"a cancelled put leaves nothing", cancelled},
		{"what is not a key is refused", notKeys},
		{"an absent object is fs.ErrNotExist", absent},
		{"delete takes what is there", deletes},
		{"an open object survives its delete", deleteOpen},
		{"list is in the order of the keys", list},
		{"parallel puts do not mix", parallel},
		{"of parallel puts under one key one wins", race},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func put(t *testing.T, s object.Store, key string, b []byte) {
	t.Helper()
	n, err := s.Put(t.Context(), key, bytes.NewReader(b))
	if err != nil || n != int64(len(b)) {
		t.Fatalf("put %s: %d bytes, %v; want %d", key, n, err, len(b))
	}
}

func read(t *testing.T, s object.Store, key string) []byte {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()+1))
	if err != nil || int64(len(b)) != o.Size() {
		t.Fatalf("read %s: %d bytes, %v; its size is %d", key, len(b), err, o.Size())
	}
	return b
}

func all(t *testing.T, s object.Store, prefix string) (infos []object.Info) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	return infos
}

func gone(t *testing.T, s object.Store, key string) {
	t.Helper()
	if o, err := s.Open(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open %s: %v, %v; want fs.ErrNotExist", key, o, err)
	}
	if left := all(t, s, key); len(left) > 0 {
		t.Errorf("list still shows %v", left)
	}
}

func putRead(t *testing.T, s object.Store) {
	for _, n := range []int{0, 1, 4095, 4096, 1 << 16, 3<<20 + 7} {
		key, b := object.NewKey(), content(n)
		put(t, s, key, b)
		if !bytes.Equal(read(t, s, key), b) {
			t.Errorf("%d bytes came back changed", n)
		}
		// The same through a reader that gives a byte at a time and hides WriteTo.
		if n > 4096 {
			continue
		}
		key = object.NewKey()
		if _, err := s.Put(t.Context(), key, iotest.OneByteReader(bytes.NewReader(b))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, s, key), b) {
			t.Errorf("%d single bytes came back changed", n)
		}
	}
	key, b := object.NewKey(), content(1000)
	put(t, s, key, b)
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	part := make([]byte, 100)
	if n, err := o.ReadAt(part, 300); n != 100 || err != nil || !bytes.Equal(part, b[300:400]) {
		t.Errorf("read in the middle: %d, %v", n, err)
	}
	if n, err := o.ReadAt(part, 950); n != 50 || err != io.EOF || !bytes.Equal(part[:50], b[950:]) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
}

func once(t *testing.T, s object.Store) {
	key := object.NewKey()
	put(t, s, key, []byte("first"))
	if _, err := s.Put(t.Context(), key, strings.NewReader("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second put: %v; want fs.ErrExist", err)
	}
	if b := read(t, s, key); string(b) != "first" {
		t.Errorf("the object is now %q", b)
	}
}

func failed(t *testing.T, s object.Store) {
	cut := errors.New("cut")
	key := object.NewKey()
	r := io.MultiReader(bytes.NewReader(content(1<<20)), iotest.ErrReader(cut))
	if _, err := s.Put(t.Context(), key, r); !errors.Is(err, cut) {
		t.Errorf("put: %v; want the error of its reader", err)
	}
	gone(t, s, key)
}

func cancelled(t *testing.T, s object.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	key := object.NewKey()
	read := 0
	endless := readerFunc(func(p []byte) (int, error) {
		if read += len(p); read > 1<<20 {
			cancel()
		}
		return len(p), nil
	})
	if _, err := s.Put(ctx, key, endless); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v; want context.Canceled", err)
	}
	gone(t, s, key)
}

func notKeys(t *testing.T, s object.Store) {
	ok := object.NewKey()
	for _, key := range []string{
		"", "/", "..", "ab", "ab/", "../" + ok, ok + "/x", ok[:32], ok + "0", "/etc/passwd", strings.ToUpper("ab" + ok[2:]),
		ok[:2] + "//" + ok[4:], ok[:4] + "." + ok[5:], ok[:2] + "/../" + ok[6:], ok[:32] + "\x00", ok[:32] + "g",
	} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); err == nil {
			t.Errorf("put took %q", key)
		}
		if _, err := s.Open(t.Context(), key); err == nil {
			t.Errorf("open took %q", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("delete took %q", key)
		}
	}
}

func absent(t *testing.T, s object.Store) { gone(t, s, object.NewKey()) }

func deletes(t *testing.T, s object.Store) {
	a, b, c := object.NewKey(), object.NewKey(), object.NewKey()
	put(t, s, a, []byte("a"))
	put(t, s, b, []byte("b"))
	put(t, s, c, []byte("c"))
	if err := s.Delete(t.Context(), a, object.NewKey(), b); err != nil {
		t.Fatal(err)
	}
	gone(t, s, a)
	gone(t, s, b)
	if string(read(t, s, c)) != "c" {
		t.Error("another object changed")
	}
	if err := s.Delete(t.Context(), a); err != nil {
		t.Errorf("second delete: %v", err)
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
}

func deleteOpen(t *testing.T, s object.Store) {
	key, b := object.NewKey(), content(1<<20)
	put(t, s, key, b)
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b))
	if n, err := o.ReadAt(got, 0); n != len(b) || err != nil && err != io.EOF || !bytes.Equal(got, b) {
		t.Errorf("read after delete: %d bytes, %v", n, err)
	}
}

func list(t *testing.T, s object.Store) {
	if got := all(t, s, ""); len(got) > 0 {
		t.Fatalf("an empty store lists %v", got)
	}
	began := time.Now().Add(-2 * time.Second)
	var keys []string
	for i := range 100 {
		keys = append(keys, object.NewKey())
		put(t, s, keys[i], content(i))
	}
	size := map[string]int64{}
	for i, k := range keys {
		size[k] = int64(i)
	}
	slices.Sort(keys)
	got := all(t, s, "")
	if len(got) != len(keys) {
		t.Fatalf("list has %d of %d objects", len(got), len(keys))
	}
	for i, info := range got {
		if info.Key != keys[i] || info.Size != size[info.Key] || info.At.Before(began) || info.At.After(time.Now().Add(2*time.Second)) {
			t.Errorf("list has %v at %d, want %s with %d bytes", info, i, keys[i], size[keys[i]])
		}
	}
	for _, prefix := range []string{keys[0][:1], keys[0][:2], keys[0][:3], keys[0][:10], keys[0], keys[0] + "0", "zz", "/"} {
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, prefix) })
		var have []string
		for _, info := range all(t, s, prefix) {
			have = append(have, info.Key)
		}
		if !slices.Equal(have, want) {
			t.Errorf("list of %q has %v, want %v", prefix, have, want)
		}
	}
	for range s.List(t.Context(), "") {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.List(ctx, "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("list of a cancelled context: %v", err)
		}
		break
	}
}

func parallel(t *testing.T, s object.Store) {
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 8 {
				key, b := object.NewKey(), content(100_000)
				if _, err := s.Put(t.Context(), key, bytes.NewReader(b)); err != nil {
					t.Error(err)
					return
				}
				o, err := s.Open(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
				if o.Close(); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s came back changed: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
}

func race(t *testing.T, s object.Store) {
	key := object.NewKey()
	var wg sync.WaitGroup
	won := make([][]byte, 8)
	for i := range won {
		wg.Go(func() {
			b := content(1 << 18)
			_, err := s.Put(t.Context(), key, bytes.NewReader(b))
			if err == nil {
				won[i] = b
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won = slices.DeleteFunc(won, func(b []byte) bool { return b == nil })
	if len(won) != 1 {
		t.Fatalf("%d puts won", len(won))
	}
	if !bytes.Equal(read(t, s, key), won[0]) {
		t.Error("the object is not the winner's")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
