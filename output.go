package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// An output is the form in which a command prints its result: a flag that takes
// no other than its forms, the first of which is usual.
type output struct {
	chosen string
	forms  []string
}

func outputFlag(c *cobra.Command, forms ...string) *output {
	o := &output{forms[0], forms}
	c.Flags().VarP(o, "output", "o", strings.Join(forms, " or "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that is not there
	return o
}

func (o *output) is(form string) bool { return o.chosen == form }

func (o *output) Set(s string) error {
	if !slices.Contains(o.forms, s) {
		return errors.New("it is " + strings.Join(o.forms, " or "))
	}
	o.chosen = s
	return nil
}

func (o *output) String() string { return o.chosen }
func (*output) Type() string     { return "form" }

// quote makes a shell take s as one word.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
