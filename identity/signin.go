package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
)

// How long what the authority gives out can be used.
const (
	codeLife      = 2 * time.Minute
	DeviceLife    = 15 * time.Minute
	DeviceEvery   = 5 * time.Second     // between two questions of a device
	refreshIdle   = 14 * 24 * time.Hour // without use
	refreshLast   = 90 * 24 * time.Hour // after the sign-in
	federatedLast = 12 * time.Hour      // after the sign-in, if an issuer vouched for it: it is not asked again
	refreshGrace  = time.Minute         // for the refresh token before the newest one
)

// A Session is what a person's code or refresh token says beside who it is: for
// which client, and what that had asked for.
type Session struct {
	Client  string `json:"client"`
	Scope   string `json:"scope,omitempty"`
	Nonce   string `json:"nonce,omitempty"`
	Offline bool   `json:"offline,omitempty"` // there may be refresh tokens

	family string    // random, behind each refresh token of the sign-in; "" until there is one
	turn   uint32    // of the refresh token that was shown
	since  time.Time // of the sign-in
}

// Problem is what the authority's dialect calls a refusal, in the Detail of a fault.
type Problem string

// Problems that OAuth has words for.
const (
	InvalidGrant Problem = "invalid_grant"
	Pending      Problem = "authorization_pending"
	SlowDown     Problem = "slow_down"
	Expired      Problem = "expired_token"
	Declined     Problem = "authorization_declined"
)

// Fault is a BadRequest that the dialect calls p.
func (p Problem) Fault(format string, args ...any) error {
	return fault.New(fault.BadRequest, format, args...).With(p)
}

// spent is the one answer to codes and refresh tokens that open nothing, or
// nothing any more.
func spent() error {
	return fault.New(fault.Unauthenticated, "the code or refresh token is not valid, or no longer; sign in again").With(InvalidGrant)
}

// Kinds of rows in the table signin.
const (
	codeRow   = "code"
	deviceRow = "device"
	userRow   = "user" // what a person types, for a device
	familyRow = "refresh"

	assertionRow = "assertion" // one that a client has shown
)

// rowID is what the table knows of a secret. It is made with a key, because what
// a person types can be found by trying.
func (s *Store) rowID(kind, secret string) string {
	mac := hmac.New(sha256.New, s.o.Check)
	fmt.Fprintf(mac, "signin\x00%s\x00%s", kind, secret)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func putRow(ctx context.Context, tx *db.Tx, id, kind string, until time.Time, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO signin (id, kind, until, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET until = excluded.until, body = excluded.body`, id, kind, until, text)
	if err != nil {
		return fmt.Errorf("write sign-in: %w", err)
	}
	return nil
}

// lockRow reads a row that nobody else changes until the transaction ends; false
// if there is none, or its time is over.
func lockRow(ctx context.Context, tx *db.Tx, id, kind string, body any) (bool, error) {
	return readRow(tx.QueryRow(ctx, `UPDATE signin SET until = until WHERE id = $1 AND kind = $2 AND until > $3 RETURNING body`, id, kind, time.Now()), body)
}

func readRow(row *db.Row, body any) (bool, error) {
	var text []byte
	switch err := row.Scan(&text); {
	case errors.Is(err, db.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read sign-in: %w", err)
	}
	if err := json.Unmarshal(text, body); err != nil {
		return false, fmt.Errorf("read sign-in: %w", err)
	}
	return true, nil
}

func dropRow(ctx context.Context, tx *db.Tx, id string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM signin WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete sign-in: %w", err)
	}
	return nil
}

// SweepSignIns forgets what nobody can use any more.
func (s *Store) SweepSignIns(ctx context.Context) error {
	return s.o.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM signin WHERE until <= $1`, time.Now())
		return err
	})
}

// A code is the row of an authorization code. What was shown once stays for a
// while: who shows it again ends the tokens that it gave.
type code struct {
	Session
	Redirect  string  `json:"redirect"`
	Challenge string  `json:"challenge"` // S256
	Descent   descent `json:"descent"`
	Used      string  `json:"used,omitempty"` // id of the refresh family
}

// An Authorization is what a client asked of a person, checked.
type Authorization struct {
	Session
	Redirect  string
	Challenge string // RFC 7636, S256
}

// NewCode makes the code that brings p back to the client. It can be shown once.
func (s *Store) NewCode(ctx context.Context, p Principal, a Authorization) (Secret, error) {
	d, err := s.person(p, a.Client)
	if err != nil {
		return "", err
	}
	text := rand.Text() + rand.Text()
	err = s.o.DB.Write(ctx, func(tx *db.Tx) error {
		return putRow(ctx, tx, s.rowID(codeRow, text), codeRow, time.Now().Add(codeLife), code{a.Session, a.Redirect, a.Challenge, d, ""})
	})
	return Secret(text), err
}

