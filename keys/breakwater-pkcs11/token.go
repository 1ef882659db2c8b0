package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"runtime"
	"sync"
	"time"

	"breakwater/keys/device"
)

// A token is one token of a device, with the sessions that are open to it.
type token struct {
	library, label string
	pin            func() ([]byte, error)

	mu       sync.RWMutex // held for writing while the device is opened anew
	module   *module
	slot     handle
	sessions chan handle
	hashes   sync.Map // version of an RSA key → the hash that the device knows for OAEP
}

// sessionsMax is how many things the device does at once for us.
const sessionsMax = 8

// What a caller is told. Everything else is a device that is out of reach.
var (
	errGone    = errors.New("deleted")
	errBarred  = errors.New("out of reach: the right to use it was taken away")
	errInvalid = errors.New("not what was wrapped")
	errUnfit   = errors.New("not a key that can wrap")
)

func (t *token) open() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions != nil {
		return nil
	}
	if t.module == nil {
		m, err := load(t.library)
		if err != nil {
			return err
		}
		t.module = m
	}
	if err := t.module.initialize(); err != nil {
		return err
	}
	var err error
	if t.slot, err = t.module.slot(t.label); err != nil {
		_ = t.module.call(fnFinalize, 0) // so that the next attempt sees what is there then
		return err
	}
	pin, err := t.pin()
	if err != nil {
		return err
	}
	defer clear(pin)
	all := make(chan handle, sessionsMax)
	for i := range sessionsMax {
		s, err := t.module.open(t.slot)
		if err == nil && i == 0 {
			err = t.module.login(s, pin)
		}
		if errors.Is(err, pinIncorrect) || errors.Is(err, pinExpired) || errors.Is(err, pinLocked) {
			err = fmt.Errorf("%w: %w", errBarred, err)
		}
		if err != nil {
			_ = t.module.call(fnFinalize, 0)
			return err
		}
		all <- s
	}
	t.sessions = all
	return nil
}

// forget closes everything: what went wrong may be the session, the login or the
// device, and then it is opened again.
func (t *token) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions != nil {
		_ = t.module.call(fnFinalize, 0)
		t.sessions = nil
		t.hashes.Clear()
	}
}

// with runs do in a session, and once more in a new one if the device failed.
func (t *token) with(do func(s handle) error) error {
	for again := false; ; again = true {
		if err := t.open(); err != nil {
			return err
		}
		t.mu.RLock()
		if t.sessions == nil {
			t.mu.RUnlock()
			continue
		}
		s := <-t.sessions
		err := do(s)
		t.sessions <- s
		t.mu.RUnlock()
		if _, device := errors.AsType[fail](err); !device {
			return err
		}
		t.forget()
		if again {
			return err
		}
	}
}

// A key is one of the token's, and how it wraps.
type key struct {
	version   string
	private   handle // or the secret one
	kind      uint
	bits      int
	fit       bool
	begin     time.Time
	end       time.Time
	rsa       *rsa.PublicKey
	ec        *ecdh.PublicKey
	algorithm string
}

// key finds the key of a label, of that version or the greatest.
func (t *token) key(s handle, label, version string) (*key, error) {
	var found *key
	for _, class := range []uint{ckoSecret, ckoPrivate} {
		objects, err := t.module.find(s, class, label)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			id, err := t.module.get(s, o, ckaID)
			if errors.Is(err, objectHandle) {
				continue // it was deleted in this moment
			}
			if err != nil {
				return nil, err
			}
			k := &key{version: hex.EncodeToString(id), private: o}
			if k.version == "" {
				k.version = "0"
			}
			if version != "" && k.version != version {
				continue
			}
			switch {
			case found != nil && found.version == k.version:
				return nil, fmt.Errorf("%w: two keys have the label %q and one CKA_ID", errUnfit, label)
			case found == nil || greater(k.version, found.version):
				found = k
			}
		}
	}
	if found == nil {
		return nil, errGone
	}
	return found, t.describe(s, label, found)
}

func greater(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }

