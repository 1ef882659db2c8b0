package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// An output is the form in which a command prints its result.
type output struct {
	chosen *string
	forms  []string
}

func outputFlag(c *cobra.Command, forms ...string) output {
	return output{c.Flags().String("output", forms[0], strings.Join(forms, " or ")), forms}
}

func (o output) is(form string) bool { return *o.chosen == form }

func (o output) check() error {
	if !slices.Contains(o.forms, *o.chosen) {
		return usagef("--output is %s, not %q", strings.Join(o.forms, " or "), *o.chosen)
	}
	return nil
}

// connect makes the client of a command that has the flag of ownerFile.
func connect(c *cobra.Command) (*client, error) {
	path, err := c.Flags().GetString("owner-file")
	if err != nil {
		return nil, err
	}
	return dial(path)
}

// quote makes a shell take s as one word.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
