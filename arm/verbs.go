package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

const (
	maxBody  = 1 << 20 // bytes of a request
	maxPage  = 1000    // items of a list
	usualTop = 100
	attempts = 10 // to merge into what others are changing too
)

// scope is where a right on a resource is needed.
func scope(id ref.ID) ref.Scope {
	if id == "" {
		return ref.Everything
	}
	return id.Scope()
}

func get(k *Kind, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		doc, err := k.Get(r.Context(), g, id)
		if err != nil {
			return err
		}
		return show(w, k, doc, http.StatusOK)
	}
}

func list(k *Kind, under ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		if kind := g.Principal().Kind; k.Seen && (kind == identity.Token || kind == identity.Admin) {
			return fault.New(fault.Denied, "this account is for content only") // there is nothing here that it could see
		}
		top, after, err := page(r.URL.Query())
		if err != nil {
			return err
		}
		filter, err := parseFilter(r.URL.Query().Get("$filter"), k.Filters)
		if err != nil {
			return err
		}
		docs, err := k.List(r.Context(), g, Query{under, ref.ID(after), top + 1, filter})
		if err != nil {
			return err
		}
		next := ""
		if len(docs) > top {
			docs = docs[:top]
			next = docs[top-1].ID.Key()
		}
		views := make([]any, len(docs))
		for i, doc := range docs {
			views[i] = viewed(k, doc)
		}
		return answerPage(w, r, views, next)
	}
}

// page reads how many items are wanted ($top), and after which ($skipToken).
func page(q url.Values) (top int, after string, err error) {
	top = usualTop
	if s := q.Get("$top"); s != "" {
		if top, err = strconv.Atoi(s); err != nil || top < 1 {
			return 0, "", fault.New(fault.BadRequest, "$top is a number from 1 to %d", maxPage)
		}
	}
	return min(top, maxPage), q.Get("$skipToken"), nil
}

func answerPage[T any](w http.ResponseWriter, r *http.Request, items []T, next string) error {
	body := map[string]any{"value": items}
	if next != "" {
		q := r.URL.Query()
		q.Set("$skipToken", next)
		link := url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}
		body["nextLink"] = link.String()
	}
	return answer(w, http.StatusOK, body)
}

// put creates or changes. A property that the body does not have stays as it is,
// in a PUT too: clients of older versions send back what they know, and must not
// wipe out what they do not.
func put(k *Kind, id ref.ID, mustExist bool) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		ctx := r.Context()
		body, err := read(w, r)
		if err != nil {
			return err
		}
		sent, err := changeOf(body)
		if err != nil {
			return err
		}
		expected, err := expectation(r.Header)
		if err != nil {
			return err
		}
		for attempt := 1; ; attempt++ {
			current, err := k.Get(ctx, g, id)
			created := fault.Of(err) == fault.NotFound
			if err != nil && (!created || mustExist) {
				return err
			}
			if created {
				current = resource.Resource{ID: id, Type: k.Type}
			}
			next, err := sent.over(current, created)
			if err != nil {
				return err
			}
			merged := expected
			if expected == resource.Any || expected == resource.Exists {
				merged = current.Etag
				if created && expected == resource.Any {
					merged = resource.Absent
				} else if created {
					return fault.New(fault.Stale, "there is no such resource to change")
				}
			}
			doc, err := k.Put(ctx, g, next, merged)
			if code := fault.Of(err); merged != expected && attempt < attempts && (code == fault.Stale || code == fault.Conflict && created) {
				// Somebody was faster, and the caller did not say that it minds. What the
				// other one wrote is seen when it is committed, which takes a disk's time.
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(rand.N(time.Millisecond << attempt)):
				}
				continue
			}
			if err != nil {
				return err
			}
			if created || k.Made && !mustExist {
				return show(w, k, doc, http.StatusCreated)
			}
			return show(w, k, doc, http.StatusOK)
		}
	}
}

// A change is what a PUT or PATCH sends.
type change struct {
	Location   *string
	Tags       map[string]*string
	Properties map[string]any
}

