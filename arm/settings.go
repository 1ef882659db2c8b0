package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/policy"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/replica"
	"breakwater/resource"
	"breakwater/setting"
)

// kept is the kind of settings of kind k, whose properties callers see and send as
// V. shape has what k does not say; shown and taken turn one into the other.
func kept[P, V any](s *setting.Store, k *setting.Kind[P], shape Kind, shown func(setting.Setting[P]) V, taken func(V) P) Kind {
	shape.Type, shape.Read, shape.Write, shape.Delete = k.Type, k.Reading(), k.Writing(), k.Deleting()
	switch k.Place {
	case setting.Anywhere:
		shape.Place = extension
	case setting.Above:
		shape.Place = above
	case setting.Server:
		shape.Place = inTenant
	}
	return row[setting.Setting[P], V]{
		Kind: shape,
		shown: func(t setting.Setting[P]) (resource.Resource, V) {
			return t.Resource, shown(t)
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (setting.Setting[P], error) {
			return k.Get(ctx, s, g, id)
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]setting.Setting[P], error) {
			all := setting.Query{Under: q.Under, After: q.After, Limit: q.Limit}
			if k.Place == setting.Anywhere {
				all.Exactly, all.Above = q.Filter.Exactly, q.Filter.Above && len(shape.Filters) > 0
			}
			return k.List(ctx, s, g, all)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v V, ifMatch string) (setting.Setting[P], error) {
			return k.Put(ctx, s, g, setting.Setting[P]{Resource: next, P: taken(v)}, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			_, err := k.Delete(ctx, s, g, id, ifMatch)
			return err
		},
	}.kind()
}

// cleared is what a change is merged into: without those properties that it
// replaces as a whole. Two rules merged would be a third one.
func (k *Kind) cleared(current resource.Resource, sent change) (resource.Resource, error) {
	if len(k.Whole) == 0 || len(current.Properties) == 0 {
		return current, nil
	}
	has := map[string]json.RawMessage{}
	if err := json.Unmarshal(current.Properties, &has); err != nil {
		return current, err
	}
	for name := range sent.Properties {
		for _, whole := range k.Whole {
			if gate.Fold(name) == gate.Fold(whole) {
				delete(has, whole)
			}
		}
	}
	var err error
	current.Properties, err = json.Marshal(has)
	return current, err
}

// Settings is the kinds that are kept, validated and shown: what they set is the
// matter of the rooms that their properties come from.
func Settings(s *setting.Store, ids *identity.Store, regs *registry.Store) []Kind {
	kinds := []Kind{
		endpointConnections(s), linkResources(s, regs), replications(s), webhooks(s),
		cacheRules(s), credentialSets(s, ids), connectedRegistries(s),
		diagnosticSettings(s), diagnosticCategories(s),
		definitions(s), policySets(s), policyAssignments(s), controlPlane(s),
	}
	for _, none := range []string{"tasks", "runs", "taskRuns", "agentPools"} {
		kinds = append(kinds, empty(s, registry.Type+"/"+none))
	}
	return kinds
}

// RegistryActions are what can be asked of a registry that is not built: it says so.
func RegistryActions() (all []Action) {
	for _, a := range []struct{ name, instead string }{
		{"importImage", "copy with a client instead, such as skopeo copy docker://SOURCE docker://TARGET"},
		{"scheduleRun", "build elsewhere, and push"},
		{"listBuildSourceUploadUrl", "build elsewhere, and push"},
	} {
		all = append(all, Action{Name: a.name, Right: access.Action(registry.Type + "/" + a.name + "/action"), Run: notBuilt(a.instead)})
	}
	return all
}

func notBuilt(instead string) func(context.Context, access.Grant, ref.ID, json.RawMessage) (any, error) {
	return func(context.Context, access.Grant, ref.ID, json.RawMessage) (any, error) {
		return nil, fault.New(fault.NotImplemented, "this server cannot do that yet: %s", instead)
	}
}

// state is what every setting shows.
type settled struct {
	ProvisioningState string `json:"provisioningState"`
}

var done = settled{succeeded}

func check[P any](of func(c *setting.Change[P], was *P) error) func(context.Context, *db.Tx, access.Grant, *setting.Change[P]) error {
	return func(_ context.Context, _ *db.Tx, _ access.Grant, c *setting.Change[P]) error {
		if c.Next == nil {
			return nil
		}
		return of(c, before(c))
	}
}

// before is the properties that there were, or nil.
func before[P any](c *setting.Change[P]) *P {
	if c.Was == nil {
		return nil
	}
	return &c.Was.P
}

// named makes the rule for names of a kind.
func named(rule func(what, name string) error, what string) func(string) error {
	return func(name string) error { return rule(what, name) }
}

type endpointConnectionView struct {
	network.PrivateEndpointConnection
	settled
}

func endpointConnections(s *setting.Store) Kind {
	var docs *resource.Store
	if s != nil { // not in the zero house, which only tells what there is
		docs = s.Documents
	}
	return kept(s, registry.Connections(docs), Kind{},
		func(t setting.Setting[network.PrivateEndpointConnection]) endpointConnectionView {
			return endpointConnectionView{t.P, done}
		},
		func(v endpointConnectionView) network.PrivateEndpointConnection {
			return v.PrivateEndpointConnection
		})
}

type linkResourceView struct {
	GroupID         string   `json:"groupId"`
	RequiredMembers []string `json:"requiredMembers"`
	RequiredZones   []string `json:"requiredZoneNames"`
}

// linkResources is the kind of what private endpoints of a registry lead to: one
// thing, the registry.
func linkResources(s *setting.Store, regs *registry.Store) Kind {
	k := &Kind{Type: registry.Type + "/privateLinkResources", Read: registry.Type + "/privateLinkResources/read"}
	all := func(ctx context.Context, of ref.ID) ([]resource.Resource, error) {
		r, err := existing(ctx, s, of, registry.Type)
		if err != nil {
			return nil, err
		}
		doc := resource.Resource{ID: r.ID.Child("privateLinkResources", network.LinkGroup)}
		doc.Properties, err = json.Marshal(linkResourceView{network.LinkGroup,
			[]string{network.LinkGroup, "registry_data_" + replica.Region(r.Location)}, regs.PrivateZones()})
		return []resource.Resource{doc}, err
	}
	return fixed(k, func(id ref.ID) ref.ID { return id.Parent() }, all)
}

// existing is the document of that id and type.
func existing(ctx context.Context, s *setting.Store, id ref.ID, typ string) (resource.Resource, error) {
	doc, err := s.Documents.Get(ctx, id)
	if fault.Of(err) == fault.NotFound || err == nil && !strings.EqualFold(doc.Type, typ) {
		err = absent(typ)
	}
	return doc, err
}

// fixed completes a kind that nobody makes: all is what there is of it on a
// resource, and on what an id of it lies on.
func fixed(k *Kind, on func(ref.ID) ref.ID, all func(ctx context.Context, of ref.ID) ([]resource.Resource, error)) Kind {
	at := func(of ref.ID) ref.Scope { return scope(of) }
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		if err := g.Allows(k.Read, at(q.Under)); err != nil {
			return nil, err
		}
		docs, err := all(ctx, q.Under)
		docs = slices.DeleteFunc(docs, func(d resource.Resource) bool { return d.ID.Key() <= q.After.Key() })
		return docs[:min(len(docs), q.Limit)], err
	}
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		if err := g.Allows(k.Read, at(on(id))); err != nil {
			return resource.Resource{}, err
		}
		docs, err := all(ctx, on(id))
		for _, d := range docs {
			if d.ID.Key() == id.Key() {
				return d, nil
			}
		}
		if err == nil {
			err = absent(k.Type)
		}
		return resource.Resource{}, err
	}
	return *k
}

