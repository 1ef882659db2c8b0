package arm

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/ref"
	"breakwater/resource"
)

// tracked reports whether resources of the kind have a location and tags: those
// are what lists across kinds have.
func (k *Kind) tracked() bool { return k.Place == inGroup && strings.Count(k.Type, "/") == 1 }

// resourceFields is what the $filter of a list across kinds may ask about. What it
// asks about a tag's name and value, it asks about one tag.
var resourceFields = []string{"resourceType", "name", "location", "resourceGroup", "tagName", "tagValue", "createdTime", "changedTime"}

func (w *where) holdsFor(doc resource.Resource) bool {
	name, value := "", ""
	field := func(f string) string {
		switch f {
		case "resourceType":
			return doc.Type
		case "name":
			return doc.ID.Name()
		case "location":
			return doc.Location
		case "resourceGroup":
			if at := within(doc.ID); len(at) > 1 {
				return at[1].Name()
			}
			return ""
		case "createdTime":
			return doc.System.CreatedAt.Format(time.RFC3339Nano)
		case "changedTime":
			return doc.System.LastModifiedAt.Format(time.RFC3339Nano)
		case "tagName":
			return name
		}
		return value
	}
	for name, value = range doc.Tags {
		if w.holds(field) {
			return true
		}
	}
	return len(doc.Tags) == 0 && w.holds(field)
}

// A summary is a resource as lists across kinds show it.
type summary struct {
	ID       ref.ID            `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitzero"`
	SKU      json.RawMessage   `json:"sku,omitempty"`
	Identity json.RawMessage   `json:"identity,omitempty"`
	Created  *time.Time        `json:"createdTime,omitempty"`
	Changed  *time.Time        `json:"changedTime,omitempty"`
	State    string            `json:"provisioningState,omitempty"`
}

func (k *Kind) summary(doc resource.Resource, expand string) (summary, error) {
	s := summary{ID: doc.ID, Name: doc.ID.Name(), Type: k.Type, Location: doc.Location, Tags: doc.Tags}
	for asked := range strings.SplitSeq(strings.ToLower(expand), ",") {
		switch strings.TrimSpace(asked) {
		case "createdtime":
			s.Created = &doc.System.CreatedAt
		case "changedtime":
			s.Changed = &doc.System.LastModifiedAt
		case "provisioningstate":
			s.State = succeeded
		}
	}
	if k.Shown == nil && len(k.Beside) == 0 {
		return s, nil
	}
	// What the kind shows beside the properties, such as an SKU.
	whole, err := json.Marshal(viewed(k, doc))
	if err != nil {
		return s, err
	}
	var beside struct{ SKU, Identity json.RawMessage }
	err = json.Unmarshal(whole, &beside)
	s.SKU, s.Identity = beside.SKU, beside.Identity
	return s, err
}

// resources lists across kinds what the caller may read in a subscription or
// group: by type, then by id.
func (a *API) resources(w http.ResponseWriter, r *http.Request, g access.Grant, q asked) error {
	query := r.URL.Query()
	top, token, err := page(query)
	if err != nil {
		return err
	}
	last, err := resume(token)
	if err != nil {
		return err
	}
	if query.Get("$top") == "" {
		top = maxPage
	}
	which, err := parseWhere(query.Get("$filter"), resourceFields)
	if err != nil {
		return err
	}
	lastType := ""
	if last != "" {
		if t, err := parse(string(last)); err == nil {
			lastType = strings.ToLower(t.Type)
		}
	}
	only, one := which.must("resourceType", "eq")
	items, next := []summary{}, ""
	for _, k := range a.tracked() {
		typ, after := strings.ToLower(k.Type), ref.ID("")
		if typ == lastType {
			after = last
		}
		if typ < lastType || one && !strings.EqualFold(only, typ) {
			continue
		}
		for more := true; more; {
			docs, err := a.o.Documents.List(r.Context(), q.at, k.Type, after, maxPage)
			if err != nil {
				return err
			}
			more = len(docs) == maxPage
			for _, doc := range docs {
				if after = doc.ID; !which.holdsFor(doc) || !g.Can(k.Read, doc.ID.Scope()) {
					continue
				}
				if len(items) == top {
					return answerPage(w, r, items, next)
				}
				s, err := k.summary(doc, query.Get("$expand"))
				if err != nil {
					return err
				}
				items, next = append(items, s), doc.ID.Key()
			}
		}
	}
	return answerPage(w, r, items, "")
}

// tracked is the kinds that lists across kinds have, in the order of their types.
func (a *API) tracked() []*Kind {
	var all []*Kind
	for _, k := range a.kinds {
		if k.tracked() {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(x, y *Kind) int { return strings.Compare(strings.ToLower(x.Type), strings.ToLower(y.Type)) })
	return all
}

// within is the subscription, and the resource group in it, that the id lies in or
// is.
func within(id ref.ID) (all []ref.ID) {
	parts := strings.Split(string(id), "/") // "", subscriptions, S, resourceGroups, G, …
	if len(parts) > 2 && strings.EqualFold(parts[1], "subscriptions") {
		all = append(all, ref.ID(strings.Join(parts[:3], "/")))
		if len(parts) > 4 && strings.EqualFold(parts[3], "resourceGroups") {
			all = append(all, ref.ID(strings.Join(parts[:5], "/")))
		}
	}
	return all
}
