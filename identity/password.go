package identity

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

// Passwords are generated, never chosen: passwordRandom characters of chance and
// passwordCheck characters that only this server can compute from them and from
// the account. So a guess is told from a password in a microsecond and never
// reaches argon2id, which is there for who steals the database.
const (
	base62         = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	passwordRandom = 40
	passwordCheck  = 8
)

// PasswordNames are the two passwords of an account: one can be replaced while
// the other is in use.
var PasswordNames = [...]string{"password1", "password2"}

// A Holder is an account that has passwords.
type Holder struct {
	kind Kind
	id   ref.ID // of the account; for the admin user, of its registry
}

// UserHolder is a user of this server.
func UserHolder(name string) Holder { return Holder{User, UserID(name)} }

// TokenHolder is a repository token of a registry.
func TokenHolder(registry ref.ID, name string) Holder { return Holder{Token, TokenID(registry, name)} }

// AdminHolder is the admin user of a registry.
func AdminHolder(registry ref.ID) Holder { return Holder{Admin, registry} }

// ClientHolder is a service principal, by its client id.
func ClientHolder(client string) Holder { return Holder{ServicePrincipal, ClientID(client)} }

// document is where the verifiers of the account's passwords are. It lies below
// the account and goes with it.
func (h Holder) document() ref.ID { return h.id.Child(string(h.kind)+"Passwords", "all") }

// A Password is a password that was just made. Value is known only now.
type Password struct {
	Name    string
	Value   Secret
	Created time.Time
	Expiry  time.Time // zero for never
	proof   verifier
}

// Format prints the name alone.
func (p Password) Format(f fmt.State, _ rune) { io.WriteString(f, p.Name) }

// PasswordInfo is what may be told about a password afterwards.
type PasswordInfo struct {
	Name    string    `json:"name"`
	Created time.Time `json:"creationTime"`
	Expiry  time.Time `json:"expiry,omitzero"`
	Used    time.Time `json:"-"` // when it last proved somebody, to about ten minutes; zero for never
}

// A verifier is what is stored of a password.
type verifier struct {
	PasswordInfo
	ID    string    `json:"id"`             // names the password in tokens that descend from it
	Start time.Time `json:"start,omitzero"` // of a client's secret
	Hint  string    `json:"hint,omitempty"` // of a client's secret: how it begins
	Salt  string    `json:"salt"`
	Hash  string    `json:"argon2id"`
}

type verifiers struct {
	Passwords []verifier `json:"passwords"`
}

// The parameters of argon2id, as OWASP recommends.
const (
	argonTime    = 2
	argonMemory  = 19 << 10 // KiB
	argonThreads = 1
)

func hash(password, salt string) string {
	sum := argon2.IDKey([]byte(password), []byte(salt), argonTime, argonMemory, argonThreads, 32)
	return base64.RawStdEncoding.EncodeToString(sum)
}

// slowly runs f when fewer than two others run: each takes 19 MiB.
func (s *Store) slowly(ctx context.Context, f func()) error {
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.hashing }()
	f()
	return nil
}

// matches reports whether v was made of the password that was shown as key. What
// argon2id has said of the two once it need not say again, even if documents
// changed since: v is what they say now.
func (s *Store) matches(ctx context.Context, key shown, password Secret, v verifier) (ok bool, err error) {
	known := func() bool { h, ok := s.matched.get(key); return ok && h == v.Hash }
	if known() {
		return true, nil
	}
	err = s.slowly(ctx, func() {
		if ok = known() || subtle.ConstantTimeCompare([]byte(hash(string(password), v.Salt)), []byte(v.Hash)) == 1; ok {
			s.matched.add(key, v.Hash)
		}
	})
	return ok, err
}

