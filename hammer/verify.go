package hammer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"breakwater/ref"
)

// A Report is the verdict. Everything but Checked, Events and Keys must be zero.
type Report struct {
	Keys     int      `json:"keys"`     // things whose history was judged
	Checked  int      `json:"checked"`  // tags that were followed down to their blobs
	Events   int      `json:"events"`   // ledger events read
	Lost     []string `json:"lost"`     // histories that no order of the acknowledged steps explains
	Dangling []string `json:"dangling"` // tags whose manifest or blobs are not readable
	Wrong    []string `json:"wrong"`    // bytes that do not hash to their name
	Gaps     []string `json:"gaps"`     // missing ledger numbers, or acknowledged changes without an event
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Lost)+len(r.Dangling)+len(r.Wrong)+len(r.Gaps) == 0 }

// An Event is what the judge needs to know of a line of the ledger.
type Event struct {
	Seq        int64
	Repository string
	Tag        string
	Digest     string
	Operation  string
	Success    bool
}

// Verify replays the journal against the registry. The server must have been
// restarted, or have answered everything, since the last run. events reads the
// ledger of the registry in order of numbers; nil leaves the ledger out. With
// lastRun only what the last run touched is read back.
func Verify(ctx context.Context, t Target, path string, lastRun bool, events func(context.Context) ([]Event, error)) (Report, error) {
	var report Report
	c, err := newClient(t)
	if err != nil {
		return report, err
	}
	lines, err := readJournal(path)
	if err != nil {
		return report, err
	}
	h := newHistories(lines)
	var tags []key
	for _, k := range h.keys(lastRun) {
		report.Keys++
		called := time.Now().UnixNano()
		content, present, err := c.get(ctx, k)
		if wrong := (*wrongBytes)(nil); errors.As(err, &wrong) {
			report.Wrong = append(report.Wrong, wrong.Error())
			continue
		}
		if err != nil {
			return report, err
		}
		value := ""
		if present {
			value = ref.SHA256.Sum(content).String()
		}
		h.finalRead(k, called, value)
		if !h.explained(k) {
			report.Lost = append(report.Lost, fmt.Sprintf("%s is %q; history: %s", k, value, h.tell(k)))
		}
		if present && k.kind == kindTag {
			tags = append(tags, k)
		}
	}
	if !lastRun {
		if tags, err = everyTag(ctx, c); err != nil {
			return report, err
		}
	}
	for _, k := range tags {
		report.Checked++
		if why := follow(ctx, c, k); why != nil {
			report.Dangling = append(report.Dangling, fmt.Sprintf("%s: %v", k, why))
		}
	}
	if events != nil {
		all, err := events(ctx)
		if err != nil {
			return report, err
		}
		report.Events = len(all)
		report.Gaps = gaps(all, h.changes())
	}
	return report, nil
}

// everyTag lists what the registry itself says it has.
func everyTag(ctx context.Context, c *client) ([]key, error) {
	repos, err := c.list(ctx, "/v2/_catalog", "registry:catalog:*", "repositories")
	if err != nil {
		return nil, err
	}
	var all []key
	for _, repo := range repos {
		names, err := c.list(ctx, "/v2/"+repo+"/tags/list", scopeOf(repo), "tags")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			all = append(all, key{kindTag, repo, n})
		}
	}
	return all, nil
}

// follow resolves a tag down to its blobs and reads them.
func follow(ctx context.Context, c *client, k key) error {
	content, present, err := c.get(ctx, k)
	if err != nil {
		return err
	}
	if !present {
		return errors.New("is listed and not there")
	}
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return err
	}
	digests := []string{m.Config.Digest}
	for _, l := range m.Layers {
		digests = append(digests, l.Digest)
	}
	for _, d := range digests {
		if d == "" { // an index: its children are judged as manifests
			continue
		}
		if _, present, err := c.get(ctx, key{kindBlob, k.repo, d}); err != nil || !present {
			return fmt.Errorf("blob %s: present %v, %v", d, present, err)
		}
	}
	return nil
}

// gaps compares the ledger with what was acknowledged.
func gaps(events []Event, changes []change) []string {
	var missing []string
	recorded := map[change]int{}
	for i, e := range events {
		if i > 0 && e.Seq != events[i-1].Seq+1 {
			missing = append(missing, fmt.Sprintf("numbers %d to %d", events[i-1].Seq+1, e.Seq-1))
		}
		if !e.Success {
			continue
		}
		for _, name := range []string{"tag " + e.Tag, "manifest " + e.Digest, "blob " + e.Digest} {
			recorded[change{e.Repository, name}]++
		}
	}
	for _, c := range changes {
		if recorded[c] == 0 {
			missing = append(missing, "no event for "+c.repo+" "+c.name)
		}
	}
	return missing
}

