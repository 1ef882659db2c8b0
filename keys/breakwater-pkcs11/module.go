package main

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// PKCS #11 2.40, as much of it as is needed. CK_ULONG is a uint on every Linux.
type (
	handle    uint
	attribute struct {
		kind  uint
		value unsafe.Pointer
		size  uint
	}
	mechanism struct {
		kind  uint
		param unsafe.Pointer
		size  uint
	}
	gcmParams struct {
		iv               unsafe.Pointer
		ivSize, ivBits   uint
		aad              unsafe.Pointer
		aadSize, tagBits uint
	}
	oaepParams struct {
		hash, mgf, source uint
		data              unsafe.Pointer
		size              uint
	}
	ecdhParams struct {
		kdf, sharedSize uint
		shared          unsafe.Pointer
		publicSize      uint
		public          unsafe.Pointer
	}
	initArgs struct {
		create, destroy, lock, unlock uintptr
		flags                         uint
		reserved                      uintptr
	}
)

const (
	ckaClass, ckaToken, ckaLabel, ckaID, ckaKeyType             = 0x0, 0x1, 0x3, 0x102, 0x100
	ckaValue, ckaValueLen, ckaModulus, ckaExponent              = 0x11, 0x161, 0x120, 0x122
	ckaECParams, ckaECPoint, ckaStart, ckaEnd                   = 0x180, 0x181, 0x110, 0x111
	ckaSensitive, ckaEncrypt, ckaDecrypt, ckaDerive, ckaExtract = 0x103, 0x104, 0x105, 0x10C, 0x162

	ckoPublic, ckoPrivate, ckoSecret  = 2, 3, 4
	ckkRSA, ckkEC, ckkGeneric, ckkAES = 0, 3, 0x10, 0x1F

	ckmOAEP, ckmSHA1, ckmSHA256, ckmECDH, ckmGCM = 0x9, 0x220, 0x250, 0x1050, 0x1087
	ckgSHA1, ckgSHA256                           = 1, 2
	ckfSerial, ckfOSLocking                      = 4, 2
	ckuUser                                      = 1
)

// A fail is a CK_RV.
type fail uint

func (f fail) Error() string { return fmt.Sprintf("PKCS#11 error %#x", uint(f)) }

const (
	pinIncorrect, pinExpired, pinLocked = fail(0xA0), fail(0xA3), fail(0xA4)
	initialized, loggedIn               = fail(0x191), fail(0x100)
	notInitialized, loggedOut           = fail(0x190), fail(0x101)
	encryptedInvalid, encryptedSize     = fail(0x40), fail(0x41)
	functionFailed, generalError        = fail(0x6), fail(0x5)
	keyHandle, objectHandle             = fail(0x60), fail(0x82)
	forbidden, keyUnextractable         = fail(0x68), fail(0x6A)
	argumentsBad, mechanismParam        = fail(0x7), fail(0x71)
	mechanismInvalid                    = fail(0x70)
	attributeKind, attributeSensitive   = fail(0x12), fail(0x11)
	dataInvalid, dataSize               = fail(0x20), fail(0x21)
)

// Places in CK_FUNCTION_LIST.
const (
	fnInitialize, fnFinalize, fnGetSlotList, fnGetTokenInfo      = 0, 1, 4, 6
	fnOpenSession, fnCloseSession, fnLogin                       = 12, 13, 18
	fnDestroyObject, fnGetAttribute                              = 22, 24
	fnFindInit, fnFind, fnFindFinal                              = 26, 27, 28
	fnEncryptInit, fnEncrypt, fnDecryptInit, fnDecrypt, fnDerive = 29, 30, 33, 34, 62
	functions                                                    = 68
)

// A module is a device's library.
type module struct{ fn [functions]uintptr }

func load(path string) (*module, error) {
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	get, err := purego.Dlsym(lib, "C_GetFunctionList")
	if err != nil {
		return nil, err
	}
	// CK_FUNCTION_LIST is a version, filled up to a word, and the functions.
	list := new(*[1 + functions]uintptr)
	var p runtime.Pinner
	defer p.Unpin()
	p.Pin(list)
	if rv, _, _ := purego.SyscallN(get, uintptr(unsafe.Pointer(list))); rv != 0 {
		return nil, fail(rv)
	}
	if *list == nil {
		return nil, errors.New("the library has no functions")
	}
	m := &module{}
	copy(m.fn[:], (*list)[1:])
	return m, nil
}

