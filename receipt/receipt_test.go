package receipt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"breakwater/identity"
	"breakwater/receipt"
	"breakwater/ref"
)

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(kid string, k *ecdsa.PrivateKey) jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
}

func sign(t *testing.T, k jose.SigningKey, o *jose.SignerOptions, r receipt.Receipt) string {
	t.Helper()
	signer, err := jose.NewSigner(k, o)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Nothing that a receipt says of itself makes it believed: not its algorithm, not a key
// that it brings, not another key's name.
func TestOnlyTheKeysThatAreGivenVerifyAReceipt(t *testing.T) {
	ours, theirs := key(t), key(t)
	typ := func() *jose.SignerOptions { return (&jose.SignerOptions{}).WithType(identity.ReceiptType) }
	es := func(kid string, k *ecdsa.PrivateKey) jose.SigningKey {
		return jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k, KeyID: kid}}
	}
	r := receipt.Receipt{Format: receipt.Format, ID: "1", Kind: receipt.Registry}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("old", key(t)), public("a", ours)}}
	good := sign(t, es("a", ours), typ(), r)
	if got, err := receipt.Verify(" "+good+"\n", set); err != nil || got.ID != "1" {
		t.Fatal(got, err)
	}
	brought := typ()
	brought.EmbedJWK = true
	later := r
	later.Format = "breakwater receipt 2"
	parts := strings.Split(good, ".")
	for name, text := range map[string]string{
		"another key":              sign(t, es("a", theirs), typ(), r),
		"another key of a name":    sign(t, es("old", ours), typ(), r),
		"no name of a key":         sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: ours}, typ(), r),
		"a key that it brings":     sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: theirs}, brought, r),
		"a secret":                 sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: make([]byte, 32), KeyID: "a"}}, typ(), r),
		"a token":                  sign(t, es("a", ours), (&jose.SignerOptions{}).WithType("JWT"), r),
		"no type":                  sign(t, es("a", ours), nil, r),
		"a format that will be":    sign(t, es("a", ours), typ(), later),
		"no signature":             parts[0] + "." + parts[1] + ".",
		"a signature of something": parts[0] + "." + parts[1] + "." + strings.Split(sign(t, es("a", ours), typ(), later), ".")[2],
		"no algorithm":             "eyJhbGciOiJub25lIiwia2lkIjoiYSIsInR5cCI6ImJyZWFrd2F0ZXItcmVjZWlwdCtqd3MifQ." + parts[1] + ".",
		"nothing":                  "",
	} {
		if _, err := receipt.Verify(text, set); err == nil {
			t.Errorf("a receipt with %s is believed", name)
		}
	}
	for name, k := range map[string]jose.JSONWebKey{
		"a private key":                 {Key: ours, KeyID: "a", Algorithm: "ES256", Use: "sig"},
		"a key for something else":      {Key: ours.Public(), KeyID: "a", Use: "enc"},
		"a key that has another's name": public("a", theirs),
	} {
		if _, err := receipt.Verify(good, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k}}); err == nil {
			t.Errorf("%s verifies", name)
		}
	}
}

// The digest of a tally is what sort -u | sha256sum has for the list.
func TestATallyListsEachDigestOnce(t *testing.T) {
	var a, b receipt.Tally
	a.List([]ref.Digest{"sha256:bb", "sha256:aa", "sha256:bb"})
	b.List([]ref.Digest{"sha256:aa", "sha256:bb"})
	if a != b || a.Digests != 2 || a.SHA256 != "bf5a373751df09537bc2414c1155c388f48d28eb9e9a46a086e719234c999b43" {
		t.Errorf("%+v, %+v", a, b)
	}
}

// What is shared is named as far as the caller may see it, and counted beyond.
func TestSharersThatTheCallerMayNotSeeAreOnlyCounted(t *testing.T) {
	var r receipt.Remains
	r.Share(nil, 0, []ref.Repository{"a"}, func(ref.Repository) bool { return true })
	if r.Shared != nil {
		t.Error("nothing is shared")
	}
	r.Share([]ref.Digest{"sha256:aa"}, 7, []ref.Repository{"mine", "secret"}, func(r ref.Repository) bool { return r == "mine" })
	if s := r.Shared; len(s.With) != 1 || s.With[0] != "mine" || s.Others != 1 || s.Bytes != 7 {
		t.Errorf("%+v", s)
	}
}
