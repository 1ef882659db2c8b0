package network

import (
	"cmp"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// A PrivateEndpointConnection is a private way to a registry that somebody asked
// for, and whether its owner agreed.
type PrivateEndpointConnection struct {
	PrivateEndpoint Endpoint  `json:"privateEndpoint"`
	State           LinkState `json:"privateLinkServiceConnectionState"`
	GroupIDs        []string  `json:"groupIds,omitempty"` // of the private link resource: registry
	Link            *Linked   `json:"link,omitempty"`     // whose endpoint it is, if that is the agent of a link

	Name string `json:"-"` // of the document
}

// An Endpoint is a private endpoint in the consumer's network.
type Endpoint struct {
	ID ref.ID `json:"id"`
}

// EndpointType is the ARM type of a private endpoint.
const EndpointType = "Microsoft.Network/privateEndpoints"

// IsEndpoint reports whether id is that of a private endpoint, which lies in a
// resource group.
func IsEndpoint(id ref.ID) bool {
	parts := strings.Split(id.Key(), "/")
	return len(parts) == 9 && parts[1] == "subscriptions" && parts[3] == "resourcegroups" && strings.Join(parts[5:8], "/") == "providers/microsoft.network/privateendpoints"
}

// A LinkState is what the registry's owner said.
type LinkState struct {
	Status          string `json:"status"`
	Description     string `json:"description,omitempty"`
	ActionsRequired string `json:"actionsRequired,omitempty"`
}

// LinkGroup is the one thing of a registry that private endpoints lead to.
const LinkGroup = "registry"

// Statuses of a private endpoint connection.
const (
	Pending      = "Pending"
	Approved     = "Approved"
	Rejected     = "Rejected"
	Disconnected = "Disconnected"
)

// next are the statuses that may follow on one (azure-baseline §6.7): its owner says
// Approved or Rejected, as often as they like, and what its consumer took away is
// gone for good.
var next = map[string][]string{
	"":           {Pending, Approved, Rejected},
	Pending:      {Pending, Approved, Rejected, Disconnected},
	Approved:     {Approved, Rejected, Disconnected},
	Rejected:     {Rejected, Approved, Disconnected},
	Disconnected: {Disconnected},
}

// Check completes c, and refuses what is not certain. was is what the connection
// was, or nil: its endpoint stays, and so does its status if nothing is said of it.
func (c *PrivateEndpointConnection) Check(was *PrivateEndpointConnection) error {
	before := ""
	if was != nil {
		before = was.State.Status
		if c.PrivateEndpoint.ID == "" {
			c.PrivateEndpoint = was.PrivateEndpoint
		}
	}
	if err := c.checkLink(was); err != nil {
		return err
	}
	if id, err := ref.ParseID(string(c.PrivateEndpoint.ID)); err != nil || !IsEndpoint(id) {
		return fault.New(fault.BadRequest, "privateEndpoint.id is the id of a private endpoint: /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Network/privateEndpoints/NAME")
	}
	if was != nil && was.PrivateEndpoint.ID.Key() != c.PrivateEndpoint.ID.Key() {
		return fault.New(fault.BadRequest, "a connection is for one private endpoint; make another connection for another one")
	}
	s := &c.State
	if s.Status == "" {
		s.Status = cmp.Or(before, Pending)
	}
	if s.ActionsRequired == "" {
		s.ActionsRequired = "None"
	}
	if !slices.Contains([]string{Pending, Approved, Rejected, Disconnected}, s.Status) {
		return fault.New(fault.BadRequest, "the status of a connection is %s, %s, %s or %s", Pending, Approved, Rejected, Disconnected)
	}
	if s.ActionsRequired != "None" && s.ActionsRequired != "Recreate" {
		return fault.New(fault.BadRequest, "actionsRequired is None or Recreate")
	}
	switch {
	case slices.Contains(next[before], s.Status):
	case before == Disconnected:
		return fault.New(fault.Conflict, "the connection was disconnected by its consumer; it can only be made anew")
	case before == "":
		return fault.New(fault.BadRequest, "a new connection is %s, %s or %s", Pending, Approved, Rejected)
	default:
		return fault.New(fault.Conflict, "a connection that is %s does not become %s, but %s", before, s.Status, strings.Join(next[before], " or "))
	}
	if len(s.Description) > 512 || strings.ContainsFunc(s.Description, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.BadRequest, "the description has at most 512 bytes, and no control characters")
	}
	if len(c.GroupIDs) > 1 || len(c.GroupIDs) == 1 && c.GroupIDs[0] != LinkGroup {
		return fault.New(fault.BadRequest, "a private endpoint of a registry is for the group %s", LinkGroup)
	}
	return nil
}
