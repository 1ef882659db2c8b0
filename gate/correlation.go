package gate

import (
	"net/http"

	"breakwater/ref"
)

// correlation is the caller's own id of the request if it sent a GUID, and a
// fresh one otherwise. It ties an answer, an event and a line in the log.
func correlation(h http.Header) string {
	if given := h["X-Ms-Correlation-Request-Id"]; len(given) == 1 && ref.IsGUID(given[0]) {
		return given[0]
	}
	return ref.NewGUID()
}
