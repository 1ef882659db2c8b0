package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/network"
)

const (
	arm  = "https://management.core.windows.net/"
	pkce = "0123456789-0123456789-0123456789-0123456789"
	back = "http://localhost:8400"
)

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// person is a user of the directory who has just signed in.
func (w *world) person(name string) (Principal, Credentials) {
	w.t.Helper()
	c := w.make(UserHolder(name))
	return w.in(AuthorityPlane, c), c
}

func (w *world) in(plane Plane, c Credentials) Principal {
	w.t.Helper()
	p, err := w.Authenticate(w.t.Context(), shop, plane, c, here)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) not(plane Plane, c Credentials, why string) {
	w.t.Helper()
	if p, err := w.Authenticate(w.t.Context(), shop, plane, c, here); fault.Of(err) != fault.Unauthenticated || p.Kind != "" {
		w.t.Errorf("%s, and the answer was %+v, %v", why, p, err)
	}
}

// code is what the browser of p brings back to az.
func (w *world) code(p Principal) Credentials {
	w.t.Helper()
	text, err := w.NewCode(w.t.Context(), p, Authorization{Session: Session{Client: AzureCLI, Scope: arm + "/.default", Nonce: "n", Offline: true},
		Redirect: back, Challenge: challenge(pkce)})
	if err != nil {
		w.t.Fatal(err)
	}
	return Credentials{Method: AuthorizationCode, Name: AzureCLI, Secret: text, Verifier: pkce, Redirect: back}
}

