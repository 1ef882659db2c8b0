package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/network"
)

func TestPasswordsProveAccounts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for _, row := range []struct {
			holder Holder
			kind   Kind
		}{{TokenHolder(shop.ID, "ci"), Token}, {UserHolder("owner"), User}, {AdminHolder(shop.ID), Admin}} {
			c := w.make(row.holder)
			p := w.known(shop, c)
			if p.Kind != row.kind || p.Name != row.holder.id.Name() || p.ID == "" || p.Credential == "" || p.Ceiling != nil || p.Account != row.holder.id || !p.Proven() {
				t.Errorf("%+v", p)
			}
			if (row.kind == User) != (p.Registry == "") {
				t.Errorf("%s exists in %q", row.kind, p.Registry)
			}
			upper := c
			upper.Name = strings.ToUpper(c.Name)
			if again := w.known(shop, upper); !reflect.DeepEqual(again, p) {
				t.Errorf("another spelling of %s is another principal", c.Name)
			}
			w.unknown(shop, Credentials{Method: Basic, Name: "other", Secret: c.Secret}, "the password belongs to another account")
			other := shop
			other.UID, other.ID, other.Name = "registry-2", other.ID+"2", "shop2"
			if row.kind != User {
				c.Name = strings.Replace(c.Name, "shop", "shop2", 1)
				w.unknown(other, c, "the password belongs to another registry")
			}
		}
		p := w.known(shop, Credentials{})
		if p.Kind != Anonymous || p.ID != "" || p.Proven() {
			t.Errorf("nothing was shown: %+v", p)
		}
	})
}

func TestPasswordsAreMadeWell(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	seen := map[Secret]bool{}
	for range 20 {
		p, err := w.NewPassword(t.Context(), UserHolder("owner"), "password1", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Value) < 40 || strings.Trim(string(p.Value), base62) != "" || seen[p.Value] {
			t.Errorf("made %q", string(p.Value))
		}
		seen[p.Value] = true
		stored := fmt.Sprintf("%q %q %q %q", p.proof.ID, p.proof.Salt, p.proof.Hash, p.proof.Name)
		for i := range len(p.Value) - 8 {
			if strings.Contains(stored, string(p.Value[i:i+8])) {
				t.Errorf("a part of the password is stored: %s", stored)
			}
		}
	}
	for _, name := range []string{"", "password3"} {
		if _, err := w.NewPassword(t.Context(), UserHolder("owner"), name, time.Time{}); fault.Of(err) != fault.BadRequest {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := w.NewPassword(t.Context(), UserHolder("owner"), "password1", time.Now()); fault.Of(err) != fault.BadRequest {
		t.Errorf("an expiry in the past: %v", err)
	}
}

func TestRevocationCountsFromTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		h := TokenHolder(shop.ID, "ci")
		first := w.make(h)
		second := w.password(h, "password2", time.Time{})
		bearer, refresh := w.access(shop, w.known(shop, first)), w.refresh(shop, w.known(shop, first))
		others := w.access(shop, w.known(shop, second))
		all := func(why string, revoked, kept []Credentials) {
			t.Helper()
			for _, c := range revoked {
				w.unknown(shop, c, why)
			}
			for _, c := range kept {
				w.known(shop, c)
			}
		}
		all("nothing", nil, []Credentials{first, second, bearer, refresh, others})

		w.put(h.id, TokenType, "disabled")
		all("the account is disabled", []Credentials{first, second, bearer, refresh, others}, nil)
		w.put(h.id, TokenType, EnabledStatus)
		all("nothing", nil, []Credentials{first, second, bearer, refresh, others})

		again := w.password(h, "password1", time.Time{})
		all("the password was made anew", []Credentials{first, bearer, refresh}, []Credentials{again, second, others})

		w.write(func(tx *db.Tx) error { return w.KeepPasswords(t.Context(), tx, h, by, "password1") })
		all("the password is kept no longer", []Credentials{second, others}, []Credentials{again})

		bearer = w.access(shop, w.known(shop, again))
		was := w.known(shop, again)
		w.delete(h.id)
		all("the account is deleted", []Credentials{again, bearer}, nil)
		c := w.make(h)
		all("the account was made again", []Credentials{again, bearer, first, second}, []Credentials{c})
		if w.known(shop, c).ID == was.ID {
			t.Error("an account that was made again is the same principal")
		}
	})
}

func TestPasswordEndsWhenItExpires(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	h := TokenHolder(shop.ID, "ci")
	w.make(h)
	c := w.password(h, "password2", time.Now().Add(4*time.Second))
	p := w.known(shop, c)
	_, until, err := w.IssueAccess(t.Context(), shop, p, nil)
	if err != nil || until.After(p.Until) {
		t.Errorf("a token outlives its password: %v, %v", until, err)
	}
	bearer, refresh := w.access(shop, p), w.refresh(shop, p)
	w.known(shop, bearer)
	w.known(shop, refresh)
	time.Sleep(time.Until(p.Until))
	for _, c := range []Credentials{c, bearer, refresh} {
		w.unknown(shop, c, "the password has expired")
	}
}

func TestAdminUserThatIsOffIsNobody(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	c := w.make(AdminHolder(shop.ID))
	bearer, refresh := w.access(shop, w.known(shop, c)), w.refresh(shop, w.known(shop, c))
	off := shop
	off.AdminUserEnabled = false
	for _, c := range []Credentials{c, bearer, refresh} {
		w.unknown(off, c, "the admin user is off")
		w.known(shop, c)
	}
}

