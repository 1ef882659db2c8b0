package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/receipt"
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

// head says whether there is such a resource: Azure answers with nothing, not with
// what GET would have (azure-contract §3.2).
func head(k *Kind, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		if _, err := k.Get(r.Context(), g, id); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
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
		q, filter := Query{Under: under, Limit: top + 1}, r.URL.Query().Get("$filter")
		if q.After, err = resume(after); err != nil {
			return err
		}
		if len(k.Where) > 0 {
			q.Where, err = parseWhere(filter, k.Where)
		} else {
			q.Filter, err = parseFilter(filter, k.Filters)
		}
		if err != nil {
			return err
		}
		docs, err := k.List(r.Context(), g, q)
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

// resume reads after which resource a list goes on.
func resume(after string) (ref.ID, error) {
	if after == "" {
		return "", nil
	}
	id, err := ref.ParseID(after)
	if err != nil {
		return "", fault.New(fault.BadRequest, "$skipToken is not one that was given; follow the nextLink of the page before")
	}
	return id, nil
}

func answerPage[T any](w http.ResponseWriter, r *http.Request, items []T, next string) error {
	body := map[string]any{"value": items}
	if next != "" {
		q := r.URL.Query()
		q.Set("$skipToken", next)
		link := url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}
		body["nextLink"] = link.String()
	}
	return gate.WriteJSON(w, http.StatusOK, body)
}