func (w *world) tokens(p Principal) Tokens {
	w.t.Helper()
	tokens, err := w.IssueTokens(w.t.Context(), shop, p, Want{Issuer: "https://localhost:8443/adfs", Audience: arm, ID: true, Refresh: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return tokens
}

func again(text Secret) Credentials {
	return Credentials{Method: RefreshToken, Name: AzureCLI, Secret: text}
}

func bearer(text Secret) Credentials { return Credentials{Method: Bearer, Secret: text} }

// replays are the families that ended because a secret was shown twice.
func (w *world) replays() (n int) {
	w.t.Helper()
	for e, err := range w.o.Ledger.Events(w.t.Context(), ledger.Query{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if e.Operation == "Breakwater.Identity/signIns/replayed" && e.Category == ledger.Security {
			n++
		}
	}
	return n
}

// turnedAgo makes the newest refresh token of every family older.
func (w *world) turnedAgo(d time.Duration) {
	w.t.Helper()
	w.write(func(tx *db.Tx) error {
		rows, err := tx.Query(w.t.Context(), `SELECT id, body FROM signin WHERE kind = $1`, familyRow)
		if err != nil {
			return err
		}
		all := map[string]family{}
		for rows.Next() {
			var id string
			var text []byte
			if err := rows.Scan(&id, &text); err != nil {
				return err
			}
			var f family
			if err := json.Unmarshal(text, &f); err != nil {
				return err
			}
			all[id] = f
		}
		for id, f := range all {
			f.Turned = f.Turned.Add(-d)
			if err := putRow(w.t.Context(), tx, id, familyRow, time.Now().Add(time.Hour), f); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestAPersonComesBackWithACodeAndStaysByRefreshing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		p, _ := w.person("ann")
		in := w.in(AuthorityPlane, w.code(p))
		if in.ID != p.ID || in.Client != AzureCLI || in.Session == nil || in.Session.Nonce != "n" {
			t.Fatalf("%+v", in)
		}
		first := w.tokens(in)
		who := w.in(ControlPlane, bearer(first.Access))
		if who.ID != p.ID || who.Name != "ann" || who.Client != AzureCLI || who.Authentication.Time.IsZero() || len(who.Authentication.AMR) != 1 {
			t.Errorf("%+v", who)
		}
		w.not(ControlPlane, bearer(first.ID), "an id token is no access token")
		w.not(ContentPlane, bearer(first.Access), "a token of the authority has to be exchanged first")
		w.not(AuthorityPlane, bearer(first.Access), "the authority takes none of its own tokens as a sign-in")
		signedIn := who.Authentication.Time
		refresh := first.Refresh
		for range 3 {
			next := w.tokens(w.in(AuthorityPlane, again(refresh)))
			if next.Refresh == refresh || next.Refresh == "" {
				t.Fatal("the refresh token did not turn")
			}
			if p := w.in(ControlPlane, bearer(next.Access)); !p.Authentication.Time.Equal(signedIn) {
				t.Errorf("a refresh made the sign-in younger: %v, %v", p.Authentication.Time, signedIn)
			}
			refresh = next.Refresh
		}
		other := again(refresh)
		other.Name = Portal
		w.not(AuthorityPlane, other, "the refresh token is another client's")
		if w.replays() != 0 {
			t.Error("a replay was recorded")
		}
	})
}

func TestACodeWorksOnceAndAReplayEndsWhatItGave(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		p, _ := w.person("ann")
		c := w.code(p)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var in []Principal
		for range 8 {
			wg.Go(func() {
				if p, err := w.Authenticate(t.Context(), shop, AuthorityPlane, c, here); err == nil {
					mu.Lock()
					defer mu.Unlock()
					in = append(in, p)
				}
			})
		}
		wg.Wait()
		if len(in) != 1 {
			t.Fatalf("%d came in with one code", len(in))
		}
		// Whoever showed it again did so before there were tokens: there will be none.
		if _, err := w.IssueTokens(t.Context(), shop, in[0], Want{Audience: arm, Refresh: true}); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("a code that was shown eight times gives tokens: %v", err)
		}
		if w.replays() != 1 {
			t.Errorf("%d replays are recorded", w.replays())
		}
		c = w.code(p)
		tokens := w.tokens(w.in(AuthorityPlane, c))
		w.not(AuthorityPlane, c, "the code was shown before")
		w.not(AuthorityPlane, again(tokens.Refresh), "a code was shown twice, so its refresh tokens ended")
		if w.replays() != 2 {
			t.Errorf("%d replays are recorded", w.replays())
		}
		for why, change := range map[string]func(*Credentials){
			"the verifier is another":         func(c *Credentials) { c.Verifier = Secret(pkce[1:] + "x") },
			"the verifier is the challenge":   func(c *Credentials) { c.Verifier = Secret(challenge(pkce)) },
			"there is no verifier":            func(c *Credentials) { c.Verifier = "" },
			"the redirect is another":         func(c *Credentials) { c.Redirect = "http://localhost:8401" },
			"the client is another":           func(c *Credentials) { c.Name = Portal },
			"the code is another":             func(c *Credentials) { c.Secret += "A" },
			"the code is shown as a device's": func(c *Credentials) { c.Method = DeviceCode },
			"the code is a refresh token":     func(c *Credentials) { c.Method = RefreshToken },
		} {
			c := w.code(p)
			change(&c)
			w.not(AuthorityPlane, c, why)
		}
	})
}

func TestTwoProcessesOfAClientRefreshAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		p, _ := w.person("ann")
		first := w.tokens(w.in(AuthorityPlane, w.code(p))).Refresh
		var wg sync.WaitGroup
		next := make([]Secret, 8)
		for i := range next {
			wg.Go(func() {
				if p, err := w.Authenticate(t.Context(), shop, AuthorityPlane, again(first), here); err != nil {
					t.Error(err)
				} else if tokens, err := w.IssueTokens(t.Context(), shop, p, Want{Audience: arm, Refresh: true}); err != nil {
					t.Error(err)
				} else {
					next[i] = tokens.Refresh
				}
			})
		}
		wg.Wait()
		for _, n := range next {
			if n != next[0] || n == first {
				t.Fatal("who refreshed at the same time got different tokens")
			}
		}
		w.turnedAgo(2 * refreshGrace)
		last := w.tokens(w.in(AuthorityPlane, again(next[0]))).Refresh
		w.tokens(w.in(AuthorityPlane, again(next[0]))) // for a moment the one before works too
		w.turnedAgo(2 * refreshGrace)
		w.not(AuthorityPlane, again(next[0]), "the refresh token was followed by another a while ago")
		w.not(AuthorityPlane, again(last), "one of the family was shown after its time")
		if w.replays() != 1 {
			t.Errorf("%d replays are recorded", w.replays())
		}
	})
}

func TestWhatDescendsFromASignInEndsWithIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		for _, row := range []struct {
			why string
			end func(w *world, name string)
		}{
			{"the user is gone", func(w *world, name string) { w.delete(UserID(name)) }},
			{"the user is disabled", func(w *world, name string) { w.put(UserID(name), UserType, "disabled") }},
			{"the password was replaced", func(w *world, name string) { w.password(UserHolder(name), PasswordNames[0], time.Time{}) }},
			{"the user was made again", func(w *world, name string) { w.delete(UserID(name)); w.make(UserHolder(name)) }},
		} {
			name := "u" + strings.ToLower(challenge(row.why)[:6])
			name = strings.NewReplacer("_", "x", "-", "y").Replace(name)
			p, _ := w.person(name)
			tokens, c := w.tokens(w.in(AuthorityPlane, w.code(p))), w.code(p)
			w.in(ControlPlane, bearer(tokens.Access))
			row.end(w, name)
			w.not(ControlPlane, bearer(tokens.Access), row.why)
			w.not(AuthorityPlane, again(tokens.Refresh), row.why)
			w.not(AuthorityPlane, c, row.why)
		}
	})
}

func TestOnlyPeopleOfTheDirectoryGetCodesAndTokens(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	p := w.in(ContentPlane, w.make(TokenHolder(shop.ID, "ci")))
	if _, err := w.NewCode(t.Context(), p, Authorization{Session: Session{Client: AzureCLI}}); err == nil {
		t.Error("a repository token signed in")
	}
	if _, err := w.IssueTokens(t.Context(), shop, p, Want{Audience: arm}); err == nil {
		t.Error("a repository token got a token for the control plane")
	}
	ann, _ := w.person("ann")
	for _, audience := range []string{"https://graph.microsoft.com/", "https://management.core.windows.net.evil.example/", "https://localhost:8444/", arm + "/"} {
		if _, err := w.IssueTokens(t.Context(), shop, ann, Want{Audience: audience}); fault.Of(err) != fault.BadRequest {
			t.Errorf("%s: %v", audience, err)
		}
	}
	ann.Ceiling = &Ceiling{}
	if _, err := w.IssueTokens(t.Context(), shop, ann, Want{Audience: arm}); err == nil {
		t.Error("who has a ceiling got a token without")
	}
}

func TestTokensOfTheAuthorityAreForWhatTheySay(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	ann, _ := w.person("ann")
	ann.Client = AzureCLI
	r := shop
	exchange := func(r Realm, audience string) error {
		tokens, err := w.IssueTokens(t.Context(), shop, ann, Want{Audience: audience})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Authenticate(t.Context(), r, ContentPlane, Credentials{Method: ExternalToken, Secret: tokens.Access}, here)
		return err
	}
	r.ARMTokens = true
	for _, audience := range []string{arm, "https://management.azure.com", RegistryAudience, RegistryAudience + "/", "https://localhost:8443", "https://localhost:8443/"} {
		if err := exchange(r, audience); err != nil {
			t.Errorf("%s: %v", audience, err)
		}
	}
	r.ARMTokens = false
	if err := exchange(r, arm); fault.Of(err) != fault.Unauthenticated {
		t.Errorf("a registry that refuses tokens of the control plane took one: %v", err)
	}
	if err := exchange(r, RegistryAudience); err != nil {
		t.Error(err)
	}
	tokens, err := w.IssueTokens(t.Context(), shop, ann, Want{Audience: RegistryAudience})
	if err != nil {
		t.Fatal(err)
	}
	w.not(ControlPlane, bearer(tokens.Access), "the token is for registries")
	p := ann
	p.Client = Portal
	if tokens, err = w.IssueTokens(t.Context(), shop, p, Want{}); err != nil {
		t.Fatal(err)
	}
	w.not(ControlPlane, bearer(tokens.Access), "the token is for its client alone")
}

