package access

import (
	"time"

	"breakwater/ref"
)

// Sees reports whether the caller has been given anything at the scope, above or
// below: then it may know that there is such a place, as the way to its own.
func (g Grant) Sees(scope ref.Scope) bool {
	if g.in == nil {
		return false
	}
	now := time.Now()
	for _, a := range g.in.assignments {
		if !a.Deny && (a.Until.IsZero() || now.Before(a.Until)) && (scope.Covers(a.Scope) || a.Scope.Covers(scope)) {
			return true
		}
	}
	return false
}
