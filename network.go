package main

import (
	"encoding/json"
	"fmt"
	"net/http"
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
		Use: "explain ADDRESS REGISTRY OPERATION", Short: "Say which rule decides about a request, and why", Args: cobra.ExactArgs(3),
		Long: `Say which network rule of the server decides about a request, and which others
were asked before. OPERATION is login, pull, push, delete or list for content, and
manage or a right for what is done with the registry itself. The server answers by
those functions that decide; whether the caller has the right is another question.`,
		Example: `  breakwater network explain 203.0.113.9 shop pull
  breakwater network explain 10.0.0.7 shop push --listener inner`,
	}
	output := outputFlag(c, "table", "json")
	listener := c.Flags().String("listener", "registry", "the listener that the request comes to")
	endpoint := c.Flags().String("endpoint", "", "id of the private endpoint that it comes by")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		client.Name = args[1]
		id, err := client.registry(c.Context())
		if err != nil {
			return err
		}
		asked := fields{"address": args[0], "operation": args[2], "listener": *listener}
		if *endpoint != "" {
			asked["endpoint"] = *endpoint
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodPost, id+"/explainNetwork"+apiVersion, asked, &whole); err != nil {
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
