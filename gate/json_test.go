package gate_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/gate"
)

func TestABodyIsReadInOneWay(t *testing.T) {
	for _, test := range []struct {
		body, want string
		code       fault.Code
	}{
		{``, ``, 0},
		{"\n ", ``, 0},
		{` {"a":[{"b":1},{"b":2}],"c":{"a":null}} `, `{"a":[{"b":1},{"b":2}],"c":{"a":null}}`, 0},
		{`5`, `5`, 0},
		{strings.Repeat("[", 100) + strings.Repeat("]", 100), strings.Repeat("[", 100) + strings.Repeat("]", 100), 0},

		{`{"a":1,"a":1}`, ``, fault.BadRequest},
		{`{"a":1,"A":1}`, ``, fault.BadRequest},
		{`{"\u0061":1,"a":1}`, ``, fault.BadRequest},
		{`{"kind":1,"` + "\u212a" + `ind":1}`, ``, fault.BadRequest}, // encoding/json takes the sign of kelvin for a k
		{`{"properties":{"x":[{"a":{},"b":2,"a":{}}]}}`, ``, fault.BadRequest},
		{`{"properties":{},"Properties":{}}`, ``, fault.BadRequest},
		{strings.Repeat("[", 101) + strings.Repeat("]", 101), ``, fault.BadRequest},
		{strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101), ``, fault.BadRequest},
		{strings.Repeat("[", 20_000), ``, fault.BadRequest},
		{`{} {}`, ``, fault.BadRequest},
		{`{"a":1,}`, ``, fault.BadRequest},
		{"\ufeff{}", ``, fault.BadRequest},
		{`"` + strings.Repeat("x", 40_000) + `"`, ``, fault.TooLarge},
		{`{}` + strings.Repeat(" ", 40_000), ``, fault.TooLarge},
	} {
		got, err := gate.ReadJSON(httptest.NewRequest("PUT", "/", strings.NewReader(test.body)), 32<<10)
		if test.code != 0 {
			if fault.Of(err) != test.code {
				t.Errorf("%.60s: %s, %v", test.body, got, err)
			}
		} else if err != nil || string(got) != test.want {
			t.Errorf("%.60s is %s, %v", test.body, got, err)
		}
	}
}
