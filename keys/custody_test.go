package keys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/keys/keystest"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A vaulted is a server whose registries' keys a customer may hold in Transit.
type vaulted struct {
	t        *testing.T
	db       *db.DB
	platform *keys.Platform
	docs     *resource.Store
	ledger   *ledger.Ledger
	transit  *keystest.Transit
	reach    keys.Reach
	times    keys.Times
}

const shop ref.ID = "/subscriptions/0/resourceGroups/local/providers/Microsoft.ContainerRegistry/registries/shop"

func inVault(t *testing.T, d *db.DB) *vaulted {
	t.Helper()
	path := filepath.Join(t.TempDir(), "platform.key")
	p, err := keys.OpenPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	v := &vaulted{t: t, db: d, platform: p, docs: resource.New(d), ledger: l, transit: keystest.StartTransit(t), reach: reach(t, map[string]string{"token": keystest.TransitToken}),
		times: keys.Times{Believed: 50 * time.Millisecond, Late: 200 * time.Millisecond, Check: 10 * time.Second, Pause: 100 * time.Millisecond}}
	v.transit.Create("root", "aes256-gcm96")
	v.transit.Create("other", "rsa-3072")
	v.provider(10)
	return v
}

// provider writes the document of the provider anew.
func (v *vaulted) provider(bridgeMinutes int) {
	v.t.Helper()
	text, _ := json.Marshal(keys.Settings{Kind: keys.KindTransit, Endpoint: v.transit.URL, Credential: "token", BridgeMinutes: &bridgeMinutes})
	v.change(func(tx *db.Tx) error {
		_, err := v.docs.Put(v.t.Context(), tx, resource.Resource{ID: keys.ProviderID("vault"), Type: keys.ProviderType, Properties: text}, resource.Any)
		return err
	})
}

func (v *vaulted) change(fn func(tx *db.Tx) error) {
	v.t.Helper()
	if err := v.db.Write(v.t.Context(), fn); err != nil {
		v.t.Fatal(err)
	}
}

// node is one more process on the same database.
func (v *vaulted) node() *keys.Rings {
	s := keys.NewRings(v.db, v.platform)
	s.Entrust(&keys.Custody{Documents: v.docs, Ledger: v.ledger, Reach: v.reach, Times: v.times})
	v.t.Cleanup(s.Close)
	return s
}

func (v *vaulted) create(s *keys.Rings) {
	v.t.Helper()
	v.change(func(tx *db.Tx) error { return s.Create(v.t.Context(), tx, "shop") })
}

// move commits keys that moved, with a change of a document as registries do.
func (v *vaulted) move(m *keys.Rewrap, err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	v.change(func(tx *db.Tx) error {
		if _, err := v.docs.Put(v.t.Context(), tx, resource.Resource{ID: shop, Type: "Microsoft.ContainerRegistry/registries"}, resource.Any); err != nil {
			return err
		}
		return m.Commit(v.t.Context(), tx)
	})
}

func (v *vaulted) held(key, version string) *keys.Holder {
	return &keys.Holder{Registry: shop, Provider: keys.ProviderID("vault"), Key: key, Version: version}
}

