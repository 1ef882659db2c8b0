package gate

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"

	"breakwater/fault"
)

// Limits of a form, in bytes. Tokens are its longest part.
const (
	MaxForm  = 64 << 10
	maxField = 32 << 10
)

// ReadForm reads the form of a request whose body is its credential.
func ReadForm(r *http.Request, repeated ...string) (url.Values, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, fault.New(fault.BadRequest, "the body is a form here: send it as application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxForm+1))
	if err != nil {
		return nil, err
	}
	if len(body) > MaxForm {
		return nil, fault.New(fault.TooLarge, "a form has at most %d bytes", MaxForm)
	}
	return ParseForm(string(body), repeated...)
}

// ParseForm reads a form or query. Each field stands there once, but for those
// that may be repeated: whoever reads the first and whoever reads the last shall
// read the same.
func ParseForm(text string, repeated ...string) (url.Values, error) {
	form, err := url.ParseQuery(text)
	if err != nil {
		return nil, fault.New(fault.BadRequest, "the form or query cannot be read").Because(err)
	}
	for name, values := range form {
		if len(values) > 1 && !slices.Contains(repeated, name) {
			return nil, fault.New(fault.BadRequest, "the parameter %.40q stands there more than once", name)
		}
		for _, v := range values {
			if len(v) > maxField {
				return nil, fault.New(fault.BadRequest, "the parameter %.40q has more than %d bytes", name, maxField)
			}
		}
	}
	return form, nil
}