// empty is a kind of which there is none here: clients list it all the same.
func empty(s *setting.Store, typ string) Kind {
	k := fixed(&Kind{Type: typ, Read: access.Action(typ + "/read")}, ref.ID.Parent, func(ctx context.Context, of ref.ID) ([]resource.Resource, error) {
		_, err := existing(ctx, s, of, registry.Type)
		return nil, err
	})
	k.Get = nil
	return k
}

type replicationView struct {
	replica.Replication
	settled
	Status replicationStatus `json:"status"`
}

type replicationStatus struct {
	DisplayStatus string    `json:"displayStatus"`
	Message       string    `json:"message"`
	Timestamp     time.Time `json:"timestamp"`
}

func replications(s *setting.Store) Kind {
	k := &setting.Kind[replica.Replication]{
		Type: registry.Type + "/replications", Called: "replication", Most: 100, Name: named(replica.CheckName, "replication")}
	k.Check = func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[replica.Replication]) error {
		if c.Next == nil {
			return nil
		}
		was := ""
		if c.Was != nil {
			was = c.Was.Location
		}
		if err := c.Next.P.Check(c.On.Location, c.Next.Location, was); err != nil || c.Was != nil {
			return err
		}
		others, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: k.Type, Under: []ref.ID{c.On.ID}})
		for _, o := range others {
			if replica.Region(o.Location) == replica.Region(c.Next.Location) {
				return fault.New(fault.Conflict, "the replication %s is for %s already", o.ID.Name(), o.Location)
			}
		}
		return err
	}
	return kept(s, k, Kind{},
		func(t setting.Setting[replica.Replication]) replicationView {
			return replicationView{t.P, done, replicationStatus{"NotReady", replica.NotBuilt + ": nothing is copied there", t.System.LastModifiedAt}}
		},
		func(v replicationView) replica.Replication { return v.Replication })
}

