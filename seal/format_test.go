package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"breakwater/keys"
	"breakwater/seal"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// A vector is the input of docs/format.md, "Sealing, step by step", which
// reference follows to the letter and shares no code with the package.
type vector struct {
	form             byte
	dataKey          []byte
	secret           []byte // nil in the first format
	version          uint32
	registry, object string
	salt, prefix     []byte
	plaintext        []byte
}

func (v vector) head() []byte {
	log := byte(16)
	if v.form == 2 {
		log = 0
	}
	format := byte(1)
	if v.secret != nil {
		format = 2
	}
	return binary.BigEndian.AppendUint32([]byte{'B', 'W', 'S', format, v.form, log, 0, 0}, v.version)
}

func (v vector) info() []byte {
	info := append([]byte("breakwater seal\x00"), v.head()...)
	for _, s := range []string{v.registry, v.object} {
		info = append(binary.BigEndian.AppendUint16(info, uint16(len(s))), s...)
	}
	return info
}

func (v vector) derived(t testing.TB) (key, commitment []byte) {
	t.Helper()
	both, err := hkdf.Key(sha256.New, v.mixed(t), v.salt, string(v.info()), 64)
	if err != nil {
		t.Fatal(err)
	}
	return both[:32], both[32:]
}

func (v vector) mixed(t testing.TB) []byte {
	t.Helper()
	if v.secret == nil {
		return v.dataKey
	}
	b, err := hkdf.Key(sha256.New, v.dataKey, v.secret, "breakwater object 2", 32)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v vector) reference(t testing.TB) []byte {
	t.Helper()
	key, commitment := v.derived(t)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	sealed := append(v.head(), commitment...)
	sealed = append(sealed, 40)
	sealed = append(sealed, v.salt...)
	sealed = append(sealed, v.prefix...)
	rest, room := v.plaintext, 65536-84-16
	for i := uint32(0); ; i++ {
		last := len(rest) <= room || v.form == 2
		n := len(rest)
		if !last {
			n = room
		}
		nonce := append(binary.BigEndian.AppendUint32(bytes.Clone(v.prefix), i), 0)
		if last {
			nonce[11] = 1
		}
		sealed = gcm.Seal(sealed, nonce, rest[:n], nil)
		if last {
			return sealed
		}
		rest, room = rest[n:], 65536-16
	}
}

func (v vector) ring(t testing.TB) *keys.Ring {
	t.Helper()
	secrets := make([][]byte, v.version)
	for i := range secrets {
		secrets[i] = make([]byte, keys.Size)
	}
	secrets[v.version-1] = v.dataKey
	r, err := keys.NewRing(v.registry, secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// blocks reads the fenced blocks of a kind from docs/format.md, each a list of
// "name: value".
func blocks(t testing.TB, kind string) (all []map[string]string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(doc), "\n```"+kind+"\n") {
		body, _, _ := strings.Cut(part, "\n```")
		b := map[string]string{}
		for line := range strings.Lines(body) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				b[strings.TrimSpace(name)] = strings.TrimSpace(value)
			}
		}
		all = append(all, b)
	}
	return all[1:]
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func TestVectorsOfTheDocument(t *testing.T) {
	all := blocks(t, "sealed")
	if len(all) < 5 {
		t.Fatalf("docs/format.md has %d vectors", len(all))
	}
	for i, b := range all {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			v := vector{form: map[string]byte{"segmented": 1, "whole": 2}[b["form"]], registry: b["registry"], object: b["object"],
				dataKey: unhex(t, b["data key"]), salt: unhex(t, b["salt"]), prefix: unhex(t, b["nonce prefix"])}
			if _, err := fmt.Sscan(b["key version"], &v.version); err != nil {
				t.Fatal(err)
			}
			if s, ok := b["secret"]; ok {
				v.secret = unhex(t, s)
			}
			theirs, err := seal.ParseSecret(v.secret)
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := strings.CutPrefix(b["plaintext"], "counting, "); ok {
				size, err := strconv.Atoi(n)
				if err != nil {
					t.Fatal(err)
				}
				for i := range size {
					v.plaintext = append(v.plaintext, byte(i%251))
				}
			} else {
				v.plaintext = unhex(t, b["plaintext"])
			}
			key, commitment := v.derived(t)
			sealed := v.reference(t)
			sum := sha256.Sum256(sealed)
			for name, is := range map[string][]byte{"info": v.info(), "mixed": v.mixed(t), "key": key, "commitment": commitment, "sealed": sealed, "sha256 of sealed": sum[:]} {
				if want, ok := b[name]; ok && want != hex.EncodeToString(is) {
					t.Errorf("%s is\n%x, the document says\n%s", name, is, want)
				}
			}
			place := seal.Place{Registry: v.registry, Object: v.object}
			var got []byte
			if v.form == 2 {
				got, err = seal.OpenSmall(v.ring(t), place, sealed)
			} else {
				got, err = openWith(v.ring(t), place, theirs, sealed)
			}
			if err != nil || !bytes.Equal(got, v.plaintext) {
				t.Errorf("opened to %d bytes, %v", len(got), err)
			}
		})
	}
}

// What follows our 44 bytes is Tink's AES-GCM-HKDF streaming, with the data key and the
// object's secret, mixed, for its key, and info for its associated data: Tink opens what we seal and we open what Tink seals.
func TestTinkAgrees(t *testing.T) {
	v := vector{form: 1, dataKey: bytes.Repeat([]byte{7}, 32), secret: secret.Bytes(), version: 2, registry: here.Registry, object: here.Object}
	tink, err := subtle.NewAESGCMHKDF(v.mixed(t), "SHA256", 32, 65536, 44)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range lengths {
		plain := content(n)
		ours := sealed(t, v.ring(t), here, plain)
		r, err := tink.NewDecryptingReader(bytes.NewReader(ours[44:]), v.info())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("tink opens our %d bytes to %d, %v", n, len(got), err)
		}

		var theirs bytes.Buffer
		w, err := tink.NewEncryptingWriter(&theirs, v.info())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		v.salt = theirs.Bytes()[1:33]
		_, commitment := v.derived(t)
		b := append(append(v.head(), commitment...), theirs.Bytes()...)
		if got, err := open(v.ring(t), here, b); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("we open tink's %d bytes to %d, %v", n, len(got), err)
		}
	}
}
