// Package gate decides who may come in: it is the one door of every API.
//
// A request passes network → identity → access → handler, and the door leaves a
// line in the ledger: a read before its first byte leaves, a refusal or failure
// before its answer. What a handler gets is a Grant; no other package looks at
// credentials or addresses, and no answer leaves that the ledger could not take.
package gate

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// A Surface is one API: what its requests need, and how it says no.
type Surface interface {
	// Route reads nothing but the request's line and header (and the form of a
	// request whose body is its credential). An error is answered before anybody is
	// authenticated, so it says nothing about what exists.
	Route(r *http.Request) (Call, error)
	// Error writes the dialect's refusal. Unauthenticated and Denied carry a
	// challenge where the dialect has one.
	Error(w http.ResponseWriter, r *http.Request, f *fault.Error)
	// Routes lists what Route answers, for `breakwater surface` and for tests.
	Routes() []Route
}

// A Route is a row of a surface.
type Route struct {
	Method, Pattern, Operation string
	Action                     access.Action // "" needs no right
}

// A Handler answers a request that has come in. An error is refused by the door
// in the surface's dialect, unless the answer has begun: then the connection
// breaks, so that nobody takes half an answer for a whole one.
type Handler func(w http.ResponseWriter, r *http.Request, g access.Grant) error

// A Call is what a request asks for.
type Call struct {
	Operation string // one of the surface's Routes
	Category  string // of the ledger
	Handler   Handler

	// Needs are the rights without which the handler is not reached; all of them.
	Needs []Need
	// Anyone lets a caller in that has shown no credential and asks for nothing.
	// Without it a call that has no Needs still wants to know who calls.
	Anyone bool
	// Registry is the registry that the path names, if the dialect names registries by
	// path: rights, the grant and the record are about that one, or about none if there
	// is none of this id. "" is the registry that the host means. Who calls is always
	// proven at the host's.
	Registry ref.ID
	// Plane is the API that is called. The registry's network rules are for its
	// content alone, or their owner could not correct them. Hosts of the DataPlane are
	// no others' and the other way round.
	Plane identity.Plane
	// Credentials are those of the body, if that is where the dialect puts them; nil
	// takes those of the header.
	Credentials *identity.Credentials

	// Read says that this call changes nothing: the door records it when the handler
	// first writes. Who changes something records it in the same transaction.
	Read bool
	// Detail is what the ledger shall say about the call. The handler may go on
	// filling it until it first writes.
	Detail *ledger.Detail
}

// A Need is a right at a place: at Scope, or at Repository of the registry that
// the call is about, or at the registry.
type Need struct {
	Action     access.Action
	Repository ref.Repository
	Scope      ref.Scope
}

// Options of a Gate.
type Options struct {
	Documents  *resource.Store
	Registries *registry.Store
	Identity   *identity.Store
	Access     *access.Store
	Ledger     *ledger.Ledger
	Proxies    network.Proxies
	Log        *slog.Logger
	Metrics    prometheus.Registerer // nil for none
	Limits     Limits
}

// Limits are what one caller may take of the server. Zero values are sensible.
type Limits struct {
	Requests int           // under way at once; 0 is 2,048
	Caller   float64       // requests per second of one identity; 0 is 20,000
	Stranger float64       // refused or anonymous requests per second of one address; 0 is 1,000
	Stall    time.Duration // a body or answer moves 1 KiB for each second of this; 0 is one minute
}