// put creates or changes. A property that the body does not have stays as it is,
// in a PUT too: clients of older versions send back what they know, and must not
// wipe out what they do not.
func put(k *Kind, id ref.ID, mustExist bool) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		ctx := r.Context()
		body, err := read(r)
		if err != nil {
			return err
		}
		sent, err := changeOf(body, k.Beside)
		if err != nil {
			return err
		}
		if mustExist {
			sent.anew = nil // a PATCH merges
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
			if current, err = k.cleared(current, sent); err != nil {
				return err
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
			if merged != expected && attempt < attempts && errors.Is(err, fault.New(fault.Stale, "")) {
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
			if created && !k.Same || k.Made && !mustExist {
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

	anew []string // properties that replace what was there, whole
}

// changeOf reads a change. What the kind has beside its properties becomes one of
// them. Members of a resource that are not the caller's to set,
// or that nothing here has, are sent back by some clients, and are ignored; any other
// is a property that was put in the wrong place.
func changeOf(body json.RawMessage, beside []string) (change, error) {
	var sent struct {
		change
		SKU, Identity                                                                    map[string]any
		ID, Name, Type, Kind, Etag, SystemData, Plan, ManagedBy, Zones, ExtendedLocation json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(&sent)
	if err == nil {
		c := sent.change
		for name := range c.Properties {
			if slices.Contains(beside, gate.Fold(name)) {
				return c, fault.New(fault.BadRequest, `%s stands beside "properties", not in it`, name)
			}
		}
		for name, value := range map[string]map[string]any{"sku": sent.SKU, "identity": sent.Identity} {
			if value == nil || !slices.Contains(beside, name) {
				continue
			}
			if c.Properties == nil {
				c.Properties = map[string]any{}
			}
			c.Properties[name], c.anew = value, append(c.anew, name)
		}
		return c, nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return change{}, fault.New(fault.BadRequest, `a resource has no member %.100s; what can be set stands in "properties"`, name)
	}
	return change{}, fault.New(fault.BadRequest, "the body is not a resource: properties and tags are objects, location is text").Because(err)
}

func (c change) over(current resource.Resource, created bool) (next resource.Resource, err error) {
	next = current
	switch {
	case c.Location == nil:
	case created:
		next.Location = *c.Location
	case current.Location != "" && plain(*c.Location) != plain(current.Location):
		return next, fault.New(fault.Conflict, "it lies in %s, and cannot be moved", current.Location)
	}
	if c.Tags != nil {
		if next.Tags, err = tagsOf(c.Tags); err != nil {
			return next, err
		}
	}
	whole := map[string]any{}
	if len(current.Properties) > 0 {
		if err := json.Unmarshal(current.Properties, &whole); err != nil {
			return next, err
		}
	}
	for _, name := range c.anew {
		delete(whole, name)
	}
	overlay(whole, c.Properties)
	next.Properties, err = json.Marshal(whole)
	return next, err
}

// plain is a location without what its display name has more.
func plain(location string) string {
	return strings.ToLower(strings.ReplaceAll(location, " ", ""))
}

// tagsOf is all the tags that a resource has when these were sent: they replace
// what was there, in a PATCH too, because that is how Azure's clients take one
// away. Limits are Azure's.
func tagsOf(sent map[string]*string) (map[string]string, error) {
	tags := make(map[string]string, len(sent))
	for name, value := range sent {
		if value == nil {
			continue
		}
		if name == "" || len(name) > 512 || len(*value) > 256 || strings.ContainsAny(name, `<>%&\?/`) || strings.ContainsFunc(name+*value, unicode.IsControl) {
			return nil, fault.New(fault.BadRequest, `the name of a tag has 1 to 512 bytes and none of <>%%&\?/, its value has at most 256, and neither has control characters`)
		}
		tags[name] = *value
	}
	if len(tags) > 50 {
		return nil, fault.New(fault.BadRequest, "a resource has at most 50 tags")
	}
	return tags, nil
}

// overlay puts sent over whole: objects are merged, null removes, anything else
// replaces. The case of names does not matter.
func overlay(whole, sent map[string]any) {
	known := make(map[string]string, len(whole)) // names as they are spelled
	for name := range whole {
		known[gate.Fold(name)] = name
	}
	for name, value := range sent {
		if spelled, ok := known[gate.Fold(name)]; ok {
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
			overlay(below, object)
		default:
			whole[name] = value
		}
	}
}

func remove(k *Kind, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		expected, err := expectation(r.Header)
		if err != nil {
			return err
		}
		was, err := k.Remove(r.Context(), g, id, expected)
		if fault.Of(err) == fault.NotFound && expected == resource.Any && k.Place != above { // of groups, clients take no 204
			w.WriteHeader(http.StatusNoContent) // it is as gone as was asked for; nothing happened, so nothing is recorded
			return nil
		}
		if err != nil {
			return err
		}
		if was.Type == receipt.Type {
			return gate.WriteJSON(w, http.StatusOK, view{ID: was.ID, Name: was.ID.Name(), Type: was.Type, Properties: was.Properties})
		}
		if was.ID != "" {
			was.Etag = "" // nobody can match it any more
			return show(w, k, was, http.StatusOK)
		}
		if k.Silent {
			w.WriteHeader(http.StatusNoContent)
		} else {
			w.WriteHeader(http.StatusOK)
		}
		return nil
	}
}

func act(a Action, id ref.ID) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		body, err := read(r)
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
		return gate.WriteJSON(w, http.StatusOK, result)
	}
}

// read takes a body of JSON; none is an empty object.
func read(r *http.Request) (json.RawMessage, error) {
	text, err := gate.ReadJSON(r, maxBody)
	if err == nil && text == nil {
		text = json.RawMessage("{}")
	}
	return text, err
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
	SKU        json.RawMessage     `json:"sku,omitempty"`
	Identity   json.RawMessage     `json:"identity,omitempty"`
	System     resource.SystemData `json:"systemData,omitzero"`
	Properties json.RawMessage     `json:"properties,omitempty"`
}

// says is what Resource Manager calls who changed a document.
func says(kind string) string {
	switch identity.Kind(kind) {
	case "":
		return ""
	case identity.User, identity.Federated:
		return "User"
	case identity.ManagedIdentity:
		return "ManagedIdentity"
	case identity.Admin, identity.Token:
		return "Key"
	}
	return "Application"
}

func viewed(k *Kind, r resource.Resource) any {
	r.System.CreatedByType, r.System.LastModifiedByType = says(r.System.CreatedByType), says(r.System.LastModifiedByType)
	v := view{ID: r.ID, Name: r.ID.Name(), Type: k.Type, Location: r.Location, Tags: r.Tags, Etag: r.Etag, System: r.System, Properties: r.Properties}
	if len(k.Beside) > 0 {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(r.Properties, &all); err == nil { // it was made here
			v.SKU, v.Identity = all["sku"], all["identity"]
			delete(all, "sku")
			delete(all, "identity")
			v.Properties, _ = json.Marshal(all)
		}
	}
	if k.Shown != nil {
		return k.Shown(v)
	}
	return v
}

func show(w http.ResponseWriter, k *Kind, r resource.Resource, status int) error {
	if r.Etag != "" {
		w.Header().Set("ETag", strconv.Quote(r.Etag))
	}
	return gate.WriteJSON(w, status, viewed(k, r))
}
