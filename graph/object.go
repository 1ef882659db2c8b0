package graph

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"breakwater/access"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ref"
)

// A set is the objects of one type.
type set struct {
	called string
	of     directory.Search // which they are
}

var (
	people  = set{"users", directory.Search{}}
	clients = set{"servicePrincipals", directory.Search{Clients: true}}
)

// An object is a principal as Graph shows it.
type object struct {
	Type        string    `json:"@odata.type"`
	ID          string    `json:"id"`
	DisplayName string    `json:"displayName"`
	Enabled     bool      `json:"accountEnabled"`
	Created     time.Time `json:"createdDateTime,omitzero"`

	UserPrincipalName string `json:"userPrincipalName,omitempty"`

	AppID          string   `json:"appId,omitempty"`
	AppDisplayName string   `json:"appDisplayName,omitempty"`
	ClientType     string   `json:"servicePrincipalType,omitempty"`
	Names          []string `json:"servicePrincipalNames,omitempty"`
	Alternative    []string `json:"alternativeNames,omitempty"` // where its document is
}

const (
	userObject   = "#microsoft.graph.user"
	clientObject = "#microsoft.graph.servicePrincipal"
)

func shown(o directory.Object) object {
	v := object{Type: clientObject, ID: o.ID, DisplayName: o.DisplayName, Enabled: o.Enabled, Created: o.Created}
	if o.Kind == identity.User {
		v.Type, v.UserPrincipalName = userObject, o.Name
		return v
	}
	v.AppID, v.AppDisplayName, v.ClientType, v.Names, v.Alternative = o.ClientID, o.DisplayName, "Application", []string{o.ClientID, o.Name}, []string{string(o.Document)}
	if o.Kind == identity.ManagedIdentity {
		v.ClientType, v.Names = "ManagedIdentity", []string{o.ClientID}
	}
	return v
}

const (
	usualTop = 100
	maxTop   = 999
	maxIDs   = 1000
	maxBody  = 1 << 20
)

// list answers with what $filter means, page by page. Of what else Graph knows,
// $select and $count would only leave out or add; $search would change what is
// found, and is refused.
func (s set) list(a *API, w http.ResponseWriter, r *http.Request, g access.Grant, _ string) error {
	q := r.URL.Query()
	search, err := parseFilter(q.Get("$filter"), s.of)
	if err != nil {
		return err
	}
	for _, name := range []string{"$search", "$expand", "$orderby", "$skip"} {
		if q.Get(name) != "" {
			return fault.New(fault.BadRequest, "this server has no %s; use $filter, $top and $skiptoken", name)
		}
	}
	top := usualTop
	if text := q.Get("$top"); text != "" {
		if top, err = strconv.Atoi(text); err != nil || top < 1 || top > maxTop {
			return fault.New(fault.BadRequest, "$top is a number from 1 to %d", maxTop)
		}
	}
	if after := q.Get("$skiptoken"); after != "" {
		if search.After, err = ref.ParseID(after); err != nil {
			return fault.New(fault.BadRequest, "$skiptoken is not one that was given; follow the nextLink of the page before")
		}
	}
	search.Limit = top + 1
	found, err := a.Directory.Search(r.Context(), g, search)
	if err != nil {
		return err
	}
	body := map[string]any{"@odata.context": "https://" + r.Host + Root + "$metadata#" + s.called}
	if len(found) > top {
		found = found[:top]
		q.Set("$skiptoken", found[top-1].Document.Key())
		next := url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}
		body["@odata.nextLink"] = next.String()
	}
	body["value"] = each(found)
	return gate.WriteJSON(w, http.StatusOK, body)
}

func each(found []directory.Object) []object {
	all := make([]object, len(found))
	for i, o := range found {
		all[i] = shown(o)
	}
	return all
}

// get shows the one that is called so: by its id, a user by its name as well.
func (s set) get(a *API, w http.ResponseWriter, r *http.Request, g access.Grant, called string) error {
	search := s.of
	search.Limit = 1
	switch {
	case ref.IsGUID(called):
		search.ID = called
	case s.of.Clients || len(called) > maxValue:
		return fault.New(fault.BadRequest, "a service principal is called by its id here; $filter finds it by its appId or name")
	default:
		search.Name = called
	}
	found, err := a.Directory.Search(r.Context(), g, search)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fault.New(fault.NotFound, "there is nobody of this id or name among the %s", s.called)
	}
	return gate.WriteJSON(w, http.StatusOK, shown(found[0]))
}

// me is the person who calls. Nobody needs a right to know who it is.
func (a *API) me(w http.ResponseWriter, _ *http.Request, g access.Grant, _ string) error {
	p := g.Principal()
	if p.Kind != identity.User && p.Kind != identity.Federated {
		return fault.New(fault.BadRequest, "me is for people; an application is found among the servicePrincipals")
	}
	return gate.WriteJSON(w, http.StatusOK, object{Type: userObject, ID: p.ID, DisplayName: p.Name, Enabled: true, UserPrincipalName: p.Name})
}

// byIDs shows those of the principals whom the caller may see.
func (a *API) byIDs(w http.ResponseWriter, r *http.Request, g access.Grant, _ string) error {
	var asked struct{ IDs, Types []string }
	body, err := gate.ReadJSON(r, maxBody)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&asked); err != nil {
		return fault.New(fault.BadRequest, `the body is {"ids": […], "types": […]}`).Because(err)
	}
	if len(asked.IDs) == 0 || len(asked.IDs) > maxIDs || slices.ContainsFunc(asked.IDs, func(id string) bool { return !ref.IsGUID(id) }) {
		return fault.New(fault.BadRequest, "ids are 1 to %d GUIDs", maxIDs)
	}
	found, err := a.Directory.Objects(r.Context(), g, asked.IDs)
	if err != nil {
		return err
	}
	if wanted := asked.Types; len(wanted) > 0 && !slices.Contains(wanted, "directoryObject") {
		found = slices.DeleteFunc(found, func(o directory.Object) bool {
			return o.Kind == identity.User && !slices.Contains(wanted, "user") || o.Kind != identity.User && !slices.Contains(wanted, "servicePrincipal")
		})
	}
	return gate.WriteJSON(w, http.StatusOK, map[string]any{
		"@odata.context": "https://" + r.Host + Root + "$metadata#directoryObjects", "value": each(found),
	})
}
