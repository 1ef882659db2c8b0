package ledger

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"breakwater/ref"
)

func anyEvent() *rapid.Generator[Event] {
	return rapid.Custom(func(r *rapid.T) Event {
		s := func(name string) string {
			return string(rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 20), rapid.Just([]byte{}), rapid.Just([]byte("plain/text-1"))).Draw(r, name))
		}
		e := Event{
			Seq: rapid.Int64().Draw(r, "seq"), Registry: s("registry"), Category: s("category"), Operation: s("operation"),
			Time:  time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(r, "time")).UTC(),
			Scope: ref.Scope(s("scope")), Who: Who{s("id"), s("kind"), s("name")},
			From:    From{Listener: s("listener"), Endpoint: ref.ID(s("endpoint")), Told: rapid.Bool().Draw(r, "told"), Host: s("host"), UserAgent: s("agent")},
			Outcome: Outcome(s("outcome")), Reason: s("reason"), Status: rapid.Int().Draw(r, "status"),
			Correlation: s("correlation"), Duration: time.Duration(rapid.Int64().Draw(r, "duration")),
			Detail: Detail{ref.Repository(s("repository")), ref.Tag(s("tag")), ref.Digest(s("digest")), s("media"), s("artifact"), rapid.Int64().Draw(r, "size"), nil},
		}
		if rapid.Bool().Draw(r, "addressed") {
			e.From.Address = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "address")))
		}
		for range rapid.IntRange(0, 3).Draw(r, "more") {
			if e.Detail.More == nil {
				e.Detail.More = map[string]string{}
			}
			e.Detail.More[s("key")] = s("value")
		}
		return e
	})
}

func TestTheFastEncoderWritesWhatEncodingJSONWould(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := anyEvent().Draw(r, "event")
		var want bytes.Buffer
		slow := json.NewEncoder(&want)
		slow.SetEscapeHTML(false)
		if err := slow.Encode(e); err != nil {
			r.Fatal(err)
		}
		got := e.appendJSON(nil)
		if string(got) != string(bytes.TrimSuffix(want.Bytes(), []byte("\n"))) {
			// Keys that are not UTF-8 may become equal; then only the order is open.
			var a, b any
			if json.Unmarshal(got, &a) != nil || json.Unmarshal(want.Bytes(), &b) != nil || !reflect.DeepEqual(a, b) {
				r.Fatalf("got  %s\nwant %s", got, want.Bytes())
			}
		}
	})
}

func TestARecordOfTheSpoolIsTheRowOfItsEvent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := anyEvent().Draw(r, "event")
		got, ok := parseRecord(e.appendRecord(nil))
		if want := e.row(); !ok || got != want {
			r.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}
