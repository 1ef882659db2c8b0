package oci

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// maxValue bounds a query parameter that is a place in a list or a filter.
const maxValue = 512

// query reads the parameters of a request. Each may stand there once: of two
// digests, one program would check the first and another store the second.
type query struct{ url.Values }

func params(r *http.Request) (query, error) {
	if r.URL.RawQuery == "" {
		return query{}, nil
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, fault.New(fault.BadRequest, "the query cannot be read").Because(err)
	}
	return query{v}, nil
}

func (q query) one(name string) (string, error) {
	v := q.Values[name]
	if len(v) > 1 {
		return "", fault.New(fault.BadRequest, "the parameter %q may stand in the query once", name)
	}
	if len(v) == 0 {
		return "", nil
	}
	return v[0], nil
}

// digest reads a parameter that names content; absent is "".
func (q query) digest(name string) (ref.Digest, error) {
	s, err := q.one(name)
	if err != nil {
		return "", fault.New(fault.DigestInvalid, "the parameter %q may stand in the query once", name)
	}
	if s == "" && !q.Has(name) {
		return "", nil
	}
	return ref.ParseDigest(s)
}

// word reads printable ASCII.
func (q query) word(name string) (string, error) {
	s, err := q.one(name)
	if err != nil {
		return "", err
	}
	if len(s) > maxValue || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", fault.New(fault.BadRequest, "the parameter %q is not one that this registry gave out", name)
	}
	return s, nil
}

// size reads the page size n: -1 if absent, and as many as there may be if it is
// greater than any number.
func (q query) size() (int, error) {
	s, err := q.one("n")
	if err != nil || s == "" {
		return -1, err
	}
	if strings.Trim(s, "0123456789") != "" {
		return 0, fault.New(fault.BadRequest, "n is a number that is not negative")
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		n = 1<<31 - 1
	}
	return int(n), nil
}

// link is the header that leads to the next page, relative as Azure's clients
// want it.
func link(path string, v url.Values) string {
	return "<" + path + "?" + v.Encode() + `>; rel="next"`
}
