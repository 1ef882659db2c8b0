package keys

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// A wrappedPlatform is the file of a platform key that a device opens.
type wrappedPlatform struct {
	Key     string `json:"key"`     // of the device
	Version string `json:"version"` // of that key
	Wrapped []byte `json:"wrapped"`
}

const (
	platformID = "platform" // what the secret is bound to
	maxWrapped = 16 << 10   // bytes of the file
)

// OpenWrappedPlatform is OpenPlatform for a file that holds the platform key wrapped by
// a key of a device: without the device it tells nothing. The device is asked once, at
// the start. Where there is no file, a platform key is made and wrapped by the current
// version of key.
func OpenWrappedPlatform(ctx context.Context, path string, device Provider, key string) (*Platform, error) {
	p, err := readWrapped(ctx, path, device, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	d, err := device.Describe(ctx, Key{Name: key})
	if err == nil {
		err = d.Strong()
	}
	if err != nil {
		return nil, fmt.Errorf("the key %s that shall wrap the platform key: %w", key, err)
	}
	secret := make([]byte, Size)
	rand.Read(secret)
	defer clear(secret)
	w := wrappedPlatform{Key: key}
	if w.Wrapped, w.Version, err = device.Wrap(ctx, Key{Name: key}, platformID, secret); err != nil {
		return nil, fmt.Errorf("wrap the platform key: %w", err)
	}
	text, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	if err := createPlatform(path, append(text, '\n')); err != nil {
		return nil, fmt.Errorf("create the platform key: %w", err)
	}
	return readWrapped(ctx, path, device, key)
}

func readWrapped(ctx context.Context, path string, device Provider, key string) (*Platform, error) {
	f, info, err := openOwn("platform key", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxWrapped))
	if err != nil {
		return nil, fmt.Errorf("platform key: %w", err)
	}
	var w wrappedPlatform
	if err := json.Unmarshal(text, &w); err != nil || w.Key == "" || len(w.Wrapped) == 0 {
		if info.Size() == Size {
			return nil, fmt.Errorf("platform key %s: it is not wrapped, but the configuration names a device for it; remove platform.pkcs11, or start with another file and no data", path)
		}
		return nil, fmt.Errorf("platform key %s: not a wrapped key; restore it from its copy", path)
	}
	if w.Key != key {
		return nil, fmt.Errorf("platform key %s: the device's key %q wrapped it, not %q", path, w.Key, key)
	}
	secret, err := device.Unwrap(ctx, Key{Name: w.Key, Version: w.Version}, platformID, w.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap the platform key: %w", err)
	}
	defer clear(secret)
	if len(secret) != Size {
		return nil, fmt.Errorf("platform key %s: not a key of %d bytes; restore it from its copy", path, Size)
	}
	return &Platform{key: hide(secret)}, nil
}
