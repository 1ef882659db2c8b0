package access

import (
	"encoding/json"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// A Mode is how a registry reads roles (roleAssignmentMode).
type Mode string

const (
	// Legacy registries let control-plane actions stand for actions on content.
	Legacy Mode = "LegacyRegistryPermissions"
	// ABAC registries know only data actions for content.
	ABAC Mode = "AbacRepositoryPermissions"
)

// A Role is a named set of actions.
type Role struct {
	ID          string // GUID
	Name        string
	Description string
	Permissions []Permission
	Scopes      []ref.Scope // where it may be assigned, and below; nil is everywhere
}

// A Permission is a set of actions, as patterns that may hold "*".
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// MarshalJSON writes every list, also those that are empty: clients look into each.
func (p Permission) MarshalJSON() ([]byte, error) {
	type plain Permission
	for _, list := range []*[]string{&p.Actions, &p.NotActions, &p.DataActions, &p.NotDataActions} {
		if *list == nil {
			*list = []string{}
		}
	}
	return json.Marshal(plain(p))
}

// allows reports whether the permission holds the action in a registry of this
// mode: actions on content are control-plane actions in one and data actions in
// the other.
func (p Permission) allows(a Action, mode Mode) bool {
	c, either, isContent := control(a)
	byControl := named(p.Actions, c) && !named(p.NotActions, c)
	if !isContent || c == a || mode != ABAC && !either {
		return byControl
	}
	return either && byControl || p.data(a)
}

// denies is allows of a deny assignment. Who denies an action on content by its
// name denies it in either mode.
func (p Permission) denies(a Action, mode Mode) bool {
	_, _, isContent := control(a)
	return p.allows(a, mode) || isContent && p.data(a)
}

func (p Permission) data(a Action) bool {
	return named(p.DataActions, a) && !named(p.NotDataActions, a)
}

func named(patterns []string, a Action) bool {
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
	return Role{}, noRole(s)
}

func noRole(s string) error {
	return fault.New(fault.NotFound, "there is no role %.100q; the roleDefinitions of the scope are those there are, called by their GUID or, if built in, by their name", s)
}

func role(guid string) (Role, bool) {
	for i := range roles {
		if roles[i].ID == guid {
			return roles[i], true
		}
	}
	return Role{}, false
}

// Built-in roles that this server assigns or tells apart, with Azure's GUIDs.
const (
	OwnerRole            = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	ContributorRole      = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	ReaderRole           = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	PullRole             = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
	PushRole             = "8311e382-0749-4cb8-b61a-304f252e45ec"
	DeleteRole           = "c2f4ef07-c644-48eb-af81-4b1b4947fb11"
	SignerRole           = "6cef56e8-d556-48e5-a04f-b8e64114680f"
	QuarantineReaderRole = "cdda3590-29a3-44f6-95f2-9f980659eb04"
	QuarantineWriterRole = "c8d4ff99-41c3-41a8-9f60-21dfdad59608"
)

// of lists actions of one thing: of("x/", "read", "write") is x/read and x/write.
func of(prefix string, names ...string) []string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = prefix + n
	}
	return all
}

const status = "operationStatuses/read"

