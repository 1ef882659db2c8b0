package registry

import (
	"cmp"
	"context"
	"net"
	"strings"

	"breakwater/fault"
)

// dataLabel stands between a registry's location and the domain where its dedicated
// data endpoint is meant, as Azure has it: <name>.<location>.data.<domain>.
const dataLabel = "data"

func dataHost(name, location, domain string) string {
	return strings.ToLower(name) + "." + location + "." + dataLabel + "." + domain
}

// A dataName is what the name of a data endpoint says.
type dataName struct{ name, location string }

// parseData reads the host name of a data endpoint below domain, also the one by which
// private endpoints know it: <name>.<location>.data.privatelink.<domain>.
func parseData(host, domain string) (n dataName, ok bool) {
	if domain == "" {
		return n, false
	}
	rest, ok := strings.CutSuffix(bare(host), "."+bare(domain))
	if !ok {
		return n, false
	}
	rest, ok = strings.CutSuffix(strings.TrimSuffix(rest, "."+PrivateLink), "."+dataLabel)
	if !ok {
		return n, false
	}
	n.name, n.location, ok = strings.Cut(rest, ".")
	return n, ok && validName(n.name) && isLabel(n.location)
}

// isLabel reports whether s can be one label of a host name.
func isLabel(s string) bool {
	return 0 < len(s) && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// IsDataHost reports whether a host could only be a data endpoint, and so is nothing
// else, whether or not there is a registry that has one there.
func (s *Store) IsDataHost(host string) bool {
	_, ok := parseData(host, s.o.Domain)
	return ok
}

// ByDataHost is the registry whose data endpoint has this name. Without one the name
// is unknown. The result is shared: do not change it.
func (s *Store) ByDataHost(ctx context.Context, host string) (*Registry, error) {
	n, ok := parseData(host, s.o.Domain)
	if !ok {
		return nil, unknown()
	}
	r, err := s.ByName(ctx, n.name)
	if err == nil && (r.DataHost == "" || r.Location != n.location) {
		return nil, unknown()
	}
	return r, err
}

// DataHost is the host[:port] where whoever came to r as host gets blobs: the name of
// the same network, at the port that leads here from there. "" is host itself: the
// registry has no data endpoint, or the server no certificate that is for it.
func (s *Store) DataHost(ctx context.Context, r *Registry, host string) string {
	if r.DataHost == "" {
		return ""
	}
	domain := bare(s.o.Domain)
	if strings.HasSuffix(bare(host), "."+PrivateLink+"."+domain) {
		domain = PrivateLink + "." + domain
	}
	to := dataHost(r.Name, r.Location, domain)
	if s.o.Shown != nil && !s.o.Shown(ctx, to) {
		return ""
	}
	if _, port, err := net.SplitHostPort(host); err == nil && port != "" && strings.Trim(port, "0123456789") == "" {
		return net.JoinHostPort(to, port)
	}
	return to
}

// missing is what the settings of r ask for and nothing here does at this moment.
func (s *Store) missing(ctx context.Context, r *Registry) string {
	unmet, data := r.Unmet(), ""
	switch {
	case !r.DataEndpointEnabled:
	case r.DataHost == "":
		data = "dataEndpointEnabled: the server has no domain under which there could be a data endpoint; blobs come from the login server"
	case s.DataHost(ctx, r, "") == "":
		data = "dataEndpointEnabled: the server's certificate is not for " + bare(r.DataHost) + "; until it is, blobs come from the login server"
	}
	if unmet == "" || data == "" {
		return cmp.Or(unmet, data)
	}
	return unmet + "; " + data
}

// dataNameable refuses a data endpoint that could have no host name.
func (s *Store) dataNameable(name, location string) error {
	switch {
	case s.o.Domain == "":
		return fault.New(fault.Conflict, "this server has no domain under which a data endpoint could be reached; start it with --domain, or leave dataEndpointEnabled false")
	case !isLabel(location) || len(dataHost(name, location, PrivateLink+"."+bare(s.o.Domain))) > 253:
		return fault.New(fault.BadRequest, "a data endpoint is called NAME.LOCATION.data.DOMAIN, and no host can be called %s: make the registry in another location", dataHost(name, location, bare(s.o.Domain)))
	}
	return nil
}
