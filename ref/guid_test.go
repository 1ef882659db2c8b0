package ref_test

import (
	"testing"

	"breakwater/ref"
)

func TestGUIDsAreSpelledAsGUIDs(t *testing.T) {
	from := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got, want := ref.DerivedGUID(from), "00010203-0405-8607-8809-0a0b0c0d0e0f"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	a, b := ref.NewGUID(), ref.NewGUID()
	if !ref.IsGUID(a) || !ref.IsGUID(b) || a == b || a[14] != '4' {
		t.Errorf("%s and %s", a, b)
	}
	for _, s := range []string{"", a[1:], a + "0", "g" + a[1:], a[:8] + "0" + a[9:]} {
		if ref.IsGUID(s) {
			t.Errorf("%q is none", s)
		}
	}
}
