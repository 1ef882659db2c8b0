package seal_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"breakwater/seal"
)

// fixed is sealed bytes that are the same in every process that fuzzes.
func fixed(f *testing.F, form byte, plain []byte) []byte {
	v := vector{form: form, version: 1, secret: hidden(form), registry: here.Registry, object: here.Object, plaintext: plain,
		dataKey: bytes.Repeat([]byte{1}, 32), salt: bytes.Repeat([]byte{byte(len(plain))}, 32), prefix: make([]byte, 7)}
	return v.reference(f)
}

// hidden is the secret of what is of this form: rows have none.
func hidden(form byte) []byte {
	if form == 1 {
		return secret.Bytes()
	}
	return nil
}

// Whatever bytes lie where a sealed object was: it opens to what was sealed, or
// not at all, and what came out before the damage is a prefix of it.
func FuzzOpen(f *testing.F) {
	r := ring(f, "reg-1", 1, 2)
	plain := content(first + 100)
	b := fixed(f, 1, plain)
	small := fixed(f, 1, []byte("content"))
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
	b := fixed(f, 1, plain)
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
	b := fixed(f, 2, []byte("content"))
	f.Add(b)
	f.Add(b[:90])
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := seal.OpenSmall(r, here, data)
		if (err == nil) != bytes.Equal(data, b) {
			t.Fatalf("%q, %v", got, err)
		}
		if err != nil && len(data) >= 12 && bytes.Equal(data[8:12], b[8:12]) && !errors.Is(err, seal.ErrDamaged) {
			t.Fatal(err)
		}
	})
}
