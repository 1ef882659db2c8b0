package identity

import "context"

// client proves a client by its secret or an assertion.
func (s *Store) client(ctx context.Context, r Realm, c Credentials) (Principal, error) {
	return Principal{}, refused()
}