// person is the descent of somebody who signs in through a client.
func (s *Store) person(p Principal, client string) (descent, error) {
	if p.Kind != User && p.Kind != Federated {
		return descent{}, refused()
	}
	p.Client = client
	return descended(p)
}

// resumed is the principal that continues a sign-in.
func (s *Store) resumed(ctx context.Context, r Realm, d descent, in Session) (Principal, error) {
	p, err := s.again(ctx, r, d)
	if fault.Of(err) == fault.Unauthenticated {
		err = spent()
	}
	if err != nil {
		return Principal{}, err
	}
	p.Session = &in
	return p, nil
}

func (s *Store) code(ctx context.Context, r Realm, c Credentials, from network.Origin) (Principal, error) {
	id := s.rowID(codeRow, string(c.Secret))
	family := rand.Text() + rand.Text()
	var shown code
	var ok bool
	err := s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		shown = code{}
		if ok, err = lockRow(ctx, tx, id, codeRow, &shown); err != nil || !ok {
			return err
		}
		if shown.Used != "" {
			ok = false
			return s.endFamily(ctx, tx, shown.Used, shown.Descent, "code", from)
		}
		// Whatever else is wrong with it, this was the one time.
		used := shown
		used.Used = s.rowID(familyRow, family)
		return putRow(ctx, tx, id, codeRow, time.Now().Add(TokenLife), used)
	})
	if err != nil {
		return Principal{}, err
	}
	challenge := sha256.Sum256([]byte(c.Verifier))
	if !ok || shown.Client != c.Name || shown.Redirect != c.Redirect || !verifier7636(string(c.Verifier)) ||
		subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(challenge[:])), []byte(shown.Challenge)) != 1 {
		return Principal{}, spent()
	}
	shown.family, shown.since = family, shown.Descent.How.Time
	return s.resumed(ctx, r, shown.Descent, shown.Session)
}

// verifier7636 is the alphabet and length of a code_verifier.
func verifier7636(text string) bool {
	return 43 <= len(text) && len(text) <= 128 && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") == ""
}

// A Device waits for somebody to sign in elsewhere.
type Device struct {
	Client, Scope string
	Offline       bool
	From          netip.Addr // where it asked from: who is to sign in shall see it
	Agent         string
	Asked         time.Time
}

type waiting struct {
	Device
	Typed    string  `json:"typed"`             // id of the row of the user code
	Answered string  `json:"answered,omitzero"` // approved or declined
	Descent  descent `json:"descent,omitzero"`
}

// userCode is eight of the letters that are neither vowels nor look like others:
// 2.6e10 codes, of which few are alive.
const userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

func newUserCode() string {
	text, chance := make([]byte, 0, 8), make([]byte, 32)
	for {
		rand.Read(chance)
		for _, b := range chance {
			if b >= 240 {
				continue
			}
			if text = append(text, userAlphabet[b%20]); len(text) == 8 {
				return string(text)
			}
		}
	}
}

// ParseUserCode is what a person typed, in one spelling; "" if it is no user code.
func ParseUserCode(typed string) string {
	if len(typed) > 64 {
		return ""
	}
	text := strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(typed))
	if len(text) != 8 || strings.Trim(text, userAlphabet) != "" {
		return ""
	}
	return text
}

// NewDevice lets a device wait. The device shows the secret, a person types the
// other code.
func (s *Store) NewDevice(ctx context.Context, d Device, from network.Origin) (Secret, string, error) {
	wait := s.devices.take(neighbourhood(from.Counted()), 30, 2*time.Second)
	if wait == 0 { // who is refused takes nothing from the others
		wait = s.waiting.take(struct{}{}, 1000, 100*time.Millisecond)
	}
	if wait > 0 {
		return "", "", fault.New(fault.TooManyRequests, "too many devices wait for a sign-in; try again").After(wait)
	}
	d.From, d.Asked = from.Addr, time.Now().UTC().Truncate(time.Second)
	secret, typed := rand.Text()+rand.Text(), newUserCode()
	id, until := s.rowID(deviceRow, secret), time.Now().Add(DeviceLife)
	err := s.o.DB.Write(ctx, func(tx *db.Tx) error {
		w := waiting{Device: d, Typed: s.rowID(userRow, typed)}
		if err := putRow(ctx, tx, id, deviceRow, until, w); err != nil {
			return err
		}
		return putRow(ctx, tx, w.Typed, userRow, until, id)
	})
	return Secret(secret), typed[:4] + "-" + typed[4:], err
}