// call calls a function of the library. Pointers among the arguments are to what
// the caller has pinned.
func (m *module) call(fn int, args ...uintptr) error {
	if m.fn[fn] == 0 {
		return errors.New("the library lacks a function")
	}
	rv, _, _ := purego.SyscallN(m.fn[fn], args...)
	if rv != 0 {
		return fail(rv)
	}
	return nil
}

func (m *module) initialize() error {
	var p runtime.Pinner
	defer p.Unpin()
	args := &initArgs{flags: ckfOSLocking}
	p.Pin(args)
	err := m.call(fnInitialize, uintptr(unsafe.Pointer(args)))
	if errors.Is(err, initialized) {
		return nil
	}
	return err
}

// slot is the one with the token of that label.
func (m *module) slot(label string) (handle, error) {
	var p runtime.Pinner
	defer p.Unpin()
	n, slots := new(uint), make([]handle, 256)
	*n = uint(len(slots))
	p.Pin(n)
	p.Pin(&slots[0])
	if err := m.call(fnGetSlotList, 1, uintptr(unsafe.Pointer(&slots[0])), uintptr(unsafe.Pointer(n))); err != nil {
		return 0, err
	}
	info := make([]byte, 512) // CK_TOKEN_INFO begins with the label, 32 bytes filled with spaces
	p.Pin(&info[0])
	found, at := 0, handle(0)
	for _, s := range slots[:min(*n, uint(len(slots)))] {
		if err := m.call(fnGetTokenInfo, uintptr(s), uintptr(unsafe.Pointer(&info[0]))); err != nil {
			continue
		}
		if fmt.Sprintf("%-32s", label) == string(info[:32]) {
			found, at = found+1, s
		}
	}
	if found != 1 {
		return 0, fmt.Errorf("%d tokens are labelled %q", found, label)
	}
	return at, nil
}

func (m *module) open(slot handle) (handle, error) {
	var p runtime.Pinner
	defer p.Unpin()
	s := new(handle)
	p.Pin(s)
	err := m.call(fnOpenSession, uintptr(slot), ckfSerial, 0, 0, uintptr(unsafe.Pointer(s)))
	return *s, err
}

func (m *module) login(s handle, pin []byte) error {
	var p runtime.Pinner
	defer p.Unpin()
	pin = append([]byte(nil), pin...)
	defer clear(pin)
	if len(pin) == 0 {
		return pinIncorrect
	}
	p.Pin(&pin[0])
	err := m.call(fnLogin, uintptr(s), ckuUser, uintptr(unsafe.Pointer(&pin[0])), uintptr(len(pin)))
	if errors.Is(err, loggedIn) {
		return nil
	}
	return err
}

// number, truth and text are attributes of a template.
func number(p *runtime.Pinner, kind, value uint) attribute {
	v := &value
	p.Pin(v)
	return attribute{kind, unsafe.Pointer(v), 8}
}

func truth(p *runtime.Pinner, kind uint, value bool) attribute {
	v := new(byte)
	if value {
		*v = 1
	}
	p.Pin(v)
	return attribute{kind, unsafe.Pointer(v), 1}
}

func text(p *runtime.Pinner, kind uint, value []byte) attribute {
	if len(value) == 0 {
		return attribute{kind, nil, 0}
	}
	p.Pin(&value[0])
	return attribute{kind, unsafe.Pointer(&value[0]), uint(len(value))}
}

// find is the objects that have all of the attributes, at most 64.
func (m *module) find(s handle, class uint, label string) ([]handle, error) {
	var p runtime.Pinner
	defer p.Unpin()
	template := []attribute{number(&p, ckaClass, class), text(&p, ckaLabel, []byte(label))}
	p.Pin(&template[0])
	if err := m.call(fnFindInit, uintptr(s), uintptr(unsafe.Pointer(&template[0])), uintptr(len(template))); err != nil {
		return nil, err
	}
	found, n := make([]handle, 64), new(uint)
	p.Pin(&found[0])
	p.Pin(n)
	err := m.call(fnFind, uintptr(s), uintptr(unsafe.Pointer(&found[0])), uintptr(len(found)), uintptr(unsafe.Pointer(n)))
	return found[:min(*n, uint(len(found)))], errors.Join(err, m.call(fnFindFinal, uintptr(s)))
}

