package directory

import (
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// Bounds of a service principal.
const (
	maxRedirects   = 64
	maxCredentials = 20 // certificates, and secrets, and federated credentials of one principal
)

// A ServicePrincipal is an application of this server's own directory.
type ServicePrincipal struct {
	ID          ref.ID
	Name        string
	PrincipalID string
	Etag        string
	System      resource.SystemData
	Secrets     []identity.SecretInfo
	identity.ServicePrincipalProperties
}

// ServicePrincipalSettings are what may be changed of a service principal.
type ServicePrincipalSettings struct {
	DisplayName  string
	Status       string // "" is enabled
	RedirectURIs []string
}

var servicePrincipals = kind{identity.ServicePrincipalType, "service principal"}

const allServicePrincipals = ref.ID("/providers/" + identity.ServicePrincipalType)

// PutServicePrincipal creates or changes a service principal, if ifMatch holds. A
// new one gets its client id, and nothing yet to prove itself with.
func (s *Store) PutServicePrincipal(ctx context.Context, g access.Grant, name string, set ServicePrincipalSettings, ifMatch string) (ServicePrincipal, error) {
	if err := identity.CheckName("service principal", name); err != nil {
		return ServicePrincipal{}, err
	}
	if err := set.check(); err != nil {
		return ServicePrincipal{}, err
	}
	return s.changeServicePrincipal(ctx, g, access.ServicePrincipalWrite, name, ifMatch, func(tx *db.Tx, p *identity.ServicePrincipalProperties) (map[string]string, error) {
		if p.AppID == "" {
			p.AppID = ref.NewGUID()
			pointer := resource.Resource{ID: identity.ClientID(p.AppID), Type: identity.ClientType}
			if _, err := s.put(ctx, tx, g, pointer, identity.Pointer{ID: identity.ServicePrincipalID(name)}, resource.Absent); err != nil {
				return nil, err
			}
		}
		if set.Status == disabled && g.Principal().Client == p.AppID {
			return nil, fault.New(fault.Conflict, "nobody disables itself; let somebody else do it")
		}
		p.DisplayName, p.Status, p.RedirectURIs = set.DisplayName, set.Status, set.RedirectURIs
		return map[string]string{"status": p.Status, "redirectUris": strings.Join(p.RedirectURIs, " ")}, nil
	})
}

func (set *ServicePrincipalSettings) check() error {
	if err := checkStatus(&set.Status); err != nil {
		return err
	}
	if err := checkText("display name", set.DisplayName); err != nil {
		return err
	}
	if len(set.RedirectURIs) > maxRedirects {
		return fault.New(fault.BadRequest, "a service principal has at most %d redirect URIs", maxRedirects)
	}
	for _, text := range set.RedirectURIs {
		if err := checkRedirect(text); err != nil {
			return err
		}
	}
	return nil
}

// checkRedirect lets only addresses through to which a code can be sent without
// somebody else on the way: https, or the loopback of the caller's own machine
// (RFC 8252, 7.3). They are compared as they stand.
func checkRedirect(text string) error {
	u, err := url.Parse(text)
	bad := err != nil || len(text) > 1024 || u.Host == "" || u.User != nil || u.Opaque != "" || strings.ContainsAny(text, "#*\\ ") ||
		strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	if !bad {
		address, _ := netip.ParseAddr(u.Hostname())
		bad = u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && !address.IsLoopback())
	}
	if bad {
		return fault.New(fault.BadRequest, "a redirect URI is an https URL, or an http URL of localhost, without fragment and wildcard")
	}
	return nil
}

// ServicePrincipal reads one service principal.
func (s *Store) ServicePrincipal(ctx context.Context, g access.Grant, name string) (ServicePrincipal, error) {
	return show(ctx, s, g, access.ServicePrincipalRead, servicePrincipals, identity.ServicePrincipalID(name), s.servicePrincipal)
}

// ServicePrincipals lists the service principals after the one called after, in
// order of name.
func (s *Store) ServicePrincipals(ctx context.Context, g access.Grant, after string, limit int) ([]ServicePrincipal, error) {
	if err := g.Allows(access.ServicePrincipalRead, allServicePrincipals.Scope()); err != nil {
		return nil, err
	}
	return each(ctx, s, g, access.ServicePrincipalRead, servicePrincipals, allServicePrincipals, start(identity.ServicePrincipalID, after), limit, s.servicePrincipal)
}

// DeleteServicePrincipal deletes a service principal with everything that proves
// it.
func (s *Store) DeleteServicePrincipal(ctx context.Context, g access.Grant, name, ifMatch string) error {
	return remove(ctx, s, g, access.ServicePrincipalDelete, servicePrincipals, identity.ServicePrincipalID(name), ifMatch,
		func(tx *db.Tx, doc resource.Resource, p identity.ServicePrincipalProperties) (map[string]string, error) {
			return s.forgetClient(ctx, tx, doc, p.AppID)
		})
}

// forgetClient deletes the pointer to a client, whose secrets lie below that.
func (s *Store) forgetClient(ctx context.Context, tx *db.Tx, doc resource.Resource, client string) (map[string]string, error) {
	return map[string]string{"principal": doc.System.UID, "client": client}, s.forget(ctx, tx, identity.ClientID(client))
}