type webhookView struct {
	ledger.Webhook
	settled
}

func webhooks(s *setting.Store) Kind {
	k := &setting.Kind[ledger.Webhook]{
		Type: registry.Type + "/webhooks", Called: "webhook", Most: 500, Name: named(replica.CheckName, "webhook"),
		Check: check(func(c *setting.Change[ledger.Webhook], was *ledger.Webhook) error {
			if c.Next.Location == "" {
				c.Next.Location = c.On.Location
			}
			return c.Next.P.Check(was)
		})}
	of := func(ctx context.Context, id ref.ID) (ledger.Webhook, error) {
		var w ledger.Webhook
		doc, err := existing(ctx, s, id, k.Type)
		if err == nil {
			err = json.Unmarshal(doc.Properties, &w)
		}
		return w, err
	}
	action := func(name string, reads bool, run func(ledger.Webhook) (any, error)) Action {
		right := access.Action(k.Type + "/" + name + "/action")
		return Action{Name: name, Right: right, Reads: reads,
			Run: func(ctx context.Context, g access.Grant, id ref.ID, _ json.RawMessage) (any, error) {
				if err := g.Allows(right, id.Scope()); err != nil {
					return nil, err
				}
				w, err := of(ctx, id)
				if err != nil {
					return nil, err
				}
				return run(w)
			}}
	}
	shape := Kind{Actions: []Action{
		// Where a webhook goes is shown to those alone who have a right of its own.
		action("getCallbackConfig", true, func(w ledger.Webhook) (any, error) {
			if w.CustomHeaders == nil {
				w.CustomHeaders = map[string]string{}
			}
			return map[string]any{"serviceUri": w.ServiceURI, "customHeaders": w.CustomHeaders}, nil
		}),
		action("listEvents", true, func(ledger.Webhook) (any, error) {
			return map[string]any{"value": []struct{}{}}, nil // nothing was delivered
		}),
		action("ping", false, func(ledger.Webhook) (any, error) {
			return nil, fault.New(fault.NotImplemented, "this server does not deliver to webhooks yet; what happened is in its log: breakwater logs")
		}),
	}}
	return kept(s, k, shape,
		func(t setting.Setting[ledger.Webhook]) webhookView {
			w := t.P
			w.ServiceURI, w.CustomHeaders = "", nil
			return webhookView{w, done}
		},
		func(v webhookView) ledger.Webhook { return v.Webhook })
}

type cacheRuleView struct {
	replica.CacheRule
	CreationDate time.Time `json:"creationDate"`
	settled
}

const credentialSetType = registry.Type + "/credentialSets"

