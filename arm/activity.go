package arm

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
)

// activityFields is what the $filter of the activity log may ask about.
var activityFields = []string{"eventTimestamp", "resourceGroupName", "resourceId", "resourceProvider", "resourceType", "correlationId", "caller", "status", "operationName", "eventChannels"}

// maxActivity is how many events are looked at for one page of the activity log.
const maxActivity = 20_000

// A word is a value as Azure's monitor writes it.
type word struct {
	Value     string `json:"value"`
	Localized string `json:"localizedValue"`
}

func name(s string) word { return word{s, s} }

// An activity is an event as Azure's activity log shows it (EventData,
// azure-contract §7).
type activity struct {
	ID            string            `json:"id"`
	Authorization map[string]string `json:"authorization"`
	Caller        string            `json:"caller,omitempty"`
	Channels      string            `json:"channels"`
	Claims        map[string]string `json:"claims"`
	Correlation   string            `json:"correlationId"`
	Description   string            `json:"description"`
	EventDataID   string            `json:"eventDataId"`
	EventName     word              `json:"eventName"`
	Category      word              `json:"category"`
	HTTP          map[string]string `json:"httpRequest"`
	Level         string            `json:"level"`
	Operation     word              `json:"operationName"`
	OperationID   string            `json:"operationId"`
	Properties    map[string]string `json:"properties"`
	Group         string            `json:"resourceGroupName,omitempty"`
	Resource      ref.Scope         `json:"resourceId"`
	Provider      word              `json:"resourceProviderName"`
	ResourceType  word              `json:"resourceType"`
	Status        word              `json:"status"`
	SubStatus     word              `json:"subStatus"`
	Time          time.Time         `json:"eventTimestamp"`
	Submitted     time.Time         `json:"submissionTimestamp"`
	Subscription  string            `json:"subscriptionId,omitempty"`
	Tenant        string            `json:"tenantId"`
}

// activity lists what was changed in a subscription, or anywhere, and what was not
// allowed to: the newest first, and only what the caller may see. What was only read
// is not in it, as in Azure; /providers/Breakwater.Ledger/events has that too.
func (a *API) activity(w http.ResponseWriter, r *http.Request, g access.Grant, q asked) error {
	query := r.URL.Query()
	top, after, err := page(query)
	if err != nil {
		return err
	}
	which, err := parseWhere(query.Get("$filter"), activityFields)
	if err != nil {
		return err
	}
	var since, until time.Time
	for i, at := range []*time.Time{&since, &since, &until, &until} {
		text, ok := which.must("eventTimestamp", []string{"ge", "gt", "le", "lt"}[i])
		if !ok {
			continue
		}
		if *at, ok = parseTime(text); !ok {
			return fault.New(fault.BadRequest, "eventTimestamp is a time such as 2026-11-23T18:00:00Z")
		}
	}
	if !until.IsZero() {
		until = until.Add(time.Microsecond) // the filter itself says whether until belongs to it
	}
	may := map[ref.Scope]bool{}
	items, next, seen := []activity{}, "", 0
	done := func(next string) error { // what was refused is recorded a moment late, and was read so
		slices.SortStableFunc(items, func(x, y activity) int { return y.Time.Compare(x.Time) })
		return answerPage(w, r, items, next)
	}
	for e, err := range a.o.Ledger.Latest(r.Context(), ledger.Mark(after), since, until) {
		if err != nil {
			return err
		}
		if len(items) == top || seen == maxActivity {
			return done(next)
		}
		seen, next = seen+1, string(e.Mark)
		verb := strings.ToLower(e.Operation[strings.LastIndexByte(e.Operation, '/')+1:])
		if verb == "read" || !scope(q.at).Covers(e.Scope) {
			continue
		}
		ok, known := may[e.Scope]
		if !known {
			ok = g.Can(access.EventRead, e.Scope)
			may[e.Scope] = ok
		}
		if !ok {
			continue
		}
		if shown := a.activityOf(e.Event); which.holds(shown.field) {
			items = append(items, shown)
		}
	}
	return done("")
}

func (a *API) activityOf(e ledger.Event) activity {
	id := ref.ID(e.Scope)
	s := activity{
		Authorization: map[string]string{"action": e.Operation, "scope": string(e.Scope), "role": ""},
		Caller:        e.Who.Name, Channels: "Operation", Claims: map[string]string{}, Correlation: e.Correlation,
		EventDataID: e.Registry + "." + strconv.FormatInt(e.Seq, 10),
		EventName:   word{"EndRequest", "End request"}, Category: name(e.Category), Level: "Informational",
		HTTP:      map[string]string{"clientRequestId": e.Correlation, "clientIpAddress": "", "uri": ""},
		Operation: name(e.Operation), OperationID: e.Correlation, Properties: map[string]string{}, Resource: e.Scope,
		Status: name("Succeeded"), SubStatus: name(""), Time: e.Time.UTC(), Submitted: e.Time.UTC(), Tenant: a.o.Identity.Tenant(),
	}
	s.ID = string(id) + "/events/" + s.EventDataID + "/ticks/" + strconv.FormatInt(e.Time.UnixMicro(), 10)
	if e.From.Address.IsValid() {
		s.HTTP["clientIpAddress"] = e.From.Address.String()
	}
	if e.Who.ID != "" {
		s.Claims["http://schemas.microsoft.com/identity/claims/objectidentifier"], s.Claims["name"], s.Claims["kind"] = e.Who.ID, e.Who.Name, e.Who.Kind
	}
	if e.Outcome != ledger.Success {
		s.Level, s.Status, s.Description = "Error", name("Failed"), e.Reason
		s.Properties["statusCode"], s.Properties["reason"] = strconv.Itoa(e.Status), e.Reason
	}
	if e.Status != 0 {
		s.SubStatus = word{http.StatusText(e.Status), http.StatusText(e.Status) + " (HTTP Status Code: " + strconv.Itoa(e.Status) + ")"}
	}
	at := within(id)
	if len(at) > 0 {
		s.Subscription = at[0].Name()
	}
	if len(at) > 1 {
		s.Group = at[1].Name()
	}
	if t, err := parse(string(e.Scope)); err == nil {
		namespace, _, _ := strings.Cut(t.Type, "/")
		s.Provider, s.ResourceType = name(namespace), name(t.Type)
	}
	return s
}

func (s activity) field(of string) string {
	switch of {
	case "eventTimestamp":
		return s.Time.Format(time.RFC3339Nano)
	case "resourceGroupName":
		return s.Group
	case "resourceId":
		return string(s.Resource)
	case "resourceProvider":
		return s.Provider.Value
	case "resourceType":
		return s.ResourceType.Value
	case "correlationId":
		return s.Correlation
	case "caller":
		return s.Caller
	case "status":
		return s.Status.Value
	case "operationName":
		return s.Operation.Value
	}
	return "Admin, Operation"
}

// categories are those of the activity log.
func (a *API) categories(w http.ResponseWriter, r *http.Request, _ access.Grant, _ asked) error {
	return answerPage(w, r, []word{name(ledger.Administrative)}, "")
}

// permissions are the caller's own, at any scope.
func (a *API) permissions(w http.ResponseWriter, r *http.Request, g access.Grant, q asked) error {
	return answerPage(w, r, g.Permissions(scope(q.at)), "")
}
