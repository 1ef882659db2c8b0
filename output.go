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
	c.Flags().Var(o, "output", strings.Join(forms, " or "))
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

// connect makes the client of a command that has the flag of ownerFile.
func connect(c *cobra.Command) (*client, error) {
	path, err := c.Flags().GetString("owner-file")
	if err != nil {
		return nil, err
	}
	return dial(path)
}

// connectRegistry is connect for what is about the registry, whose id it finds.
func connectRegistry(c *cobra.Command) (_ *client, id string, err error) {
	client, err := connect(c)
	if err != nil {
		return nil, "", err
	}
	id, err = client.registry(c.Context())
	return client, id, err
}

// quote makes a shell take s as one word.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
