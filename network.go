package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"breakwater/network"
	"breakwater/registry"
)

func networkCommand() *cobra.Command {
	c := family("network", "Which networks reach what, and why", networkExplain(), networkDNS())
	asClient(c)
	return c
}

func networkExplain() *cobra.Command {
	c := &cobra.Command{
		Use: "explain ADDRESS REGISTRY OPERATION | explain --to HOST:PORT --for PURPOSE", Short: "Say which rule decides about a request or a connection, and why",
		Long: `Say which network rule of the server decides about a request, and which others
were asked before: the security rules about its connection first, then those of the
registry. OPERATION is login, pull, push, delete or list for content, and manage or a
right for what is done with the registry itself.

With --to, say so of a connection that the server itself makes, for the purpose
issuer, webhook, import, cache, key, sink, peer, database or acme. The name is not
looked up without --resolve.

The server answers by those functions that decide; whether the caller has the right
is another question.`,
		Example: `  breakwater network explain 203.0.113.9 shop pull
  breakwater network explain 10.0.0.7 shop push --listener inner --port 8443
  breakwater network explain --to keys.example.com:443 --for issuer --resolve`,
	}
	output := outputFlag(c, "table", "json")
	listener := c.Flags().String("listener", mainListener, "the listener that the request comes to")
	port := c.Flags().Uint16("port", 0, "the port that it comes to (default that of the login's server)")
	destination := c.Flags().String("destination", "", "the address of the server that it comes to")
	endpoint := c.Flags().String("endpoint", "", "id of the private endpoint that it comes by")
	to := c.Flags().String("to", "", "HOST:PORT that the server connects to")
	purpose := c.Flags().String("for", "", "why it connects")
	resolve := c.Flags().Bool("resolve", false, "have the server look the name up")
	c.Args = func(c *cobra.Command, args []string) error {
		if *to != "" || *purpose != "" || *resolve {
			if *to == "" || *purpose == "" || len(args) > 0 {
				return usagef("network explain: --to and --for go together, and alone")
			}
			return nil
		}
		return cobra.ExactArgs(3)(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		if *port == 0 && *listener == mainListener {
			*port = serverPort(client.Server)
		}
		path, asked := "/providers/Breakwater.Network/explainOutbound", fields{"to": *to, "purpose": *purpose, "resolve": *resolve}
		if *to == "" {
			client.Name = args[1]
			id, err := client.registry(c.Context())
			if err != nil {
				return err
			}
			path, asked = id+"/explainNetwork", fields{"address": args[0], "operation": args[2], "listener": *listener, "port": *port}
			if *destination != "" {
				asked["destination"] = *destination
			}
			if *endpoint != "" {
				asked["endpoint"] = *endpoint
			}
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodPost, path+apiVersion, asked, &whole); err != nil {
			return err
		}
		if output.is("json") {
			return json.NewEncoder(c.OutOrStdout()).Encode(whole)
		}
		var e struct {
			Outcome, Rule, Reason string
			Steps                 []network.Step
		}
		if err := json.Unmarshal(whole, &e); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %s (%s)\n", printable(e.Outcome), printable(e.Rule), printable(e.Reason))
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, s := range e.Steps {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", printable(s.Rule), printable(s.Outcome), printable(s.Reason))
		}
		return w.Flush()
	}
	return c
}

// A dnsName is a name of a registry that a consumer's network has to resolve.
type dnsName struct {
	Member  string `json:"member"` // of the private link resource: registry, registry_data_REGION
	Name    string `json:"name"`   // that clients ask for
	CNAME   string `json:"cname"`  // that it means
	Zone    string `json:"zone"`   // where that one's address lies
	Address string `json:"address,omitempty"`
}

func networkDNS() *cobra.Command {
	c := &cobra.Command{
		Use: "dns REGISTRY", Short: "Print the names that a network with a private endpoint must resolve", Args: cobra.ExactArgs(1),
		Long: `Print the names that a network with a private endpoint must resolve, as Azure has
them: NAME.DOMAIN is NAME.privatelink.DOMAIN, whose address is that of the private
endpoint: of the listener, or where the agent of a link listens. --output hosts and
zone print lines for /etc/hosts and for a zone file.`,
		Example: `  breakwater network dns shop --address 10.20.0.5
  breakwater network dns shop --address 10.20.0.5 --output zone`,
	}
	output := outputFlag(c, "table", "json", "hosts", "zone")
	address := c.Flags().String("address", "", "of the private endpoint in that network")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := netip.ParseAddr(*address)
		switch {
		case *address != "" && err != nil:
			return usagef("network dns: --address is an IP address, not %q", *address)
		case *address == "" && (output.is("hosts") || output.is("zone")):
			return usagef("network dns: --output %s needs --address", output)
		}
		client, err := connect(c)
		if err != nil {
			return err
		}
		client.Name = args[0]
		id, err := client.registry(c.Context())
		if err != nil {
			return err
		}
		var r struct {
			Name       string
			Properties struct {
				LoginServer           string
				DataEndpointHostNames []string
			}
		}
		if err := client.call(c.Context(), http.MethodGet, id+apiVersion, nil, &r); err != nil {
			return err
		}
		var group struct {
			Properties struct{ RequiredMembers []string }
		}
		if err := client.call(c.Context(), http.MethodGet, id+"/privateLinkResources/"+network.LinkGroup+apiVersion, nil, &group); err != nil {
			return err
		}
		server := r.Properties.LoginServer
		if before, _, _ := strings.Cut(server, "."); !strings.EqualFold(before, r.Name) { // the registry without a name of its own
			domain, err := client.domain(c.Context())
			if err != nil {
				return err
			}
			if domain == "" {
				return fmt.Errorf("%s is reached at %s and by no name of its own: start the server with --domain", r.Name, server)
			}
			server = strings.ToLower(r.Name) + "." + domain
		}
		names := privateDNS(server, r.Properties.DataEndpointHostNames, group.Properties.RequiredMembers)
		if at.IsValid() {
			for i := range names {
				names[i].Address = at.String()
			}
		}
		return printDNS(c.OutOrStdout(), output, names, at)
	}
	return c
}