// seal computes, for the chance of a password and its account, the characters
// that follow it and the id it goes by.
func (s *Store) seal(h Holder, chance string) (check, id string) {
	mac := hmac.New(sha256.New, s.o.Check)
	fmt.Fprintf(mac, "%s\x00%s\x00%s", h.kind, h.id.Key(), chance)
	sum := mac.Sum(nil)
	n := binary.BigEndian.Uint64(sum)
	text := make([]byte, passwordCheck)
	for i := range text {
		text[i], n = base62[n%62], n/62
	}
	if h.kind == ServicePrincipal { // Azure's clients want a GUID
		return string(text), ref.DerivedGUID(sum[8:24])
	}
	return string(text), base64.RawURLEncoding.EncodeToString(sum[8:24])
}

// NewPassword makes a password for h that can be stored with PutPasswords. It
// takes about 20 ms, so it is not for a transaction.
func (s *Store) NewPassword(ctx context.Context, h Holder, name string, expiry time.Time) (Password, error) {
	if !slices.Contains(PasswordNames[:], name) {
		return Password{}, fault.New(fault.BadRequest, "an account has the passwords %s and %s", PasswordNames[0], PasswordNames[1])
	}
	now := time.Now().UTC()
	if !expiry.IsZero() && !expiry.After(now) {
		return Password{}, fault.New(fault.BadRequest, "the expiry of a password lies in the future")
	}
	v, text, err := s.generate(ctx, h)
	v.PasswordInfo = PasswordInfo{Name: name, Created: now.Truncate(time.Microsecond), Expiry: expiry}
	return Password{name, text, v.Created, expiry, v}, err
}

// generate makes a secret of h and what is stored of it.
func (s *Store) generate(ctx context.Context, h Holder) (v verifier, text Secret, err error) {
	chance := randomText(passwordRandom)
	check, id := s.seal(h, chance)
	v.ID, v.Salt = id, randomText(22)
	err = s.slowly(ctx, func() { v.Hash = hash(chance+check, v.Salt) })
	return v, Secret(chance + check), err
}

func randomText(n int) string {
	text, chance := make([]byte, 0, n), make([]byte, 2*n)
	for {
		rand.Read(chance)
		for _, b := range chance {
			if b >= 62*4 { // the rest would prefer some characters
				continue
			}
			if text = append(text, base62[b%62]); len(text) == n {
				return string(text)
			}
		}
	}
}

// PutPasswords stores made passwords in place of those of the same name.
func (s *Store) PutPasswords(ctx context.Context, tx *db.Tx, h Holder, by resource.SystemData, made ...Password) error {
	return s.changePasswords(ctx, tx, h, by, func(vs []verifier) ([]verifier, error) {
		for _, p := range made {
			vs = slices.DeleteFunc(vs, func(v verifier) bool { return v.Name == p.Name })
			vs = append(vs, p.proof)
		}
		slices.SortFunc(vs, func(a, b verifier) int { return strings.Compare(a.Name, b.Name) })
		return vs, nil
	})
}

// KeepPasswords forgets the passwords of h whose name is not listed.
func (s *Store) KeepPasswords(ctx context.Context, tx *db.Tx, h Holder, by resource.SystemData, names ...string) error {
	return s.changePasswords(ctx, tx, h, by, func(vs []verifier) ([]verifier, error) {
		return slices.DeleteFunc(vs, func(v verifier) bool { return !slices.Contains(names, v.Name) }), nil
	})
}

func (s *Store) changePasswords(ctx context.Context, tx *db.Tx, h Holder, by resource.SystemData, change func([]verifier) ([]verifier, error)) error {
	if err := s.o.Documents.Lock(ctx, tx); err != nil { // two passwords at once are two
		return err
	}
	var vs verifiers
	doc, err := s.o.Documents.GetTx(ctx, tx, h.document())
	switch {
	case fault.Of(err) == fault.NotFound:
		doc = resource.Resource{ID: h.document(), Type: passwordType}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(doc.Properties, &vs); err != nil {
			return fmt.Errorf("read passwords of %s: %w", h.id, err)
		}
	}
	if vs.Passwords, err = change(vs.Passwords); err != nil {
		return err
	}
	if doc.Properties, err = json.Marshal(vs); err != nil {
		return err
	}
	doc.System.LastModifiedBy, doc.System.LastModifiedByType = by.LastModifiedBy, by.LastModifiedByType
	_, err = s.o.Documents.Put(ctx, tx, doc, resource.Any)
	return err
}