// AddPassword makes a secret for a service principal, beside those that it has;
// nobody can read it again. Zero times mean from now on, for as long as is usual.
func (s *Store) AddPassword(ctx context.Context, g access.Grant, name, displayName string, start, end time.Time) (identity.MadeSecret, error) {
	id := identity.ServicePrincipalID(name)
	if err := g.Allows(access.ServicePrincipalAddPassword, id.Scope()); err != nil {
		return identity.MadeSecret{}, err
	}
	if err := checkText("display name", displayName); err != nil {
		return identity.MadeSecret{}, err
	}
	doc, err := s.get(ctx, servicePrincipals, id)
	if err != nil {
		return identity.MadeSecret{}, err
	}
	p, err := read[identity.ServicePrincipalProperties](doc)
	if err != nil {
		return identity.MadeSecret{}, err
	}
	secret, err := s.Identity.NewSecret(ctx, p.AppID, displayName, start, end)
	if err != nil {
		return identity.MadeSecret{}, err
	}
	return secret, s.write(ctx, func(tx *db.Tx) error {
		if now, err := s.getTx(ctx, tx, servicePrincipals, id); err != nil || now.System.UID != doc.System.UID {
			return absent(servicePrincipals.called)
		}
		if err := s.Identity.PutSecret(ctx, tx, g.Modified(), secret, maxCredentials); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, access.ServicePrincipalAddPassword, id, map[string]string{
			"keyId": secret.KeyID, "until": secret.End.Format(time.RFC3339)})
	})
}

// RemovePassword takes a secret away; whoever uses it, or a token that descends
// from it, is unknown from the next request on.
func (s *Store) RemovePassword(ctx context.Context, g access.Grant, name, keyID string) error {
	id := identity.ServicePrincipalID(name)
	if err := g.Allows(access.ServicePrincipalRemovePassword, id.Scope()); err != nil {
		return err
	}
	return s.write(ctx, func(tx *db.Tx) error {
		doc, err := s.getTx(ctx, tx, servicePrincipals, id)
		if err != nil {
			return err
		}
		p, err := read[identity.ServicePrincipalProperties](doc)
		if err != nil {
			return err
		}
		if err := s.Identity.RemoveSecret(ctx, tx, g.Modified(), p.AppID, strings.ToLower(keyID)); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, access.ServicePrincipalRemovePassword, id, map[string]string{"keyId": keyID})
	})
}

// AddKey registers a certificate, in PEM or DER, with which the service principal
// may sign assertions as long as the certificate is valid.
func (s *Store) AddKey(ctx context.Context, g access.Grant, name, displayName string, certificate []byte) (identity.Key, error) {
	if err := checkText("display name", displayName); err != nil {
		return identity.Key{}, err
	}
	k, err := identity.NewKey(displayName, certificate)
	if err != nil {
		return identity.Key{}, err
	}
	_, err = s.changeServicePrincipal(ctx, g, access.ServicePrincipalAddKey, name, resource.Exists, func(_ *db.Tx, p *identity.ServicePrincipalProperties) (map[string]string, error) {
		if len(p.Keys) >= maxCredentials {
			return nil, fault.New(fault.Conflict, "a service principal has at most %d certificates; remove one first", maxCredentials)
		}
		if slices.ContainsFunc(p.Keys, func(of identity.Key) bool { return string(of.Certificate) == string(k.Certificate) }) {
			return nil, fault.New(fault.Conflict, "the service principal has this certificate already")
		}
		p.Keys = append(p.Keys, k)
		return map[string]string{"keyId": k.KeyID, "thumbprint": k.Thumbprint, "until": k.End.Format(time.RFC3339)}, nil
	})
	return k, err
}

// RemoveKey takes a certificate away.
func (s *Store) RemoveKey(ctx context.Context, g access.Grant, name, keyID string) error {
	_, err := s.changeServicePrincipal(ctx, g, access.ServicePrincipalRemoveKey, name, resource.Exists, func(_ *db.Tx, p *identity.ServicePrincipalProperties) (map[string]string, error) {
		n := len(p.Keys)
		p.Keys = slices.DeleteFunc(p.Keys, func(k identity.Key) bool { return strings.EqualFold(k.KeyID, keyID) })
		if len(p.Keys) == n {
			return nil, fault.New(fault.NotFound, "the service principal has no certificate with this keyId")
		}
		return map[string]string{"keyId": keyID}, nil
	})
	return err
}

// changeServicePrincipal reads, changes and writes in one transaction.
func (s *Store) changeServicePrincipal(ctx context.Context, g access.Grant, a access.Action, name, ifMatch string,
	change func(*db.Tx, *identity.ServicePrincipalProperties) (map[string]string, error)) (ServicePrincipal, error) {
	id := identity.ServicePrincipalID(name)
	if err := g.Allows(a, id.Scope()); err != nil {
		return ServicePrincipal{}, err
	}
	var doc resource.Resource
	err := s.write(ctx, func(tx *db.Tx) (err error) {
		var p identity.ServicePrincipalProperties
		doc, err = s.getTx(ctx, tx, servicePrincipals, id)
		switch {
		case err == nil:
			if p, err = read[identity.ServicePrincipalProperties](doc); err != nil {
				return err
			}
		case fault.Of(err) == fault.NotFound && ifMatch != resource.Exists:
			doc = resource.Resource{ID: id, Type: identity.ServicePrincipalType}
		default:
			return err
		}
		more, err := change(tx, &p)
		if err != nil {
			return err
		}
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, servicePrincipals.called, name)
		}
		return g.Record(ctx, tx, s.Ledger, a, id, more)
	})
	if err != nil {
		return ServicePrincipal{}, err
	}
	return s.servicePrincipal(ctx, doc)
}

func (s *Store) servicePrincipal(ctx context.Context, doc resource.Resource) (ServicePrincipal, error) {
	p, err := read[identity.ServicePrincipalProperties](doc)
	if err != nil {
		return ServicePrincipal{}, err
	}
	sp := ServicePrincipal{ID: doc.ID, Name: doc.ID.Name(), PrincipalID: doc.System.UID, Etag: doc.Etag, System: doc.System, ServicePrincipalProperties: p}
	sp.Secrets, err = s.Identity.Secrets(ctx, p.AppID)
	return sp, err
}