// domain is where the server's registries have their names; "" for one that has none.
func (c *client) domain(ctx context.Context) (string, error) {
	var about []struct {
		Suffixes struct{ ACRLoginServer string }
	}
	if err := c.call(ctx, http.MethodGet, "/metadata/endpoints?api-version=2022-09-01", nil, &about); err != nil || len(about) == 0 {
		return "", err
	}
	domain := strings.TrimPrefix(about[0].Suffixes.ACRLoginServer, ".")
	if domain == strings.TrimPrefix(c.Server, "https://") {
		return "", nil
	}
	return domain, nil
}

// privateDNS are the names of a registry: of its login server, and of where its blobs
// lie (NAME.REGION.data.DOMAIN) if that is elsewhere. members are what Azure calls
// them, in the same order.
func privateDNS(loginServer string, data, members []string) (all []dnsName) {
	for i, host := range append([]string{loginServer}, data...) {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		mark := "."
		if i > 0 {
			mark = ".data."
		}
		before, domain, ok := strings.Cut(host, mark)
		if !ok || i >= len(members) {
			continue // its blobs lie at the login server
		}
		zone := registry.PrivateLink + "." + domain
		all = append(all, dnsName{Member: members[i], Name: host, CNAME: before + strings.TrimSuffix(mark, ".") + "." + zone, Zone: zone})
	}
	return all
}

func printDNS(out io.Writer, output *output, names []dnsName, at netip.Addr) error {
	switch {
	case output.is("json"):
		return json.NewEncoder(out).Encode(names)
	case output.is("hosts"):
		for _, n := range names {
			fmt.Fprintf(out, "%s %s %s\n", at, printable(n.Name), printable(n.CNAME))
		}
		return nil
	case output.is("zone"):
		record := "A"
		if at.Is6() {
			record = "AAAA"
		}
		for _, n := range names {
			fmt.Fprintf(out, "%s. 300 IN CNAME %s.\n", printable(n.Name), printable(n.CNAME))
			fmt.Fprintf(out, "%s. 300 IN %s %s\n", printable(n.CNAME), record, at)
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tNAME\tCNAME\tADDRESS")
	for _, n := range names {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(n.Member), printable(n.Name), printable(n.CNAME), n.Address)
	}
	return w.Flush()
}

// serverPort is the port of the server's address.
func serverPort(server string) uint16 {
	u, err := url.Parse(server)
	if err != nil || u.Port() == "" {
		return 443
	}
	n, _ := strconv.ParseUint(u.Port(), 10, 16) // 0 is unknown
	return uint16(n)
}