func cacheRules(s *setting.Store) Kind {
	k := &setting.Kind[replica.CacheRule]{
		Type: registry.Type + "/cacheRules", Called: "cache rule", Most: 1000, Name: named(replica.CheckDashed, "cache rule")}
	k.Check = func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[replica.CacheRule]) error {
		if c.Next == nil {
			return nil
		}
		next := &c.Next.P
		if err := next.Check(before(c)); err != nil {
			return err
		}
		if next.CredentialSet != "" {
			if err := sibling(ctx, tx, s, c.On.ID, next.CredentialSet, credentialSetType, "credentialSetResourceId"); err != nil {
				return err
			}
		}
		if c.Was != nil {
			return nil
		}
		others, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: k.Type, Under: []ref.ID{c.On.ID}})
		for _, o := range others {
			var other replica.CacheRule
			if err := json.Unmarshal(o.Properties, &other); err != nil {
				return err
			}
			if next.Overlaps(&other) {
				return fault.New(fault.Conflict, "the cache rule %s is for %s already", o.ID.Name(), other.Target)
			}
		}
		return err
	}
	return kept(s, k, Kind{Silent: true},
		func(t setting.Setting[replica.CacheRule]) cacheRuleView {
			return cacheRuleView{t.P, t.System.CreatedAt, done}
		},
		func(v cacheRuleView) replica.CacheRule { return v.CacheRule })
}

// sibling refuses an id that is not of a resource of that type in the registry.
func sibling(ctx context.Context, tx *db.Tx, s *setting.Store, of, id ref.ID, typ, property string) error {
	doc, err := s.Documents.GetTx(ctx, tx, id)
	if err == nil && strings.EqualFold(doc.Type, typ) && id.Parent().Key() == of.Key() {
		return nil
	}
	if err != nil && fault.Of(err) != fault.NotFound {
		return err
	}
	return fault.New(fault.BadRequest, "%s is the id of one of the registry's %s", property, typ[strings.LastIndexByte(typ, '/')+1:])
}

type credentialSetView struct {
	LoginServer  string               `json:"loginServer"`
	Credentials  []authCredentialView `json:"authCredentials"`
	CreationDate time.Time            `json:"creationDate"`
	settled
}

type authCredentialView struct {
	replica.AuthCredential
	Health credentialHealth `json:"credentialHealth"`
}

type credentialHealth struct {
	Status       string `json:"status"`
	ErrorCode    string `json:"errorCode,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`
}

// credentialSets have an identity that the server gives them, whatever is sent.
func credentialSets(s *setting.Store, ids *identity.Store) Kind {
	return kept(s, &setting.Kind[replica.CredentialSet]{
		Type: credentialSetType, Called: "credential set", Most: 500, Name: named(replica.CheckDashed, "credential set"),
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[replica.CredentialSet]) error {
			if c.Next != nil {
				return c.Next.P.Check(before(c))
			}
			rules, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: registry.Type + "/cacheRules", Under: []ref.ID{c.ID.Parent()}})
			for _, doc := range rules {
				var rule replica.CacheRule
				if err := json.Unmarshal(doc.Properties, &rule); err != nil {
					return err
				}
				if rule.CredentialSet.Key() == c.ID.Key() {
					return fault.New(fault.Conflict, "the cache rule %s uses the credential set; change or delete it first", doc.ID.Name())
				}
			}
			return err
		},
	}, Kind{Silent: true, Shown: func(v view) any {
		return struct {
			view
			Identity map[string]string `json:"identity"`
		}{v, map[string]string{"type": "SystemAssigned", "principalId": v.System.UID, "tenantId": ids.Tenant()}}
	}},
		func(t setting.Setting[replica.CredentialSet]) credentialSetView {
			v := credentialSetView{t.P.LoginServer, make([]authCredentialView, len(t.P.Credentials)), t.System.CreatedAt, done}
			for i, c := range t.P.Credentials {
				v.Credentials[i] = authCredentialView{c, credentialHealth{"Unhealthy", "NotImplemented", replica.NotBuilt}}
			}
			return v
		},
		func(v credentialSetView) replica.CredentialSet {
			set := replica.CredentialSet{LoginServer: v.LoginServer}
			for _, c := range v.Credentials {
				set.Credentials = append(set.Credentials, c.AuthCredential)
			}
			return set
		})
}

