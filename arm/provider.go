package arm

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/ref"
)

// A provider is a namespace of types. There is nothing to register: what the
// server can do is there for every subscription.
type provider struct {
	ID            ref.ID         `json:"id"`
	Namespace     string         `json:"namespace"`
	State         string         `json:"registrationState"`
	Policy        string         `json:"registrationPolicy"`
	ResourceTypes []resourceType `json:"resourceTypes"`
}

type resourceType struct {
	Type         string   `json:"resourceType"`
	Locations    []string `json:"locations"`
	Versions     []string `json:"apiVersions"`
	Default      string   `json:"defaultApiVersion"`
	Capabilities string   `json:"capabilities"`
	Pattern      string   `json:"pattern"` // ours: the path of a resource, with names in braces
	Operations   []string `json:"operations"`
}

// versions are those of Azure's clients (azure-contract §3.5, §6, §7), by
// namespace. Every version is taken and answered in the same way; clients choose
// the newest that is no preview.
var versions = map[string][]string{
	"Microsoft.ContainerRegistry": {"2025-03-01-preview", "2024-11-01-preview", "2023-11-01-preview", "2023-07-01", "2023-01-01-preview", "2022-12-01",
		"2022-02-01-preview", "2021-09-01", "2021-08-01-preview", "2020-11-01-preview", "2019-06-01-preview", "2019-05-01", "2017-10-01"},
	"Microsoft.Authorization":   {"2023-04-01", "2022-04-01", "2021-06-01", "2020-05-01", "2020-04-01-preview", "2018-01-01-preview", "2017-04-01", "2016-09-01", "2015-07-01"},
	"Microsoft.ManagedIdentity": {"2023-01-31", "2022-01-31-preview", "2018-11-30"},
	"Microsoft.Insights":        {"2021-05-01-preview", "2018-01-01", "2017-05-01-preview", "2015-04-01"},
	"Microsoft.Management":      {"2021-04-01", "2020-05-01"},
	"Microsoft.Resources":       {"2022-12-01", "2022-09-01", "2021-04-01", "2020-10-01", "2019-11-01"},
}

// ourVersion is that of the types that only this server has.
var ourVersion = []string{"2026-11-01"}

// offered is the namespaces of the kinds there are, in order.
func (a *API) offered(at ref.ID) []provider {
	var all []provider
	for _, k := range a.kinds {
		namespace, name, _ := strings.Cut(k.Type, "/")
		i := slices.IndexFunc(all, func(p provider) bool { return strings.EqualFold(p.Namespace, namespace) })
		if i < 0 {
			i = len(all)
			all = append(all, provider{at + ref.ID("/providers/"+namespace), namespace, "Registered", "RegistrationFree", nil})
		}
		known, ok := versions[namespace]
		if !ok {
			known = ourVersion
		}
		usual := known[max(0, slices.IndexFunc(known, func(v string) bool { return !strings.HasSuffix(v, "-preview") }))]
		t := resourceType{name, []string{}, known, usual, "None", k.pattern(), nil}
		if k.tracked() {
			t.Capabilities = "SupportsTags, SupportsLocation"
		}
		for _, r := range k.routes() {
			if !slices.Contains(t.Operations, r.Operation) {
				t.Operations = append(t.Operations, r.Operation)
			}
		}
		all[i].ResourceTypes = append(all[i].ResourceTypes, t)
	}
	for _, p := range all {
		slices.SortFunc(p.ResourceTypes, func(x, y resourceType) int { return strings.Compare(x.Type, y.Type) })
	}
	slices.SortFunc(all, func(x, y provider) int { return strings.Compare(x.Namespace, y.Namespace) })
	return all
}

func (a *API) providers(w http.ResponseWriter, r *http.Request, _ access.Grant, q asked) error {
	return answerPage(w, r, a.offered(q.at), "")
}

// provider is one namespace; to register it is to look at it.
func (a *API) provider(w http.ResponseWriter, _ *http.Request, _ access.Grant, q asked) error {
	for _, p := range a.offered(q.at) {
		if strings.EqualFold(p.Namespace, q.names[0]) {
			return gate.WriteJSON(w, http.StatusOK, p)
		}
	}
	return noProvider(q.names[0])
}

func noProvider(namespace string) error {
	return fault.New(fault.NotFound, "there is no provider %.100q here; GET /providers lists those there are", namespace)
}

