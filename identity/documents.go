package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

// Types of the documents of who can be known. directory writes them, and this
// package reads them when somebody has to be proven.
const (
	ServicePrincipalType = "Breakwater.Identity/servicePrincipals"
	ManagedIdentityType  = "Microsoft.ManagedIdentity/userAssignedIdentities"
	federatedKind        = "federatedIdentityCredentials" // a child of each of the two
	ClientType           = "Breakwater.Identity/clients"
)

// ServicePrincipalID is the id of a service principal's document.
func ServicePrincipalID(name string) ref.ID {
	return ref.ID("/providers/" + ServicePrincipalType + "/" + name)
}

// FederatedCredentialID is the id of a federated credential of a service principal
// or managed identity.
func FederatedCredentialID(of ref.ID, name string) ref.ID { return of.Child(federatedKind, name) }

// FederatedCredentialType is the type of the federated credentials of a type.
func FederatedCredentialType(of string) string { return of + "/" + federatedKind }

// ClientID is the id of the pointer by which a client id is found. No API shows
// it. The verifiers of the client's secrets lie below it and go with it.
func ClientID(client string) ref.ID { return ref.ID("/providers/" + ClientType + "/" + client) }

// A Pointer is the stored properties of a document that says where another one
// is. What it points to says so as well, or it points nowhere.
type Pointer struct {
	ID ref.ID `json:"id"`
}

// ServicePrincipalProperties are the stored properties of a service principal.
type ServicePrincipalProperties struct {
	DisplayName  string   `json:"displayName,omitempty"`
	AppID        string   `json:"appId"`  // its client id: a random GUID
	Status       string   `json:"status"` // enabled or disabled
	RedirectURIs []string `json:"redirectUris,omitempty"`
	Keys         []Key    `json:"keyCredentials,omitempty"`
}

// ManagedIdentityProperties are the stored properties of a managed identity.
type ManagedIdentityProperties struct {
	ClientID string `json:"clientId"` // a random GUID
}

// FederatedCredentialProperties are the stored properties of a federated
// credential: whose tokens stand for the client, and which of them.
type FederatedCredentialProperties struct {
	Issuer      string   `json:"issuer"`    // URL of a configured issuer, as its tokens say it
	Subject     string   `json:"subject"`   // sub of the token
	Audiences   []string `json:"audiences"` // aud of the token is one of them
	Description string   `json:"description,omitempty"`
}

// maxFederatedAudiences bounds the audiences of a federated credential.
const maxFederatedAudiences = 10

// Check refuses what no token could match, and what could match more than it says:
// nothing here is a pattern.
func (p *FederatedCredentialProperties) Check() error {
	said := func(s string) bool { return s != "" && len(s) <= maxSubject && !hasControl(s) }
	switch {
	case !validIssuer(p.Issuer):
		return fault.New(fault.BadRequest, "the issuer is an https URL without query and fragment, as the tokens have it in iss")
	case !said(p.Subject):
		return fault.New(fault.BadRequest, "the subject is the sub of the token, of at most %d printable characters", maxSubject)
	case len(p.Audiences) > maxFederatedAudiences:
		return fault.New(fault.BadRequest, "a federated credential has at most %d audiences", maxFederatedAudiences)
	case slices.ContainsFunc(p.Audiences, func(a string) bool { return !said(a) }):
		return fault.New(fault.BadRequest, "an audience is one that the token has in aud, of at most %d printable characters", maxSubject)
	}
	return nil
}

// A Client is an application that has a client id.
type Client struct {
	Kind         Kind // ServicePrincipal or ManagedIdentity
	ID           ref.ID
	ClientID     string
	PrincipalID  string
	Name         string // what people call it
	Enabled      bool
	RedirectURIs []string
	keys         []Key
}

// Client finds a client by its id; NotFound if there is none. Whether it is
// enabled is for the caller to ask.
func (s *Store) Client(ctx context.Context, id string) (*Client, error) {
	id = strings.ToLower(id)
	return s.clients.Get(ctx, s.o.Documents, id, func(ctx context.Context) (*Client, error) {
		if !ref.IsGUID(id) {
			return nil, unknownClient()
		}
		doc, err := s.o.Documents.Get(ctx, ClientID(id))
		if err != nil {
			return nil, missing(err)
		}
		var to Pointer
		if err := json.Unmarshal(doc.Properties, &to); err != nil {
			return nil, fmt.Errorf("read %s: %w", doc.ID, err)
		}
		c, err := s.ClientAt(ctx, to.ID)
		if err == nil && c.ClientID != id {
			return nil, unknownClient()
		}
		return c, err
	})
}

// ClientAt is the client whose document that is; NotFound if it is no client.
func (s *Store) ClientAt(ctx context.Context, id ref.ID) (*Client, error) {
	doc, err := s.o.Documents.Get(ctx, id)
	if err != nil {
		return nil, missing(err)
	}
	return readClient(doc)
}

// ManagedIdentity finds a managed identity by the id of its principal; NotFound if
// there is none.
func (s *Store) ManagedIdentity(ctx context.Context, principal string) (*Client, error) {
	all, err := s.managed.Get(ctx, s.o.Documents, struct{}{}, func(ctx context.Context) (map[string]*Client, error) {
		docs, err := s.o.Documents.List(ctx, "", ManagedIdentityType, "", 0)
		if err != nil {
			return nil, err
		}
		all := make(map[string]*Client, len(docs))
		for _, doc := range docs {
			c, err := readClient(doc)
			if err != nil {
				return nil, err
			}
			all[c.PrincipalID] = c
		}
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	if c := all[strings.ToLower(principal)]; c != nil {
		return c, nil
	}
	return nil, unknownClient()
}

func readClient(doc resource.Resource) (*Client, error) {
	c := &Client{ID: doc.ID, PrincipalID: doc.System.UID, Name: doc.ID.Name()}
	switch doc.Type {
	case ServicePrincipalType:
		var p ServicePrincipalProperties
		if err := json.Unmarshal(doc.Properties, &p); err != nil {
			return nil, fmt.Errorf("read service principal %s: %w", doc.ID, err)
		}
		c.Kind, c.ClientID, c.Enabled, c.RedirectURIs, c.keys = ServicePrincipal, p.AppID, p.Status == EnabledStatus, p.RedirectURIs, p.Keys
	case ManagedIdentityType:
		var p ManagedIdentityProperties
		if err := json.Unmarshal(doc.Properties, &p); err != nil {
			return nil, fmt.Errorf("read managed identity %s: %w", doc.ID, err)
		}
		c.Kind, c.ClientID, c.Enabled = ManagedIdentity, p.ClientID, true
	default:
		return nil, unknownClient()
	}
	return c, nil
}

func (c *Client) typ() string {
	if c.Kind == ManagedIdentity {
		return ManagedIdentityType
	}
	return ServicePrincipalType
}

func unknownClient() error { return fault.New(fault.NotFound, "there is no such client") }

func missing(err error) error {
	if fault.Of(err) == fault.NotFound {
		return unknownClient()
	}
	return err
}
