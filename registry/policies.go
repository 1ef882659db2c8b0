package registry

import (
	"slices"
	"time"

	"breakwater/fault"
)

// Policies are switches about content (azure-contract §3.6).
type Policies struct {
	Quarantine          Policy     `json:"quarantinePolicy,omitzero"`
	Trust               Trust      `json:"trustPolicy,omitzero"`
	Retention           Retention  `json:"retentionPolicy,omitzero"`                  // untagged manifests go
	Export              Policy     `json:"exportPolicy,omitzero"`                     // on until it is "disabled"
	AuthenticationAsARM Policy     `json:"azureADAuthenticationAsArmPolicy,omitzero"` // "disabled": tokens for the control plane do not open the registry
	SoftDelete          SoftDelete `json:"softDeletePolicy,omitzero"`                 // what is deleted can be restored
	SparseManifests     Policy     `json:"sparseManifests,omitzero"`                  // indexes may name manifests that are not here
}

// A Policy is a switch that is off until its status is "enabled".
type Policy struct {
	Status string `json:"status,omitempty"`
}

// Enabled reports whether the switch is on.
func (p Policy) Enabled() bool { return p.Status == "enabled" }

// Trust is Docker Content Trust. Nothing here depends on it: the registry is no
// Notary server, and says so in its status.
type Trust struct {
	Type string `json:"type,omitempty"` // Notary
	Policy
}

// Retention says for how many days a manifest without a tag stays.
type Retention struct {
	Days            *int      `json:"days,omitempty"` // nil is usualDays; 0 is until the next sweep
	LastUpdatedTime time.Time `json:"lastUpdatedTime,omitzero"`
	Policy
}

// SoftDelete says for how many days what was deleted can be restored.
type SoftDelete struct {
	RetentionDays   *int      `json:"retentionDays,omitempty"` // nil is usualDays
	LastUpdatedTime time.Time `json:"lastUpdatedTime,omitzero"`
	Policy
}

const usualDays = 7 // of retention and of soft delete, as in Azure

func days(n *int) int {
	if n == nil {
		return usualDays
	}
	return *n
}

// Filled is p with the value that holds where none is stored: policies and clients
// look at all of them, and az breaks where one is missing.
func (p Policies) Filled() Policies {
	for _, s := range []*Policy{&p.Quarantine, &p.Trust.Policy, &p.Retention.Policy, &p.SoftDelete.Policy, &p.SparseManifests} {
		fill(&s.Status, "disabled")
	}
	fill(&p.Export.Status, "enabled")
	fill(&p.AuthenticationAsARM.Status, "enabled")
	fill(&p.Trust.Type, "Notary")
	retention, soft := days(p.Retention.Days), days(p.SoftDelete.RetentionDays)
	p.Retention.Days, p.SoftDelete.RetentionDays = &retention, &soft
	return p
}

func fill[T ~string](s *T, usual T) {
	if *s == "" {
		*s = usual
	}
}

// Check refuses policies whose meaning is not certain.
func (p Policies) Check() error {
	for _, s := range []Policy{p.Quarantine, p.Trust.Policy, p.Retention.Policy, p.Export, p.AuthenticationAsARM, p.SoftDelete.Policy, p.SparseManifests} {
		if !slices.Contains([]string{"", "enabled", "disabled"}, s.Status) {
			return fault.New(fault.BadRequest, "the status of a policy is enabled or disabled")
		}
	}
	if p.Trust.Type != "" && p.Trust.Type != "Notary" {
		return fault.New(fault.BadRequest, "trustPolicy.type is Notary")
	}
	if n := days(p.Retention.Days); n < 0 || n > 365 {
		return fault.New(fault.BadRequest, "retentionPolicy.days is a number from 0 to 365")
	}
	if n := days(p.SoftDelete.RetentionDays); n < 1 || n > 90 {
		return fault.New(fault.BadRequest, "softDeletePolicy.retentionDays is a number from 1 to 90")
	}
	return nil
}

// stamped is p with the time at which its retention and its soft delete were last
// changed: it is the server's to say, whatever the caller sends back.
func (p Policies) stamped(was Policies, now time.Time) Policies {
	now = now.UTC().Truncate(time.Microsecond)
	if p.Retention.LastUpdatedTime = was.Retention.LastUpdatedTime; days(p.Retention.Days) != days(was.Retention.Days) || p.Retention.Enabled() != was.Retention.Enabled() {
		p.Retention.LastUpdatedTime = now
	}
	if p.SoftDelete.LastUpdatedTime = was.SoftDelete.LastUpdatedTime; days(p.SoftDelete.RetentionDays) != days(was.SoftDelete.RetentionDays) || p.SoftDelete.Enabled() != was.SoftDelete.Enabled() {
		p.SoftDelete.LastUpdatedTime = now
	}
	return p
}

// Rules are what the policies mean for content.
type Rules struct {
	Sparse     bool          // a manifest may name manifests and blobs that are not there
	Quarantine bool          // what is pushed is seen by nobody until it has passed
	SoftDelete time.Duration // how long what was deleted can be restored; 0 is not at all
	Retention  time.Duration // how long a manifest without a tag stays; -1 is for ever
}

// Rules are what the policies of the registry mean for its content.
func (r *Registry) Rules() Rules {
	p := r.Policies
	rules := Rules{Sparse: p.SparseManifests.Enabled(), Quarantine: p.Quarantine.Enabled(), Retention: -1}
	if p.SoftDelete.Enabled() {
		rules.SoftDelete = time.Duration(days(p.SoftDelete.RetentionDays)) * 24 * time.Hour
	}
	if p.Retention.Enabled() {
		rules.Retention = time.Duration(days(p.Retention.Days)) * 24 * time.Hour
	}
	return rules
}