// Passwords tells which passwords h has.
func (s *Store) Passwords(ctx context.Context, h Holder) ([]PasswordInfo, error) {
	vs, err := s.verifiers(ctx, h)
	infos := make([]PasswordInfo, len(vs))
	for i, v := range vs {
		infos[i] = v.PasswordInfo
		if err == nil {
			infos[i].Used, err = s.lastUse(ctx, v.ID)
		}
	}
	return infos, err
}

func (s *Store) verifiers(ctx context.Context, h Holder) ([]verifier, error) {
	doc, err := s.o.Documents.Get(ctx, h.document())
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var vs verifiers
	if err := json.Unmarshal(doc.Properties, &vs); err != nil {
		return nil, fmt.Errorf("read passwords of %s: %w", h.id, err)
	}
	return vs.Passwords, nil
}

// shown is a credential as this process remembers it: a hash under a secret that
// dies with it, bound to the registry at whose door it was shown.
type shown [sha256.Size]byte

func (s *Store) shown(parts ...string) shown {
	var space [1024]byte
	text := append(space[:0], s.secret[:]...)
	for _, p := range parts {
		text = binary.BigEndian.AppendUint32(text, uint32(len(p)))
		text = append(text, p...)
	}
	return sha256.Sum256(text)
}

// password proves a user name and password, or a client id and secret.
func (s *Store) password(ctx context.Context, r Realm, at Plane, c Credentials) (Principal, error) {
	// However the name is spelled, it is one credential: each new one costs 20 ms.
	key := s.shown(r.UID, string(rune('0'+at)), string(rune('0'+c.Method)), strings.ToLower(c.Name), string(c.Secret))
	return s.proven.Get(ctx, s.o.Documents, key, func(ctx context.Context) (Principal, error) {
		h, id, ok := s.recognize(r, at, c)
		if !ok {
			return Principal{}, refused()
		}
		a, err := s.account(ctx, h, r)
		if err != nil {
			return Principal{}, err
		}
		v, ok := a.verifier(id)
		if !ok {
			return Principal{}, refused()
		}
		if ok, err := s.matches(ctx, key, c.Secret, v); err != nil || !ok {
			return Principal{}, cmp.Or(err, refused())
		}
		return a.by(id)
	})
}

// holders are whose password this could be. The authority gives tokens to nobody
// who exists in one registry only; the control plane knows them, so that its
// refusal says who it was.
func holders(r Realm, at Plane, c Credentials) []Holder {
	admin, token, user, client := AdminHolder(r.ID), TokenHolder(r.ID, c.Name), UserHolder(c.Name), ClientHolder(c.Name)
	switch {
	case c.Method == ClientSecret:
		return []Holder{client}
	case at == AuthorityPlane:
		return []Holder{user}
	}
	return []Holder{admin, token, user, client}
}

// recognize tells whose password this is, if this server made it. It looks
// nothing up, so it takes the same time for every account, real or not.
func (s *Store) recognize(r Realm, at Plane, c Credentials) (found Holder, id string, ok bool) {
	if len(c.Secret) != passwordRandom+passwordCheck || !ValidName(c.Name) {
		return Holder{}, "", false
	}
	chance, check := string(c.Secret[:passwordRandom]), string(c.Secret[passwordRandom:])
	for _, h := range holders(r, at, c) {
		want, name := s.seal(h, chance)
		if subtle.ConstantTimeCompare([]byte(want), []byte(check)) == 1 && (h.kind != Admin || strings.EqualFold(c.Name, r.Name)) {
			found, id, ok = h, name, true
		}
	}
	return found, id, ok
}