func TestForgedTokensOfTheAuthorityProveNothing(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	ann, _ := w.person("ann")
	good := w.tokens(w.in(AuthorityPlane, w.code(ann))).Access
	parts := strings.Split(string(good), ".")
	var claim map[string]any
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	if err := json.Unmarshal(text, &claim); err != nil {
		t.Fatal(err)
	}
	resigned := func(change func(map[string]any)) Secret {
		c := map[string]any{}
		for k, v := range claim {
			c[k] = v
		}
		change(c)
		text, err := w.sign(t.Context(), authorityUse, accessType, c)
		if err != nil {
			t.Fatal(err)
		}
		return Secret(text)
	}
	w.in(ControlPlane, bearer(resigned(func(map[string]any) {}))) // the forge works
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	now := time.Now().Unix()
	typed, err := w.sign(t.Context(), authorityUse, tokenType, claim)
	if err != nil {
		t.Fatal(err)
	}
	registrys, err := w.sign(t.Context(), registryUse, tokenType, claim)
	if err != nil {
		t.Fatal(err)
	}
	for why, token := range map[string]Secret{
		"another audience":    resigned(set("aud", "https://graph.microsoft.com/")),
		"a list of audiences": resigned(set("aud", []string{arm})),
		"no audience":         resigned(set("aud", nil)),
		"another tenant":      resigned(set("tid", "11111111-1111-1111-1111-111111111111")),
		"no descent":          resigned(set("breakwater", nil)),
		"another principal":   resigned(set("oid", "11111111-1111-1111-1111-111111111111")),
		"another name":        resigned(set("name", "owner")),
		"another kind":        resigned(set("breakwater", map[string]any{"kind": "admin", "credential": "x"})),
		"the server's kind":   resigned(set("breakwater", map[string]any{"kind": "server", "credential": "x"})),
		"another password":    resigned(set("breakwater", map[string]any{"kind": "user", "credential": "x"})),
		"expired":             resigned(func(c map[string]any) { c["exp"], c["nbf"] = now-1, now-60 }),
		"a life of a year":    resigned(set("exp", now+365*86400)),
		"not yet":             resigned(func(c map[string]any) { c["nbf"], c["exp"] = now+120, now+600 }),
		"an unknown client":   resigned(set("appid", "11111111-1111-1111-1111-111111111111")),
		"the type JWT":        Secret(typed),
		"a registry's key":    Secret(registrys),
		"no signature":        Secret(parts[0] + "." + parts[1] + "."),
		"a changed payload":   Secret(parts[0] + "." + respelled(parts[1]) + "." + parts[2]),
		"a second spelling":   Secret(parts[0] + "." + parts[1] + "." + respelled(parts[2])),
	} {
		if token != good {
			w.not(ControlPlane, bearer(token), "the token has "+why)
		}
	}
	w.unknown(shop, bearer(good), "a registry takes tokens of its own keys alone")
}

func TestADeviceWaitsForSomebody(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		ann, _ := w.person("ann")
		start := func() (Credentials, string) {
			secret, typed, err := w.NewDevice(t.Context(), Device{Client: AzureCLI, Scope: arm + "/.default", Offline: true, Agent: "az"}, here)
			if err != nil {
				t.Fatal(err)
			}
			return Credentials{Method: DeviceCode, Name: AzureCLI, Secret: secret}, typed
		}
		problemOf := func(c Credentials) any {
			_, err := w.Authenticate(t.Context(), shop, AuthorityPlane, c, here)
			return fault.From(err).Detail
		}
		c, typed := start()
		if len(typed) != 9 || ParseUserCode(" "+strings.ToLower(typed)) != strings.Replace(typed, "-", "", 1) {
			t.Errorf("%q", typed)
		}
		typed = ParseUserCode(typed)
		if got := problemOf(c); got != Pending {
			t.Error(got)
		}
		problemOf(c)
		if got := problemOf(c); got != SlowDown {
			t.Error(got)
		}
		waits, err := w.Device(t.Context(), typed, here)
		if err != nil || waits.From != here.Addr || waits.Agent != "az" || waits.Client != AzureCLI {
			t.Fatalf("%+v, %v", waits, err)
		}
		if err := w.AnswerDevice(t.Context(), typed, ann); err != nil {
			t.Fatal(err)
		}
		if err := w.AnswerDevice(t.Context(), typed, Principal{}); fault.Of(err) != fault.NotFound {
			t.Errorf("a device was answered twice: %v", err)
		}
		other := c
		other.Name = Portal
		if got := problemOf(other); got != Expired {
			t.Error("another client took the answer: ", got)
		}
		in := w.in(AuthorityPlane, c)
		if in.ID != ann.ID || w.tokens(in).Refresh == "" {
			t.Errorf("%+v", in)
		}
		if got := problemOf(c); got != Expired {
			t.Error("a device code worked twice: ", got)
		}

		c, typed = start()
		if err := w.AnswerDevice(t.Context(), ParseUserCode(typed), Principal{}); err != nil {
			t.Fatal(err)
		}
		if got := problemOf(c); got != Declined {
			t.Error(got)
		}
		ci := w.in(ContentPlane, w.make(TokenHolder(shop.ID, "ci")))
		_, typed = start()
		if err := w.AnswerDevice(t.Context(), ParseUserCode(typed), ci); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("a repository token signed in on a device: %v", err)
		}
		// Somebody tries codes.
		tired := false
		for n := range 30 {
			_, err := w.Device(t.Context(), fmt.Sprintf("BCDFGH%c%c", userAlphabet[n/20], userAlphabet[n%20]), here)
			tired = tired || fault.Of(err) == fault.TooManyRequests
		}
		if !tired {
			t.Error("thirty codes were tried at once")
		}
	})
}

