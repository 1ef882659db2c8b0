// Package keystest is what every keys.Provider must do, and servers and devices to
// try it on.
package keystest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"breakwater/fault"
	"breakwater/keys"
)

// A World is a provider whose other side the test holds. A nil function is something
// that this provider does not have.
type World struct {
	Provider keys.Provider
	Keys     map[string]string // names of good keys → their algorithm
	Weak     []string          // names of keys that must not be chosen
	Secrets  []string          // that stand in no error

	Rotate  func(name string) // a new version; that before stays
	Disable func(name string) // until Enable
	Enable  func(name string)
	Expire  func(name string)
	Delete  func(name string) // for ever
	Deny    func()            // takes our right away, until Well
	Outages map[string]func() // down, slow, throttled …, until Well
	Well    func()
}

// Run tries one provider.
func Run(t *testing.T, open func(t *testing.T) *World) {
	w := open(t)
	ctx := t.Context()
	names := func(yield func(string, string) bool) {
		for name, algorithm := range w.Keys {
			if !yield(name, algorithm) {
				return
			}
		}
	}
	first := func() string {
		for name := range names {
			return name
		}
		return ""
	}
	secret := bytes.Repeat([]byte("secret! "), 8)[:60]
	quiet := func(t *testing.T, err error) {
		t.Helper()
		for _, s := range append(w.Secrets, "secret! ") {
			if err != nil && (strings.Contains(fmt.Sprintf("%v %+v", err, err), s) || errors.Unwrap(err) != nil && strings.Contains(errors.Unwrap(err).Error(), s)) {
				t.Errorf("an error tells %q: %v", s, err)
			}
		}
	}
	wrap := func(t *testing.T, key keys.Key, id keys.KeyID) ([]byte, keys.Key) {
		t.Helper()
		b, version, err := w.Provider.Wrap(ctx, key, id, secret)
		quiet(t, err)
		if err != nil || version == "" {
			t.Fatalf("wrap with %s: version %q, %v", key, version, err)
		}
		return b, keys.Key{Name: key.Name, Version: version}
	}
	opens := func(t *testing.T, key keys.Key, id keys.KeyID, b []byte) {
		t.Helper()
		if got, err := w.Provider.Unwrap(ctx, key, id, b); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("unwrap with %s: %d bytes, %v", key, len(got), err)
		}
	}
	refused := func(t *testing.T, what string, err error, states ...keys.State) {
		t.Helper()
		quiet(t, err)
		state, ok := keys.StateOf(err)
		for _, s := range states {
			if s == state {
				return
			}
		}
		t.Errorf("%s: refused %v as %q, want %q: %v", what, ok, state, states, err)
	}

	for name, algorithm := range names {
		t.Run(name, func(t *testing.T) {
			d, err := w.Provider.Describe(ctx, keys.Key{Name: name})
			if err != nil || d.Algorithm != algorithm || d.Version == "" || d.Usable(keys.Key{Name: name}, time.Now()) != nil || d.Strong() != nil {
				t.Fatalf("it is %+v, %v", d, err)
			}
			b, at := wrap(t, keys.Key{Name: name}, "registry/a/1")
			if at.Version != d.Version {
				t.Errorf("wrapped with version %s, not %s", at.Version, d.Version)
			}
			opens(t, at, "registry/a/1", b)
			if bytes.Contains(b, secret[:8]) {
				t.Error("the secret is visible")
			}
			for _, id := range []keys.KeyID{"registry/a/2", "registry/b/1", ""} {
				if got, err := w.Provider.Unwrap(ctx, at, id, b); err == nil || got != nil || fault.Of(err) == fault.Unavailable {
					t.Errorf("unwrapped for %q: %v", id, err)
				}
			}
			for _, i := range []int{0, 1, len(b) / 2, len(b) - 1} {
				bad := bytes.Clone(b)
				bad[i] ^= 1
				if got, err := w.Provider.Unwrap(ctx, at, "registry/a/1", bad); err == nil || got != nil || fault.Of(err) == fault.Unavailable {
					t.Errorf("byte %d flipped: %d bytes, %v", i, len(got), err)
				}
			}
			for _, n := range []int{0, 1, 2, len(b) - 1} {
				if _, err := w.Provider.Unwrap(ctx, at, "registry/a/1", b[:n]); err == nil {
					t.Errorf("cut to %d: unwrapped", n)
				}
			}
			if _, _, err := w.Provider.Wrap(ctx, at, "x", make([]byte, keys.MaxSecret+1)); err == nil {
				t.Error("a secret that is too long was wrapped")
			}
			long := make([]byte, keys.MaxSecret)
			lb, _, err := w.Provider.Wrap(ctx, at, "x", long)
			if err != nil {
				t.Errorf("the longest secret: %v", err)
			} else if got, err := w.Provider.Unwrap(ctx, at, "x", lb); err != nil || !bytes.Equal(got, long) {
				t.Errorf("the longest secret: %v", err)
			}
		})
	}
	t.Run("a key that is not there", func(t *testing.T) {
		_, err := w.Provider.Describe(ctx, keys.Key{Name: "nobody"})
		refused(t, "describe", err, keys.Gone)
		_, _, err = w.Provider.Wrap(ctx, keys.Key{Name: "nobody"}, "x", secret)
		refused(t, "wrap", err, keys.Gone)
		for _, name := range []string{"", "..", "../sys/seal", "a b", "a/b", "?x", "a%2fb"} {
			if _, err := w.Provider.Describe(ctx, keys.Key{Name: name}); err == nil {
				t.Errorf("%q was described", name)
			}
		}
	})
	t.Run("weak keys", func(t *testing.T) {
		for _, name := range w.Weak {
			d, err := w.Provider.Describe(ctx, keys.Key{Name: name})
			if err != nil || d.Strong() == nil {
				t.Errorf("%s is strong: %+v, %v", name, d, err)
			}
		}
	})
	if w.Rotate != nil {
		t.Run("versions", func(t *testing.T) {
			for name := range names {
				b, old := wrap(t, keys.Key{Name: name}, "r")
				w.Rotate(name)
				c, new := wrap(t, keys.Key{Name: name}, "r")
				if new.Version == old.Version {
					t.Errorf("%s: still version %s", name, new.Version)
				}
				opens(t, old, "r", b)
				opens(t, new, "r", c)
				if d, err := w.Provider.Describe(ctx, keys.Key{Name: name}); err != nil || d.Version != new.Version {
					t.Errorf("%s: the current version is %s, %v", name, d.Version, err)
				}
				if d, err := w.Provider.Describe(ctx, old); err != nil || d.Version != old.Version {
					t.Errorf("%s: the version before is %s, %v", name, d.Version, err)
				}
				if _, err := w.Provider.Unwrap(ctx, new, "r", b); err == nil && name != "" && !forgiving(w.Provider) {
					t.Errorf("%s: one version unwrapped what another did", name)
				}
			}
		})
	}
	for what, outage := range w.Outages {
		t.Run("outage "+what, func(t *testing.T) {
			key := keys.Key{Name: first()}
			b, at := wrap(t, key, "r")
			outage()
			defer w.Well()
			began := time.Now()
			short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			_, err := w.Provider.Unwrap(short, at, "r", b)
			quiet(t, err)
			if fault.Of(err) != fault.Unavailable {
				t.Errorf("unwrap: %v", err)
			}
			if _, err := w.Provider.Describe(short, key); fault.Of(err) != fault.Unavailable {
				t.Errorf("describe: %v", err)
			}
			if time.Since(began) > 3*time.Second {
				t.Error("it did not give up in time")
			}
			w.Well()
			opens(t, at, "r", b)
		})
	}
	if w.Deny != nil {
		t.Run("denied", func(t *testing.T) {
			b, at := wrap(t, keys.Key{Name: first()}, "r")
			w.Deny()
			_, err := w.Provider.Unwrap(ctx, at, "r", b)
			refused(t, "unwrap", err, keys.Barred)
			_, _, err = w.Provider.Wrap(ctx, at, "r", secret)
			refused(t, "wrap", err, keys.Barred)
			w.Well()
			opens(t, at, "r", b)
		})
	}
	if w.Disable != nil {
		t.Run("disabled", func(t *testing.T) {
			for name := range names {
				b, at := wrap(t, keys.Key{Name: name}, "r")
				w.Disable(name)
				_, err := w.Provider.Unwrap(ctx, at, "r", b)
				refused(t, "unwrap", err, keys.Disabled)
				if d, err := w.Provider.Describe(ctx, at); err == nil {
					refused(t, "describe", d.Usable(at, time.Now()), keys.Disabled)
				}
				w.Enable(name)
				opens(t, at, "r", b)
			}
		})
	}
	if w.Expire != nil {
		t.Run("expired", func(t *testing.T) {
			name := first()
			w.Expire(name)
			d, err := w.Provider.Describe(ctx, keys.Key{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			refused(t, "described", d.Usable(keys.Key{Name: name}, time.Now()), keys.Expired)
			delete(w.Keys, name)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		for name := range names {
			b, at := wrap(t, keys.Key{Name: name}, "r")
			w.Delete(name)
			_, err := w.Provider.Unwrap(ctx, at, "r", b)
			refused(t, "unwrap", err, keys.Gone)
			if d, err := w.Provider.Describe(ctx, at); err == nil {
				err = d.Usable(at, time.Now())
				refused(t, "describe", err, keys.Gone)
			} else {
				refused(t, "describe", err, keys.Gone)
			}
		}
	})
}

// forgiving providers find the version in the ciphertext.
func forgiving(p keys.Provider) bool {
	switch p.(type) {
	case *keys.GoogleKMS, *keys.AWSKMS:
		return true
	}
	return false
}
