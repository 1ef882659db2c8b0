package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"breakwater/hammer"
	"breakwater/ledger"
)

// hammerCommand is for those who test Breakwater or the machine under it, and so
// not in the table of contents.
func hammerCommand() *cobra.Command {
	run := &cobra.Command{
		Use: "run", Short: "Push, pull, tag, delete and mount, and keep a journal of what was acknowledged", Args: cobra.NoArgs,
	}
	o := hammer.Options{Prefix: "hammer"}
	run.Flags().StringVar(&o.Journal, "journal", "", "the journal; on another file system than the registry's data")
	run.Flags().IntVar(&o.Workers, "workers", 8, "how many work at once")
	run.Flags().DurationVar(&o.Duration, "duration", 10*time.Second, "how long")
	run.Flags().Uint64Var(&o.Seed, "seed", 1, "of what is done")
	_ = run.MarkFlagRequired("journal")
	run.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		o.Target = client.target()
		sum, err := hammer.Run(c.Context(), o)
		return errors.Join(json.NewEncoder(c.OutOrStdout()).Encode(sum), err)
	}

	verify := &cobra.Command{
		Use: "verify", Short: "Hold the journal against the registry", Args: cobra.NoArgs,
	}
	journal := verify.Flags().String("journal", "", "the journal of hammer run")
	_ = verify.MarkFlagRequired("journal")
	verify.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		report, err := hammer.Verify(c.Context(), client.target(), *journal, false, client.hammered)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(c.OutOrStdout()).Encode(report); err != nil || report.OK() {
			return err
		}
		return errors.New("what was acknowledged is not what is there")
	}

	c := family("hammer", "Load a registry, and judge it afterwards whatever happened to it", run, verify, hammerCrowd())
	c.Hidden = true
	ownerFile(c)
	return c
}

func (c *client) target() hammer.Target {
	return hammer.Target{Server: c.Server, Username: c.Username, Password: c.Password, CAFile: c.CAFile}
}

// hammered reads the ledger of the registry for the judge.
func (c *client) hammered(ctx context.Context) ([]hammer.Event, error) {
	var all []hammer.Event
	err := list(ctx, c, "/providers/Breakwater.Ledger/events", func(e ledger.Event) error {
		if e.Registry != "" {
			all = append(all, hammer.Event{
				Seq: e.Seq, Repository: string(e.Detail.Repository), Tag: string(e.Detail.Tag), Digest: string(e.Detail.Digest),
				Operation: e.Operation, Success: e.Outcome == ledger.Success,
			})
		}
		return nil
	})
	slices.SortFunc(all, func(a, b hammer.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return all, err
}

// hammerCrowd is the measurement of docs/performance.md of who stands at the door.
func hammerCrowd() *cobra.Command {
	c := &cobra.Command{
		Use: "crowd", Short: "Pull while many connections are idle or slow, and tell what it costs", Args: cobra.NoArgs,
	}
	var t hammer.Throng
	c.Flags().IntVar(&t.Idle, "idle", 10_000, "connections that are kept")
	c.Flags().IntVar(&t.Slow, "slow", 2_000, "connections that send a byte of a header every two seconds")
	c.Flags().IntVar(&t.Pulls, "pulls", 20, "how often a blob is pulled, before and during")
	c.Flags().IntVar(&t.Bytes, "bytes", 16<<20, "its size")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		t.Target = client.target()
		sum, err := hammer.Crowd(c.Context(), t, func() error {
			if client.Ops == "" {
				return nil
			}
			r, err := client.http.Get(client.Ops + "/metrics")
			if err != nil {
				return err
			}
			defer r.Body.Close()
			for lines := bufio.NewScanner(r.Body); lines.Scan(); {
				if l := lines.Text(); strings.HasPrefix(l, "breakwater_connections") || strings.HasPrefix(l, "process_resident_memory_bytes") || strings.HasPrefix(l, "go_memstats_heap_inuse_bytes") {
					fmt.Fprintln(c.ErrOrStderr(), l)
				}
			}
			return nil
		})
		return errors.Join(json.NewEncoder(c.OutOrStdout()).Encode(sum), err)
	}
	return c
}
