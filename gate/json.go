package gate

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"breakwater/fault"
)

// deepest is how far values may lie in each other: no client's go so far, and what
// is read here is put into other values later.
const deepest = 100

// ReadJSON reads a body of at most so many bytes, which is one JSON value; none is
// nil. No object in it has a name twice, in whatever case: whoever reads the first
// and whoever reads the last shall read the same.
func ReadJSON(r *http.Request, most int64) (json.RawMessage, error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fault.New(fault.TooLarge, "the body has at most %d bytes", most)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return nil, nil
	}
	if !json.Valid(text) {
		return nil, fault.New(fault.BadRequest, "the body is not JSON")
	}
	return text, single(json.NewDecoder(bytes.NewReader(text)), 1)
}

// single refuses the next value if it can be read in two ways, or lies too deep.
func single(d *json.Decoder, depth int) error {
	if depth > deepest {
		return fault.New(fault.BadRequest, "values lie in each other at most %d deep", deepest)
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	default:
		return nil
	case json.Delim('['):
		for d.More() {
			if err := single(d, depth+1); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		names := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return err
			}
			text, _ := name.(string)
			if names[Fold(text)] {
				return fault.New(fault.BadRequest, "the property %.100q is there twice", text)
			}
			names[Fold(text)] = true
			if err := single(d, depth+1); err != nil {
				return err
			}
		}
	}
	_, err = d.Token() // its end
	return err
}

// WriteJSON answers with a body that nobody keeps.
func WriteJSON(w http.ResponseWriter, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err = w.Write(text)
	return err
}

// Fold is equal for names that encoding/json takes for one.
func Fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }
