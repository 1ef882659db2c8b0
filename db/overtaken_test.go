package db_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

func TestWhoIsOvertakenTriesAgainForASecond(t *testing.T) {
	moved, other := errors.New("moved"), errors.New("other")
	is := func(err error) bool { return errors.Is(err, moved) }
	done := func(err error) bool { return err == nil }
	failed := func(err error) bool { return errors.Is(err, other) }
	later := func(err error) bool { return fault.Of(err) == fault.Unavailable && errors.Is(err, moved) }
	synctest.Test(t, func(t *testing.T) {
		for _, row := range []struct {
			fails int // tries that are overtaken
			then  error
			want  func(error) bool
			tries int
		}{{0, nil, done, 1}, {3, nil, done, 4}, {0, other, failed, 1}, {2, other, failed, 3}, {1000, nil, later, 11}} {
			began, tries := time.Now(), 0
			err := db.Overtaken(t.Context(), is, func() error {
				if tries++; tries <= row.fails {
					return moved
				}
				return row.then
			})
			if !row.want(err) || tries != row.tries || time.Since(began) > 2*time.Second {
				t.Errorf("%d overtaken, then %v: %d tries in %v, %v", row.fails, row.then, tries, time.Since(began), err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Overtaken(ctx, is, func() error { return moved }); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody waits for it: %v", err)
		}
	})
}
