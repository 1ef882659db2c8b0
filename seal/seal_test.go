package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"breakwater/keys"
	"breakwater/seal"

	"pgregory.net/rapid"
)

// The lengths around which a segment ends: the first holds less than the others.
const (
	first = 1<<16 - 84 - 16
	other = 1<<16 - 16
)

var lengths = []int{0, 1, 15, 16, 17, first - 1, first, first + 1, first + other - 1, first + other, first + other + 1,
	first + 3*other - 1, first + 3*other, first + 3*other + 1, first + 4*other, first + 7*other + 5}

// secret is that of every object that is not of the first format.
var secret, _ = seal.ParseSecret(bytes.Repeat([]byte{9}, keys.Size))

var here = seal.Place{Registry: "reg-1", Object: "3f/0a94"}

func ring(t testing.TB, registry string, versions ...byte) *keys.Ring {
	t.Helper()
	var secrets [][]byte
	for _, v := range versions {
		secrets = append(secrets, bytes.Repeat([]byte{v}, keys.Size))
	}
	r, err := keys.NewRing(registry, secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(b)
	return b
}

func sealed(t testing.TB, r *keys.Ring, p seal.Place, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := seal.NewReader(bytes.NewReader(plain), r.Current(), p, secret).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// open reads everything, through a stream.
func open(r *keys.Ring, p seal.Place, b []byte) ([]byte, error) { return openWith(r, p, secret, b) }

func openWith(r *keys.Ring, p seal.Place, secret seal.Secret, b []byte) ([]byte, error) {
	s, err := seal.Open(bytes.NewReader(b), int64(len(b)), r, p, secret)
	if err != nil {
		return nil, err
	}
	st := s.NewStream()
	defer st.Close()
	return io.ReadAll(st)
}

func TestWhatIsSealedOpens(t *testing.T) {
	r := ring(t, "reg-1", 1)
	for _, n := range lengths {
		plain := content(n)
		b := sealed(t, r, here, plain)
		if size, err := seal.Size(int64(len(b))); err != nil || size != int64(n) {
			t.Errorf("%d bytes: size of the sealed is %d, %v", n, size, err)
		}
		got, err := open(r, here, b)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
		if n >= 32 && bytes.Contains(b, plain[n/2:n/2+16]) {
			t.Errorf("%d bytes: plaintext is visible", n)
		}
		if n > 17 {
			continue // it reads single bytes
		}
		if err := iotest.TestReader(io.NewSectionReader(at(t, r, b), 0, int64(n)), plain); err != nil {
			t.Error(err)
		}
		if err := iotest.TestReader(at(t, r, b).NewStream(), plain); err != nil {
			t.Error(err)
		}
	}
}

func at(t *testing.T, r *keys.Ring, b []byte) *seal.Reader {
	t.Helper()
	s, err := seal.Open(bytes.NewReader(b), int64(len(b)), r, here, secret)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedFormDoesNotDependOnHowItIsRead(t *testing.T) {
	r := ring(t, "reg-1", 1)
	for _, n := range lengths {
		plain := content(n)
		for name, src := range map[string]io.Reader{
			"halves": iotest.HalfReader(bytes.NewReader(plain)),
			"eof":    iotest.DataErrReader(bytes.NewReader(plain)),
			"plain":  bytes.NewReader(plain),
		} {
			s := seal.NewReader(src, r.Current(), here, secret)
			b, err := io.ReadAll(iotest.HalfReader(s))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after the end: %d, %v", n, err)
			}
			if got, err := open(r, here, b); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s of %d: %d bytes, %v", name, n, len(got), err)
			}
		}
	}
}

func TestFailedSourceYieldsNothingThatOpens(t *testing.T) {
	r := ring(t, "reg-1", 1)
	for _, cut := range []error{io.ErrUnexpectedEOF, errors.New("reset")} {
		for _, n := range lengths {
			src := func() io.Reader { return io.MultiReader(bytes.NewReader(content(n)), iotest.ErrReader(cut)) }
			var b bytes.Buffer
			if _, err := seal.NewReader(src(), r.Current(), here, secret).WriteTo(&b); err != cut {
				t.Errorf("write of %d: %v; want %v", n, err, cut)
			}
			if _, err := open(r, here, b.Bytes()); !errors.Is(err, seal.ErrDamaged) {
				t.Errorf("%d bytes before the cut opened: %v", n, err)
			}
			part, err := io.ReadAll(seal.NewReader(src(), r.Current(), here, secret))
			if err != cut {
				t.Errorf("read of %d: %v; want %v", n, err, cut)
			}
			if _, err := open(r, here, part); !errors.Is(err, seal.ErrDamaged) {
				t.Errorf("%d bytes before the cut opened: %v", n, err)
			}
		}
	}
}

func TestFailedWriteEndsTheSource(t *testing.T) {
	full := errors.New("full")
	s := seal.NewReader(bytes.NewReader(content(first+9*other)), ring(t, "reg-1", 1).Current(), here, secret)
	if _, err := s.WriteTo(writerFunc(func([]byte) (int, error) { return 0, full })); err != full {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Read(make([]byte, 10)); err == nil || err == io.EOF {
		t.Errorf("read on: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestNothingThatWasChangedOpens(t *testing.T) {
	r := ring(t, "reg-1", 1)
	plain := content(first + 2*other + 100)
	b := sealed(t, r, here, plain)
	same := sealed(t, r, here, plain) // the same content, another object
	cut := func(i, j int) []byte { return slices.Clone(b[i:j]) }
	seg := func(b []byte, i int) []byte { return b[i<<16 : min((i+1)<<16, len(b))] }
	for name, bad := range map[string][]byte{
		"empty":                     {},
		"header only":               cut(0, 84),
		"cut in a segment":          cut(0, len(b)-1),
		"cut to a tag":              cut(0, 3<<16+16),
		"cut between segments":      cut(0, 3<<16),
		"cut to the first":          cut(0, 1<<16),
		"grown":                     append(slices.Clone(b), 0),
		"grown by a segment":        append(slices.Clone(b), seg(b, 3)...),
		"segments swapped":          slices.Concat(seg(b, 0), seg(b, 2), seg(b, 1), seg(b, 3)),
		"segment repeated":          slices.Concat(seg(b, 0), seg(b, 1), seg(b, 1), seg(b, 3)),
		"segment of another object": slices.Concat(seg(b, 0), seg(same, 1), seg(b, 2), seg(b, 3)),
		"tail of another object":    slices.Concat(seg(b, 0), seg(b, 1), seg(b, 2), seg(same, 3)),
		"header of another object":  slices.Concat(same[:84], b[84:]),
		"zeroes":                    make([]byte, len(b)),
	} {
		if got, err := open(r, here, bad); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s: %d bytes, %v; want ErrDamaged", name, len(got), err)
		}
	}
	for i := 0; i < len(b); i++ {
		if i > 200 && i < len(b)-200 && i%4099 != 0 {
			continue
		}
		bad := slices.Clone(b)
		bad[i] ^= 1 << (i % 8)
		got, err := open(r, here, bad)
		if 8 <= i && i < 12 { // another key version, which the ring does not have
			if err == nil {
				t.Errorf("byte %d flipped: opened", i)
			}
			continue
		}
		if !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("byte %d flipped: %d bytes, %v; want ErrDamaged", i, len(got), err)
		}
		if !bytes.Equal(got, plain[:len(got)]) {
			t.Errorf("byte %d flipped: wrong bytes came out", i)
		}
	}
}

func TestCutObjectIsDamagedBeforeTheFirstByte(t *testing.T) {
	r := ring(t, "reg-1", 1)
	b := sealed(t, r, here, content(first+5*other))
	for _, n := range []int{len(b) - 1, len(b) - 1<<16, 1 << 16, 1<<16 + 20} {
		if _, err := seal.Open(bytes.NewReader(b[:n]), int64(n), r, here, secret); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if _, err := seal.Open(bytes.NewReader(b[:1<<16]), int64(len(b)), r, here, secret); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("shorter than it says: %v", err)
	}
}

func TestObjectMovedElsewhereDoesNotOpen(t *testing.T) {
	one, two := ring(t, "reg-1", 1), ring(t, "reg-2", 1) // even with one and the same secret
	small, err := seal.Small(one.Current(), here, []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	b := sealed(t, one, here, []byte("content"))
	for _, c := range []struct {
		name  string
		ring  *keys.Ring
		place seal.Place
	}{
		{"another object", one, seal.Place{Registry: "reg-1", Object: "3f/0a95"}},
		{"another registry", two, seal.Place{Registry: "reg-2", Object: here.Object}},
		{"the boundary moved", ring(t, "reg-13", 1), seal.Place{Registry: "reg-13", Object: "f/0a94"}},
		{"another secret", ring(t, "reg-1", 2), here},
	} {
		if _, err := open(c.ring, c.place, b); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s: %v; want ErrDamaged", c.name, err)
		}
		if _, err := seal.OpenSmall(c.ring, c.place, small); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s, small: %v; want ErrDamaged", c.name, err)
		}
	}
	if _, err := seal.OpenSmall(one, here, b); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("segments as one: %v", err)
	}
	if _, err := open(one, here, small); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("one as segments: %v", err)
	}
}

