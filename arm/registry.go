package arm

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// Registries is the kinds of registries and of what lies in them.
func Registries(regs *registry.Store, s *access.Store, docs *resource.Store, border *network.Border, c *content.Store, receipts *receipt.Store, approvals *approval.Store) []Kind {
	return []Kind{registries(regs, s, docs, border, c, receipts, approvals), scopeMaps(s), tokens(s)}
}

func registries(regs *registry.Store, s *access.Store, docs *resource.Store, border *network.Border, c *content.Store, receipts *receipt.Store, approvals *approval.Store) Kind {
	k := row[*registry.Registry, registryView]{
		Kind: Kind{
			Type: registry.Type, Seen: true, Stays: regs.Stays, Ready: regs.Ready, Beside: []string{"sku", "identity"},
			Read: access.RegistryRead, Write: access.RegistryWrite, Delete: access.RegistryDelete,
			Actions: append(RegistryActions(), listCredentials(regs), generateCredentials(s), regenerateCredential(regs), explainNetwork(regs, docs, border), listUsages(regs, docs, c),
				rotateDataKey(regs), eraseRegistry(regs), eraseRepository(c, receipts, approvals)),
			Asks: []Action{checkName(regs)},
		},
		shown: func(r *registry.Registry) (resource.Resource, registryView) {
			return resource.Resource{ID: r.ID, Location: r.Location, Tags: r.Tags, Etag: r.Etag, System: r.System}, viewOf(r, regs.Tenant())
		},
		get: regs.Get,
		list: func(ctx context.Context, g access.Grant, q Query) ([]*registry.Registry, error) {
			return regs.List(ctx, g, q.Under, q.After, q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v registryView, ifMatch string) (*registry.Registry, error) {
			if ifMatch == resource.Absent {
				return regs.Create(ctx, g, next.ID, next.Location, next.Tags, v.properties())
			}
			return regs.Update(ctx, g, next.ID, ifMatch, func(r *registry.Registry) error {
				r.Tags, r.Properties = next.Tags, v.properties()
				return nil
			})
		},
	}.kind()
	k.Remove = func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
		i, err := regs.Delete(ctx, g, id, ifMatch)
		if err != nil {
			return resource.Resource{}, err
		}
		properties, err := json.Marshal(i)
		return resource.Resource{ID: i.ID, Type: receipt.Type, Properties: properties}, err
	}
	return k
}

// A registryView is what the API shows of a registry. What is not in Properties is
// not the caller's to set, and is ignored when it is sent back, as is what says who
// an identity is.
type registryView struct {
	registry.Properties
	SKU      skuView       `json:"sku"`
	Identity *identityView `json:"identity,omitempty"`

	LoginServer       string    `json:"loginServer"`
	CreationDate      time.Time `json:"creationDate"`
	ProvisioningState string    `json:"provisioningState"`
	Status            any       `json:"status"`
	DataEndpoints     any       `json:"dataEndpointHostNames"`
	Connections       any       `json:"privateEndpointConnections"`
}

type skuView struct {
	Name string `json:"name"`
	Tier string `json:"tier"`
}

type identityView struct {
	Type        string                   `json:"type"`
	PrincipalID string                   `json:"principalId,omitempty"`
	TenantID    string                   `json:"tenantId,omitempty"`
	Assigned    map[ref.ID]*assignedView `json:"userAssignedIdentities,omitempty"`
}