// operations is what the routes of a namespace need, as Azure lists operations.
func (a *API) operations(w http.ResponseWriter, r *http.Request, _ access.Grant, q asked) error {
	type display struct {
		Provider    string `json:"provider"`
		Resource    string `json:"resource"`
		Operation   string `json:"operation"`
		Description string `json:"description"`
	}
	type operation struct {
		Name         string   `json:"name"`
		Origin       string   `json:"origin"`
		IsDataAction bool     `json:"isDataAction"`
		Display      display  `json:"display"`
		Properties   struct{} `json:"properties"`
	}
	names := map[string]bool{} // and whether it is a data action
	for _, route := range a.routes {
		names[route.Operation] = false
	}
	for _, action := range access.DataActions() {
		names[string(action)] = true
	}
	for _, action := range access.ControlActions() {
		names[string(action)] = false
	}
	var all []operation
	for name, data := range names {
		namespace, rest, _ := strings.Cut(name, "/")
		if !strings.EqualFold(namespace, q.names[0]) {
			continue
		}
		verb := rest[strings.LastIndexByte(rest, '/')+1:]
		of := strings.TrimSuffix(strings.TrimSuffix(rest, verb), "/")
		if verb == "action" {
			verb = of[strings.LastIndexByte(of, '/')+1:]
		}
		all = append(all, operation{name, "user,system", data, display{namespace, of, verb, verb + " " + of}, struct{}{}})
	}
	if all == nil {
		return noProvider(q.names[0])
	}
	slices.SortFunc(all, func(x, y operation) int { return strings.Compare(x.Name, y.Name) })
	return answerPage(w, r, all, "")
}

// locations are those that something is said to lie in, and the server's own.
func (a *API) locations(w http.ResponseWriter, r *http.Request, g access.Grant, q asked) error {
	type location struct {
		ID       ref.ID            `json:"id"`
		Name     string            `json:"name"`
		Display  string            `json:"displayName"`
		Regional string            `json:"regionalDisplayName"`
		Type     string            `json:"type"`
		Metadata map[string]string `json:"metadata"`
	}
	names := []string{"local"}
	groups, err := a.o.Documents.List(r.Context(), q.at, ResourceGroupType, "", 0)
	if err != nil {
		return err
	}
	for _, doc := range groups {
		if name := strings.ToLower(doc.Location); name != "" && !slices.Contains(names, name) && g.Sees(doc.ID.Scope()) {
			names = append(names, name)
		}
	}
	all := make([]location, len(names))
	for i, name := range names {
		all[i] = location{q.at.Child("locations", name), name, name, name, "Region", map[string]string{"regionType": "Physical", "regionCategory": "Other"}}
	}
	return answerPage(w, r, all, "")
}

// endpoints is where a client finds everything, in the two forms in which Azure
// tells it (azure-contract §5.2). Nobody has to be known: the way to prove who one
// is is told here.
func (a *API) endpoints(w http.ResponseWriter, r *http.Request, _ access.Grant, _ asked) error {
	const audience = "https://management.core.windows.net/"
	server := "https://" + r.Host
	if r.URL.Query().Get("api-version") < "2018" {
		return gate.WriteJSON(w, http.StatusOK, map[string]any{
			"galleryEndpoint": server, "graphEndpoint": server + "/", "portalEndpoint": server,
			"authentication": map[string]any{"loginEndpoint": server + "/adfs", "audiences": []string{audience}},
		})
	}
	return gate.WriteJSON(w, http.StatusOK, []any{map[string]any{
		"name": "Breakwater", "portal": server, "resourceManager": server, "gallery": server, "batch": server, "media": server,
		"authentication":           map[string]any{"loginEndpoint": server + "/adfs", "audiences": []string{audience}, "tenant": "adfs", "identityProvider": "ADFS"},
		"graph":                    server + "/",
		"graphAudience":            server + "/",
		"microsoftGraphResourceId": server + "/",
		"sqlManagement":            server, "vmImageAliasDoc": "", "activeDirectoryDataLake": server,
		"suffixes": map[string]string{
			"acrLoginServer": "." + cmp.Or(a.o.Domain, r.Host), "keyVaultDns": ".vault.localhost", "storage": "core.localhost", "sqlServerHostname": ".database.localhost",
			"azureDataLakeStoreFileSystem": "azuredatalakestore.localhost", "azureDataLakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.localhost",
		},
	}})
}
