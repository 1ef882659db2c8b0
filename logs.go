package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"breakwater/ledger"
)

func logsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "logs", Short: "Show what happened: every change, every read, every refusal", Args: cobra.NoArgs,
		Example: `  breakwater logs --since 10m
  breakwater logs --since 1h --output json | jq 'select(.outcome == "refused")'`,
	}
	asClient(c)
	since := lifetime(time.Hour)
	c.Flags().Var(&since, "since", "how far back: 10m, 1h, 7d; 0 for everything")
	category := c.Flags().String("category", "", "only events of this category")
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		query := url.Values{"category": {*category}}
		if since > 0 {
			query.Set("since", time.Now().Add(-time.Duration(since)).UTC().Format(time.RFC3339Nano))
		}
		path := "/providers/Breakwater.Ledger/events?" + query.Encode()
		if output.is("json") {
			// Each event is printed as the server sent it, one to a line.
			out := json.NewEncoder(c.OutOrStdout())
			out.SetEscapeHTML(false)
			return list(c.Context(), client, path, func(e json.RawMessage) error { return out.Encode(e) })
		}
		var all []ledger.Event
		if err := list(c.Context(), client, path, func(e ledger.Event) error {
			all = append(all, e)
			return nil
		}); err != nil {
			return err
		}
		// A ledger is in the order of commits; people read in the order of time.
		slices.SortStableFunc(all, func(a, b ledger.Event) int { return a.Time.Compare(b.Time) })
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TIME\tOPERATION\tOUTCOME\tWHO\tFROM\tWHAT")
		for _, e := range all {
			outcome := string(e.Outcome)
			if e.Reason != "" {
				outcome = fmt.Sprintf("%s: %s (%d)", outcome, e.Reason, e.Status)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Time.Local().Format(time.DateTime),
				ending(e.Operation), outcome, orDash(e.Who.Name), orDash(address(e)), subject(e))
		}
		return w.Flush()
	}
	return c
}

func address(e ledger.Event) string {
	if !e.From.Address.IsValid() {
		return ""
	}
	return e.From.Address.String()
}

// subject is what an event is about, as short as it can be said, and which rule or
// denial had a word in it.
func subject(e ledger.Event) string {
	if rule := cmp.Or(e.Detail.More["rule"], e.Detail.More["rules"]); rule != "" {
		return whereabouts(e) + " (rule " + rule + ")"
	}
	return whereabouts(e)
}

func whereabouts(e ledger.Event) string {
	d := e.Detail
	switch {
	case d.Tag != "":
		return string(d.Repository) + ":" + string(d.Tag)
	case d.Digest != "":
		return string(d.Repository) + "@" + string(d.Digest)
	case d.Repository != "":
		return string(d.Repository)
	}
	return orDash(printable(cmp.Or(d.More["destination"], ending(string(e.Scope)))))
}

// ending is what is left of an id or operation without the namespace and what
// stands before it.
func ending(id string) string {
	if i := strings.LastIndex(id, "/providers/"); i >= 0 {
		id = id[i+len("/providers/"):]
	}
	if namespace, rest, ok := strings.Cut(id, "/"); ok && strings.Contains(namespace, ".") {
		return rest
	}
	return id
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