func TestWhatIsOverIsForgotten(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		ann, _ := w.person("ann")
		c := w.code(ann)
		w.write(func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE signin SET until = $1`, time.Now().Add(-time.Second))
			return err
		})
		w.not(AuthorityPlane, c, "the code's time is over")
		if err := w.SweepSignIns(t.Context()); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := d.QueryRow(t.Context(), `SELECT count(*) FROM signin`).Scan(&n); err != nil || n != 0 {
			t.Error(n, err)
		}
	})
}

// A stolen database gives nobody a way in.
func TestNothingInTheTableOpensAnything(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	ann, password := w.person("ann")
	c := w.code(ann)
	tokens := w.tokens(w.in(AuthorityPlane, w.code(ann)))
	secret, typed, err := w.NewDevice(t.Context(), Device{Client: AzureCLI}, here)
	if err != nil {
		t.Fatal(err)
	}
	family, _, ok := w.parseRefresh(tokens.Refresh)
	if !ok {
		t.Fatal("the refresh token cannot be read")
	}
	rows, err := w.d.Query(t.Context(), `SELECT id, body FROM signin`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var id string
		var body []byte
		if err := rows.Scan(&id, &body); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{string(c.Secret), string(tokens.Refresh), family, string(secret), typed, ParseUserCode(typed), string(password.Secret), pkce} {
			if strings.Contains(id+string(body), s) {
				t.Errorf("a row tells %s", body)
			}
		}
	}
	if n != 5 {
		t.Errorf("%d rows", n)
	}
}

func TestTheAuthoritysKeysTurnWithoutAGap(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	ann, _ := w.person("ann")
	old := w.tokens(w.in(AuthorityPlane, w.code(ann))).Access
	must(w.ring(t.Context(), authorityUse)).newest.Signs = time.Now()
	next := w.tokens(w.in(AuthorityPlane, w.code(ann))).Access
	if kid(bearer(old)) == kid(bearer(next)) {
		t.Error("an old key signed")
	}
	w.in(ControlPlane, bearer(old))
	w.in(ControlPlane, bearer(next))
	if set := must(w.Keys(t.Context())); len(set.Keys) != 2 || !set.Keys[0].IsPublic() || set.Keys[0].Algorithm != "RS256" {
		t.Errorf("%d keys", len(set.Keys))
	}
	if _, err := w.rotate(t.Context(), authorityUse, must(w.ring(t.Context(), authorityUse)), time.Now().Add(w.o.Rotate+2*TokenLife)); err != nil {
		t.Fatal(err)
	}
	w.not(ControlPlane, bearer(old), "its key is gone")
	if len(must(w.ring(t.Context(), registryUse)).byHeader) != 0 {
		t.Error("a key of the authority signs for registries")
	}
}

func FuzzRefreshToken(f *testing.F) {
	w := open(f, dbtest.SQLite(f))
	f.Add("1.a.1.b")
	f.Add(string(w.refreshText("secret", 7)))
	f.Fuzz(func(t *testing.T, text string) {
		if secret, turn, ok := w.parseRefresh(Secret(text)); ok && w.refreshText(secret, turn) != Secret(text) {
			t.Fatalf("%q has two spellings", text)
		}
	})
}

func FuzzUserCode(f *testing.F) {
	f.Add("BCDF-GHJK")
	f.Add("bcdf ghjk")
	f.Fuzz(func(t *testing.T, typed string) {
		if code := ParseUserCode(typed); code != "" && ParseUserCode(code) != code {
			t.Fatalf("%q is read as %q", typed, code)
		}
	})
}

// An address that may not ask for more devices takes nothing from the others.
func TestOneAddressKeepsNobodyFromDeviceSignIn(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	refused := 0
	for range 1200 {
		if _, _, err := w.NewDevice(t.Context(), Device{Client: AzureCLI}, here); fault.Of(err) == fault.TooManyRequests {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused < 1100 {
		t.Errorf("one address had %d devices", 1200-refused)
	}
	if _, _, err := w.NewDevice(t.Context(), Device{Client: AzureCLI}, network.Origin{Addr: netip.MustParseAddr("198.51.100.7")}); err != nil {
		t.Errorf("another address: %v", err)
	}
}
