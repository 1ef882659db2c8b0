package hammer

import (
	"testing"
	"time"
)

// A history is told as journal lines; times are their order.
func judge(t *testing.T, final string, lines ...line) bool {
	t.Helper()
	const k = "tag repo v1"
	for i := range lines {
		lines[i].At = int64(i + 1)
		if lines[i].Step != 0 && !lines[i].End {
			lines[i].Key = k
		}
		if lines[i].Run == 0 {
			lines[i].Run = 1
		}
	}
	h := newHistories(lines)
	h.finalRead(key{kindTag, "repo", "v1"}, time.Now().UnixNano(), final)
	return h.explained(key{kindTag, "repo", "v1"})
}

func put(step int64, value string) line { return line{Step: step, Do: doPut, Value: value} }
func del(step int64) line               { return line{Step: step, Do: doDelete} }
func get(step int64) line               { return line{Step: step, Do: doGet} }
func end(step int64) line               { return line{Step: step, End: true} }
func unknown(step int64) line           { return line{Step: step, End: true, Unknown: true} }
func inRun(run int64, l line) line      { l.Run = run; return l }

func TestTheJudge(t *testing.T) {
	for name, c := range map[string]struct {
		final string
		lines []line
		ok    bool
	}{
		"an acknowledged write is there":              {"a", []line{put(1, "a"), end(1)}, true},
		"an acknowledged write is lost":               {"", []line{put(1, "a"), end(1)}, false},
		"an acknowledged write is replaced":           {"b", []line{put(1, "a"), end(1)}, false},
		"an older write comes back":                   {"a", []line{put(1, "a"), end(1), put(2, "b"), end(2)}, false},
		"a delete stays":                              {"", []line{put(1, "a"), end(1), del(2), end(2)}, true},
		"a deleted name comes back":                   {"a", []line{put(1, "a"), end(1), del(2), end(2)}, false},
		"a write without an answer happened":          {"a", []line{put(1, "a"), unknown(1)}, true},
		"a write without an answer did not happen":    {"", []line{put(1, "a"), unknown(1)}, true},
		"a write without any end":                     {"", []line{put(1, "a")}, true},
		"of two racing writes either wins":            {"a", []line{put(1, "a"), put(2, "b"), end(1), end(2)}, true},
		"a read saw what was never written":           {"a", []line{put(1, "a"), end(1), get(2), {Step: 2, End: true, Value: "b"}}, false},
		"a refused write did not happen":              {"a", []line{put(1, "a"), {Step: 1, End: true, Refused: true}}, false},
		"nothing to delete although it was there":     {"a", []line{put(1, "a"), end(1), del(2), {Step: 2, End: true, Nothing: true}}, false},
		"a write of a dead run surfaces after a read": {"a", []line{put(1, "a"), unknown(1), {Run: 2}, inRun(2, get(1)), {Run: 2, Step: 1, End: true}}, false},
		"a write of a dead run was there at once":     {"a", []line{put(1, "a"), unknown(1), {Run: 2}, inRun(2, get(1)), {Run: 2, Step: 1, End: true, Value: "a"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(t, c.final, c.lines...); got != c.ok {
				t.Errorf("explained: %v, want %v", got, c.ok)
			}
		})
	}
}

func TestTheJudgeReadsTheLedger(t *testing.T) {
	events := []Event{{Seq: 1, Repository: "r", Tag: "v1", Digest: "sha256:m", Success: true}, {Seq: 3, Repository: "r", Digest: "sha256:b", Success: true}}
	missing := gaps(events, []change{{"r", "tag v1"}, {"r", "manifest sha256:m"}, {"r", "blob sha256:b"}, {"r", "blob sha256:gone"}})
	if len(missing) != 2 {
		t.Errorf("want one gap in the numbers and one change without event, got %q", missing)
	}
}
