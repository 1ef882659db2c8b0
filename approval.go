package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"breakwater/approval"
)

func approvalCommand() *cobra.Command {
	c := asClient(family("approval", "Acts that cannot be undone, and wait for somebody else's approval",
		approvalList(), approvalShow(),
		approvalAnswer("approve", "Let somebody else do what it asked for, once, in the next 8 hours", true),
		approvalAnswer("reject", "Refuse it, or take an approval back that was not used", true),
		approvalAnswer("withdraw", "Ask no longer", false)))
	c.PersistentFlags().String("in", "", "the registry: its name or id; the login's registry if it is not said")
	completeSites(c)
	return c
}

// A waiting is what the commands read of a request.
type waiting struct {
	Name       string `json:"name"`
	Properties struct {
		Action, Scope, Exact, Status, RegistryID string
		Requester, Approver                      struct{ PrincipalID, Type, Name string }
		Note                                     string
		RequestedAt, DecidedAt, UsedAt, Until    time.Time
	} `json:"properties"`
}

// requests is the path of the requests of the registry that is meant.
func requests(c *cobra.Command) (_ *client, path string, err error) {
	in, err := c.Flags().GetString("in")
	if err != nil {
		return nil, "", err
	}
	client, err := connect(c)
	if err != nil {
		return nil, "", err
	}
	base, err := site{client, in}.base(c.Context())
	return client, base + "/providers/" + approval.Type, err
}

func approvalList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the requests of a registry, the last first", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, path, err := requests(c)
		if err != nil {
			return err
		}
		whole, all := []json.RawMessage{}, []waiting{}
		if err := list(c.Context(), client, path+apiVersion, func(text json.RawMessage) error {
			var r waiting
			err := json.Unmarshal(text, &r)
			whole, all = append(whole, text), append(all, r)
			return err
		}); err != nil {
			return err
		}
		if output.is("json") {
			return json.NewEncoder(c.OutOrStdout()).Encode(whole)
		}
		slices.SortStableFunc(all, func(a, b waiting) int { return b.Properties.RequestedAt.Compare(a.Properties.RequestedAt) })
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tSTATUS\tUNTIL\tREQUESTER\tAPPROVER\tACTION")
		for _, r := range all {
			p := r.Properties
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, p.Status, p.Until.Local().Format(time.DateTime), p.Requester.Name, orDash(p.Approver.Name), p.Action)
		}
		return w.Flush()
	}
	return c
}

func approvalShow() *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "Show who asks for what", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, path, err := requests(c)
		if err != nil {
			return err
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodGet, path+"/"+url.PathEscape(args[0])+apiVersion, nil, &whole); err != nil {
			return err
		}
		return printRequest(c, output, whole)
	}
	return c
}

func approvalAnswer(verb, short string, noted bool) *cobra.Command {
	c := &cobra.Command{Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions}
	output := outputFlag(c, "table", "json")
	note := new(string)
	if noted {
		c.Flags().StringVar(note, "note", "", "why, for the record")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		client, path, err := requests(c)
		if err != nil {
			return err
		}
		said := fields{}
		if *note != "" {
			said["note"] = *note
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodPost, path+"/"+url.PathEscape(args[0])+"/"+verb+apiVersion, said, &whole); err != nil {
			return err
		}
		return printRequest(c, output, whole)
	}
	return c
}

func printRequest(c *cobra.Command, o *output, whole json.RawMessage) error {
	if o.is("json") {
		return json.NewEncoder(c.OutOrStdout()).Encode(whole)
	}
	var r waiting
	if err := json.Unmarshal(whole, &r); err != nil {
		return err
	}
	p := r.Properties
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format(time.DateTime)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"request", r.Name},
		{"status", p.Status},
		{"act", p.Action},
		{"at", p.Scope},
		{"exactly", p.Exact},
		{"requester", fmt.Sprintf("%s (%s %s)", cmp.Or(p.Requester.Name, "-"), p.Requester.Type, p.Requester.PrincipalID)},
		{"requested", at(p.RequestedAt)},
		{"approver", p.Approver.Name},
		{"decided", at(p.DecidedAt)},
		{"note", p.Note},
		{"used", at(p.UsedAt)},
		{"until", at(p.Until)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], orDash(line[1]))
	}
	return w.Flush()
}