type assignedView struct {
	PrincipalID string `json:"principalId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
}

// properties is what a caller may say of a registry.
func (v registryView) properties() registry.Properties {
	p := v.Properties
	p.SKU.Name = v.SKU.Name
	if p.Identity = (registry.Identity{}); v.Identity != nil {
		p.Identity.Type = v.Identity.Type
		for id := range v.Identity.Assigned {
			if p.Identity.Assigned == nil {
				p.Identity.Assigned = map[ref.ID]registry.AssignedIdentity{}
			}
			p.Identity.Assigned[id] = registry.AssignedIdentity{}
		}
	}
	return p
}

// viewOf has every property, with the value that holds where none is stored:
// policies and clients look at all of them.
func viewOf(r *registry.Registry, tenant string) registryView {
	p := r.Properties.Filled()
	v := registryView{
		Properties: p, SKU: skuView{p.SKU.Name, p.SKU.Name},
		LoginServer: r.LoginServer, CreationDate: r.System.CreatedAt, ProvisioningState: succeeded,
		DataEndpoints: []string{}, Connections: []view{},
	}
	if r.DataHost != "" {
		v.DataEndpoints = []string{r.DataHost}
	}
	if r.KeyProblem != "" {
		v.Status = map[string]any{"displayStatus": "KeyNotUsable", "message": r.KeyProblem, "timestamp": time.Now().UTC()}
	} else if r.Missing != "" {
		v.Status = map[string]any{"displayStatus": "NotAllOffered", "message": r.Missing, "timestamp": r.System.LastModifiedAt}
	}
	var connections []view
	for _, c := range r.Connections {
		connections = append(connections, view{ID: c.ID, Name: c.ID.Name(), Type: registry.ConnectionType, Properties: c.Properties})
	}
	if connections != nil {
		v.Connections = connections
	}
	if p.Identity.Type != "" {
		v.Identity = &identityView{Type: p.Identity.Type, TenantID: tenant}
		if p.Identity.System() {
			v.Identity.PrincipalID = r.UID
		}
		for id, who := range p.Identity.Assigned {
			if v.Identity.Assigned == nil {
				v.Identity.Assigned = map[ref.ID]*assignedView{}
			}
			v.Identity.Assigned[id] = &assignedView{who.PrincipalID, who.ClientID}
		}
	}
	return v
}

// checkName is the question whether there may be a registry of a name.
func checkName(regs *registry.Store) Action {
	return Action{Name: "checkNameAvailability", Right: access.RegistryCheckName, Reads: true,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var asked struct{ Name, Type, ResourceGroupName, AutoGeneratedDomainNameLabelScope string }
			if err := understand(body, &asked); err != nil {
				return nil, err
			}
			if asked.Type != "" && !strings.EqualFold(asked.Type, registry.Type) {
				return nil, fault.New(fault.BadRequest, "type is %s", registry.Type)
			}
			if s := asked.AutoGeneratedDomainNameLabelScope; s != "" && s != "Unsecure" {
				return nil, fault.New(fault.NotImplemented, "this server makes no host names with a label of their own: leave autoGeneratedDomainNameLabelScope out")
			}
			a, err := regs.CheckName(ctx, g, id.Scope(), asked.Name)
			return struct {
				Free        bool   `json:"nameAvailable"`
				Reason      string `json:"reason,omitempty"`
				Message     string `json:"message,omitempty"`
				LoginServer string `json:"availableLoginServerName,omitempty"`
			}{a.Free, a.Reason, a.Message, a.LoginServer}, err
		},
	}
}

// listUsages tells what a registry holds, and how much of it there may be; -1 is
// as much as there is room for.
func listUsages(regs *registry.Store, docs *resource.Store, c *content.Store) Action {
	type usage struct {
		Name  string `json:"name"`
		Limit int64  `json:"limit"`
		Now   int64  `json:"currentValue"`
		Unit  string `json:"unit"`
	}
	return Action{Name: "listUsages", Right: access.RegistryUsages, Get: true, Reads: true,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, _ json.RawMessage) (any, error) {
			if err := g.Allows(access.RegistryUsages, id.Scope()); err != nil {
				return nil, err
			}
			r, err := regs.ByID(ctx, id)
			if err != nil {
				return nil, err
			}
			all := []usage{}
			if c != nil {
				bytes, err := c.Usage(ctx, r.UID)
				if err != nil {
					return nil, err
				}
				all = append(all, usage{"Size", -1, bytes, "Bytes"})
			}
			for _, of := range []struct{ name, kind string }{
				{"Webhooks", "webhooks"}, {"Geo-replications", "replications"}, {"PrivateEndpointConnections", "privateEndpointConnections"},
				{"ScopeMaps", "scopeMaps"}, {"Tokens", "tokens"},
			} {
				n, err := docs.Count(ctx, resource.Query{Type: registry.Type + "/" + of.kind, Under: []ref.ID{id}})
				if err != nil {
					return nil, err
				}
				all = append(all, usage{of.name, -1, n, "Count"})
			}
			return map[string]any{"value": append(all,
				usage{"IPRules", network.MaxRules, int64(len(r.RuleSet.IPRules)), "Count"},
				usage{"VNetRules", network.MaxSubnets, int64(len(r.RuleSet.VirtualNetworkRules)), "Count"},
			)}, nil
		},
	}
}

// succeeded is the state of everything: changes are done when they are answered.
const succeeded = "Succeeded"

type scopeMapView struct {
	access.ScopeMapProperties
	CreationDate      time.Time `json:"creationDate"`
	ProvisioningState string    `json:"provisioningState"`
}

func scopeMaps(s *access.Store) Kind {
	return row[access.ScopeMap, scopeMapView]{
		Kind: Kind{Type: access.ScopeMapType, Read: access.ScopeMapRead, Write: access.ScopeMapWrite, Delete: access.ScopeMapDelete},
		shown: func(m access.ScopeMap) (resource.Resource, scopeMapView) {
			m.Actions = filled(m.Actions)
			return resource.Resource{ID: m.ID, Etag: m.Etag, System: m.System}, scopeMapView{m.ScopeMapProperties, m.System.CreatedAt, succeeded}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (access.ScopeMap, error) {
			return s.ScopeMap(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]access.ScopeMap, error) {
			return s.ScopeMaps(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v scopeMapView, ifMatch string) (access.ScopeMap, error) {
			return s.PutScopeMap(ctx, g, next.ID.Name(), v.Description, v.Actions, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteScopeMap(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

// credential is a password as the API shows it. Its value is shown once, when it
// is made.
type credential struct {
	Name         string    `json:"name"`
	CreationTime time.Time `json:"creationTime,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	LastUsed     time.Time `json:"lastUsedTime,omitzero"`
	Value        string    `json:"value,omitempty"`
}