// A ring that has the version but another secret under it must not pass for a
// damaged object's neighbour: the commitment tells before any segment is tried.
func TestKeyVersionCannotBeConfused(t *testing.T) {
	r := ring(t, "reg-1", 1, 2)
	b := sealed(t, r, here, []byte("content")) // under version 2
	for _, c := range []struct {
		name string
		ring *keys.Ring
		ok   bool
	}{
		{"later ring", ring(t, "reg-1", 1, 2, 3), true},
		{"versions swapped", ring(t, "reg-1", 2, 1), false},
		{"both the same", ring(t, "reg-1", 2, 2), true},
		{"before the rotation", ring(t, "reg-1", 1), false},
	} {
		got, err := open(c.ring, here, b)
		if (err == nil) != c.ok || c.ok && string(got) != "content" {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	renamed := slices.Clone(b)
	renamed[11] = 1 // says version 1, with version 2's secret there
	if _, err := open(ring(t, "reg-1", 2, 2), here, renamed); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("version changed in the header: %v", err)
	}
}

func TestKeyOfAnotherRegistryDoesNotSeal(t *testing.T) {
	for _, k := range []keys.DataKey{{}, ring(t, "reg-2", 1).Current()} {
		if _, err := seal.Small(k, here, nil); err == nil {
			t.Error("Small sealed")
		}
		if b, err := io.ReadAll(seal.NewReader(bytes.NewReader([]byte("x")), k, here, secret)); err == nil || len(b) > 0 {
			t.Errorf("reader yielded %d bytes, %v", len(b), err)
		}
	}
	if _, err := seal.Small(keys.DataKey{}, seal.Place{}, nil); err == nil {
		t.Error("the zero key sealed")
	}
}

func TestSmallOpens(t *testing.T) {
	r := ring(t, "reg-1", 1)
	for _, n := range append(lengths, 4<<20) {
		plain := content(n)
		b, err := seal.Small(r.Current(), here, plain)
		if err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(b)
		got, err := seal.OpenSmall(r, here, b)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
		if !bytes.Equal(b, before) {
			t.Errorf("opening %d bytes changed the sealed form", n)
		}
		for _, i := range []int{0, 11, 12, 50, 83, 84, len(b) - 1} {
			b[i] ^= 4
			if _, err := seal.OpenSmall(r, here, b); err == nil {
				t.Errorf("%d bytes, byte %d flipped: opened", n, i)
			}
			b[i] ^= 4
		}
		if _, err := seal.OpenSmall(r, here, b[:len(b)-1]); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("cut: %v", err)
		}
	}
}

