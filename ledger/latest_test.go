package ledger

import (
	"fmt"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
)

func TestTheLatestOfAllRegistriesComeOnceEachPageByPage(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{})
		start := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
		var batch []Event // one transaction, one time of recording
		for i := range 300 {
			e := pull(fmt.Sprintf("r%d", i%3), i)
			if e.Time = start.Add(time.Duration(i) * time.Second); i%2 == 0 {
				e.Category = Administrative
			}
			if i%3 == 2 {
				e.Registry = ""
			}
			if batch = append(batch, e); len(batch) < 30 {
				continue
			}
			if err := appendAll(l, t.Context(), batch...); err != nil {
				t.Fatal(err)
			}
			batch = nil
		}
		late := pull("r0", 300) // noted long after it happened
		late.Category, late.Time = Administrative, start.Add(10*time.Second+time.Millisecond)
		if err := l.Note(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		read := func(after Mark, since, until time.Time, most int) (all []Marked) {
			t.Helper()
			for e, err := range l.Latest(t.Context(), after, since, until) {
				if err != nil {
					t.Fatal(err)
				}
				if all = append(all, e); len(all) == most {
					break
				}
			}
			return all
		}
		whole := read("", time.Time{}, time.Time{}, 0)
		if len(whole) != 151 || whole[0].Correlation != late.Correlation {
			t.Fatalf("%d events, the first is %+v", len(whole), whole[0])
		}
		var paged []Marked
		for after := Mark(""); ; {
			page := read(after, time.Time{}, time.Time{}, 7)
			paged = append(paged, page...)
			if len(page) < 7 {
				break
			}
			after = page[6].Mark
			if len(paged) == 7 { // what comes in between is newer, and on no later page
				if err := appendAll(l, t.Context(), func() Event { e := pull("new", 1); e.Category = Administrative; return e }()); err != nil {
					t.Fatal(err)
				}
			}
		}
		seen := map[string]bool{}
		for i, e := range paged {
			if e.Correlation != whole[i].Correlation || e.Registry != whole[i].Registry || e.Seq != whole[i].Seq || seen[e.Correlation] {
				t.Fatalf("place %d is %+v, and was %+v", i, e.Event, whole[i].Event)
			}
			seen[e.Correlation] = true
		}
		if len(paged) != len(whole) {
			t.Errorf("%d in pages of %d", len(paged), len(whole))
		}
		part := read("", start.Add(4*time.Second), start.Add(12*time.Second), 0)
		if len(part) != 5 || part[0].Correlation != late.Correlation {
			t.Errorf("%d between two times: %+v", len(part), part)
		}
		for _, bad := range []Mark{"x", "1", "1.x.r"} {
			for _, err := range l.Latest(t.Context(), bad, time.Time{}, time.Time{}) {
				if fault.Of(err) != fault.BadRequest {
					t.Errorf("%s: %v", bad, err)
				}
			}
		}
	})
}