func (t *token) describe(s handle, label string, k *key) error {
	var failed error
	get := func(kind uint) []byte {
		b, err := t.module.get(s, k.private, kind)
		failed = errors.Join(failed, err)
		return b
	}
	is := func(kind uint) bool { b := get(kind); return len(b) == 1 && b[0] != 0 }
	word := func(b []byte) (n uint) {
		for i := range b {
			n |= uint(b[i]) << (8 * i) // CK_ULONG as the processor has it: little-endian on all of ours
		}
		return n
	}
	k.kind = word(get(ckaKeyType))
	k.begin, k.end = date(get(ckaStart)), date(get(ckaEnd))
	if !k.end.IsZero() {
		k.end = k.end.AddDate(0, 0, 1) // it is the last day
	}
	switch k.kind {
	case ckkAES:
		k.algorithm, k.bits, k.fit = "AES-256-GCM", int(8*word(get(ckaValueLen))), is(ckaEncrypt) && is(ckaDecrypt)
		if k.bits != 256 {
			k.algorithm = fmt.Sprintf("AES-%d-GCM", k.bits)
		}
	case ckkRSA:
		k.rsa = &rsa.PublicKey{N: new(big.Int).SetBytes(get(ckaModulus)), E: int(new(big.Int).SetBytes(get(ckaExponent)).Int64())}
		k.bits, k.fit = k.rsa.N.BitLen(), is(ckaDecrypt)
		if failed != nil || !k.fit || k.bits < 2048 {
			k.algorithm = "RSA-OAEP-256"
			return failed
		}
		hash, err := t.hash(s, label, k)
		if err != nil {
			return err
		}
		k.algorithm = map[uint]string{ckmSHA256: "RSA-OAEP-256", ckmSHA1: "RSA-OAEP"}[hash]
	case ckkEC:
		k.algorithm, k.fit = "ECDH-ES+A256GCM", is(ckaDerive)
		var oid asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(get(ckaECParams), &oid); err != nil {
			k.algorithm = "EC"
			return failed
		}
		curve := map[string]ecdh.Curve{"1.2.840.10045.3.1.7": ecdh.P256(), "1.3.132.0.34": ecdh.P384(), "1.3.132.0.35": ecdh.P521()}[oid.String()]
		if curve == nil {
			k.algorithm = "EC " + oid.String()
			return failed
		}
		k.bits = map[ecdh.Curve]int{ecdh.P256(): 256, ecdh.P384(): 384, ecdh.P521(): 521}[curve]
		publics, err := t.module.find(s, ckoPublic, label)
		if err != nil {
			return err
		}
		for _, p := range publics {
			id, err := t.module.get(s, p, ckaID)
			point, perr := t.module.get(s, p, ckaECPoint)
			if err != nil || perr != nil {
				return errors.Join(err, perr)
			}
			var octets []byte
			if rest, err := asn1.Unmarshal(point, &octets); err == nil && len(rest) == 0 {
				point = octets // PKCS #11 wants it so; not every device does it
			}
			if hex.EncodeToString(id) == k.version || len(id) == 0 && k.version == "0" {
				k.ec, _ = curve.NewPublicKey(point)
			}
		}
		k.fit = k.fit && k.ec != nil
	default:
		k.algorithm = fmt.Sprintf("key type %#x", k.kind)
	}
	return failed
}

// date is a CK_DATE: "20261124", or nothing.
func date(b []byte) time.Time {
	at, err := time.Parse("20060102", string(b))
	if err != nil {
		return time.Time{}
	}
	return at
}

// hash is the one that the device knows for OAEP, SHA-256 if it can: SoftHSM 2.6
// knows SHA-1 only. It is found by trying, because no device tells.
func (t *token) hash(s handle, label string, k *key) (uint, error) {
	at := label + "/" + k.version + "/" + k.rsa.N.Text(62)
	if h, ok := t.hashes.Load(at); ok {
		return h.(uint), nil
	}
	probe := []byte("breakwater")
	var err error
	for _, h := range []uint{ckmSHA256, ckmSHA1} {
		sealed, err2 := rsa.EncryptOAEP(hashes[h](), rand.Reader, k.rsa, probe, nil)
		if err2 != nil {
			return 0, err2
		}
		var opened []byte
		if opened, err = t.module.crypt(fnDecryptInit, s, k.private, oaep(h, mgfs[h]), sealed); err == nil && bytes.Equal(opened, probe) {
			t.hashes.Store(at, h)
			return h, nil
		}
	}
	return 0, errors.Join(errUnfit, err)
}

var (
	hashes = map[uint]func() hash.Hash{ckmSHA256: sha256.New, ckmSHA1: sha1.New}
	mgfs   = map[uint]uint{ckmSHA256: ckgSHA256, ckmSHA1: ckgSHA1}
)

// How bytes were wrapped: the first of them.
const (
	byAES    = 1 // 12 of nonce, ciphertext, tag
	byOAEP   = 2 // ciphertext, SHA-256
	byOAEP1  = 3 // ciphertext, SHA-1
	byECDH   = 4 // length and bytes of an ephemeral public key, ciphertext, tag
	infoECDH = "breakwater-pkcs11 ecdh 1"
)

