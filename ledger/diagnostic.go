package ledger

import (
	"regexp"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// A DiagnosticSetting says where events and measurements of a resource go
// (azure-contract §7). Nothing is sent anywhere yet; `breakwater logs` has all.
type DiagnosticSetting struct {
	StorageAccountID ref.ID             `json:"storageAccountId,omitempty"`
	ServiceBusRuleID ref.ID             `json:"serviceBusRuleId,omitempty"`
	EventHubRuleID   ref.ID             `json:"eventHubAuthorizationRuleId,omitempty"`
	EventHubName     string             `json:"eventHubName,omitempty"`
	WorkspaceID      ref.ID             `json:"workspaceId,omitempty"`
	PartnerID        ref.ID             `json:"marketplacePartnerId,omitempty"`
	DestinationType  string             `json:"logAnalyticsDestinationType,omitempty"`
	Logs             []DiagnosticSource `json:"logs"`
	Metrics          []DiagnosticSource `json:"metrics"`
}

// A DiagnosticSource is what is sent: one category, or a group of them.
type DiagnosticSource struct {
	Category      string    `json:"category,omitempty"`
	CategoryGroup string    `json:"categoryGroup,omitempty"`
	Enabled       bool      `json:"enabled"`
	TimeGrain     string    `json:"timeGrain,omitempty"` // of a metric
	Retention     Retention `json:"retentionPolicy,omitzero"`
}

// Retention is how long a storage account keeps it; 0 days is for ever.
type Retention struct {
	Enabled bool `json:"enabled"`
	Days    int  `json:"days"`
}

// A DiagnosticCategory is something that can be sent, of a registry.
type DiagnosticCategory struct {
	Name   string
	Metric bool
	Groups []string
}

// DiagnosticCategories are all of a registry.
var DiagnosticCategories = []DiagnosticCategory{
	{"AllMetrics", true, nil},
	{"ContainerRegistryLoginEvents", false, []string{"audit", "allLogs"}},
	{"ContainerRegistryRepositoryEvents", false, []string{"audit", "allLogs"}},
}

var timeGrain = regexp.MustCompile(`^P(T[0-9]{1,3}[HM]|[0-9]{1,2}D)$`)

// Check refuses what is not certain, or would send nothing.
func (d *DiagnosticSetting) Check() error {
	to := 0
	for _, id := range []ref.ID{d.StorageAccountID, d.ServiceBusRuleID, d.EventHubRuleID, d.WorkspaceID, d.PartnerID} {
		if id == "" {
			continue
		}
		to++
		if _, err := ref.ParseID(string(id)); err != nil {
			return fault.New(fault.BadRequest, "a destination is the id of a resource: /subscriptions/ID/…")
		}
	}
	if to == 0 {
		return fault.New(fault.BadRequest, "name a destination: workspaceId, storageAccountId, eventHubAuthorizationRuleId, serviceBusRuleId or marketplacePartnerId")
	}
	if d.EventHubName != "" && d.EventHubRuleID == "" || len(d.EventHubName) > 256 || !printable(d.EventHubName) {
		return fault.New(fault.BadRequest, "eventHubName stands beside an eventHubAuthorizationRuleId, and has at most 256 bytes")
	}
	if !slices.Contains([]string{"", "Dedicated", "AzureDiagnostics"}, d.DestinationType) {
		return fault.New(fault.BadRequest, "logAnalyticsDestinationType is Dedicated or AzureDiagnostics")
	}
	if len(d.Logs)+len(d.Metrics) == 0 {
		return fault.New(fault.BadRequest, "name what is sent, in logs or metrics")
	}
	if err := checkSources(d.Logs, false); err != nil {
		return err
	}
	return checkSources(d.Metrics, true)
}

func checkSources(all []DiagnosticSource, metric bool) error {
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		name, known := s.Category, false
		for _, c := range DiagnosticCategories {
			if known = c.Metric == metric && strings.EqualFold(c.Name, s.Category); known {
				s.Category = c.Name
				break
			}
		}
		if s.CategoryGroup != "" {
			name = "group " + s.CategoryGroup
			known = !metric && s.Category == "" && slices.Contains([]string{"audit", "allLogs"}, s.CategoryGroup)
		}
		if !known || seen[strings.ToLower(name)] {
			return fault.New(fault.BadRequest, "each of logs names one category, ContainerRegistryRepositoryEvents or ContainerRegistryLoginEvents, or one categoryGroup, audit or allLogs; each of metrics the category AllMetrics; and none twice")
		}
		seen[strings.ToLower(name)] = true
		if s.TimeGrain != "" && (!metric || !timeGrain.MatchString(s.TimeGrain)) {
			return fault.New(fault.BadRequest, "timeGrain is a duration of a metric, such as PT1M")
		}
		if s.Retention.Days < 0 || s.Retention.Days > 365 {
			return fault.New(fault.BadRequest, "a retentionPolicy has 0 to 365 days")
		}
	}
	return nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
