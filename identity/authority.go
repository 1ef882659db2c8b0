package identity

import "context"

// issued proves an access token of our own authority; ok is false if it is not
// one of its tokens at all.
func (s *Store) issued(ctx context.Context, r Realm, at Plane, token Secret) (_ Principal, ok bool, _ error) {
	return Principal{}, false, nil
}

// redeem proves what the authority gave out before: a code or a refresh token.
func (s *Store) redeem(ctx context.Context, r Realm, c Credentials) (Principal, error) {
	return Principal{}, refused()
}
