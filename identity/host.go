package identity

import (
	"context"
	"crypto/subtle"
	"net/netip"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/network"
	"breakwater/ref"
)

// Host says which managed identities the workloads of this machine are. Who
// reaches the listener, which only this machine can, is one of them.
type Host struct {
	Listener   string   // name of the listener; "" is no such host
	Secret     Secret   // for those shapes of the endpoint that have one
	Identities []ref.ID // of userAssignedIdentities; the first is for who names none, if it is the only one
}

// hostCredential is what the tokens of a host's workloads descend from.
const hostCredential = "host"

// host proves a workload of this machine: by the listener that it reached, and by
// the secret where it shows one.
func (s *Store) host(ctx context.Context, r Realm, c Credentials, from network.Origin) (Principal, error) {
	if s.o.Host.Listener == "" || from.Listener != s.o.Host.Listener || !from.Addr.IsLoopback() && from.Addr != imds {
		return Principal{}, refused()
	}
	if c.Secret != "" && subtle.ConstantTimeCompare([]byte(c.Secret), []byte(s.o.Host.Secret)) != 1 {
		return Principal{}, refused()
	}
	if c.Name == "" && len(s.o.Host.Identities) > 1 {
		return Principal{}, fault.New(fault.BadRequest, "this host has several identities: name one by client_id, object_id or msi_res_id")
	}
	for _, id := range s.o.Host.Identities {
		p, err := s.workload(ctx, id)
		if fault.Of(err) == fault.Unauthenticated {
			continue // it is gone; another may be meant
		}
		if err != nil {
			return Principal{}, err
		}
		if c.Name == "" || strings.EqualFold(c.Name, p.Client) || strings.EqualFold(c.Name, p.ID) || strings.EqualFold(c.Name, string(id)) {
			p.Authentication.Time = time.Now().UTC().Truncate(time.Second)
			return p, nil
		}
	}
	return Principal{}, fault.New(fault.BadRequest, "no identity of this name is given to this machine; the operator lists them in managedIdentity.identities")
}

// imds is the address where clouds have this endpoint. Where an operator gives it
// to the loopback interface, callers come from it as well.
var imds = netip.AddrFrom4([4]byte{169, 254, 169, 254})
