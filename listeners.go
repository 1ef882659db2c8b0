package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"breakwater/fault"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/transit"
)

// A listenerConfig is one more address where the registries answer (NS-1). Rules name
// it by its name.
type listenerConfig struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"` // as transit.ParseAddress reads it
	// Private makes it a private endpoint (NS-2): who comes in here reaches the
	// registries whose owners approved that, whatever their public rules say, and no
	// other one.
	Private bool `yaml:"private"`
	// Registries are asked for that approval when the server starts.
	Registries []string `yaml:"registries"`
}

// mainListener is what rules call the listener of the setting listen.
const mainListener = "registry"

// What a configuration has of listeners at most, and of registries that one of them
// asks.
const (
	maxListeners = 64
	maxAsked     = 100
)

// checkListeners refuses what cannot be told apart.
func (c *config) checkListeners() error {
	if len(c.Listeners) > maxListeners {
		return fmt.Errorf("there are at most %d", maxListeners)
	}
	taken := []string{mainListener, "ops", "workloads", linkListener}
	for _, l := range c.Listeners {
		switch {
		case !network.ListenerName(l.Name):
			return errors.New("a name has 1 to 64 lower case letters, digits and -")
		case slices.Contains(taken, l.Name):
			return fmt.Errorf("the name %s is taken", l.Name)
		case len(l.Registries) > 0 && !l.Private:
			return fmt.Errorf("%s: only a private listener asks registries for a connection: set private, or leave registries out", l.Name)
		case len(l.Registries) > maxAsked:
			return fmt.Errorf("%s: at most %d registries", l.Name, maxAsked)
		}
		if _, err := transit.ParseAddress(l.Address); err != nil {
			return fmt.Errorf("%s: address: %w", l.Name, err)
		}
		taken = append(taken, l.Name)
	}
	return nil
}

// listenOthers opens the listeners beside the main one; none is left open after an
// error.
func listenOthers(ctx context.Context, c *config, shown transit.Certificate, log *slog.Logger) (opened []*transit.Listener, err error) {
	for _, l := range c.Listeners {
		at, err := listen(ctx, c, l.Name, l.Address, shown, log)
		if err != nil {
			closeAll(opened)
			return nil, fmt.Errorf("%s: %w", l.Name, err)
		}
		opened = append(opened, at)
	}
	return opened, nil
}

func closeAll(listeners []*transit.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// private makes the private ones of the listeners private endpoints, and asks the
// owners of their registries for a connection, unless somebody did before.
func (h *house) private(ctx context.Context, c *config, opened []*transit.Listener, log *slog.Logger) error {
	for i, l := range c.Listeners {
		if !l.Private {
			continue
		}
		endpoint := h.group().Extension(network.EndpointType, l.Name)
		opened[i].Private(endpoint)
		for _, name := range l.Registries {
			switch err := h.registries.Ask(ctx, h.settings, name, endpoint, "the listener "+l.Name+" of the server"); {
			case fault.Of(err) == fault.NotFound:
				log.Warn("a listener is for a registry that does not exist: make it, and start the server again", "listener", l.Name, "registry", name)
			case err != nil:
				return fmt.Errorf("ask %s for a connection of the listener %s: %w", name, l.Name, err)
			}
		}
	}
	return nil
}

// group is the resource group of the server's own resources.
func (h *house) group() ref.ID {
	return ref.Subscription(ref.DerivedGUID(h.platform.Derive("subscription")[:16])).Child("resourceGroups", groupName)
}

// privateNames are those that private endpoints are found by.
func (c *config) privateNames() string { return "*." + registry.PrivateLink + "." + c.Domain }
