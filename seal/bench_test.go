package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"breakwater/object"
	"breakwater/seal"
)

const large = 64 << 20

// BenchmarkBareAEAD is what sealing cannot be faster than.
func BenchmarkBareAEAD(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	buf, nonce := make([]byte, 1<<16), make([]byte, 12)
	sealed := gcm.Seal(nil, nonce, buf[16:], nil)
	b.Run("seal", func(b *testing.B) {
		b.SetBytes(other)
		for b.Loop() {
			gcm.Seal(buf[:0], nonce, buf[:other], nil)
		}
	})
	b.Run("open", func(b *testing.B) {
		b.SetBytes(other)
		for b.Loop() {
			copy(buf, sealed) // opened where it lies, like a page read from a file
			if _, err := gcm.Open(buf[:0], nonce, buf, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	r, plain := ring(b, "reg-1", 1), make([]byte, large)
	b.SetBytes(large)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.NewReader(bytes.NewReader(plain), r.Current(), here, secret).WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	r := ring(b, "reg-1", 1)
	for _, n := range []int{1 << 10, 1 << 16, large} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "sealed")
			if err := os.WriteFile(path, sealed(b, r, here, make([]byte, n)), 0o600); err != nil {
				b.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				s, err := seal.Open(f, info.Size(), r, here, secret)
				if err != nil {
					b.Fatal(err)
				}
				st := s.NewStream()
				if _, err := st.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
				st.Close()
			}
		})
	}
}

func BenchmarkSmall(b *testing.B) {
	r, plain := ring(b, "reg-1", 1), make([]byte, 1000)
	small, err := seal.Small(r.Current(), here, plain)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := seal.Small(r.Current(), here, plain); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := seal.OpenSmall(r, here, small); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPush is one pass of a push without its connection: hash, seal,
// write, fsync.
func BenchmarkPush(b *testing.B) {
	disk, err := object.NewDisk(b.TempDir(), func(err error) { b.Fatal(err) })
	if err != nil {
		b.Fatal(err)
	}
	r := ring(b, "reg-1", 1)
	for _, n := range []int{1 << 10, 1 << 16, large} {
		plain := make([]byte, n)
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				key := object.NewKey()
				src := io.TeeReader(bytes.NewReader(plain), sha256.New())
				if _, err := disk.Put(b.Context(), key, seal.NewReader(src, r.Current(), seal.Place{Registry: "reg-1", Object: key}, secret)); err != nil {
					b.Fatal(err)
				}
				if err := disk.Delete(b.Context(), key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
