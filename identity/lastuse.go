package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"breakwater/db"
)

// What is remembered of a credential's last use: to which precision, and for how
// long.
const (
	useEvery = 10 * time.Minute
	useKept  = 2 * 365 * 24 * time.Hour
)

// noteUse says that a credential has just proved somebody, itself or by a token that
// descends from it. It is written now and then, so that it costs a request
// nothing; and a database that cannot take it keeps nobody out.
func (s *Store) noteUse(ctx context.Context, credential string) {
	if credential == "" || credential == hostCredential {
		return
	}
	now := time.Now()
	if at, ok := s.used.get(credential); ok && now.Sub(at) < useEvery {
		return
	}
	s.used.add(credential, now)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.o.DB.WriteRelaxed(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO used (credential, at) VALUES ($1, $2)
			ON CONFLICT (credential) DO UPDATE SET at = excluded.at WHERE used.at < excluded.at`, credential, now)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM used WHERE at < $1`, now.Add(-useKept))
		}
		return err
	})
}

// lastUse is when a credential last proved somebody; zero for never.
func (s *Store) lastUse(ctx context.Context, credential string) (time.Time, error) {
	var at int64
	err := s.o.DB.QueryRow(ctx, `SELECT at FROM used WHERE credential = $1`, credential).Scan(&at)
	if errors.Is(err, db.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read last use: %w", err)
	}
	return time.UnixMicro(at).UTC(), nil
}

// lastUses is lastUse of every credential that was ever used.
func (s *Store) lastUses(ctx context.Context) (map[string]time.Time, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT credential, at FROM used`)
	if err != nil {
		return nil, fmt.Errorf("read last uses: %w", err)
	}
	defer rows.Close()
	all := map[string]time.Time{}
	for rows.Next() {
		var credential string
		var at int64
		if err := rows.Scan(&credential, &at); err != nil {
			return nil, fmt.Errorf("read last uses: %w", err)
		}
		all[credential] = time.UnixMicro(at).UTC()
	}
	return all, rows.Err()
}