// A connectedRegistryView has, beside what is set, how the other end does: it never
// comes. A PATCH says what changes of the schedule without the parent around it.
type connectedRegistryView struct {
	Mode          string              `json:"mode"`
	Parent        connectedParentView `json:"parent"`
	Sync          *syncView           `json:"syncProperties,omitempty"`
	ClientTokens  []ref.ID            `json:"clientTokenIds"`
	Logging       replica.Logging     `json:"logging"`
	Notifications []string            `json:"notificationsList"`
	Garbage       *replica.Collection `json:"garbageCollection,omitempty"`

	settled
	Version      string            `json:"version,omitempty"`
	Connection   string            `json:"connectionState"`
	LastActivity time.Time         `json:"lastActivityTime,omitzero"`
	Activation   map[string]string `json:"activation"`
	Login        json.RawMessage   `json:"loginServer,omitempty"`
	Details      []statusDetail    `json:"statusDetails"`
}

type connectedParentView struct {
	ID   ref.ID   `json:"id,omitempty"`
	Sync syncView `json:"syncProperties"`
}

type syncView struct {
	replica.Sync
	LastSync time.Time `json:"lastSyncTime,omitzero"`
	Gateway  string    `json:"gatewayEndpoint,omitempty"`
}

type statusDetail struct {
	Type        string    `json:"type"`
	Code        string    `json:"code"`
	Description string    `json:"description"`
	Timestamp   time.Time `json:"timestamp"`
	Correlation string    `json:"correlationId,omitempty"`
}

func connectedRegistries(s *setting.Store) Kind {
	k := &setting.Kind[replica.ConnectedRegistry]{
		Type: registry.Type + "/connectedRegistries", Called: "connected registry", Most: 50, Name: named(replica.CheckDashed, "connected registry")}
	k.Check = func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[replica.ConnectedRegistry]) error {
		if c.Next == nil {
			children, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: k.Type, Under: []ref.ID{c.ID.Parent()}})
			for _, doc := range children {
				var child replica.ConnectedRegistry
				if err := json.Unmarshal(doc.Properties, &child); err != nil {
					return err
				}
				if child.Parent.ID.Key() == c.ID.Key() {
					return fault.New(fault.Conflict, "the connected registry %s follows this one; delete it first", doc.ID.Name())
				}
			}
			return err
		}
		next := &c.Next.P
		if err := next.Check(before(c)); err != nil {
			return err
		}
		if next.Parent.ID.Key() == c.On.ID.Key() {
			next.Parent.ID = "" // az names the registry itself
		}
		if id := next.Parent.ID; id != "" {
			if id.Key() == c.ID.Key() {
				return fault.New(fault.BadRequest, "a connected registry does not follow itself")
			}
			if err := sibling(ctx, tx, s, c.On.ID, id, k.Type, "parent.id"); err != nil {
				return err
			}
		}
		for _, id := range append(slices.Clone(next.ClientTokens), next.Parent.Sync.TokenID) {
			if err := sibling(ctx, tx, s, c.On.ID, id, identity.TokenType, "a token id of a connected registry"); err != nil {
				return err
			}
		}
		return nil
	}
	shape := Kind{Actions: []Action{{Name: "deactivate", Right: access.Action(k.Type + "/deactivate/action"),
		Run: func(ctx context.Context, g access.Grant, id ref.ID, _ json.RawMessage) (any, error) {
			return nil, k.Do(ctx, s, g, id, "deactivate/action", nil) // none was ever active
		},
	}}}
	return kept(s, k, shape,
		func(t setting.Setting[replica.ConnectedRegistry]) connectedRegistryView {
			p := t.P
			return connectedRegistryView{
				Mode: p.Mode, Parent: connectedParentView{ID: p.Parent.ID, Sync: syncView{Sync: p.Parent.Sync}},
				ClientTokens: filled(p.ClientTokens), Logging: p.Logging, Notifications: filled(p.Notifications), Garbage: p.Garbage,
				settled: done, Connection: "Offline", Activation: map[string]string{"status": "Inactive"},
				Details: []statusDetail{{"NotImplemented", "NotImplemented", replica.NotBuilt, t.System.LastModifiedAt, ""}},
			}
		},
		func(v connectedRegistryView) replica.ConnectedRegistry {
			to := v.Parent.Sync.Sync
			if v.Sync != nil {
				over(&to.Schedule, v.Sync.Schedule)
				over(&to.Window, v.Sync.Window)
				over(&to.MessageTTL, v.Sync.MessageTTL)
			}
			return replica.ConnectedRegistry{Mode: v.Mode, Parent: replica.Parent{ID: v.Parent.ID, Sync: to},
				ClientTokens: v.ClientTokens, Logging: v.Logging, Notifications: v.Notifications, Garbage: v.Garbage}
		})
}