func shownPasswords(infos []identity.PasswordInfo) []credential {
	all := make([]credential, len(infos))
	for i, p := range infos {
		all[i] = credential{Name: p.Name, CreationTime: p.Created, Expiry: p.Expiry, LastUsed: p.Used}
	}
	return all
}

type credentials struct {
	Certificates []struct{}   `json:"certificates"`
	Passwords    []credential `json:"passwords"`
}

// made answers a request for passwords.
type made struct {
	Username  string       `json:"username"`
	Passwords []credential `json:"passwords"`
}

type tokenView struct {
	identity.TokenProperties
	CreationDate      time.Time   `json:"creationDate"`
	ProvisioningState string      `json:"provisioningState"`
	Credentials       credentials `json:"credentials"`
}

func tokens(s *access.Store) Kind {
	return row[access.Token, tokenView]{
		Kind: Kind{Type: identity.TokenType, Read: access.TokenRead, Write: access.TokenWrite, Delete: access.TokenDelete},
		shown: func(t access.Token) (resource.Resource, tokenView) {
			return resource.Resource{ID: t.ID, Etag: t.Etag, System: t.System},
				tokenView{t.TokenProperties, t.System.CreatedAt, succeeded, credentials{[]struct{}{}, shownPasswords(t.Passwords)}}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (access.Token, error) {
			return s.Token(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]access.Token, error) {
			return s.Tokens(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v tokenView, ifMatch string) (access.Token, error) {
			t, err := s.PutToken(ctx, g, next.ID.Name(), v.ScopeMapID, v.Status, ifMatch)
			if err != nil {
				return t, err
			}
			keep := make([]string, len(v.Credentials.Passwords))
			for i, p := range v.Credentials.Passwords {
				keep[i] = p.Name
			}
			if !slices.ContainsFunc(t.Passwords, func(p identity.PasswordInfo) bool { return !slices.Contains(keep, p.Name) }) {
				return t, nil
			}
			if err := s.KeepPasswords(ctx, g, t.Name, keep...); err != nil {
				return t, err
			}
			return s.Token(ctx, g, t.Name)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteToken(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

// generateCredentials is the action on a registry that makes passwords of one of
// its tokens.
func generateCredentials(s *access.Store) Action {
	return Action{Name: "generateCredentials", Right: access.GenerateCredentials,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var wanted struct {
				TokenID ref.ID
				Expiry  time.Time
				Name    string
			}
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			if !strings.EqualFold(string(identity.TokenID(id, wanted.TokenID.Name())), string(wanted.TokenID)) {
				return nil, fault.New(fault.BadRequest, "tokenId is the id of a token of this registry")
			}
			var names []string
			if wanted.Name != "" {
				names = []string{wanted.Name}
			}
			passwords, err := s.GenerateCredentials(ctx, g, wanted.TokenID.Name(), wanted.Expiry, names...)
			if err != nil {
				return nil, err
			}
			m := made{Username: wanted.TokenID.Name()}
			for _, p := range passwords {
				m.Passwords = append(m.Passwords, credential{Name: p.Name, CreationTime: p.Created, Expiry: p.Expiry, Value: string(p.Value)})
			}
			return m, nil
		},
	}
}

// listCredentials is the action on a registry that tells how old the passwords of
// its admin user are, and when they were last used; what they are nobody can read.
func listCredentials(regs *registry.Store) Action {
	return Action{Name: "listCredentials", Right: access.ListCredentials, Reads: true,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, _ json.RawMessage) (any, error) {
			infos, err := regs.ListCredentials(ctx, g, id)
			if err != nil {
				return nil, err
			}
			return made{id.Name(), shownPasswords(infos)}, nil
		},
	}
}

// regenerateCredential is the action on a registry that makes a password of its
// admin user.
func regenerateCredential(regs *registry.Store) Action {
	return Action{Name: "regenerateCredential", Right: access.RegenerateCredential,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var wanted struct{ Name string }
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			p, err := regs.RegenerateCredential(ctx, g, id, wanted.Name)
			if err != nil {
				return nil, err
			}
			return made{id.Name(), []credential{{Name: wanted.Name, Value: string(p.Value)}}}, nil
		},
	}
}