// Device is the device that a user code belongs to. Who tries codes is told to wait.
func (s *Store) Device(ctx context.Context, typed string, from network.Origin) (Device, error) {
	if wait := s.typing.take(neighbourhood(from.Counted()), guessBurst, guessEvery); wait > 0 {
		return Device{}, fault.New(fault.TooManyRequests, "too many codes were tried from this address; wait, then try again").After(wait)
	}
	return s.Waiting(ctx, typed)
}

// Waiting is the device that waits for the answer to a user code.
func (s *Store) Waiting(ctx context.Context, typed string) (Device, error) {
	var id string
	var w waiting
	err := s.o.DB.Read(ctx, func(tx *db.Tx) error {
		const text = `SELECT body FROM signin WHERE id = $1 AND kind = $2 AND until > $3`
		ok, err := readRow(tx.QueryRow(ctx, text, s.rowID(userRow, typed), userRow, time.Now()), &id)
		if err == nil && ok {
			ok, err = readRow(tx.QueryRow(ctx, text, id, deviceRow, time.Now()), &w)
		}
		if err == nil && !ok {
			return unknownDevice()
		}
		return err
	})
	return w.Device, err
}

func unknownDevice() error {
	return fault.New(fault.NotFound, "no device waits with this code: check it, or let the device ask for a new one")
}

// AnswerDevice lets p sign in on the device, or nobody: the zero Principal
// declines. A user code is answered once.
func (s *Store) AnswerDevice(ctx context.Context, typed string, p Principal) error {
	return s.o.DB.Write(ctx, func(tx *db.Tx) error {
		var id string
		var w waiting
		ok, err := lockRow(ctx, tx, s.rowID(userRow, typed), userRow, &id)
		if err == nil && ok {
			ok, err = lockRow(ctx, tx, id, deviceRow, &w)
		}
		if err != nil {
			return err
		}
		if !ok || w.Answered != "" {
			return unknownDevice()
		}
		if w.Answered = "declined"; p.Kind != "" {
			w.Answered = "approved"
			if w.Descent, err = s.person(p, w.Client); err != nil {
				return err
			}
		}
		if err := dropRow(ctx, tx, w.Typed); err != nil {
			return err
		}
		return putRow(ctx, tx, id, deviceRow, w.Asked.Add(DeviceLife), w)
	})
}

// device answers a device that asks whether somebody has signed in.
func (s *Store) device(ctx context.Context, r Realm, c Credentials) (Principal, error) {
	id := s.rowID(deviceRow, string(c.Secret))
	var w waiting
	ok, err := readRow(s.o.DB.QueryRow(ctx, `SELECT body FROM signin WHERE id = $1 AND kind = $2 AND until > $3`, id, deviceRow, time.Now()), &w)
	switch {
	case err != nil:
		return Principal{}, err
	case !ok || w.Client != c.Name:
		return Principal{}, fault.New(fault.Unauthenticated, "the device code is not valid, or no longer; start again").With(Expired)
	case w.Answered == "":
		if s.polls.take(id, 2, DeviceEvery-time.Second) > 0 {
			return Principal{}, SlowDown.Fault("the device asks too often; it waits %d seconds longer between two questions", DeviceEvery/time.Second)
		}
		return Principal{}, Pending.Fault("nobody has signed in for this device yet")
	}
	err = s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		w = waiting{}
		if ok, err = lockRow(ctx, tx, id, deviceRow, &w); err != nil || !ok {
			return err
		}
		return dropRow(ctx, tx, id)
	})
	switch {
	case err != nil:
		return Principal{}, err
	case !ok:
		return Principal{}, spent()
	case w.Answered != "approved":
		return Principal{}, Declined.Fault("the sign-in was declined")
	}
	return s.resumed(ctx, r, w.Descent, Session{Client: w.Client, Scope: w.Scope, Offline: w.Offline,
		family: rand.Text() + rand.Text(), since: w.Descent.How.Time})
}

// A family is the row of all refresh tokens of one sign-in. Each token holds the
// family's secret, its turn and a seal that only this server can make of the two;
// so the next token follows from the row, and two processes of one client that
// refresh at once get the same.
type family struct {
	Session
	Descent descent   `json:"descent"`
	Turn    uint32    `json:"turn"`           // of the newest token
	Turned  time.Time `json:"turned"`         // when it was first given out
	Since   time.Time `json:"since"`          // of the sign-in
	Ends    time.Time `json:"ends"`           // whatever happens
	Over    bool      `json:"over,omitempty"` // one of its secrets was shown twice: it gives nothing any more
}

