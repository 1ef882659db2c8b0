package arm

import (
	"context"
	"encoding/json"

	"breakwater/access"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// issuers are the external issuers of tokens. A client secret goes in and does not
// come out.
func issuers(s *directory.Store) Kind {
	return row[*identity.Issuer, identity.IssuerProperties]{
		Kind: Kind{
			Type: identity.IssuerType, Place: inTenant, Read: access.IssuerRead, Write: access.IssuerWrite, Delete: access.IssuerDelete,
			Actions: []Action{{Name: "resolve", Right: access.IssuerRead, Reads: true,
				Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
					var of struct{ Subject, Claim, Value string }
					if err := understand(body, &of); err != nil {
						return nil, err
					}
					if (of.Subject == "") == (of.Claim == "") || of.Subject != "" && of.Value != "" {
						return nil, fault.New(fault.BadRequest, "say which subject, or which claim and value")
					}
					return s.Resolve(ctx, g, id.Name(), of.Claim, of.Subject+of.Value)
				}}},
		},
		shown: func(i *identity.Issuer) (resource.Resource, identity.IssuerProperties) {
			return resource.Resource{ID: i.ID, Etag: i.Etag, System: i.System}, i.IssuerProperties
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (*identity.Issuer, error) {
			return s.Issuer(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]*identity.Issuer, error) {
			return s.Issuers(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, p identity.IssuerProperties, ifMatch string) (*identity.Issuer, error) {
			return s.PutIssuer(ctx, g, next.ID.Name(), p, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteIssuer(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}
