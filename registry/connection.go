package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/setting"
)

// PrivateLink stands between a registry's name and the domain where its private
// endpoints are meant, as Azure has it.
const PrivateLink = "privatelink"

// PrivateZones are the zones where private endpoints have their names; none where
// registries have no names.
func (s *Store) PrivateZones() []string {
	if s.o.Domain == "" {
		return []string{}
	}
	return []string{PrivateLink + "." + bare(s.o.Domain)}
}

// ConnectionType is the ARM type of a private endpoint connection, and approves the
// right of who lets somebody's network in, which is another one than to ask for it.
const (
	ConnectionType               = Type + "/privateEndpointConnections"
	approves       access.Action = ConnectionType + "Approval/action"
)

// MaxConnections is how many private endpoints a registry has at most, as in Azure.
// Of those, MaxWaiting may be agents of links that asked by themselves and have no
// answer yet: they are strangers, who leave the rest to the owner.
const (
	MaxConnections = 200
	MaxWaiting     = 16
)

// Connections are the private endpoint connections of registries (NS-2). They are
// found by their endpoint, of which a registry has one connection: were there two,
// a network that its owner rejects might come in by the other.
func Connections(docs *resource.Store) *setting.Kind[network.PrivateEndpointConnection] {
	return connections(docs, nil)
}

// connections are Connections for an agent that asks by itself, if there is one: only
// that tells where from and when.
func connections(docs *resource.Store, asks *network.Linked) *setting.Kind[network.PrivateEndpointConnection] {
	return &setting.Kind[network.PrivateEndpointConnection]{
		Type: ConnectionType, Called: "private endpoint connection", Most: MaxConnections,
		Holder: func(c network.PrivateEndpointConnection) string { return c.PrivateEndpoint.ID.Key() },
		Check: func(ctx context.Context, tx *db.Tx, g access.Grant, c *setting.Change[network.PrivateEndpointConnection]) error {
			var was *network.PrivateEndpointConnection
			if c.Was != nil {
				was = &c.Was.P
				c.More["endpoint"], c.More["was"] = was.PrivateEndpoint.ID.Key(), was.State.Status
			}
			if c.Next == nil {
				return nil
			}
			next := &c.Next.P
			if err := next.Check(was); err != nil {
				return err
			}
			c.More["endpoint"], c.More["status"] = next.PrivateEndpoint.ID.Key(), next.State.Status
			if next.State.Status == network.Approved && (was == nil || was.State.Status != network.Approved) {
				if err := g.Allows(approves, c.On.ID.Scope()); err != nil {
					return err
				}
			}
			others, err := docs.FindTx(ctx, tx, connected(next.PrivateEndpoint.ID, c.On.ID))
			if err != nil {
				return err
			}
			for _, other := range others {
				if other.ID.Key() != c.ID.Key() {
					return fault.New(fault.Conflict, "the connection %s is for this private endpoint already", other.ID.Name())
				}
			}
			if was != nil || asks == nil {
				return nil
			}
			next.Link = asks
			return waiting(ctx, tx, docs, c.On.ID)
		},
	}
}

// connected are the connections for an endpoint, below under.
func connected(endpoint, under ref.ID) resource.Query {
	return resource.Query{Type: ConnectionType, Holders: []string{endpoint.Key()}, Under: []ref.ID{under}}
}

// behind is the name in lower case of the one registry whose owner approved the
// private endpoint; "" if there is none, or more than one.
func (s *Store) behind(ctx context.Context, endpoint ref.ID) (string, error) {
	return s.behinds.Get(ctx, s.o.Documents, ref.ID(endpoint.Key()), func(ctx context.Context) (string, error) {
		docs, err := s.o.Documents.Find(ctx, connected(endpoint, ""))
		if err != nil {
			return "", err
		}
		name := ""
		for _, doc := range docs {
			var c network.PrivateEndpointConnection
			if err := json.Unmarshal(doc.Properties, &c); err != nil {
				return "", fmt.Errorf("read %s: %w", doc.ID, err)
			}
			if c.State.Status != network.Approved {
				continue
			}
			if name != "" {
				return "", nil
			}
			name = strings.ToLower(doc.ID.Parent().Name())
		}
		return name, nil
	})
}

// waiting refuses one more agent if too many have no answer yet.
func waiting(ctx context.Context, tx *db.Tx, docs *resource.Store, on ref.ID) error {
	all, err := docs.FindTx(ctx, tx, resource.Query{Type: ConnectionType, Under: []ref.ID{on}})
	if err != nil {
		return err
	}
	n := 0
	for _, doc := range all {
		var c network.PrivateEndpointConnection
		if err := json.Unmarshal(doc.Properties, &c); err != nil {
			return fmt.Errorf("read %s: %w", doc.ID, err)
		}
		if c.State.Status == network.Pending && c.Link != nil && !c.Link.Asked.IsZero() {
			n++
		}
	}
	if n >= MaxWaiting {
		return fault.New(fault.Conflict, "%d links wait for an answer already", n)
	}
	return nil
}

// Ask asks the owner of a registry, by its name, for a connection of a private
// endpoint, if nobody has yet: it is Pending until the owner approves it.
func (s *Store) Ask(ctx context.Context, settings *setting.Store, name string, endpoint ref.ID, message string) error {
	return s.ask(ctx, settings, Connections(s.o.Documents), name, endpoint.Name(), endpoint, message, access.Call{})
}

// AskLink does so for the agent of a link, which calls itself something and came
// from somewhere. Its key is a part of the connection's name, so that nobody takes
// another one's.
func (s *Store) AskLink(ctx context.Context, settings *setting.Store, name, called string, l network.Linked, from ledger.From) error {
	return s.ask(ctx, settings, connections(s.o.Documents, &l), name, called+"."+string(l.Fingerprint[:16]), l.Fingerprint.Endpoint(), l.Message, access.Call{From: from})
}

func (s *Store) ask(ctx context.Context, settings *setting.Store, kind *setting.Kind[network.PrivateEndpointConnection], name, called string, endpoint ref.ID, message string, call access.Call) error {
	r, err := s.ByName(ctx, name)
	if err != nil {
		return err
	}
	if docs, err := s.o.Documents.Find(ctx, connected(endpoint, r.ID)); err != nil || len(docs) > 0 {
		return err
	}
	asked := setting.Setting[network.PrivateEndpointConnection]{Resource: resource.Resource{ID: r.ID.Child("privateEndpointConnections", called)}}
	asked.P.PrivateEndpoint.ID, asked.P.GroupIDs, asked.P.State.Description = endpoint, []string{network.LinkGroup}, message
	_, err = kind.Put(ctx, settings, access.ServerGrant(r.Ref(), call), asked, resource.Absent)
	if fault.Of(err) == fault.Conflict {
		if docs, found := s.o.Documents.Find(ctx, connected(endpoint, r.ID)); found == nil && len(docs) > 0 {
			return nil // another process asked at the same time
		}
	}
	return err
}

// Standing is the registry of that name, and its connection with the private
// endpoint; nil if there is none.
func (s *Store) Standing(ctx context.Context, name string, endpoint ref.ID) (*Registry, *network.PrivateEndpointConnection, error) {
	r, err := s.ByName(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	for i := range r.Endpoints {
		if c := &r.Endpoints[i]; c.PrivateEndpoint.ID.Key() == endpoint.Key() {
			return r, c, nil
		}
	}
	return r, nil, nil
}
