package identity

import (
	"context"

	"breakwater/fault"
)

// Clients that need no document.
const (
	AzureCLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46" // public, and known to every az
	Portal   = "b2ea1a7e-0000-8000-8000-706f7274616c" // this server's own
	Command  = "b2ea1a7e-0000-8000-8000-636c69656e74" // breakwater login, by the code of a device alone
)

// An Application is a client that people sign in through. It is public: it has no
// secret that would prove it, so what proves a sign-in is where its answer goes.
type Application struct {
	ID        string
	Name      string   // what people are shown
	Redirects []string // where answers may go, character by character
	Loopback  bool     // or to any port of the browser's own machine (RFC 8252)
	Portal    bool     // or to the portal of this very server
}

// through refuses who signed in through an application that is none any more.
func (s *Store) through(ctx context.Context, client string) error {
	_, err := s.Application(ctx, client)
	if fault.Of(err) == fault.BadRequest {
		err = refused()
	}
	return err
}

// Application finds a client that people may sign in through.
func (s *Store) Application(ctx context.Context, id string) (Application, error) {
	switch id {
	case AzureCLI:
		return Application{ID: id, Name: "Azure CLI", Loopback: true}, nil
	case Command:
		return Application{ID: id, Name: "Breakwater command line"}, nil
	case Portal:
		return Application{ID: id, Name: "Breakwater portal", Portal: true}, nil
	}
	c, err := s.Client(ctx, id)
	if fault.Of(err) == fault.NotFound || err == nil && (!c.Enabled || len(c.RedirectURIs) == 0) {
		return Application{}, fault.New(fault.BadRequest, "there is no application with this client id")
	}
	if err != nil {
		return Application{}, err
	}
	return Application{ID: c.ClientID, Name: c.Name, Redirects: c.RedirectURIs}, nil
}