func (t *token) Describe(ask device.Ask) (a device.Answer, err error) {
	err = t.with(func(s handle) error {
		k, err := t.key(s, ask.Name, ask.Version)
		if err != nil {
			return err
		}
		a = device.Answer{Version: k.version, Algorithm: k.algorithm, Bits: k.bits, Begins: k.begin, Expires: k.end, State: "enabled"}
		if !k.fit {
			a.State = "disabled"
		}
		return nil
	})
	return a, err
}

func (t *token) Wrap(ask device.Ask) (a device.Answer, err error) {
	err = t.with(func(s handle) error {
		k, err := t.key(s, ask.Name, ask.Version)
		if err != nil {
			return err
		}
		if err := k.usable(); err != nil {
			return err
		}
		a.Version = k.version
		switch k.kind {
		case ckkAES:
			iv := make([]byte, 12)
			rand.Read(iv)
			a.Data, err = t.gcm(fnEncryptInit, s, k, iv, ask.Data)
			a.Data = append(append([]byte{byAES}, iv...), a.Data...)
		case ckkRSA:
			kind, h := byte(byOAEP), sha256.New()
			if k.algorithm == "RSA-OAEP" {
				kind, h = byOAEP1, sha1.New()
			}
			a.Data, err = rsa.EncryptOAEP(h, rand.Reader, k.rsa, ask.Data, nil)
			a.Data = append([]byte{kind}, a.Data...)
		case ckkEC:
			ephemeral, err := k.ec.Curve().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			secret, err := ephemeral.ECDH(k.ec)
			if err != nil {
				return err
			}
			public := ephemeral.PublicKey().Bytes()
			aead, err := agreed(secret, public)
			if err != nil {
				return err
			}
			a.Data = append([]byte{byECDH, byte(len(public))}, public...)
			a.Data = aead.Seal(a.Data, make([]byte, 12), ask.Data, nil) // the key is used once
		}
		return err
	})
	return a, err
}

// agreed is what seals under a secret that two keys have in common.
func agreed(secret, public []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, public, infoECDH, 32)
	clear(secret)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (t *token) Unwrap(ask device.Ask) (a device.Answer, err error) {
	if len(ask.Data) < 2 {
		return a, errInvalid
	}
	err = t.with(func(s handle) error {
		k, err := t.key(s, ask.Name, ask.Version)
		if err != nil {
			return err
		}
		if err := k.usable(); err != nil {
			return err
		}
		kind, rest := ask.Data[0], ask.Data[1:]
		switch {
		case kind == byAES && k.kind == ckkAES && len(rest) > 12+16:
			a.Data, err = t.gcm(fnDecryptInit, s, k, append([]byte(nil), rest[:12]...), rest[12:])
		case (kind == byOAEP || kind == byOAEP1) && k.kind == ckkRSA && len(rest) == k.rsa.Size():
			h := map[byte]uint{byOAEP: ckmSHA256, byOAEP1: ckmSHA1}[kind]
			a.Data, err = t.module.crypt(fnDecryptInit, s, k.private, oaep(h, mgfs[h]), rest)
		case kind == byECDH && k.kind == ckkEC && len(rest) > 1+int(rest[0]):
			public, sealed := rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
			if _, err := k.ec.Curve().NewPublicKey(public); err != nil {
				return errInvalid
			}
			secret, err := t.module.agree(s, k.private, public, (k.bits+7)/8)
			if errors.Is(err, mechanismParam) || errors.Is(err, argumentsBad) { // a device that wants the point as DER
				der, _ := asn1.Marshal(public)
				secret, err = t.module.agree(s, k.private, der, (k.bits+7)/8)
			}
			if err != nil {
				return err
			}
			aead, err := agreed(secret, public)
			if err != nil {
				return err
			}
			if a.Data, err = aead.Open(nil, make([]byte, 12), sealed, nil); err != nil {
				return errInvalid
			}
		default:
			return errInvalid
		}
		if bad(err) {
			return errInvalid
		}
		return err
	})
	return a, err
}

// bad reports whether a device found a ciphertext wrong: they say so in many ways.
// That of a device that fails as a whole is among them, and is found when the key is
// described the next time.
func bad(err error) bool {
	for _, f := range []fail{encryptedInvalid, encryptedSize, functionFailed, generalError, argumentsBad, dataInvalid, dataSize} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

func (k *key) usable() error {
	now := time.Now()
	switch {
	case !k.fit:
		return errUnfit
	case !k.begin.IsZero() && now.Before(k.begin), !k.end.IsZero() && !now.Before(k.end):
		return errUnfit
	}
	return nil
}

func (t *token) gcm(init int, s handle, k *key, iv, in []byte) ([]byte, error) {
	var p runtime.Pinner
	defer p.Unpin()
	return t.module.crypt(init, s, k.private, gcm(iv, &p), in)
}
