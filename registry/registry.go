// Package registry is the registry resource: what each control keeps about one
// registry, composed, and which registry a host name means.
package registry

import (
	"strings"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// Type is the ARM type of a registry.
const Type = "Microsoft.ContainerRegistry/registries"

// Of is the registry that id is or lies in, as id spells it; "" if that is none.
func Of(id ref.ID) ref.ID {
	const under = "/providers/microsoft.containerregistry/registries/"
	key := id.Key()
	at := strings.Index(key, under)
	if at < 0 || len(key) != len(id) || strings.Count(key[:at], "/") != 4 || !strings.HasPrefix(key, "/subscriptions/") {
		return ""
	}
	end := at + len(under)
	if next := strings.IndexByte(key[end:], '/'); next >= 0 {
		return id[:end+next]
	}
	return id
}

// A Registry is one registry as its document says.
type Registry struct {
	ID          ref.ID
	UID         string // random, never reused
	Name        string
	LoginServer string // host[:port] that clients use; not stored, it follows the server's configuration
	DataHost    string // … of its dedicated data endpoint; "" for none
	Missing     string // what its settings ask for and nothing here does, in words
	Location    string
	Tags        map[string]string
	Etag        string
	System      resource.SystemData
	Properties

	// Endpoints are the connections with private endpoints that Decide is asked with.
	Endpoints []network.PrivateEndpointConnection

	// KeyProblem is why its content is closed now, because of its keys, as far as this
	// process knows; "" if it is not. Get, List and Update show it.
	KeyProblem string

	// Connections are its private endpoints: what Get, List and Update show beside it.
	Connections []resource.Resource
}

// Reach is whether an origin may reach the registry.
func (r *Registry) Reach(o network.Origin) network.Verdict { return r.Access.Decide(o, r.Endpoints) }

// Realm is the registry as identity knows it.
func (r *Registry) Realm() identity.Realm {
	return identity.Realm{UID: r.UID, ID: r.ID, Name: r.Name, Service: r.LoginServer, AdminUserEnabled: r.AdminUserEnabled,
		ARMTokens: r.Policies.AuthenticationAsARM.Status != "disabled"}
}

// Ref is the registry as access knows it.
func (r *Registry) Ref() access.Registry {
	return access.Registry{UID: r.UID, ID: r.ID, Mode: r.RoleAssignmentMode, AnonymousPull: r.AnonymousPullEnabled}
}
