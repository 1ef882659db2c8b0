package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ref"
	"breakwater/transit"
)

// workloadListener is what the door calls the listener for this machine's workloads.
const workloadListener = "managedIdentity"

// An identityList is resource ids, with commas between them on the command line.
type identityList []string

func (l *identityList) String() string     { return strings.Join(*l, ",") }
func (l *identityList) Type() string       { return "IDS" }
func (l *identityList) Set(s string) error { *l = strings.Split(s, ","); return nil }

// checkWorkloads refuses identities without an endpoint, and the other way round.
func (c *config) checkWorkloads() error {
	m := &c.ManagedIdentity
	if m.Listen == "" && len(m.Identities) == 0 {
		return nil
	}
	if _, _, err := net.SplitHostPort(m.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if len(m.Identities) == 0 || len(m.Identities) > 100 {
		return errors.New("identities: 1 to 100 user-assigned identities")
	}
	for _, text := range m.Identities {
		id, err := ref.ParseID(text)
		if err != nil || !strings.Contains(id.Key(), "/providers/"+strings.ToLower(identity.ManagedIdentityType)+"/") {
			return fmt.Errorf("identities: %q is not the resource id of a user-assigned identity", text)
		}
	}
	return nil
}

// workloads are the identities of this machine, as identity has to know them. The
// secret follows from the platform key: a workload that read it goes on when the
// server starts again.
func (c *config) workloads(p *keys.Platform) (h identity.Host) {
	if c.ManagedIdentity.Listen == "" {
		return h
	}
	h.Listener, h.Secret = workloadListener, identity.Secret(hex.EncodeToString(p.Derive("managed-identity")))
	for _, text := range c.ManagedIdentity.Identities {
		h.Identities = append(h.Identities, ref.ID(text))
	}
	return h
}

// listenWorkloads opens the listener for this machine's workloads; nil if there
// shall be none.
func listenWorkloads(ctx context.Context, c *config, log *slog.Logger) (*transit.Listener, error) {
	if c.ManagedIdentity.Listen == "" {
		return nil, nil
	}
	return transit.Listen(ctx, transit.Options{Name: workloadListener, Address: c.ManagedIdentity.Listen, Clear: true, Connections: 256, Log: log})
}

// tellWorkloads writes what the environment of a workload has to say, for the
// shapes of the endpoint that want a secret.
func tellWorkloads(c *config, p *keys.Platform, at net.Addr) error {
	secret := string(c.workloads(p).Secret)
	endpoint := "http://" + at.String() + "/msi/token"
	text := fmt.Sprintf("IDENTITY_ENDPOINT=%s\nIDENTITY_HEADER=%s\nMSI_ENDPOINT=%s\nMSI_SECRET=%s\n", endpoint, secret, endpoint, secret)
	return writeFile(filepath.Join(c.Data, "managed-identity.env"), []byte(text))
}