var (
	readContent  = []string{string(ContentRead), string(MetadataRead)}
	writeContent = slices.Concat(readContent, []string{string(ContentWrite), string(MetadataWrite)})
	allContent   = slices.Concat(writeContent, []string{string(ContentDelete), registries + "repositories/metadata/delete"})

	readConfiguration = slices.Concat(
		of(registries, "read", status, "listCredentials/action", "connectedRegistries/read"),
		of(registries+"privateEndpointConnections/", "read", status),
		of(registries+"tokens/", "read", status),
		of(registries+"scopeMaps/", "read", status),
		of(registries+"replications/", "read", status),
		of(registries+"webhooks/", "read", "getCallbackConfig/action", "listEvents/action", status),
		of(registries+"providers/Microsoft.Insights/", "diagnosticSettings/read", "diagnosticSettings/write", "logDefinitions/read", "metricDefinitions/read"),
		of("Microsoft.Insights/AlertRules/", "Write", "Delete", "Read", "Activated/Action", "Resolved/Action", "Throttled/Action", "Incidents/Read"))
	writeConfiguration = slices.Concat(readConfiguration,
		of(registries, "write", "delete", "regenerateCredential/action", "generateCredentials/action", "privateEndpointConnectionsApproval/action"),
		of(registries+"replications/", "write", "delete"),
		of(registries+"privateEndpointConnections/", "write", "delete"),
		of(registries+"tokens/", "write", "delete"),
		of(registries+"scopeMaps/", "write", "delete"),
		of(registries+"connectedRegistries/", "write", "delete", "deactivate/action"),
		of(registries+"webhooks/", "write", "delete", "ping/action"),
		of("Microsoft.ContainerRegistry/", "locations/operationResults/read"),
		of("Microsoft.Network/virtualNetworks/subnets/", "join/action", "read", "write"),
		of("Microsoft.Resources/", "deployments/*", "subscriptions/resourceGroups/read"),
		of("Microsoft.Authorization/", "*/read"))
)

