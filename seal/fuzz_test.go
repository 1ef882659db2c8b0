package seal_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"breakwater/seal"
)

// Whatever bytes lie where a sealed object was: it opens to what was sealed, or
// not at all, and what came out before the damage is a prefix of it.
func FuzzOpen(f *testing.F) {
	r := ring(f, "reg-1", 1, 2)
	plain := content(first + 100)
	b := sealed(f, r, here, plain)
	small := sealed(f, r, here, []byte("content"))
	f.Add(b)
	f.Add(small)
	f.Add(b[:1<<16])
	f.Add(b[:84+16])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		want := plain
		if bytes.HasPrefix(data, small[:84]) {
			want = []byte("content")
		}
		got, err := open(r, here, data)
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("%d wrong bytes", len(got))
		}
		if err == nil && !bytes.Equal(data, b) && !bytes.Equal(data, small) {
			t.Fatal("opened what nobody sealed")
		}
		if size, serr := seal.Size(int64(len(data))); serr != nil && err == nil || serr == nil && size > int64(len(data)) {
			t.Fatalf("size %d, %v", size, serr)
		}
	})
}

// Damage of every shape to an object of several segments: bytes changed, cut
// out, repeated.
func FuzzDamage(f *testing.F) {
	r := ring(f, "reg-1", 1)
	plain := content(first + other + 100)
	b := sealed(f, r, here, plain)
	f.Add(uint32(90), uint32(1), uint32(91), []byte{})
	f.Add(uint32(1<<16), uint32(1<<16), uint32(0), []byte{})
	f.Add(uint32(1<<16), uint32(0), uint32(1<<17), []byte{})
	f.Add(uint32(8), uint32(4), uint32(0), []byte{0, 0, 0, 2})
	f.Add(uint32(len(b)), uint32(0), uint32(0), []byte{0})
	f.Fuzz(func(t *testing.T, at, cut, from uint32, with []byte) {
		i := int(at) % (len(b) + 1)
		j := min(i+int(cut%(1<<17)), len(b))
		k := min(int(from), len(b))
		bad := slices.Concat(b[:i], with, b[k:min(k+j-i, len(b))], b[j:])
		if bytes.Equal(bad, b) {
			return
		}
		got, err := open(r, here, bad)
		if err == nil {
			t.Fatal("damage was not seen")
		}
		if !bytes.HasPrefix(plain, got) {
			t.Fatal("wrong bytes")
		}
	})
}

func FuzzOpenSmall(f *testing.F) {
	r := ring(f, "reg-1", 1)
	b, err := seal.Small(r.Current(), here, []byte("content"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:90])
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := seal.OpenSmall(r, here, data)
		if (err == nil) != bytes.Equal(data, b) {
			t.Fatalf("%q, %v", got, err)
		}
		if err != nil && len(data) >= 12 && data[11] == 1 && !errors.Is(err, seal.ErrDamaged) {
			t.Fatal(err)
		}
	})
}
