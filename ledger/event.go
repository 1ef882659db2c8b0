package ledger

import (
	"net/netip"
	"time"

	"breakwater/ref"
)

// Who did it. The zero Who is the anonymous caller.
type Who struct {
	ID   string `json:"id,omitempty"`   // of the principal; never used again for another one
	Kind string `json:"kind,omitempty"` // user, token, admin …
	Name string `json:"name,omitempty"` // what people call it
}

// From where it was asked.
type From struct {
	Address   netip.Addr `json:"address,omitzero"`
	Listener  string     `json:"listener,omitempty"`
	Endpoint  ref.ID     `json:"endpoint,omitempty"` // the private endpoint that it came by
	Told      bool       `json:"told,omitempty"`     // the address is what the endpoint's agent tells; nobody here has seen it
	Host      string     `json:"host,omitempty"`     // the login server that was asked
	UserAgent string     `json:"userAgent,omitempty"`
}

// Seen is the address, unless it was only told: no decision follows from that.
func (f From) Seen() netip.Addr {
	if f.Told {
		return netip.Addr{}
	}
	return f.Address
}

// An Outcome is how it ended.
type Outcome string

const (
	Success Outcome = "success"
	Refused Outcome = "refused" // a decision: the caller may not, or asked for what is not there
	Failure Outcome = "failure" // the server could not
)

// Detail is what it was about, when it was about content.
type Detail struct {
	Repository   ref.Repository    `json:"repository,omitempty"`
	Tag          ref.Tag           `json:"tag,omitempty"`
	Digest       ref.Digest        `json:"digest,omitempty"`
	MediaType    string            `json:"mediaType,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int64             `json:"size,omitempty"`
	More         map[string]string `json:"more,omitempty"` // what only some operations have
}

// An Event is one fact. Its JSON is what the table holds, what `breakwater logs`
// prints and what sinks send.
type Event struct {
	Seq         int64         `json:"seq,omitempty"`      // given by the ledger: 1, 2, 3 … within its registry, in the order of commits
	Registry    string        `json:"registry,omitempty"` // uid; "" is the server itself
	Category    string        `json:"category,omitempty"`
	Time        time.Time     `json:"time"` // when it happened; zero is now. Microseconds are kept.
	Operation   string        `json:"operation"`
	Scope       ref.Scope     `json:"scope,omitempty"`
	Who         Who           `json:"who,omitzero"`
	From        From          `json:"from,omitzero"`
	Outcome     Outcome       `json:"outcome"`
	Reason      string        `json:"reason,omitempty"` // name of the fault
	Status      int           `json:"status,omitempty"` // HTTP
	Correlation string        `json:"correlation,omitempty"`
	Duration    time.Duration `json:"durationNs,omitempty"`
	Detail      Detail        `json:"detail,omitzero"`
}
