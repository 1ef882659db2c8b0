package main

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
)

// egressRefused is what the ledger calls it that the server did not connect (NS-1).
const egressRefused = "Breakwater.Network/egress/refused"

// refusedOut puts on record whom the server did not reach. If that was the database,
// there is no ledger to write to, and the log has to do.
func (h *house) refusedOut(log *slog.Logger) func(context.Context, network.Refusal) {
	return func(ctx context.Context, r network.Refusal) {
		if r.Purpose == network.ForDatabase {
			log.Error("the database is not reached", "why", r.Error())
			return
		}
		more := map[string]string{"purpose": string(r.Purpose), "destination": r.Destination, "rule": r.Rule, "why": r.Ruling.Reason}
		if r.Address != "" {
			more["address"] = r.Address
		}
		if r.Before > 0 {
			more["refusedBefore"] = strconv.Itoa(r.Before)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := h.ledger.Record(ctx, ledger.Event{Time: time.Now(), Category: ledger.Security, Operation: egressRefused,
			Who: identity.ThisServer().Who(), Outcome: ledger.Refused, Detail: ledger.Detail{More: more}}); err != nil {
			log.ErrorContext(ctx, "it is not on record whom the server did not reach", "why", r.Error(), "err", err)
		}
	}
}

// sources tells of those that the machine does not have now: what would leave by them
// does not leave.
func (c *config) sources(log *slog.Logger) {
	for p, s := range c.Egress.Sources {
		if !s.Here() {
			log.Warn("connections are not made while this machine lacks what they shall leave by", "purpose", p, "source", s.String())
		}
	}
}
