// Package registry is the registry resource: what each control keeps about one
// registry, composed, and which registry a host name means.
package registry

import (
	"breakwater/access"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// Type is the ARM type of a registry.
const Type = "Microsoft.ContainerRegistry/registries"

// A Registry is one registry as its document says.
type Registry struct {
	ID          ref.ID
	UID         string // random, never reused
	Name        string
	LoginServer string // host[:port] that clients use; not stored, it follows the server's configuration
	Location    string
	Tags        map[string]string
	Etag        string
	System      resource.SystemData
	Properties
}

// Properties are the settings of a registry: the section of each control, as ARM
// spells them.
type Properties struct {
	identity.LocalAuthentication
	access.Settings
	network.Access
	Policies Policies `json:"policies,omitzero"`
}

// Policies are switches about content.
type Policies struct {
	SparseManifests     Policy `json:"sparseManifests,omitzero"`                  // indexes may name manifests that are not here
	AuthenticationAsARM Policy `json:"azureADAuthenticationAsArmPolicy,omitzero"` // "disabled": tokens for the control plane do not open the registry
}

// A Policy is a switch that is off until its status is "enabled".
type Policy struct {
	Status string `json:"status,omitempty"`
}

// Enabled reports whether the switch is on.
func (p Policy) Enabled() bool { return p.Status == "enabled" }

// Realm is the registry as identity knows it.
func (r *Registry) Realm() identity.Realm {
	return identity.Realm{UID: r.UID, ID: r.ID, Name: r.Name, Service: r.LoginServer, AdminUserEnabled: r.AdminUserEnabled,
		ARMTokens: r.Policies.AuthenticationAsARM.Status != "disabled"}
}

// Ref is the registry as access knows it.
func (r *Registry) Ref() access.Registry {
	return access.Registry{UID: r.UID, ID: r.ID, Mode: r.RoleAssignmentMode, AnonymousPull: r.AnonymousPullEnabled}
}