// roles are Azure's, as far as they are about registries, with their actions. To
// Contributor's exceptions are added those who may come in and under which rules:
// Azure keeps these in a directory that Contributor has no right to.
var roles = []Role{
	builtIn(OwnerRole, "Owner", "May do everything, and let others.", []string{"*"}, nil),
	{ID: ContributorRole, Name: "Contributor", Description: "May do everything except let others.",
		Permissions: []Permission{{Actions: []string{"*"}, NotActions: slices.Concat(
			of("Microsoft.Authorization/", "*/Delete", "*/Write", "elevateAccess/Action"),
			of("Microsoft.Blueprint/blueprintAssignments/", "write", "delete"),
			of("Microsoft.Compute/galleries/", "share/action"),
			of("Microsoft.Purview/consents/", "write", "delete"),
			of("Microsoft.Resources/deploymentStacks/", "manageDenySetting/action"),
			of("Microsoft.Subscription/", "cancel/action", "enable/action"),
			of("Breakwater.Identity/", "*/write", "*/delete", "*/action"),
			of("Breakwater.Access/", "*/write", "*/delete", "*/action"),
			of("Breakwater.Approval/requests/", "approve/action", "reject/action"))}}},
	builtIn(ReaderRole, "Reader", "May look at everything.", []string{"*/read"}, nil),
	builtIn("18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", "User Access Administrator", "May let others do things.",
		[]string{"*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"}, nil),
	builtIn("f58310d9-a9f6-439a-9e8d-f62e7b41a168", "Role Based Access Control Administrator", "May assign roles.",
		[]string{string(RoleAssignmentWrite), string(RoleAssignmentDelete), "*/read", "Microsoft.Support/*"}, nil),

	builtIn(PullRole, "AcrPull", "May pull.", of(registries, "pull/read"), nil),
	builtIn(PushRole, "AcrPush", "May pull and push.", of(registries, "pull/read", "push/write"), nil),
	builtIn(DeleteRole, "AcrDelete", "May delete content.", of(registries, "artifacts/delete"), nil),
	builtIn(SignerRole, "AcrImageSigner", "May sign.", of(registries, "sign/write"), of(registries, "trustedCollections/write")),
	builtIn(QuarantineReaderRole, "AcrQuarantineReader", "May pull what is in quarantine.",
		of(registries, "quarantine/read"), of(registries, "quarantinedArtifacts/read")),
	builtIn(QuarantineWriterRole, "AcrQuarantineWriter", "May put into quarantine, and let out.",
		of(registries, "quarantine/read", "quarantine/write"), of(registries, "quarantinedArtifacts/read", "quarantinedArtifacts/write")),

	builtIn("e147488a-f6f5-4113-8e2d-b22465e65bf6", "Key Vault Crypto Service Encryption User", "May have the keys of registries wrapped with a customer's key.",
		[]string{"Breakwater.Keys/providers/read", string(KeyUse)}, nil),

	builtIn("b93aa761-3e63-49ed-ac28-beffa264f7ac", "Container Registry Repository Reader", "May read repositories.", nil, readContent),
	builtIn("2a1e307c-b015-4ebd-883e-5b7698a07328", "Container Registry Repository Writer", "May read and write repositories.", nil, writeContent),
	builtIn("2efddaa5-3f1f-4df3-97df-af3f13818f4c", "Container Registry Repository Contributor", "May read, write and delete repositories.", nil, allContent),
	builtIn("bfdb9389-c9a5-478a-bb2f-ba9ca092c3c7", "Container Registry Repository Catalog Lister", "May list repositories.", nil, []string{string(CatalogRead)}),
	builtIn("577a9874-89fd-4f24-9dbd-b5034d0ad23a", "Container Registry Data Importer and Data Reader", "May import and read.",
		of(registries, "importImage/action", "read", "pull/read"), append(slices.Clone(readContent), string(CatalogRead))),

	builtIn("df87f177-bb12-4db1-9793-a413691eff94", "Container Registry Cache Rule Administrator", "May manage cache rules.",
		of(registries+"cacheRules/", "read", "write", "delete", status), nil),
	builtIn("c357b964-0002-4b64-a50d-7a28f02edc52", "Container Registry Cache Rule Reader", "May look at cache rules.", of(registries+"cacheRules/", "read"), nil),
	builtIn("f094fb07-0703-4400-ad6a-e16dd8000e14", "Container Registry Credential Set Administrator", "May manage credential sets.",
		of(registries+"credentialSets/", "read", "write", "delete", status), nil),
	builtIn("29093635-9924-4f2c-913b-650a12949526", "Container Registry Credential Set Reader", "May look at credential sets.", of(registries+"credentialSets/", "read"), nil),
	builtIn("bf94e731-3a51-4a7c-8c54-a1ab9971dfc1", "Container Registry Transfer Pipeline Contributor", "May transfer content by pipelines.", slices.Concat(
		of(registries+"exportPipelines/", "read", "write", "delete"),
		of(registries+"importPipelines/", "read", "write", "delete"),
		of(registries+"pipelineRuns/", "read", "write", "delete", status)), nil),
	builtIn("fb382eab-e894-4461-af04-94435c366c3f", "Container Registry Tasks Contributor", "May run tasks.", slices.Concat(
		of(registries, "read", "scheduleRun/action", "listBuildSourceUploadUrl/action"),
		of(registries+"agentpools/", "read", "write", "delete", "listQueueStatus/action", "operationResults/status/read", status),
		of(registries+"tasks/", "read", "write", "delete", "listDetails/action"),
		of(registries+"runs/", "read", "write", "listLogSasUrl/action", "cancel/action"),
		of(registries+"taskruns/", "read", "write", "delete", "listDetails/action", status),
		of("Microsoft.Resources/", "deployments/*", "subscriptions/resourceGroups/read")), nil),
	builtIn("3bc748fc-213d-45c1-8d91-9da5725539b9", "Container Registry Contributor and Data Access Configuration Administrator",
		"May configure registries and who may use them, but has no right to content.", writeConfiguration, nil),
	builtIn("69b07be0-09bf-439a-b9a6-e73de851bd59", "Container Registry Configuration Reader and Data Access Configuration Reader",
		"May look at the configuration of registries and at who may use them.", readConfiguration, nil),
}

func builtIn(guid, name, description string, actions, dataActions []string) Role {
	return Role{ID: guid, Name: name, Description: description, Permissions: []Permission{{Actions: actions, DataActions: dataActions}}}
}
