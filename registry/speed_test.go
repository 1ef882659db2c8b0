package registry_test

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// How much there is, and how much slower it may make a pull.
const (
	manyAssignments = 100_000
	manyTokens      = 10_000
	maxRatio        = 2
	maxCPU          = 50 * time.Microsecond // of authentication and decision, for a warm pull
)

// A caller pulls with bearer tokens that were shown before.
type caller struct {
	h      *house
	tokens []identity.Credentials
	next   int
}

func (h *house) caller(name string, scope ref.Scope, tokens int) *caller {
	h.t.Helper()
	ctx := h.t.Context()
	r := h.at("")
	p, err := h.identity.Authenticate(ctx, r.Realm(), identity.ContentPlane, h.user(name, access.PullRole, scope), here)
	h.ok(err)
	c := &caller{h: h}
	for range tokens {
		text, _, err := h.identity.IssueAccess(ctx, r.Realm(), p, []identity.Access{{Type: "repository", Name: "team/api", Actions: []string{"pull"}}})
		h.ok(err)
		c.tokens = append(c.tokens, identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(text)})
	}
	for range tokens {
		c.pull() // from now on it is warm
	}
	return c
}

// pull is what stands between a request and a manifest: which registry, who, and
// may it.
func (c *caller) pull() {
	ctx := c.h.docs.Pin(c.h.t.Context())
	r, err := c.h.registries.ByHost(ctx, "")
	c.h.ok(err)
	p, err := c.h.identity.Authenticate(ctx, r.Realm(), identity.ContentPlane, c.tokens[c.next%len(c.tokens)], here)
	c.h.ok(err)
	c.next++
	held, err := c.h.access.LoadAssignments(ctx, r.Ref(), p)
	c.h.ok(err)
	g := access.NewGrant(r.Ref(), p, held, access.Call{})
	if err := g.Allows(access.ContentRead, g.RepositoryScope("team/api")); err != nil {
		c.h.t.Fatal(err)
	}
}

// cpu is the processor time of n pulls, each.
func (c *caller) cpu(n int) time.Duration {
	used := func() time.Duration {
		var u syscall.Rusage
		c.h.ok(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	for range n {
		c.pull()
	}
	return (used() - before) / time.Duration(n)
}

// fill writes role assignments, of others or of one principal, and repository
// tokens.
func (h *house) fill(principal string) {
	h.t.Helper()
	ctx := h.t.Context()
	write := func(n int, doc func(i int) (resource.Resource, any)) {
		if raced {
			n /= 20
		}
		for done := 0; done < n; done += 2000 {
			h.ok(h.db.Write(ctx, func(tx *db.Tx) error {
				for i := done; i < min(done+2000, n); i++ {
					r, p := doc(i)
					var err error
					if r.Properties, err = json.Marshal(p); err != nil {
						return err
					}
					if _, err := h.docs.Put(ctx, tx, r, resource.Absent); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	write(manyAssignments, func(i int) (resource.Resource, any) {
		to := principal
		if to == "" {
			to = fmt.Sprintf("00000000-0000-0000-0000-%012d", i%5000)
		}
		at := mainID + ref.ID(fmt.Sprintf("/repositories/r%d", i))
		p := access.AssignmentProperties{RoleDefinitionID: access.PushRole, PrincipalID: to, Scope: at.Scope()}
		return resource.Resource{ID: at.Extension(access.AssignmentType, ref.NewGUID()), Type: access.AssignmentType, Holder: to}, p
	})
	write(manyTokens, func(i int) (resource.Resource, any) {
		id := identity.TokenID(mainID, fmt.Sprintf("t%d", i))
		return resource.Resource{ID: id, Type: identity.TokenType}, identity.TokenProperties{ScopeMapID: access.ScopeMapID(mainID, "_repositories_pull"), Status: identity.EnabledStatus}
	})
}

// TestAPullIsAsFastAmongManyAssignments compares a house with one assignment and
// one token in use to one with a hundred thousand and ten thousand, all in use in
// turn; and to one where all of them are the caller's own.
func TestAPullIsAsFastAmongManyAssignments(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 200,000 documents")
	}
	few := build(t, dbtest.SQLite(t)).caller("puller", mainID.Scope(), 1)
	others := build(t, dbtest.SQLite(t))
	others.fill("")
	own := build(t, dbtest.SQLite(t))
	mine := own.caller("puller", mainID.Scope(), 1)
	p, err := own.identity.Authenticate(t.Context(), own.at("").Realm(), identity.ContentPlane, mine.tokens[0], here)
	own.ok(err)
	own.fill(p.ID)
	mine.pull()
	among := map[string]*caller{"many of others": others.caller("puller", mainID.Scope(), manyTokens), "many of its own": mine}

	const rounds, pulls = 7, 4000
	least := func(c *caller) time.Duration {
		best := time.Hour
		for range rounds {
			best = min(best, c.cpu(pulls))
		}
		return best
	}
	base := least(few)
	t.Logf("few: %v of CPU for each pull", base)
	for name, c := range among {
		cost := least(c)
		t.Logf("%s: %v of CPU for each pull", name, cost)
		if cost > maxRatio*base {
			t.Errorf("%s: %v of CPU for each pull, against %v with few", name, cost, base)
		}
		if cost > maxCPU && !raced {
			t.Errorf("%s: %v of CPU for each pull, more than %v", name, cost, maxCPU)
		}
	}
}

func BenchmarkWarmPull(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(testing.TB) *db.DB
	}{{"sqlite", dbtest.SQLite}, {"postgres", dbtest.Postgres}} {
		for _, many := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/many=%v", engine.name, many), func(b *testing.B) {
				h, tokens := build(b, engine.open(b)), 1
				if many {
					h.fill("")
					tokens = manyTokens
				}
				c := h.caller("puller", mainID.Scope(), tokens)
				b.ReportAllocs()
				var before, after syscall.Rusage
				h.ok(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
				for b.Loop() {
					c.pull()
				}
				h.ok(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
				cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(float64(cpu)/float64(b.N)/1000, "cpu-µs/op")
			})
		}
	}
}

// raced is whether the race detector watches: it takes its own time.
var raced = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}()
