// Package fault is every way to fail, in one table.
//
// The domain returns an *Error with a Code; each dialect (OCI, ARM) renders the
// row of that code. Any other error is Internal: its text stays inside, the
// door logs it once with the correlation id that the caller also gets.
package fault

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A Code says what kind of failure it is. Its row in the table gives the HTTP
// status and the code that each dialect has for it.
type Code int

const (
	Internal Code = iota
	BadRequest
	Unauthenticated
	Denied
	NetworkDenied
	NotFound
	MethodNotAllowed
	Conflict
	Stale
	TooLarge
	TooManyRequests
	Unavailable
	StorageFull
	NotImplemented
	RequestTimeout
	URITooLong
	AssignmentExists
	AssignmentUpdate
	ParentNotFound
	SubscriptionNotFound
	GroupNotFound
	ScopeLocked
	KeyRefused
	Damaged
	ApprovalRequired

	NameInvalid
	NameUnknown
	TagInvalid
	TagUnknown
	DigestInvalid
	SizeInvalid
	ManifestInvalid
	ManifestUnknown
	ManifestBlobUnknown
	ManifestTooLarge
	BlobUnknown
	UploadInvalid
	UploadUnknown
	UploadOutOfOrder
	Referenced
	Disallowed
)

// A Row is how a code looks outside.
type Row struct {
	Name   string // stable, for the ledger and metrics
	Status int    // HTTP
	OCI    string // OCI Distribution, "Error Codes"
	ARM    string // Azure Resource Manager error code
}

// rows has one row for each code. The OCI codes are those of the specification
// and no others, but for what Azure's clients know a lock by (azure-contract §2.6).
var rows = [...]Row{
	Internal:         {"Internal", http.StatusInternalServerError, "UNSUPPORTED", "InternalServerError"},
	BadRequest:       {"BadRequest", http.StatusBadRequest, "UNSUPPORTED", "InvalidRequestContent"},
	Unauthenticated:  {"Unauthenticated", http.StatusUnauthorized, "UNAUTHORIZED", "AuthenticationFailed"},
	Denied:           {"Denied", http.StatusForbidden, "DENIED", "AuthorizationFailed"},
	NetworkDenied:    {"NetworkDenied", http.StatusForbidden, "DENIED", "RequestDisallowedByNetworkRules"},
	NotFound:         {"NotFound", http.StatusNotFound, "UNSUPPORTED", "ResourceNotFound"},
	MethodNotAllowed: {"MethodNotAllowed", http.StatusMethodNotAllowed, "UNSUPPORTED", "MethodNotAllowed"},
	Conflict:         {"Conflict", http.StatusConflict, "DENIED", "Conflict"},
	Stale:            {"Stale", http.StatusPreconditionFailed, "DENIED", "PreconditionFailed"},
	TooLarge:         {"TooLarge", http.StatusRequestEntityTooLarge, "SIZE_INVALID", "RequestContentTooLarge"},
	TooManyRequests:  {"TooManyRequests", http.StatusTooManyRequests, "TOOMANYREQUESTS", "TooManyRequests"},
	Unavailable:      {"Unavailable", http.StatusServiceUnavailable, "UNSUPPORTED", "ServiceUnavailable"},
	StorageFull:      {"StorageFull", http.StatusInsufficientStorage, "DENIED", "StorageFull"},
	NotImplemented:   {"NotImplemented", http.StatusConflict, "UNSUPPORTED", "NotImplemented"},
	RequestTimeout:   {"RequestTimeout", http.StatusRequestTimeout, "UNSUPPORTED", "RequestTimeout"},
	URITooLong:       {"URITooLong", http.StatusRequestURITooLong, "UNSUPPORTED", "RequestUriTooLong"},

	AssignmentExists:     {"AssignmentExists", http.StatusConflict, "DENIED", "RoleAssignmentExists"},
	AssignmentUpdate:     {"AssignmentUpdate", http.StatusConflict, "DENIED", "RoleAssignmentUpdateNotPermitted"},
	SubscriptionNotFound: {"SubscriptionNotFound", http.StatusNotFound, "UNSUPPORTED", "SubscriptionNotFound"},
	GroupNotFound:        {"GroupNotFound", http.StatusNotFound, "UNSUPPORTED", "ResourceGroupNotFound"},
	ScopeLocked:          {"ScopeLocked", http.StatusConflict, "DENIED", "ScopeLocked"},
	KeyRefused:           {"KeyRefused", http.StatusForbidden, "DENIED", "KeyNotUsable"},
	ParentNotFound:       {"ParentNotFound", http.StatusNotFound, "UNSUPPORTED", "ParentResourceNotFound"},
	ApprovalRequired:     {"ApprovalRequired", http.StatusConflict, "DENIED", "ApprovalRequired"},
	Damaged:              {"Damaged", http.StatusInternalServerError, "UNSUPPORTED", "DataDamaged"},

	NameInvalid:         {"NameInvalid", http.StatusBadRequest, "NAME_INVALID", "InvalidResourceName"},
	NameUnknown:         {"NameUnknown", http.StatusNotFound, "NAME_UNKNOWN", "ResourceNotFound"},
	TagInvalid:          {"TagInvalid", http.StatusBadRequest, "MANIFEST_INVALID", "InvalidRequestContent"},
	TagUnknown:          {"TagUnknown", http.StatusNotFound, "MANIFEST_UNKNOWN", "ResourceNotFound"},
	DigestInvalid:       {"DigestInvalid", http.StatusBadRequest, "DIGEST_INVALID", "InvalidRequestContent"},
	SizeInvalid:         {"SizeInvalid", http.StatusBadRequest, "SIZE_INVALID", "InvalidRequestContent"},
	ManifestInvalid:     {"ManifestInvalid", http.StatusBadRequest, "MANIFEST_INVALID", "InvalidRequestContent"},
	ManifestUnknown:     {"ManifestUnknown", http.StatusNotFound, "MANIFEST_UNKNOWN", "ResourceNotFound"},
	ManifestBlobUnknown: {"ManifestBlobUnknown", http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "ResourceNotFound"},
	ManifestTooLarge:    {"ManifestTooLarge", http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "RequestContentTooLarge"},
	BlobUnknown:         {"BlobUnknown", http.StatusNotFound, "BLOB_UNKNOWN", "ResourceNotFound"},
	UploadInvalid:       {"UploadInvalid", http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "InvalidRequestContent"},
	UploadUnknown:       {"UploadUnknown", http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "ResourceNotFound"},
	UploadOutOfOrder:    {"UploadOutOfOrder", http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "InvalidRequestContent"},
	Referenced:          {"Referenced", http.StatusConflict, "DENIED", "Conflict"},
	Disallowed:          {"Disallowed", http.StatusMethodNotAllowed, "REGISTRY_DISALLOWED_OPERATION", "OperationNotAllowed"},
}