func TestGuessesAreSlowedDownAndValidPasswordsAreNot(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	c := w.make(UserHolder("owner"))
	refused, slowed := 0, 0
	for i := range 40 {
		guess := Credentials{Method: Basic, Name: "owner", Secret: Secret(fmt.Sprintf("%048d", i))}
		_, err := w.Authenticate(t.Context(), shop, ContentPlane, guess, here)
		switch f := fault.From(err); f.Code {
		case fault.Unauthenticated:
			refused++
		case fault.TooManyRequests:
			if slowed++; f.Retry <= 0 || f.Retry > guessEvery {
				t.Errorf("wait %v", f.Retry)
			}
		default:
			t.Fatal(err)
		}
		w.known(shop, c)
	}
	if refused < guessBurst || refused > guessBurst+2 || slowed != 40-refused {
		t.Errorf("%d guesses were answered and %d slowed down", refused, slowed)
	}
	fresh := w.password(UserHolder("owner"), "password2", time.Time{})
	w.known(shop, fresh) // one that nobody has shown before
	there := network.Origin{Addr: netip.MustParseAddr("203.0.113.10")}
	if _, err := w.Authenticate(t.Context(), shop, ContentPlane, Credentials{Method: Basic, Name: "owner", Secret: "x"}, there); fault.Of(err) != fault.Unauthenticated {
		t.Errorf("a guess from elsewhere: %v", err)
	}
	if _, err := w.Authenticate(t.Context(), shop, ContentPlane, Credentials{Method: Basic, Name: "ci", Secret: "x"}, here); fault.Of(err) != fault.Unauthenticated {
		t.Errorf("a guess at another account: %v", err)
	}
	// One caller of IPv6 has as many addresses as it likes.
	for i := range 2 * guessBurst {
		a := network.Origin{Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))}
		if _, err := w.Authenticate(t.Context(), shop, ContentPlane, Credentials{Method: Basic, Name: "owner", Secret: "x"}, a); i > guessBurst && fault.Of(err) != fault.TooManyRequests {
			t.Errorf("guess %d: %v", i, err)
		}
	}
}

func TestGuessesAreForgottenWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Store
		c := Credentials{Method: Basic, Name: "owner"}
		for i := range 2 * guessBurst {
			if wait := s.guess(shop, c, here); (wait > 0) != (i >= guessBurst) {
				t.Fatalf("guess %d waits %v", i, wait)
			}
		}
		for range 100 {
			if wait := s.guess(shop, c, here); wait != guessEvery {
				t.Fatalf("who does not wait, waits %v", wait)
			}
			time.Sleep(guessEvery)
			if wait := s.guess(shop, c, here); wait != 0 {
				t.Fatalf("who has waited, waits %v", wait)
			}
		}
		time.Sleep(time.Hour)
		for range guessBurst {
			if wait := s.guess(shop, c, here); wait != 0 {
				t.Fatal(wait)
			}
		}
	})
}

func TestManyGuessersAreForgottenInTurn(t *testing.T) {
	var s Store
	for i := range 10 * maxRecent {
		s.guess(shop, Credentials{Method: Basic, Name: fmt.Sprint(i)}, here)
	}
	if n := len(s.guesses.young) + len(s.guesses.old); n > 2*maxRecent {
		t.Errorf("%d guessers are remembered", n)
	}
}

func TestGuessesNeverReachTheSlowHash(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	c := w.make(UserHolder("owner"))
	w.hashing <- struct{}{} // as if two others were hashing
	w.hashing <- struct{}{}
	for _, guess := range []Credentials{
		{Method: Basic, Name: "owner", Secret: c.Secret[:len(c.Secret)-1] + "!"},
		{Method: Basic, Name: "owner", Secret: Secret(strings.Repeat("A", len(c.Secret)))},
		{Method: Basic, Name: "nobody", Secret: c.Secret},
		{Method: Basic, Name: "../owner", Secret: c.Secret},
	} {
		w.unknown(shop, guess, "it is a guess")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.Authenticate(ctx, shop, ContentPlane, c, here); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first time, a password is hashed: %v", err)
	}
	<-w.hashing
	<-w.hashing
	w.known(shop, c)
	w.put(UserID("other"), UserType, EnabledStatus) // any change makes every cache load again
	w.hashing <- struct{}{}
	w.hashing <- struct{}{}
	w.known(shop, c)
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c.Name = "oWnEr"
	if _, err := w.Authenticate(ctx, shop, ContentPlane, c, here); err != nil {
		t.Errorf("each spelling of a name is hashed anew: %v", err)
	}
}

func TestManyAtOnceAreHashedOnce(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	c := w.make(TokenHolder(shop.ID, "ci"))
	var wg sync.WaitGroup
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			if _, err := w.Authenticate(t.Context(), shop, ContentPlane, c, here); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	one := time.Now()
	hash("password", "salt")
	if took, each := one.Sub(start), time.Since(one); took > 30*each {
		t.Errorf("64 callers with one password took %v, where one hash takes %v", took, each)
	}
}

func BenchmarkGuess(b *testing.B) {
	w := open(b, dbtest.SQLite(b))
	guess := Credentials{Method: Basic, Name: "owner", Secret: Secret(strings.Repeat("A", passwordRandom+passwordCheck))}
	for b.Loop() {
		if _, _, ok := w.recognize(shop, ContentPlane, guess); ok {
			b.Fatal("a guess was right")
		}
	}
}