// derived is what the version of the ring makes, which tells whether it is the same.
func derived(t *testing.T, s *keys.Rings, version uint32) [keys.Size]byte {
	t.Helper()
	r, err := s.Ring(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.Version(version)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := k.Derive(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func closed(t *testing.T, s *keys.Rings, as fault.Code) error {
	t.Helper()
	_, err := s.Ring(t.Context(), "shop")
	if fault.Of(err) != as {
		t.Fatalf("%v, not %v", err, as)
	}
	return err
}

// eventually asks until it is so, for as long as a slow machine may take.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

func TestKeysMoveToACustomerAndBackWhileTheyAreUsed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		v := inVault(t, d)
		one, two := v.node(), v.node()
		v.create(one)
		first := derived(t, one, 1)
		same := func(what string) {
			t.Helper()
			if derived(t, one, 1) != first || derived(t, two, 1) != first || derived(t, v.node(), 1) != first {
				t.Errorf("%s: another key", what)
			}
		}
		same("before")
		ctx := t.Context()
		v.move(one.Rewrap(ctx, "shop", v.held("root", "1")))
		if err := one.Fit(ctx); err != nil {
			t.Errorf("the platform's key does not fit what a customer holds: %v", err)
		}
		same("with a customer")
		for i := range 3 {
			v.move(two.Renew(ctx, "shop"))
			derived(t, one, uint32(i+2))
		}
		v.move(two.Rewrap(ctx, "shop", v.held("other", "1")))
		same("with another key")
		v.transit.Delete("root") // on which nothing depends now
		same("without the key before")
		v.move(one.Rewrap(ctx, "shop", nil))
		same("with the platform")
		v.transit.Delete("other")
		same("with nobody else")
		if r, err := v.node().Ring(ctx, "shop"); err != nil || r.Current().Version() != 4 {
			t.Errorf("the current key is %d, %v", r.Current().Version(), err)
		}
	})
}

func TestRingThatIsInUseKnowsWhatWasMadeSince(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		v := inVault(t, d)
		one, two := v.node(), v.node()
		v.create(one)
		old, err := one.Ring(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		v.move(two.Renew(t.Context(), "shop"))
		if _, err := old.Version(2); err != nil {
			t.Errorf("a request that was under way: %v", err)
		}
		if _, err := old.Version(3); fault.Of(err) != fault.Unavailable {
			t.Errorf("a version that is none: %v", err)
		}
	})
}

func TestWhatWasPreparedFromOtherKeysIsNotCommitted(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		v, ctx := inVault(t, d), t.Context()
		s := v.node()
		v.create(s)
		late, err := s.Rewrap(ctx, "shop", v.held("root", "1"))
		if err != nil {
			t.Fatal(err)
		}
		v.move(s.Renew(ctx, "shop"))
		if err := d.Write(ctx, func(tx *db.Tx) error { return late.Commit(ctx, tx) }); fault.Of(err) != fault.Stale {
			t.Errorf("committed: %v", err)
		}
		held, err := s.Rewrap(ctx, "shop", v.held("root", "1"))
		if err != nil {
			t.Fatal(err)
		}
		v.change(func(tx *db.Tx) error { return v.docs.Delete(ctx, tx, keys.ProviderID("vault"), resource.Any) })
		if err := d.Write(ctx, func(tx *db.Tx) error { return held.Commit(ctx, tx) }); fault.Of(err) != fault.Conflict {
			t.Errorf("committed with a provider that is gone: %v", err)
		}
		v.provider(10)
		undone, err := s.Rewrap(ctx, "shop", v.held("root", "1"))
		if err != nil {
			t.Fatal(err)
		}
		undo := errors.New("the transaction ends otherwise")
		if err := d.Write(ctx, func(tx *db.Tx) error { return errors.Join(undone.Commit(ctx, tx), undo) }); !errors.Is(err, undo) {
			t.Fatal(err)
		}
		v.transit.Mode("denied")
		derived(t, s, 2)
		derived(t, v.node(), 1) // the platform's still
	})
}

