package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"breakwater/keys/device"
)

// PKCS11 is a hardware security module, through the process breakwater-pkcs11.
type PKCS11 struct{ client *http.Client }

// NewPKCS11 speaks to a unix socket in the directory of r.
func NewPKCS11(r Reach, socket string) (*PKCS11, error) {
	path, err := r.path(socket)
	if err != nil {
		return nil, err
	}
	r.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &PKCS11{r.client()}, nil
}

// Describe implements Provider. The versions of a key are the keys of one label, by
// their CKA_ID in hexadecimal, and the current one is the greatest.
func (p *PKCS11) Describe(ctx context.Context, key Key) (Description, error) {
	a, err := p.call(ctx, device.Describe, key, nil)
	return Description{Algorithm: a.Algorithm, Bits: a.Bits, State: State(a.State), Version: a.Version, Begins: a.Begins, Expires: a.Expires}, err
}

// Wrap implements Provider.
func (p *PKCS11) Wrap(ctx context.Context, key Key, id KeyID, secret []byte) ([]byte, string, error) {
	b, err := bind(id, secret)
	if err != nil {
		return nil, "", err
	}
	defer clear(b)
	a, err := p.call(ctx, device.Wrap, key, b)
	if err == nil && len(a.Data) == 0 {
		err = down("PKCS#11", errors.New("an answer without what was wrapped"))
	}
	return a.Data, a.Version, err
}

// Unwrap implements Provider.
func (p *PKCS11) Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error) {
	a, err := p.call(ctx, device.Unwrap, key, wrapped)
	if err != nil {
		return nil, err
	}
	return unbind("PKCS#11", id, a.Data)
}

func (p *PKCS11) call(ctx context.Context, what string, key Key, data []byte) (device.Answer, error) {
	var a device.Answer
	status, said, err := ask(ctx, p.client, http.MethodPost, "http://device"+what, nil, device.Ask{Name: key.Name, Version: key.Version, Data: data}, &a)
	cause := fmt.Errorf("PKCS#11: %s: status %d", what, status)
	switch {
	case err != nil:
		return a, down("PKCS#11", err)
	case status == http.StatusOK:
		return a, nil
	case status == http.StatusForbidden:
		a.State = string(Barred)
		_ = json.Unmarshal(said, &a)
		return a, refusal(key, State(a.State), cause)
	case status == http.StatusUnprocessableEntity:
		return a, fmt.Errorf("%w (%w)", ErrWrapped, cause)
	case status == http.StatusBadRequest:
		return a, cause
	}
	return a, down("PKCS#11", cause)
}