// refreshText is a refresh token.
func (s *Store) refreshText(secret string, turn uint32) Secret {
	text := fmt.Sprintf("%s.%d.", secret, turn)
	mac := hmac.New(sha256.New, s.o.Check)
	mac.Write([]byte("refresh\x00" + text))
	return Secret("1." + text + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
}

// parseRefresh is the family's secret and the turn of a token that this server made.
func (s *Store) parseRefresh(token Secret) (secret string, turn uint32, ok bool) {
	parts := strings.Split(string(token), ".")
	if len(token) > 256 || len(parts) != 4 {
		return "", 0, false
	}
	if _, err := fmt.Sscanf(parts[2], "%d", &turn); err != nil {
		return "", 0, false
	}
	made := s.refreshText(parts[1], turn)
	return parts[1], turn, subtle.ConstantTimeCompare([]byte(made), []byte(token)) == 1
}

// refreshed proves a refresh token. One that was followed by another is taken for a
// moment longer; later it is somebody's copy, and nobody knows whose: the family
// ends.
func (s *Store) refreshed(ctx context.Context, r Realm, c Credentials, from network.Origin) (Principal, error) {
	secret, turn, ok := s.parseRefresh(c.Secret)
	if !ok {
		return Principal{}, spent()
	}
	var f family
	err := s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		f = family{}
		if ok, err = lockRow(ctx, tx, s.rowID(familyRow, secret), familyRow, &f); err != nil || !ok {
			return err
		}
		if f.Over {
			ok = false
			return nil
		}
		ok = turn == f.Turn || turn+1 == f.Turn && time.Since(f.Turned) <= refreshGrace
		if !ok {
			return s.endFamily(ctx, tx, s.rowID(familyRow, secret), f.Descent, "refresh token", from)
		}
		return nil
	})
	if err != nil {
		return Principal{}, err
	}
	if !ok || f.Client != c.Name || turn > f.Turn {
		return Principal{}, spent()
	}
	f.family, f.turn, f.since = secret, turn, f.Since
	return s.resumed(ctx, r, f.Descent, f.Session)
}

// endFamily ends the refresh tokens of a sign-in because one of its secrets was
// shown twice, and says so. Those that are not made yet will not be: whoever was
// first may be on its way to them.
func (s *Store) endFamily(ctx context.Context, tx *db.Tx, id string, d descent, what string, from network.Origin) error {
	var f family
	if ok, err := lockRow(ctx, tx, id, familyRow, &f); err != nil || ok && f.Over {
		return err
	}
	if err := putRow(ctx, tx, id, familyRow, time.Now().Add(TokenLife), family{Over: true}); err != nil {
		return err
	}
	return s.o.Ledger.Append(ctx, tx, ledger.Event{
		Time: time.Now(), Category: ledger.Security, Operation: "Breakwater.Identity/signIns/replayed",
		Who: ledger.Who{ID: d.ID, Kind: string(d.Kind), Name: d.Name}, Outcome: ledger.Refused, Scope: ref.Scope(d.Account.Key()), From: ledger.From{Address: from.Addr, Listener: from.Listener, Endpoint: from.Endpoint, Told: from.Told},
		Detail: ledger.Detail{More: map[string]string{"what": what, "client": d.Client}},
	})
}

// next is the refresh token that follows the one of in, or the first.
func (s *Store) next(ctx context.Context, d descent, in *Session) (Secret, error) {
	id, now := s.rowID(familyRow, in.family), time.Now()
	var f family
	err := s.o.DB.Write(ctx, func(tx *db.Tx) error {
		f = family{}
		ok, err := lockRow(ctx, tx, id, familyRow, &f)
		switch {
		case err != nil:
			return err
		case !ok && in.turn > 0, f.Over:
			return spent() // it has just ended
		case !ok:
			last := refreshLast
			if d.Kind == Federated {
				last = federatedLast
			}
			f = family{Session: *in, Descent: d, Since: in.since, Ends: in.since.Add(last)}
			f.Nonce = "" // of the sign-in's own id token
		case f.Turn > in.turn:
			return nil // another process of the client was here: it is the same token
		}
		f.Turn, f.Turned = in.turn+1, now
		until := f.Ends
		if idle := now.Add(refreshIdle); idle.Before(until) {
			until = idle
		}
		return putRow(ctx, tx, id, familyRow, until, f)
	})
	if err != nil {
		return "", err
	}
	return s.refreshText(in.family, f.Turn), nil
}