func TestKeyThatIsTakenAwayClosesTheRegistryUntilItIsGivenBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		v := inVault(t, d)
		one, two := v.node(), v.node()
		v.create(one)
		v.move(one.Rewrap(t.Context(), "shop", v.held("root", "1")))
		first := derived(t, two, 1)
		v.transit.Mode("denied")
		for _, s := range []*keys.Rings{one, two} {
			eventually(t, "closed", func() bool { _, err := s.Ring(t.Context(), "shop"); return fault.Of(err) == fault.KeyRefused })
			if state, _ := keys.StateOf(closed(t, s, fault.KeyRefused)); state != keys.Barred {
				t.Errorf("state %q", state)
			}
			if refused, _ := s.Closed(); refused != 1 || s.Heard("shop") == nil {
				t.Error("nobody is told")
			}
		}
		closed(t, v.node(), fault.KeyRefused)
		if _, err := one.Rewrap(t.Context(), "shop", nil); fault.Of(err) != fault.KeyRefused {
			t.Errorf("taken back without the customer: %v", err)
		}
		v.transit.Mode("well")
		for _, s := range []*keys.Rings{one, two} {
			eventually(t, "open again", func() bool { _, err := s.Ring(t.Context(), "shop"); return err == nil })
			if derived(t, s, 1) != first {
				t.Error("another key")
			}
		}
		outcomes := map[string]bool{}
		for e, err := range v.ledger.Events(t.Context(), ledger.Query{Registry: "shop", Category: ledger.KeyUsage}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Detail.More["key"] != "root" || e.Detail.More["keyVersion"] != "1" || e.Scope != shop.Scope() {
				t.Errorf("event %+v", e)
			}
			outcomes[strings.TrimPrefix(e.Operation, keys.ProviderType)+" "+string(e.Outcome)+" "+e.Detail.More["state"]] = true
		}
		for _, want := range []string{"/unwrap success ", "/check refused " + string(keys.Barred)} {
			if !outcomes[want] {
				t.Errorf("%q is not on record: %v", want, outcomes)
			}
		}
	})
}

func TestKeyThatIsTakenAwayClosesTheRegistryThoughTheLedgerTakesNothing(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	s := v.node()
	v.create(s)
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	derived(t, s, 1)
	ledgers := func(text string) {
		t.Helper()
		v.change(func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), text); return err })
	}
	refuse := `CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'full'); END`
	onRecord := func(outcome ledger.Outcome) func() bool {
		return func() bool {
			_, _ = s.Ring(t.Context(), "shop")
			for e, err := range v.ledger.Events(t.Context(), ledger.Query{Registry: "shop", Category: ledger.KeyUsage}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Outcome == outcome {
					return true
				}
			}
			return false
		}
	}
	ledgers(refuse)
	v.transit.Mode("denied")
	eventually(t, "closed", func() bool { _, err := s.Ring(t.Context(), "shop"); return fault.Of(err) == fault.KeyRefused })
	ledgers(`DROP TRIGGER full`)
	eventually(t, "on record", onRecord(ledger.Refused))
	ledgers(refuse)
	v.transit.Mode("well")
	eventually(t, "given back, which nobody will know", func() bool {
		_, err := s.Ring(t.Context(), "shop")
		if err == nil {
			t.Fatal("opened, and not on record")
		}
		return fault.Of(err) == fault.Unavailable
	})
	ledgers(`DROP TRIGGER full`)
	eventually(t, "open again", func() bool { _, err := s.Ring(t.Context(), "shop"); return err == nil })
}

// What a provider refuses is refused at once, also when the ledger hangs and an outage
// was bridged until then.
func TestRefusalDoesNotWaitForTheLedger(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	s := v.node()
	v.create(s)
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	derived(t, s, 1)
	v.transit.Mode("sealed")
	eventually(t, "bridged", func() bool {
		derived(t, s, 1)
		return s.Heard("shop") != nil
	})
	hangs, goes, gone := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		gone <- v.db.Write(t.Context(), func(tx *db.Tx) error {
			close(hangs)
			<-goes
			return nil
		})
	}()
	<-hangs
	v.transit.Mode("denied")
	began := time.Now()
	eventually(t, "refused", func() bool { _, err := s.Ring(t.Context(), "shop"); return fault.Of(err) == fault.KeyRefused })
	took := time.Since(began)
	close(goes)
	if err := <-gone; err != nil {
		t.Fatal(err)
	}
	if took > 8*time.Second { // the ledger is waited for 10 s
		t.Errorf("it was served %v longer", took)
	}
	eventually(t, "on record", func() bool {
		for e, err := range v.ledger.Events(t.Context(), ledger.Query{Registry: "shop", Category: ledger.KeyUsage}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Outcome == ledger.Refused {
				return true
			}
		}
		return false
	})
}