func TestErrorsOfTheDiskAreNotDamage(t *testing.T) {
	r := ring(t, "reg-1", 1)
	b := sealed(t, r, here, content(first+2*other))
	eio := errors.New("input/output error")
	for _, bad := range []int64{0, 1 << 16, 2 << 16} {
		disk := readerAtFunc(func(p []byte, off int64) (int, error) {
			if off <= bad && bad < off+int64(len(p)) {
				return 0, eio
			}
			return bytes.NewReader(b).ReadAt(p, off)
		})
		s, err := seal.Open(disk, int64(len(b)), r, here, secret)
		if err == nil {
			_, err = s.NewStream().WriteTo(io.Discard)
		}
		if !errors.Is(err, eio) || errors.Is(err, seal.ErrDamaged) {
			t.Errorf("unreadable at %d: %v", bad, err)
		}
	}
}

type readerAtFunc func([]byte, int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestServeContentServesRanges(t *testing.T) {
	r := ring(t, "reg-1", 1)
	plain := content(first + 2*other + 100)
	s := at(t, r, sealed(t, r, here, plain))
	for _, c := range []struct{ from, to int }{{0, len(plain) - 1}, {0, 0}, {first - 1, first}, {first, first + other}, {70_000, 70_009}, {len(plain) - 1, len(plain) - 1}} {
		st := s.NewStream()
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", c.from, c.to))
		w := httptest.NewRecorder()
		http.ServeContent(w, req, "", time.Time{}, st)
		st.Close()
		if w.Code != http.StatusPartialContent || !bytes.Equal(w.Body.Bytes(), plain[c.from:c.to+1]) {
			t.Errorf("%d-%d: %d, %d bytes", c.from, c.to, w.Code, w.Body.Len())
		}
	}
}

func TestStreamReadsLikeABytesReader(t *testing.T) {
	r := ring(t, "reg-1", 1)
	plain := content(first + 2*other + 100)
	b := sealed(t, r, here, plain)
	rapid.Check(t, func(rt *rapid.T) {
		s := at(t, r, b)
		st, model := s.NewStream(), bytes.NewReader(plain)
		defer st.Close()
		rt.Repeat(map[string]func(*rapid.T){
			"read": func(rt *rapid.T) {
				got, want := make([]byte, rapid.IntRange(0, 100_000).Draw(rt, "n")), []byte(nil)
				want = make([]byte, len(got))
				n, _ := io.ReadFull(st, got)
				m, _ := io.ReadFull(model, want)
				if n != m || !bytes.Equal(got[:n], want[:m]) {
					rt.Fatalf("read %d, want %d", n, m)
				}
			},
			"copy": func(rt *rapid.T) {
				var got, want bytes.Buffer
				limit := rapid.Int64Range(0, 150_000).Draw(rt, "n")
				n, err := st.WriteN(&got, limit)
				m, _ := io.CopyN(&want, model, limit)
				if n != m || err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
					rt.Fatalf("copied %d, want %d, %v", n, m, err)
				}
			},
			"seek": func(rt *rapid.T) {
				off, whence := rapid.Int64Range(-10, int64(len(plain))+10).Draw(rt, "off"), rapid.IntRange(0, 2).Draw(rt, "whence")
				n, err := st.Seek(off, whence)
				m, merr := model.Seek(off, whence)
				if (err == nil) != (merr == nil) || err == nil && n != m {
					rt.Fatalf("sought to %d, %v; want %d, %v", n, err, m, merr)
				}
			},
			"at": func(rt *rapid.T) {
				off, n := rapid.Int64Range(0, int64(len(plain))+10).Draw(rt, "off"), rapid.IntRange(0, 100_000).Draw(rt, "n")
				got, want := make([]byte, n), make([]byte, n)
				g, gerr := s.ReadAt(got, off)
				w, _ := bytes.NewReader(plain).ReadAt(want, off)
				if g != w || !bytes.Equal(got, want) || g < n && gerr != io.EOF {
					rt.Fatalf("read %d at %d: %d, %v; want %d", n, off, g, gerr, w)
				}
			},
		})
	})
}