// Row is the row of c.
func (c Code) Row() Row {
	if c < 0 || int(c) >= len(rows) {
		return rows[Internal]
	}
	return rows[c]
}

func (c Code) String() string { return c.Row().Name }

// Codes lists every code, for tests and for documentation.
func Codes() []Code {
	all := make([]Code, len(rows))
	for i := range all {
		all[i] = Code(i)
	}
	return all
}

// An Error is a failure that a caller may be told.
type Error struct {
	Code    Code
	Message string        // for the caller: what to do next, never what is inside
	Detail  any           // JSON for the caller; nil for none
	Retry   time.Duration // 0, or how long to wait before trying again
	Cause   error         // for the operator's log only
}

// New makes an Error with a message for the caller.
func New(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// Because adds the cause that the operator's log shall show.
func (e *Error) Because(cause error) *Error { e.Cause = cause; return e }

// With adds JSON that helps the caller.
func (e *Error) With(detail any) *Error { e.Detail = detail; return e }

// After asks the caller to wait before it tries again (Retry-After).
func (e *Error) After(d time.Duration) *Error { e.Retry = d; return e }

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Code.String() + ": " + e.Message + ": " + e.Cause.Error()
	}
	return e.Code.String() + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Is lets errors.Is(err, fault.New(code, "")) and Of agree on the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// From finds the Error in err, or makes an Internal one of it whose text tells
// the caller nothing.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Message: "the server failed; the operator finds the cause in the log under the correlation id", Cause: err}
}

// Of is the code of err: Internal for an error that is not a fault.
func Of(err error) Code { return From(err).Code }
