package arm_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"breakwater/arm"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/gate/gatetest"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
	"breakwater/setting"
)

// A desk is the control plane behind the door, on a real database.
type desk struct {
	t testing.TB
	*gatetest.House
	handler http.Handler
	group   ref.ID
	login   string
}

func openDesk(t testing.TB, d *db.DB) *desk {
	t.Helper()
	h := gatetest.Open(t, d, nil)
	api := arm.New(arm.Options{Documents: h.Documents, Ledger: h.Ledger, Identity: h.Identity, Domain: "registries.test"},
		arm.Above(h.Documents, h.Identity, &setting.Store{DB: d, Documents: h.Documents, Ledger: h.Ledger}), arm.Registries(h.Registries, h.Access, h.Documents, nil, nil, nil, nil))
	return &desk{t, h, h.Gate.Serve(api), h.Registry.ID.Parent().Parent(),
		"Basic " + base64.StdEncoding.EncodeToString([]byte(h.OwnerName+":"+h.OwnerPassword))}
}

func (d *desk) ask(method string, path ref.ID, body string, want int) string {
	d.t.Helper()
	q := httptest.NewRequestWithContext(d.t.Context(), method, "https://localhost"+string(path), strings.NewReader(body))
	q.Header.Set("Authorization", d.login)
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, q)
	if w.Code != want {
		d.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.String()
}

func (d *desk) registry(i int) ref.ID {
	return d.group.Extension(registry.Type, fmt.Sprintf("shop%05d", i))
}

// fill writes registries as their room does, without their keys and scope maps.
func (d *desk) fill(from, n int) {
	d.t.Helper()
	for ; from < n; from += 1000 {
		err := d.DB.Write(d.t.Context(), func(tx *db.Tx) error {
			for i := from; i < min(from+1000, n); i++ {
				id := d.registry(i)
				if _, err := d.Documents.Put(d.t.Context(), tx, resource.Resource{ID: id, Type: registry.Type, Location: "local", Holder: id.Name(), Properties: json.RawMessage(`{}`)}, resource.Absent); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestAGetCostsTheSameAmongManyResources compares a server with two registries to
// one with ten thousand. Each GET follows a change, so that nothing is remembered.
func TestAGetCostsTheSameAmongManyResources(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 10,000 documents")
	}
	const gets, maxRatio = 200, 1.5
	for name, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		t.Run(name, func(t *testing.T) {
			few, many := openDesk(t, open(t)), openDesk(t, open(t))
			few.fill(0, 1)
			many.fill(0, 10_001)
			// Other work on the machine makes a GET slower and never faster, so the fastest
			// of each counts, taken in turns.
			least := map[*desk]time.Duration{few: time.Hour, many: time.Hour}
			for n := range gets {
				for d := range least {
					d.ask("PATCH", d.Registry.ID, fmt.Sprintf(`{"tags":{"n":"%d"}}`, n), 200)
					begun := time.Now()
					d.ask("GET", d.registry(0), "", 200)
					least[d] = min(least[d], time.Since(begun))
				}
			}
			t.Logf("a GET takes %v among few and %v among ten thousand", least[few], least[many])
			if float64(least[many]) > maxRatio*float64(least[few]) {
				t.Errorf("a GET takes %v among ten thousand registries, against %v", least[many], least[few])
			}
		})
	}
}

func BenchmarkRegistries(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(testing.TB) *db.DB
	}{{"sqlite", dbtest.SQLite}, {"postgres", dbtest.Postgres}} {
		d := openDesk(b, engine.open(b))
		d.fill(0, 1000)
		one, n := d.registry(500), 0
		for _, op := range []struct {
			name string
			do   func()
		}{
			{"list 1000", func() { d.ask("GET", d.group+"/providers/"+registry.Type+"?$top=1000", "", 200) }},
			{"get", func() { d.ask("GET", one, "", 200) }},
			{"patch", func() { n++; d.ask("PATCH", one, fmt.Sprintf(`{"tags":{"n":"%d"}}`, n), 200) }},
			{"put", func() { n++; d.ask("PUT", one, fmt.Sprintf(`{"location":"local","tags":{"n":"%d"}}`, n), 200) }},
			{"create and delete", func() {
				d.ask("PUT", d.registry(99_999), `{"location":"local"}`, 201)
				d.ask("DELETE", d.registry(99_999), "", 200)
			}},
		} {
			b.Run(engine.name+"/"+op.name, func(b *testing.B) {
				b.ReportAllocs()
				var before, after syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
				for b.Loop() {
					op.do()
				}
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
				b.ReportMetric(float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())/float64(b.N)/1000, "cpu-µs/op")
			})
		}
	}
}