// What one node did the others know after a look, though nobody asks them for content:
// a registry that was deleted, and a key that was taken away, leave the memory of all.
func TestOpenedKeysLeaveTheMemoryOfNodesThatNobodyAsks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		v := inVault(t, d)
		one, two := v.node(), v.node()
		v.create(one)
		v.change(func(tx *db.Tx) error { return one.Create(t.Context(), tx, "other") })
		v.move(one.Rewrap(t.Context(), "shop", v.held("root", "1")))
		first := derived(t, two, 1)
		if _, err := two.Ring(t.Context(), "other"); err != nil || two.Open() != 2 {
			t.Fatalf("%d open, %v", two.Open(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { two.Run(ctx, 20*time.Millisecond) })

		v.change(func(tx *db.Tx) error { return one.Destroy(t.Context(), tx, "other") })
		eventually(t, "destroyed", func() bool { return two.Open() == 1 })
		v.transit.Mode("denied")
		eventually(t, "closed", func() bool { return two.Open() == 0 && fault.Of(two.Heard("shop")) == fault.KeyRefused })
		v.transit.Mode("well")
		eventually(t, "open", func() bool { return two.Open() == 1 && two.Heard("shop") == nil })
		if derived(t, two, 1) != first {
			t.Error("another key")
		}
	})
}

// Who looks at a registry on a node that nobody asked for content learns how it stands.
func TestStandingIsNotWhatWasHeardLongAgo(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	one, two := v.node(), v.node()
	v.create(one)
	v.move(one.Rewrap(t.Context(), "shop", v.held("root", "1")))
	if err := two.Standing(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	v.transit.Mode("denied")
	eventually(t, "told", func() bool { return fault.Of(two.Standing(t.Context(), "shop")) == fault.KeyRefused })
	v.transit.Mode("well")
	eventually(t, "told", func() bool { return two.Standing(t.Context(), "shop") == nil })
	v.transit.Mode("slow")
	began := time.Now()
	_ = v.node().Standing(t.Context(), "shop")
	if took := time.Since(began); took > v.times.Check/2 {
		t.Errorf("who looks waited %v for a provider that hangs", took)
	}
}

// A burst on a registry that nobody used for a while waits for one answer, all of it.
func TestBurstAfterAPauseIsServed(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	v.times.Believed, v.times.Late = time.Second, time.Second // from then on all wait
	s := v.node()
	v.create(s)
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	derived(t, s, 1)
	time.Sleep(v.times.Late)
	before := v.calls()
	var wg sync.WaitGroup
	for range 250 {
		wg.Go(func() {
			if _, err := s.Ring(t.Context(), "shop"); err != nil {
				t.Error(err)
			}
		})
	}
	began := time.Now()
	wg.Wait()
	if n := v.calls() - before; n > 4 && time.Since(began) < v.times.Late {
		t.Errorf("250 requests asked the provider %d times", n)
	}
	t.Logf("250 requests waited %v at most", time.Since(began))
}

func TestKeyThatWasReplacedByAnotherOfItsNameOpensNothing(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	s := v.node()
	v.create(s)
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	derived(t, s, 1)
	v.transit.Delete("root")
	v.transit.Create("root", "aes256-gcm96")
	eventually(t, "refused", func() bool {
		_, err := s.Ring(t.Context(), "shop")
		state, _ := keys.StateOf(err)
		return state == keys.Replaced
	})
}

func TestOutageIsBridgedForAWhileAndSaysToComeAgain(t *testing.T) {
	for _, mode := range []string{"sealed", "throttled", "slow", "broken", "page"} {
		t.Run(mode, func(t *testing.T) {
			v := inVault(t, dbtest.SQLite(t))
			if mode == "slow" {
				v.times.Check = 2 * time.Second
			}
			s := v.node()
			v.create(s)
			v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
			derived(t, s, 1)
			v.transit.Mode(mode)
			eventually(t, "noticed", func() bool {
				derived(t, s, 1)
				return s.Heard("shop") != nil
			})
			began := time.Now()
			for range 20 {
				derived(t, s, 1)
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took > 5*v.times.Check { // of 20 that they would wait
				t.Errorf("20 requests waited %v during the bridge", took)
			}
			f := fault.From(closed(t, v.node(), fault.Unavailable)) // a process that begins now has nothing to bridge with
			if f.Retry == 0 {
				t.Error("nobody is told when to come again")
			}
			v.provider(0)
			eventually(t, "not bridged any more", func() bool { _, err := s.Ring(t.Context(), "shop"); return fault.Of(err) == fault.Unavailable })
			v.transit.Mode("well")
			eventually(t, "well again", func() bool { _, err := s.Ring(t.Context(), "shop"); return err == nil && s.Heard("shop") == nil })
			v.transit.Mode(mode)
			eventually(t, "not bridged", func() bool { _, err := s.Ring(t.Context(), "shop"); return fault.Of(err) == fault.Unavailable })
			v.transit.Mode("well")
			eventually(t, "open again", func() bool { _, err := s.Ring(t.Context(), "shop"); return err == nil })
		})
	}
}

func TestManyKeysOpenThoughEachAnswerTakesAWhile(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	to, err := url.Parse(v.transit.URL)
	if err != nil {
		t.Fatal(err)
	}
	var delay atomic.Int64
	engine := httputil.NewSingleHostReverseProxy(to)
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(delay.Load()))
		engine.ServeHTTP(w, r)
	}))
	defer between.Close()
	v.transit.URL = between.URL
	v.provider(10)
	v.times.Check = 10 * time.Second
	s := v.node()
	v.create(s)
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	for range 63 {
		v.move(s.Renew(t.Context(), "shop"))
	}
	first := derived(t, s, 1)
	delay.Store(int64(100 * time.Millisecond)) // 64 of them, 8 at once, are longer than one check
	v.times.Check, v.times.Late = 500*time.Millisecond, 10*time.Second
	slow := v.node()
	eventually(t, "open", func() bool { _, err := slow.Ring(t.Context(), "shop"); return err == nil })
	if derived(t, slow, 1) != first {
		t.Error("another key")
	}
}

