package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"breakwater/network"
)

func networkCommand() *cobra.Command {
	c := family("network", "Which networks reach what, and why", networkExplain())
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

// serverPort is the port of the server's address.
func serverPort(server string) uint16 {
	u, err := url.Parse(server)
	if err != nil || u.Port() == "" {
		return 443
	}
	n, _ := strconv.ParseUint(u.Port(), 10, 16) // 0 is unknown
	return uint16(n)
}
