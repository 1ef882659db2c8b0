package identity

import (
	"context"
	"slices"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/resource"
)

// How long a client's secret lives: if nobody says, and at most.
const (
	SecretLife    = 180 * 24 * time.Hour
	MaxSecretLife = 2 * 365 * 24 * time.Hour
)

// hintLength is how many characters of a secret are kept to tell it from others,
// as Azure does. What stays unknown of it is more than 200 bits.
const hintLength = 3

// SecretInfo is what may be told about a client's secret afterwards.
type SecretInfo struct {
	KeyID       string    `json:"keyId"`
	DisplayName string    `json:"displayName,omitempty"`
	Hint        string    `json:"hint"`
	Created     time.Time `json:"createdDateTime"`
	Start       time.Time `json:"startDateTime"`
	End         time.Time `json:"endDateTime"`
	Used        time.Time `json:"lastUsedDateTime,omitzero"` // to about ten minutes; zero for never
}

// A MadeSecret is a client's secret that was just made. Text is known only now.
type MadeSecret struct {
	SecretInfo
	Text   Secret
	client string
	proof  verifier
}

// NewSecret makes a secret for a client that can be stored with PutSecret. It
// takes about 20 ms, so it is not for a transaction. Zero times mean from now on,
// for SecretLife.
func (s *Store) NewSecret(ctx context.Context, client, displayName string, start, end time.Time) (MadeSecret, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if start.IsZero() {
		start = now
	}
	if end.IsZero() {
		end = start.Add(SecretLife)
	}
	start, end = start.UTC(), end.UTC()
	if !end.After(now) || !end.After(start) || end.Sub(now) > MaxSecretLife {
		return MadeSecret{}, fault.New(fault.BadRequest, "a secret ends after it begins, in the future, and within %d days", MaxSecretLife/(24*time.Hour))
	}
	v, text, err := s.generate(ctx, ClientHolder(client))
	if err != nil {
		return MadeSecret{}, err
	}
	v.PasswordInfo = PasswordInfo{Name: displayName, Created: now, Expiry: end}
	v.Start, v.Hint = start, string(text[:hintLength])
	return MadeSecret{v.secret(), text, client, v}, nil
}

func (v verifier) secret() SecretInfo {
	return SecretInfo{KeyID: v.ID, DisplayName: v.Name, Hint: v.Hint, Created: v.Created, Start: v.Start, End: v.Expiry}
}

// PutSecret stores a made secret beside the others, of which there are fewer than
// most.
func (s *Store) PutSecret(ctx context.Context, tx *db.Tx, by resource.SystemData, made MadeSecret, most int) error {
	return s.changePasswords(ctx, tx, ClientHolder(made.client), by, func(vs []verifier) ([]verifier, error) {
		if len(vs) >= most {
			return nil, fault.New(fault.Conflict, "a client has at most %d secrets; remove one first", most)
		}
		return append(vs, made.proof), nil
	})
}

// RemoveSecret forgets a secret of the client.
func (s *Store) RemoveSecret(ctx context.Context, tx *db.Tx, by resource.SystemData, client, keyID string) error {
	return s.changePasswords(ctx, tx, ClientHolder(client), by, func(vs []verifier) ([]verifier, error) {
		left := slices.DeleteFunc(slices.Clone(vs), func(v verifier) bool { return v.ID == keyID })
		if len(left) == len(vs) {
			return nil, fault.New(fault.NotFound, "the client has no secret with this keyId")
		}
		return left, nil
	})
}

// Secrets tells which secrets a client has, the oldest first.
func (s *Store) Secrets(ctx context.Context, client string) ([]SecretInfo, error) {
	vs, err := s.verifiers(ctx, ClientHolder(client))
	infos := make([]SecretInfo, len(vs))
	for i, v := range vs {
		infos[i] = v.secret()
		if err == nil {
			infos[i].Used, err = s.lastUse(ctx, v.ID)
		}
	}
	return infos, err
}
