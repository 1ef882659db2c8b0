// Breakwater is a container registry that seals what it keeps, refuses by
// default and records what happens.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses. Scripts rely on them.
const (
	success = 0
	failure = 1 // it was understood and did not work
	misuse  = 2 // it was not understood
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if asHelper() {
		os.Exit(credentialHelper(ctx, os.Args[1:], os.Stdin, os.Stdout))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program: tests call it as a shell would.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	stdout, stderr = screen{stdout}, screen{stderr}
	root := commands()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return success
	}
	fmt.Fprintln(stderr, "breakwater:", strings.Join(strings.Fields(err.Error()), " "))
	if _, understood := errors.AsType[failed](err); understood {
		return failure
	}
	return misuse
}

// An error is the command's own when the command could begin, and otherwise one
// of wrong usage, which cobra found or the command says with usagef.
type (
	failed struct{ error }
	usage  struct{ error }
)

func (f failed) Unwrap() error { return f.error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

func tell(c *cobra.Command) {
	if work := c.RunE; work != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			err := work(c, args)
			if _, wrong := errors.AsType[usage](err); err == nil || wrong {
				return err
			}
			return failed{err}
		}
	}
	for _, below := range c.Commands() {
		tell(below)
	}
}

// commands is the table of contents.
func commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "breakwater",
		Short: "A container registry that seals what it keeps, refuses by default and records what happens",
		Long: `Breakwater is a container registry. It seals what it keeps, refuses by default
and records what happens.

  breakwater serve     starts one in ./data, with nothing else to install
  breakwater trust     tells docker, podman, skopeo, crane, oras and helm to trust it
  breakwater login     makes the commands below those of another machine`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "The server"},
		&cobra.Group{ID: "login", Title: "Who you are"},
		&cobra.Group{ID: "resources", Title: "Everything that a server has"},
		&cobra.Group{ID: "access", Title: "Who may come in"},
		&cobra.Group{ID: "record", Title: "What is and what happened"},
		&cobra.Group{ID: "about", Title: "About this program"},
	)
	root.SetHelpCommandGroupID("about")
	root.SetCompletionCommandGroupID("about")
	in := func(group string, all ...*cobra.Command) {
		for _, c := range all {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("server", serveCommand(), trustCommand(), linkCommand(), platformCommand())
	in("login", loginCommand(), logoutCommand(), whoamiCommand())
	in("resources", getCommand(), listCommand(), setCommand(), deleteCommand(), restCommand(), repositoryCommand())
	in("access", tokenCommand(), principalCommand(), roleCommand(), registryCommand(), approvalCommand(), networkCommand())
	in("record", logsCommand(), receiptCommand())
	in("about", surfaceCommand(), versionCommand())
	root.AddCommand(hammerCommand())
	tell(root)
	return root
}

// family is a command that only holds others: alone it shows its help, and what
// it does not know is misuse.
func family(use, short string, of ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(of...)
	return c
}
