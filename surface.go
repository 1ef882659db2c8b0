package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func surfaceCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "surface", Short: "List every request that the server answers, and the right it needs", Args: cobra.NoArgs,
	}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		type row struct {
			Method    string `json:"method"`
			Path      string `json:"path"`
			Operation string `json:"operation"`
			Action    string `json:"action"`
		}
		var rows []row
		h := new(house)
		for _, a := range append(h.surfaces(), api{nil, h.data()}, api{nil, h.host()}) {
			for _, r := range a.Routes() {
				rows = append(rows, row{r.Method, r.Pattern, r.Operation, string(r.Action)})
			}
		}
		if output.is("json") {
			return json.NewEncoder(c.OutOrStdout()).Encode(rows)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "METHOD\tPATH\tOPERATION\tRIGHT")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Method, r.Path, r.Operation, orDash(r.Action))
		}
		return w.Flush()
	}
	return c
}