func TestReaderServesManyStreamsAtOnce(t *testing.T) {
	r := ring(t, "reg-1", 1)
	plain := content(first + 3*other)
	s := at(t, r, sealed(t, r, here, plain))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			st := s.NewStream()
			defer st.Close()
			var b bytes.Buffer
			if _, err := st.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), plain) {
				t.Errorf("stream: %d bytes, %v", b.Len(), err)
			}
			p := make([]byte, 100_000)
			if n, err := s.ReadAt(p, int64(i*1000)); err != nil || !bytes.Equal(p[:n], plain[i*1000:][:n]) {
				t.Errorf("at %d: %v", i*1000, err)
			}
		})
	}
	wg.Wait()
}

func TestClosedStreamReadsNothing(t *testing.T) {
	r := ring(t, "reg-1", 1)
	st := at(t, r, sealed(t, r, here, content(10))).NewStream()
	if err := errors.Join(st.Close(), st.Close()); err != nil {
		t.Error(err)
	}
	if n, err := st.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestLengthThatNothingSealsToIsRefused(t *testing.T) {
	for _, n := range []int64{-1, 0, 99, 1<<16 + 1, 1<<16 + 16, 2<<16 + 16, 1 << 62} {
		if size, err := seal.Size(n); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s sealed bytes hold %d, %v", strconv.FormatInt(n, 10), size, err)
		}
	}
}

// Which format an object has is said by whether it has a secret: one of the first
// format is not opened where there is a secret, nor one of the second without its own.
func TestAnObjectOpensWithItsOwnSecretOnly(t *testing.T) {
	r := ring(t, "reg-1", 1)
	none := seal.Secret{}
	for _, n := range []int{0, 1, first + other + 1} {
		plain := content(n)
		of := func(s seal.Secret) []byte {
			b, err := io.ReadAll(seal.NewReader(bytes.NewReader(plain), r.Current(), here, s))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for i, sealing := range []seal.Secret{none, secret, seal.NewSecret()} {
			for j, opening := range []seal.Secret{none, secret, seal.NewSecret(), sealing} {
				got, err := openWith(r, here, opening, of(sealing))
				if same := bytes.Equal(sealing.Bytes(), opening.Bytes()); same && (err != nil || !bytes.Equal(got, plain)) ||
					!same && (!errors.Is(err, seal.ErrDamaged) || len(got) > 0) {
					t.Errorf("%d bytes: secret %d opens what %d sealed to %d, %v", n, j, i, len(got), err)
				}
			}
		}
	}
	for _, n := range []int{0, 1, 31, 33} {
		if _, err := seal.ParseSecret(make([]byte, n)); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("a secret of %d bytes: %v", n, err)
		}
	}
	if s := fmt.Sprintf("%v %+v %x %s", secret, secret, secret, []any{&secret}); bytes.Contains([]byte(s), []byte("09")) {
		t.Errorf("a secret prints as %s", s)
	}
}