// calls is how often the engine was asked.
func (v *vaulted) calls() (n int) {
	v.t.Helper()
	a, err := http.Get(v.transit.URL + "/mode")
	if err != nil {
		v.t.Fatal(err)
	}
	defer a.Body.Close()
	text, _ := io.ReadAll(a.Body)
	f := strings.Fields(string(text))
	if _, err := fmt.Sscan(f[len(f)-1], &n); err != nil {
		v.t.Fatal(err)
	}
	return n
}

func TestSlowProviderIsAskedOnceAndHoldsUpNobodyElse(t *testing.T) {
	v := inVault(t, dbtest.SQLite(t))
	v.times.Check, v.times.Pause = 5*time.Second, time.Minute
	s := v.node()
	v.create(s)
	v.change(func(tx *db.Tx) error { return s.Create(t.Context(), tx, "neighbour") })
	v.move(s.Rewrap(t.Context(), "shop", v.held("root", "1")))
	v.transit.Mode("slow")
	s = v.node()
	before := v.calls()
	var away atomic.Int32
	var wg sync.WaitGroup
	for range 600 {
		wg.Go(func() {
			_, err := s.Ring(t.Context(), "shop")
			if fault.Of(err) != fault.Unavailable {
				t.Errorf("%v", err)
			} else if strings.Contains(err.Error(), "too many wait") {
				away.Add(1)
			}
		})
	}
	began := time.Now()
	if _, err := s.Ring(t.Context(), "neighbour"); err != nil || time.Since(began) > v.times.Check {
		t.Errorf("the neighbour waited %v, %v", time.Since(began), err)
	}
	wg.Wait()
	if n := away.Load(); n < 300 {
		t.Errorf("only %d of 600 were sent away at once", n)
	}
	if n := v.calls() - before; n > 3 {
		t.Errorf("600 requests asked the provider %d times", n)
	}
}