// changeOf reads a change. Members of a resource that are not the caller's to set,
// or that nothing here has, are sent back by some clients, and are ignored; any other
// is a property that was put in the wrong place.
func changeOf(body json.RawMessage) (change, error) {
	var sent struct {
		change
		ID, Name, Type, Kind, Etag, SystemData, SKU, Identity, Plan, ManagedBy, Zones, ExtendedLocation json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(&sent)
	if err == nil {
		return sent.change, nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return change{}, fault.New(fault.BadRequest, `a resource has no member %.100s; what can be set stands in "properties"`, name)
	}
	return change{}, fault.New(fault.BadRequest, "the body is not a resource: properties and tags are objects, location is text").Because(err)
}

func (c change) over(current resource.Resource, created bool) (next resource.Resource, err error) {
	next = current
	if c.Location != nil && created {
		next.Location = *c.Location
	}
	if c.Tags != nil {
		next.Tags = maps.Clone(current.Tags)
		if next.Tags == nil {
			next.Tags = map[string]string{}
		}
		for name, value := range c.Tags {
			if delete(next.Tags, name); value != nil {
				next.Tags[name] = *value
			}
		}
	}
	whole := map[string]any{}
	if len(current.Properties) > 0 {
		if err := json.Unmarshal(current.Properties, &whole); err != nil {
			return next, err
		}
	}
	if err := overlay(whole, c.Properties); err != nil {
		return next, err
	}
	next.Properties, err = json.Marshal(whole)
	return next, err
}

// overlay puts sent over whole: objects are merged, null removes, anything else
// replaces. The case of names does not matter, so a name in two cases is refused:
// one of the two would win by chance.
func overlay(whole, sent map[string]any) error {
	known := make(map[string]string, len(whole)) // names as they are spelled
	for name := range whole {
		known[fold(name)] = name
	}
	seen := make(map[string]bool, len(sent))
	for name, value := range sent {
		folded := fold(name)
		if seen[folded] {
			return fault.New(fault.BadRequest, "the property %q is there twice", name)
		}
		seen[folded] = true
		if spelled, ok := known[folded]; ok {
			name = spelled
		}
		object, isObject := value.(map[string]any)
		below, _ := whole[name].(map[string]any)
		switch {
		case value == nil:
			delete(whole, name)
		case isObject:
			if below == nil {
				below = map[string]any{}
				whole[name] = below
			}
			if err := overlay(below, object); err != nil {
				return err
			}
		default:
			whole[name] = value
		}
	}
	return nil
}

// fold is equal for names that encoding/json takes for one.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

func remove(k *Kind, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		expected, err := expectation(r.Header)
		if err != nil {
			return err
		}
		was, err := k.Remove(r.Context(), g, id, expected)
		if fault.Of(err) == fault.NotFound && expected == resource.Any {
			w.WriteHeader(http.StatusNoContent) // it is as gone as was asked for; nothing happened, so nothing is recorded
			return nil
		}
		if err != nil {
			return err
		}
		if was.ID != "" {
			was.Etag = "" // nobody can match it any more
			return show(w, k, was, http.StatusOK)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
}

func act(a Action, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		body, err := read(w, r)
		if err != nil {
			return err
		}
		result, err := a.Run(r.Context(), g, id, body)
		if err != nil {
			return err
		}
		if result == nil {
			w.WriteHeader(http.StatusOK)
			return nil
		}
		return answer(w, http.StatusOK, result)
	}
}

// read takes a body of JSON; none is an empty object.
func read(w http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, fault.New(fault.TooLarge, "a request to the control plane has at most %d bytes", maxBody)
	} else if err != nil {
		return nil, fault.New(fault.BadRequest, "the body did not arrive").Because(err)
	}
	if len(text) == 0 {
		return json.RawMessage("{}"), nil
	}
	if !json.Valid(text) {
		return nil, fault.New(fault.BadRequest, "the body is not JSON")
	}
	return text, nil
}

// expectation is what the caller wants to find, by If-Match and If-None-Match.
func expectation(h http.Header) (string, error) {
	match, none := h.Get("If-Match"), h.Get("If-None-Match")
	switch {
	case none == "*" && match == "":
		return resource.Absent, nil
	case none != "":
		return "", fault.New(fault.BadRequest, "If-None-Match can only be *")
	case match == "":
		return resource.Any, nil
	case match == "*":
		return resource.Exists, nil
	}
	etag := strings.Trim(strings.TrimPrefix(match, "W/"), `"`)
	if etag == "" || etag == resource.Absent {
		return "", fault.New(fault.Stale, "If-Match is no etag that was given")
	}
	return etag, nil
}

// A view is a resource as callers see it.
type view struct {
	ID         ref.ID              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location,omitempty"`
	Tags       map[string]string   `json:"tags,omitzero"`
	Etag       string              `json:"etag,omitempty"`
	System     resource.SystemData `json:"systemData,omitzero"`
	Properties json.RawMessage     `json:"properties,omitempty"`
}

func viewed(k *Kind, r resource.Resource) any {
	v := view{r.ID, r.ID.Name(), k.Type, r.Location, r.Tags, r.Etag, r.System, r.Properties}
	if k.Shown != nil {
		return k.Shown(v)
	}
	return v
}

func show(w http.ResponseWriter, k *Kind, r resource.Resource, status int) error {
	if r.Etag != "" {
		w.Header().Set("ETag", strconv.Quote(r.Etag))
	}
	return answer(w, status, viewed(k, r))
}