func over(is *string, sent string) {
	if sent != "" {
		*is = sent
	}
}

const diagnosticType = "Microsoft.Insights/diagnosticSettings"

// onRegistry refuses what is not a registry.
func onRegistry(on resource.Resource) error {
	if !strings.EqualFold(on.Type, registry.Type) {
		return fault.New(fault.NotImplemented, "this server has diagnostic settings of registries only; all that happens in it is in its log: breakwater logs")
	}
	return nil
}

func diagnosticSettings(s *setting.Store) Kind {
	return kept(s, &setting.Kind[ledger.DiagnosticSetting]{
		Type: diagnosticType, Called: "diagnostic setting", Place: setting.Anywhere, Most: 5,
		Name: func(name string) error {
			if len(name) > 260 || strings.ContainsAny(name, `<>*&:+`) {
				return fault.New(fault.NameInvalid, "the name of a diagnostic setting has at most 260 characters, and none of < > * & : +")
			}
			return nil
		},
		Check: check(func(c *setting.Change[ledger.DiagnosticSetting], _ *ledger.DiagnosticSetting) error {
			if err := onRegistry(c.On); err != nil {
				return err
			}
			return c.Next.P.Check()
		}),
	}, Kind{Same: true},
		func(t setting.Setting[ledger.DiagnosticSetting]) ledger.DiagnosticSetting {
			d := t.P
			d.Logs, d.Metrics = filled(d.Logs), filled(d.Metrics)
			return d
		},
		func(v ledger.DiagnosticSetting) ledger.DiagnosticSetting { return v })
}

type categoryView struct {
	Type   string   `json:"categoryType"`
	Groups []string `json:"categoryGroups,omitempty"`
}

func diagnosticCategories(s *setting.Store) Kind {
	k := &Kind{Type: diagnosticType + "Categories", Read: diagnosticType + "Categories/read", Place: extension}
	return fixed(k, func(id ref.ID) ref.ID { on, _ := setting.At(id); return on },
		func(ctx context.Context, of ref.ID) (docs []resource.Resource, err error) {
			r, err := existing(ctx, s, of, registry.Type)
			if err != nil {
				return nil, err
			}
			for _, c := range ledger.DiagnosticCategories {
				v := categoryView{"Logs", c.Groups}
				if c.Metric {
					v.Type = "Metrics"
				}
				doc := resource.Resource{ID: r.ID.Extension(k.Type, c.Name)}
				if doc.Properties, err = json.Marshal(v); err != nil {
					return nil, err
				}
				docs = append(docs, doc)
			}
			return docs, nil
		})
}

// builtInID is the id of a built-in definition.
func builtInID(name string) ref.ID { return ref.ID("").Extension(policy.DefinitionType, name) }

// holdsDefinitions refuses places for definitions other than those from where they
// can be assigned.
func holdsDefinitions(on resource.Resource) error {
	if strings.EqualFold(on.Type, SubscriptionType) || strings.EqualFold(on.Type, access.GroupType) {
		return nil
	}
	return fault.New(fault.BadRequest, "a definition lies in a subscription or a management group; to be assigned anywhere below")
}

func policyName(name string) error {
	if len(name) > 128 || strings.ContainsAny(name, `<>*&:+`) {
		return fault.New(fault.NameInvalid, "the name of a policy has at most 128 characters, and none of < > * & : +")
	}
	return nil
}

