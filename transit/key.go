package transit

import (
	"crypto"
	"fmt"
)

// OpenKey reads the private key in the file at path, and makes it (0600, P-256)
// when there is none. It is durable when it returns.
func OpenKey(path string) (crypto.Signer, error) {
	text, err := once(path, 0o600, newKey)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}