// get is the value of an attribute; nil if the object has none.
func (m *module) get(s, object handle, kind uint) ([]byte, error) {
	var p runtime.Pinner
	defer p.Unpin()
	value := make([]byte, 4096)
	a := &attribute{kind, unsafe.Pointer(&value[0]), uint(len(value))}
	p.Pin(&value[0])
	p.Pin(a)
	err := m.call(fnGetAttribute, uintptr(s), uintptr(object), uintptr(unsafe.Pointer(a)), 1)
	if errors.Is(err, attributeKind) || errors.Is(err, attributeSensitive) {
		return nil, nil
	}
	if err != nil || a.size > uint(len(value)) {
		return nil, errors.Join(err, fmt.Errorf("attribute %#x", kind))
	}
	return value[:a.size], nil
}

// crypt runs one of the pairs EncryptInit, Encrypt and DecryptInit, Decrypt.
func (m *module) crypt(init int, s, key handle, mech *mechanism, in []byte) ([]byte, error) {
	var p runtime.Pinner
	defer p.Unpin()
	p.Pin(mech)
	if mech.param != nil {
		p.Pin(mech.param)
	}
	if err := m.call(init, uintptr(s), uintptr(unsafe.Pointer(mech)), uintptr(key)); err != nil {
		return nil, err
	}
	in = append([]byte(nil), in...)
	defer clear(in)
	out, n := make([]byte, 4096), new(uint)
	*n = uint(len(out))
	p.Pin(&in[0])
	p.Pin(&out[0])
	p.Pin(n)
	if err := m.call(init+1, uintptr(s), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)), uintptr(unsafe.Pointer(&out[0])), uintptr(unsafe.Pointer(n))); err != nil {
		return nil, err
	}
	return out[:min(*n, uint(len(out)))], nil
}

func gcm(iv []byte, p *runtime.Pinner) *mechanism {
	p.Pin(&iv[0])
	g := &gcmParams{iv: unsafe.Pointer(&iv[0]), ivSize: uint(len(iv)), ivBits: uint(8 * len(iv)), tagBits: 128}
	return &mechanism{ckmGCM, unsafe.Pointer(g), uint(unsafe.Sizeof(*g))}
}

func oaep(hash, mgf uint) *mechanism {
	o := &oaepParams{hash: hash, mgf: mgf, source: 1}
	return &mechanism{ckmOAEP, unsafe.Pointer(o), uint(unsafe.Sizeof(*o))}
}

// agree is the secret that the device's key has in common with a public one.
func (m *module) agree(s, key handle, public []byte, size int) ([]byte, error) {
	var p runtime.Pinner
	defer p.Unpin()
	public = append([]byte(nil), public...)
	p.Pin(&public[0])
	e := &ecdhParams{kdf: 1, publicSize: uint(len(public)), public: unsafe.Pointer(&public[0])}
	mech := &mechanism{ckmECDH, unsafe.Pointer(e), uint(unsafe.Sizeof(*e))}
	template := []attribute{
		number(&p, ckaClass, ckoSecret), number(&p, ckaKeyType, ckkGeneric), number(&p, ckaValueLen, uint(size)),
		truth(&p, ckaToken, false), truth(&p, ckaSensitive, false), truth(&p, ckaExtract, true),
	}
	secret := new(handle)
	p.Pin(e)
	p.Pin(mech)
	p.Pin(&template[0])
	p.Pin(secret)
	err := m.call(fnDerive, uintptr(s), uintptr(unsafe.Pointer(mech)), uintptr(key), uintptr(unsafe.Pointer(&template[0])), uintptr(len(template)), uintptr(unsafe.Pointer(secret)))
	if err != nil {
		return nil, err
	}
	value, err := m.get(s, *secret, ckaValue)
	return value, errors.Join(err, m.call(fnDestroyObject, uintptr(s), uintptr(*secret)))
}