// A change is an acknowledged write, by what it changed.
type change struct{ repo, name string }

// histories are the steps of each key, in the form that porcupine judges.
type histories struct {
	ops   map[key][]porcupine.Operation
	last  map[key]bool // touched in the last run
	order []key
	acked []change
}

type input struct{ do, value string }

// An output says what is known of the outcome: for a get the value, for a
// change whether it certainly happened.
type output struct {
	value   string
	unknown bool // it may or may not have happened
	nothing bool // there was nothing to delete
	refused bool // it certainly did not happen
}

func newHistories(lines []line) *histories {
	h := &histories{ops: map[key][]porcupine.Operation{}, last: map[key]bool{}}
	type id struct{ run, step int64 }
	type open struct {
		line
		key key
	}
	pending := map[id]open{}
	close := func(b open, end line, at int64) {
		h.add(b.key, porcupine.Operation{
			ClientId: int(b.Step), Input: input{b.Do, b.Value}, Call: b.At,
			Output: output{end.Value, end.Unknown, end.Nothing, end.Refused}, Return: at,
		}, b.Do == doGet && (end.Unknown || end.Refused))
		if b.Do != doGet && !end.Unknown && !end.Nothing && !end.Refused && !b.Implied {
			h.acked = append(h.acked, change{b.key.repo, string(b.key.kind) + " " + b.key.name})
		}
	}
	run := int64(0)
	for _, l := range lines {
		if l.Run != run {
			// What was under way when the last run ended has happened by now, or never will.
			for i, b := range pending {
				close(b, line{Unknown: true}, l.At)
				delete(pending, i)
			}
			run, h.last = l.Run, map[key]bool{}
		}
		if l.Step == 0 {
			continue
		}
		if !l.End {
			if k, err := parseKey(l.Key); err == nil {
				pending[id{l.Run, l.Step}] = open{l, k}
				h.last[k] = true
			}
			continue
		}
		b := pending[id{l.Run, l.Step}]
		if l.Unknown {
			continue // stays open until the run is over
		}
		delete(pending, id{l.Run, l.Step})
		close(b, l, l.At)
	}
	for _, b := range pending {
		close(b, line{Unknown: true}, time.Now().UnixNano())
	}
	return h
}

func (h *histories) add(k key, op porcupine.Operation, forget bool) {
	if _, ok := h.ops[k]; !ok {
		h.order = append(h.order, k)
		h.ops[k] = nil
	}
	if !forget { // a read without an answer says nothing
		h.ops[k] = append(h.ops[k], op)
	}
}

func (h *histories) keys(lastRun bool) []key {
	if !lastRun {
		return h.order
	}
	return slices.DeleteFunc(slices.Clone(h.order), func(k key) bool { return !h.last[k] })
}

func (h *histories) changes() []change { return h.acked }

func (h *histories) finalRead(k key, called int64, value string) {
	h.ops[k] = append(h.ops[k], porcupine.Operation{
		ClientId: math.MaxInt32, Input: input{do: doGet}, Call: called, Output: output{value: value}, Return: time.Now().UnixNano(),
	})
}

// register is one name: absent (""), or the digest it has.
var register = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, in, out any) []any {
		i, o := in.(input), out.(output)
		after := i.value // of a put; a delete has none
		switch {
		case i.do == doGet && o.value != state, o.nothing && state != "":
			return nil // this answer cannot have been given in this state
		case i.do == doGet, o.nothing, o.refused:
			return []any{state}
		case o.unknown:
			return []any{state, after}
		}
		return []any{after}
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

// explained reports whether some order of the steps, within their times, gives
// every answer that was seen.
func (h *histories) explained(k key) bool {
	return porcupine.CheckOperationsTimeout(register, h.ops[k], time.Minute) == porcupine.Ok
}

func (h *histories) tell(k key) string {
	var b strings.Builder
	ops := h.ops[k]
	for _, op := range ops[max(0, len(ops)-8):] {
		i, o := op.Input.(input), op.Output.(output)
		fmt.Fprintf(&b, "[%d–%d %s %s→%s", op.Call, op.Return, i.do, i.value, o.value)
		if o.unknown {
			b.WriteString(" unknown")
		}
		if o.nothing || o.refused {
			b.WriteString(" nothing done")
		}
		b.WriteString("] ")
	}
	return b.String()
}