// unassigned refuses to delete what is assigned, or in a set.
func unassigned(ctx context.Context, tx *db.Tx, s *setting.Store, id ref.ID) error {
	assigned, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: policy.AssignmentType, Holders: []string{id.Key()}, Limit: 1})
	if err != nil || len(assigned) > 0 {
		if err == nil {
			err = fault.New(fault.Conflict, "it is assigned by %s; delete that first", assigned[0].ID)
		}
		return err
	}
	sets, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: policy.SetType})
	for _, doc := range sets {
		var set policy.Set
		if err := json.Unmarshal(doc.Properties, &set); err != nil {
			return fmt.Errorf("read %s: %w", doc.ID, err)
		}
		if slices.ContainsFunc(set.Members, func(m policy.Member) bool { return m.DefinitionID.Key() == id.Key() }) {
			return fault.New(fault.Conflict, "the set %s has it; change or delete that first", doc.ID.Name())
		}
	}
	return err
}

func definitions(s *setting.Store) Kind {
	shown := func(t setting.Setting[policy.Definition]) policy.Definition { return t.P }
	k := kept(s, &setting.Kind[policy.Definition]{
		Type: policy.DefinitionType, Called: "policy definition", Place: setting.Anywhere, Most: 500, Name: policyName,
		Check: func(ctx context.Context, tx *db.Tx, _ access.Grant, c *setting.Change[policy.Definition]) error {
			if c.Next == nil {
				return unassigned(ctx, tx, s, c.ID)
			}
			if err := holdsDefinitions(c.On); err != nil {
				return err
			}
			return c.Next.P.Check()
		},
	}, Kind{Made: true, Whole: []string{"policyRule", "parameters", "metadata"}}, shown,
		func(v policy.Definition) policy.Definition { return v })
	builtIn := func(name string, d policy.Definition) (resource.Resource, error) {
		text, err := json.Marshal(d)
		return resource.Resource{ID: builtInID(name), Type: k.Type, Properties: text}, err
	}
	get, list := k.Get, k.List
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		on, _ := setting.At(id)
		if err := g.Allows(k.Read, scope(on)); err != nil {
			return resource.Resource{}, err
		}
		if d, ok := policy.Of(id.Name()); ok { // az asks in the subscription first, and who may read there may not above
			return builtIn(strings.ToLower(id.Name()), *d)
		}
		if on == "" {
			return resource.Resource{}, absent(k.Type)
		}
		return get(ctx, g, id)
	}
	k.List = func(ctx context.Context, g access.Grant, q Query) (all []resource.Resource, err error) {
		if err := g.Allows(k.Read, scope(q.Under)); err != nil {
			return nil, err
		}
		for _, b := range policy.BuiltIns() {
			doc, err := builtIn(b.Name, b.Definition)
			if err != nil {
				return nil, err
			}
			if len(all) < q.Limit && doc.ID.Key() > q.After.Key() {
				all = append(all, doc)
			}
		}
		if q.Under == "" || len(all) == q.Limit {
			return all, nil
		}
		q.Limit -= len(all)
		custom, err := list(ctx, g, q)
		return append(all, custom...), err
	}
	return k
}

// definitionOf finds the definition of that id, as it may be used at a scope: the
// built-in ones everywhere, others below where they lie.
func definitionOf(ctx context.Context, tx *db.Tx, s *setting.Store, id ref.ID) (*policy.Definition, error) {
	if id.Key() == builtInID(id.Name()).Key() {
		if d, ok := policy.Of(id.Name()); ok {
			return d, nil
		}
	}
	var d policy.Definition
	return &d, assigned(ctx, tx, s, id, policy.DefinitionType, &d)
}

func assigned(ctx context.Context, tx *db.Tx, s *setting.Store, id ref.ID, typ string, into any) error {
	doc, err := s.Documents.GetTx(ctx, tx, id)
	if fault.Of(err) == fault.NotFound || err == nil && !strings.EqualFold(doc.Type, typ) {
		return fault.New(fault.BadRequest, "there is no policy definition %s", id)
	}
	if err == nil {
		err = json.Unmarshal(doc.Properties, into)
	}
	return err
}

// reaches refuses a definition of one subscription in another one. Those of
// management groups reach further, and say less: who may read them may use them.
func reaches(g access.Grant, right access.Action, definition, at ref.ID) error {
	on, _ := setting.At(definition)
	if strings.HasPrefix(on.Key(), "/subscriptions/") && !on.Scope().Covers(at.Scope()) {
		return fault.New(fault.BadRequest, "the definition lies in %s, and can be used in there only", on)
	}
	if on == "" {
		return nil
	}
	return g.Allows(right, on.Scope())
}

func policySets(s *setting.Store) Kind {
	return kept(s, &setting.Kind[policy.Set]{
		Type: policy.SetType, Called: "policy set", Place: setting.Anywhere, Most: 200, Name: policyName,
		Check: func(ctx context.Context, tx *db.Tx, g access.Grant, c *setting.Change[policy.Set]) error {
			if c.Next == nil {
				return unassigned(ctx, tx, s, c.ID)
			}
			if err := holdsDefinitions(c.On); err != nil {
				return err
			}
			return c.Next.P.Check(func(id ref.ID) (*policy.Definition, error) {
				if err := reaches(g, policy.DefinitionType+"/read", id, c.On.ID); err != nil {
					return nil, err
				}
				return definitionOf(ctx, tx, s, id)
			})
		},
	}, Kind{Made: true, Whole: []string{"parameters", "metadata"}},
		func(t setting.Setting[policy.Set]) policy.Set { return t.P },
		func(v policy.Set) policy.Set { return v })
}

// A policyAssignmentView says beside what is assigned where it holds, and that
// nothing comes of it yet.
type policyAssignmentView struct {
	policy.Assignment
	Scope ref.ID `json:"scope,omitempty"`
}

const enforcement = "breakwater" // the member of metadata that says so

func policyAssignments(s *setting.Store) Kind {
	return kept(s, &setting.Kind[policy.Assignment]{
		Type: policy.AssignmentType, Called: "policy assignment", Place: setting.Anywhere, Most: 200, Name: policyName,
		Holder: func(a policy.Assignment) string { return a.DefinitionID.Key() },
		Check: func(ctx context.Context, tx *db.Tx, g access.Grant, c *setting.Change[policy.Assignment]) error {
			if c.Next == nil {
				return nil
			}
			next := &c.Next.P
			if c.Was != nil && c.Was.P.DefinitionID.Key() != next.DefinitionID.Key() {
				return fault.New(fault.BadRequest, "an assignment is of one definition; delete it and make another one")
			}
			typ, parameters := policy.DefinitionType, map[string]policy.Parameter(nil)
			_, of := setting.At(next.DefinitionID)
			if strings.EqualFold(of, policy.SetType) {
				typ = policy.SetType
			}
			if err := reaches(g, access.Action(typ+"/read"), next.DefinitionID, c.On.ID); err != nil {
				return err
			}
			if typ == policy.SetType {
				var set policy.Set
				if err := assigned(ctx, tx, s, next.DefinitionID, typ, &set); err != nil {
					return err
				}
				parameters = set.Parameters
			} else {
				d, err := definitionOf(ctx, tx, s, next.DefinitionID)
				if err != nil {
					return err
				}
				parameters = d.Parameters
			}
			if err := next.Check(c.On.ID.Scope(), parameters); err != nil {
				return err
			}
			c.More["definition"] = string(next.DefinitionID)
			return nil
		},
	}, Kind{Made: true, Filters: []string{atScope}, Whole: []string{"parameters", "metadata"}},
		func(t setting.Setting[policy.Assignment]) policyAssignmentView {
			a := t.P
			on, _ := setting.At(t.ID)
			metadata := map[string]json.RawMessage{enforcement: json.RawMessage(fmt.Sprintf("%q", policy.NotBuilt))}
			for name, value := range a.Metadata {
				metadata[name] = value
			}
			a.Metadata = metadata
			return policyAssignmentView{a, on}
		},
		func(v policyAssignmentView) policy.Assignment {
			delete(v.Metadata, enforcement)
			return v.Assignment
		})
}
