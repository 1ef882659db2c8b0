package access

import (
	"slices"
	"strings"

	"breakwater/fault"
)

// A Mode is how a registry reads roles (roleAssignmentMode).
type Mode string

const (
	// Legacy registries let control-plane actions stand for actions on content.
	Legacy Mode = "LegacyRegistryPermissions"
	// ABAC registries know only data actions for content.
	ABAC Mode = "AbacRepositoryPermissions"
)

// A Role is a named set of actions. Patterns may hold "*".
type Role struct {
	ID             string // GUID
	Name           string
	Description    string
	Actions        []string
	NotActions     []string
	DataActions    []string
	NotDataActions []string
}

// allows reports whether the role holds the action in a registry of this mode.
func (r Role) allows(a Action, mode Mode) bool {
	for _, row := range content {
		if row.Action != a {
			continue
		}
		if mode == ABAC {
			return anyMatch(r.DataActions, a) && !anyMatch(r.NotDataActions, a)
		}
		a = row.Legacy
		break
	}
	return anyMatch(r.Actions, a) && !anyMatch(r.NotActions, a)
}

func anyMatch(patterns []string, a Action) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, a) })
}

// Roles lists the built-in roles.
func Roles() []Role { return slices.Clone(roles) }

// RoleByName finds a built-in role by its name or GUID, or by a role definition
// id that ends with the GUID.
func RoleByName(s string) (Role, error) {
	guid := s[strings.LastIndexByte(s, '/')+1:]
	for _, r := range roles {
		if strings.EqualFold(r.ID, guid) || strings.EqualFold(r.Name, s) {
			return r, nil
		}
	}
	return Role{}, fault.New(fault.NotFound, "there is no role with this name or id")
}

func role(guid string) (Role, bool) {
	for i := range roles {
		if strings.EqualFold(roles[i].ID, guid) {
			return roles[i], true
		}
	}
	return Role{}, false
}

// The built-in roles that matter for what there is, with Azure's GUIDs.
const (
	OwnerRole       = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	ContributorRole = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	ReaderRole      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	PullRole        = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
	PushRole        = "8311e382-0749-4cb8-b61a-304f252e45ec"
	DeleteRole      = "c2f4ef07-c644-48eb-af81-4b1b4947fb11"
)

var (
	readContent  = []string{string(ContentRead), string(MetadataRead)}
	writeContent = append(slices.Clone(readContent), string(ContentWrite), string(MetadataWrite))
	allContent   = append(slices.Clone(writeContent), string(ContentDelete), registries+"repositories/metadata/delete")
)

var roles = []Role{
	{ID: OwnerRole, Name: "Owner", Description: "May do everything, and let others.",
		Actions: []string{"*"}},
	{ID: ContributorRole, Name: "Contributor", Description: "May do everything except let others.",
		Actions: []string{"*"},
		NotActions: []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action",
			"Breakwater.Identity/*/write", "Breakwater.Identity/*/delete", "Breakwater.Identity/*/action"}},
	{ID: ReaderRole, Name: "Reader", Description: "May look at everything.",
		Actions: []string{"*/read"}},
	{ID: "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", Name: "User Access Administrator", Description: "May let others do things.",
		Actions: []string{"*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"}},
	{ID: "f58310d9-a9f6-439a-9e8d-f62e7b41a168", Name: "Role Based Access Control Administrator", Description: "May assign roles.",
		Actions: []string{string(RoleAssignmentWrite), string(RoleAssignmentDelete), "*/read", "Microsoft.Support/*"}},
	{ID: PullRole, Name: "AcrPull", Description: "May pull.",
		Actions: []string{registries + "pull/read"}},
	{ID: PushRole, Name: "AcrPush", Description: "May pull and push.",
		Actions: []string{registries + "pull/read", registries + "push/write"}},
	{ID: DeleteRole, Name: "AcrDelete", Description: "May delete content.",
		Actions: []string{registries + "artifacts/delete"}},
	{ID: "b93aa761-3e63-49ed-ac28-beffa264f7ac", Name: "Container Registry Repository Reader", Description: "May read repositories.",
		DataActions: readContent},
	{ID: "2a1e307c-b015-4ebd-883e-5b7698a07328", Name: "Container Registry Repository Writer", Description: "May read and write repositories.",
		DataActions: writeContent},
	{ID: "2efddaa5-3f1f-4df3-97df-af3f13818f4c", Name: "Container Registry Repository Contributor", Description: "May read, write and delete repositories.",
		DataActions: allContent},
	{ID: "bfdb9389-c9a5-478a-bb2f-ba9ca092c3c7", Name: "Container Registry Repository Catalog Lister", Description: "May list repositories.",
		DataActions: []string{string(CatalogRead)}},
	{ID: "577a9874-89fd-4f24-9dbd-b5034d0ad23a", Name: "Container Registry Data Importer and Data Reader", Description: "May import and read.",
		Actions:     []string{registries + "importImage/action", string(RegistryRead), registries + "pull/read"},
		DataActions: append(slices.Clone(readContent), string(CatalogRead))},
	{ID: "3bc748fc-213d-45c1-8d91-9da5725539b9", Name: "Container Registry Contributor and Data Access Configuration Administrator",
		Description: "May configure registries and who may use them, but has no right to content.",
		Actions: []string{string(RegistryRead), string(RegistryWrite), string(RegistryDelete), registries + "operationStatuses/read",
			registries + "listCredentials/action", string(RegenerateCredential), string(GenerateCredentials),
			registries + "tokens/*", registries + "scopeMaps/*", registries + "replications/*",
			registries + "privateEndpointConnectionsApproval/action", registries + "privateEndpointConnections/*",
			registries + "connectedRegistries/*", registries + "webhooks/*",
			registries + "providers/Microsoft.Insights/diagnosticSettings/read", registries + "providers/Microsoft.Insights/diagnosticSettings/write",
			"Microsoft.Authorization/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Resources/deployments/*"}},
	{ID: "69b07be0-09bf-439a-b9a6-e73de851bd59", Name: "Container Registry Configuration Reader and Data Access Configuration Reader",
		Description: "May look at the configuration of registries and at who may use them.",
		Actions: []string{string(RegistryRead), registries + "operationStatuses/read", registries + "listCredentials/action",
			string(TokenRead), string(ScopeMapRead), registries + "replications/read", registries + "privateEndpointConnections/read",
			registries + "connectedRegistries/read", registries + "webhooks/read",
			registries + "providers/Microsoft.Insights/diagnosticSettings/read"}},
}
