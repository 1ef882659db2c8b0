package access

import (
	"slices"
	"strings"
)

// An Action is what somebody wants to do, spelled as Azure's provider spells it.
// Case does not matter.
type Action string

const registries = "Microsoft.ContainerRegistry/registries/"

// Actions on content. They are the data actions of the provider; Permission
// tells which control-plane action stands for each in a registry with legacy
// permissions.
const (
	ContentRead   Action = registries + "repositories/content/read"   // pull
	ContentWrite  Action = registries + "repositories/content/write"  // push
	ContentDelete Action = registries + "repositories/content/delete" // delete manifests, tags and blobs
	MetadataRead  Action = registries + "repositories/metadata/read"  // list tags, look at attributes
	MetadataWrite Action = registries + "repositories/metadata/write" // change attributes
	CatalogRead   Action = registries + "catalog/read"                // list repositories

	QuarantineRead  Action = registries + "quarantinedArtifacts/read"  // see and pull what is in quarantine
	QuarantineWrite Action = registries + "quarantinedArtifacts/write" // put into quarantine, and let out
	SignWrite       Action = registries + "trustedCollections/write"   // sign

	// Control-plane actions in every registry: no data action gives them.
	DeletedRead    Action = registries + "deleted/read"           // look at what was deleted and can be restored
	DeletedRestore Action = registries + "deleted/restore/action" // restore it
)

// Actions on resources.
const (
	RegistryRead         Action = registries + "read"
	RegistryWrite        Action = registries + "write"
	RegistryDelete       Action = registries + "delete"
	RegistryUsages       Action = registries + "listUsages/read"
	RegistryCheckName    Action = "Microsoft.ContainerRegistry/checkNameAvailability/read"
	ScopeMapRead         Action = registries + "scopeMaps/read"
	ScopeMapWrite        Action = registries + "scopeMaps/write"
	ScopeMapDelete       Action = registries + "scopeMaps/delete"
	TokenRead            Action = registries + "tokens/read"
	TokenWrite           Action = registries + "tokens/write"
	TokenDelete          Action = registries + "tokens/delete"
	GenerateCredentials  Action = registries + "generateCredentials/action"
	RegenerateCredential Action = registries + "regenerateCredential/action"
	RotateDataKey        Action = registries + "rotateDataKey/action"
	RegistryErase        Action = registries + "erase/action"            // destroy all content of a registry, and its keys
	RepositoryErase      Action = registries + "eraseRepository/action"  // … of a repository
	ReceiptRead          Action = "Breakwater.Keys/receipts/read"        // look at what was destroyed below a scope
	KeyUse               Action = "Breakwater.Keys/providers/use/action" // have a registry's keys wrapped there
	AdminUserUse         Action = registries + "adminUser/use"           // event: somebody came in with its password
	EventRead            Action = "Microsoft.Insights/eventtypes/values/Read"
	UserWrite            Action = users + "write"
)

// Actions on the documents about who may do what.
const (
	RoleDefinitionRead   Action = "Microsoft.Authorization/roleDefinitions/read"
	RoleDefinitionWrite  Action = "Microsoft.Authorization/roleDefinitions/write"
	RoleDefinitionDelete Action = "Microsoft.Authorization/roleDefinitions/delete"
	RoleAssignmentRead   Action = "Microsoft.Authorization/roleAssignments/read"
	RoleAssignmentWrite  Action = "Microsoft.Authorization/roleAssignments/write"
	RoleAssignmentDelete Action = "Microsoft.Authorization/roleAssignments/delete"
	DenyAssignmentRead   Action = "Microsoft.Authorization/denyAssignments/read"
	DenyAssignmentWrite  Action = "Microsoft.Authorization/denyAssignments/write"
	DenyAssignmentDelete Action = "Microsoft.Authorization/denyAssignments/delete"
	PolicyRead           Action = "Breakwater.Access/conditionalAccessPolicies/read"
	PolicyWrite          Action = "Breakwater.Access/conditionalAccessPolicies/write"
	PolicyDelete         Action = "Breakwater.Access/conditionalAccessPolicies/delete"
	PolicyReport         Action = "Breakwater.Access/conditionalAccessPolicies/report"     // event: a rule would have refused
	PolicyBreakGlass     Action = "Breakwater.Access/conditionalAccessPolicies/breakGlass" // event: a rule would have refused, but excludes the caller
	LocationRead         Action = "Breakwater.Access/namedLocations/read"
	LocationWrite        Action = "Breakwater.Access/namedLocations/write"
	LocationDelete       Action = "Breakwater.Access/namedLocations/delete"
	GroupRead            Action = "Microsoft.Management/managementGroups/read"
	GroupWrite           Action = "Microsoft.Management/managementGroups/write"
	GroupDelete          Action = "Microsoft.Management/managementGroups/delete"
	MemberRead           Action = "Microsoft.Management/managementGroups/subscriptions/read"
	MemberWrite          Action = "Microsoft.Management/managementGroups/subscriptions/write"
	MemberDelete         Action = "Microsoft.Management/managementGroups/subscriptions/delete"
)

const (
	users             = "Breakwater.Identity/users/"
	servicePrincipals = "Breakwater.Identity/servicePrincipals/"
	managedIdentities = "Microsoft.ManagedIdentity/userAssignedIdentities/"
	issuers           = "Breakwater.Identity/issuers/"
)

// Actions on who can be known. Whoever may change what proves a principal can
// become that principal.
const (
	UserRead   Action = users + "read"
	UserDelete Action = users + "delete"
	UserReset  Action = users + "resetPassword/action"

	ServicePrincipalRead            Action = servicePrincipals + "read"
	ServicePrincipalWrite           Action = servicePrincipals + "write"
	ServicePrincipalDelete          Action = servicePrincipals + "delete"
	ServicePrincipalAddPassword     Action = servicePrincipals + "addPassword/action"
	ServicePrincipalRemovePassword  Action = servicePrincipals + "removePassword/action"
	ServicePrincipalAddKey          Action = servicePrincipals + "addKey/action"
	ServicePrincipalRemoveKey       Action = servicePrincipals + "removeKey/action"
	ServicePrincipalFederatedRead   Action = servicePrincipals + "federatedIdentityCredentials/read"
	ServicePrincipalFederatedWrite  Action = servicePrincipals + "federatedIdentityCredentials/write"
	ServicePrincipalFederatedDelete Action = servicePrincipals + "federatedIdentityCredentials/delete"

	ManagedIdentityRead            Action = managedIdentities + "read"
	ManagedIdentityWrite           Action = managedIdentities + "write"
	ManagedIdentityDelete          Action = managedIdentities + "delete"
	ManagedIdentityAssign          Action = managedIdentities + "assign/action" // let something act as it
	ManagedIdentityFederatedRead   Action = managedIdentities + "federatedIdentityCredentials/read"
	ManagedIdentityFederatedWrite  Action = managedIdentities + "federatedIdentityCredentials/write"
	ManagedIdentityFederatedDelete Action = managedIdentities + "federatedIdentityCredentials/delete"

	IssuerRead   Action = issuers + "read"
	IssuerWrite  Action = issuers + "write"
	IssuerDelete Action = issuers + "delete"

	CredentialRead  Action = "Breakwater.Identity/credentials/read" // how old every credential is, and when it was last used
	ListCredentials Action = registries + "listCredentials/action"
)

// content has a row for each action on content: the control-plane action that
// stands for it in legacy mode, and its name in the scopes of the token endpoint
// and in the actions of scope maps. No scope is about quarantine: who may pull, or
// change attributes, with a token may do it there too if it has the right.
var content = [...]struct {
	Action   Action
	Control  Action
	Either   bool     // either of the two gives it, in both modes
	Scopes   []string // repository:<name>:<one of Scopes>; none if no scope is for it
	Registry string   // registry:<Registry>:*; "" if it is not about the registry
	ScopeMap string   // repositories/<name>/<ScopeMap>; "" if scope maps cannot give it
}{
	{ContentRead, registries + "pull/read", false, []string{"pull"}, "", "content/read"},
	{ContentWrite, registries + "push/write", false, []string{"push"}, "", "content/write"},
	{ContentDelete, registries + "artifacts/delete", false, []string{"delete"}, "", "content/delete"},
	{MetadataRead, registries + "pull/read", false, []string{"metadata_read"}, "", "metadata/read"},
	{MetadataWrite, registries + "metadata/write", false, []string{"metadata_write"}, "", "metadata/write"},
	{CatalogRead, registries + "pull/read", false, nil, "catalog", ""},
	{QuarantineRead, registries + "quarantine/read", true, []string{"pull", "metadata_read"}, "", ""},
	{QuarantineWrite, registries + "quarantine/write", true, []string{"metadata_write"}, "", ""},
	{SignWrite, registries + "sign/write", true, nil, "", ""},
	{DeletedRead, DeletedRead, false, []string{"deleted_read"}, "deleted_catalog", ""},
	{DeletedRestore, DeletedRestore, false, []string{"deleted_restore"}, "", ""},
}

// DataActions lists the actions on content.
func DataActions() []Action {
	all := make([]Action, len(content))
	for i := range content {
		all[i] = content[i].Action
	}
	return all
}

// ControlActions lists the control-plane actions that stand for those on content.
func ControlActions() []Action {
	var all []Action
	for i := range content {
		if c := content[i].Control; !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	return all
}

// control is the control-plane action that stands for a; a itself if it is none
// on content.
func control(a Action) (of Action, either, ok bool) {
	for i := range content {
		if content[i].Action == a {
			return content[i].Control, content[i].Either, true
		}
	}
	return a, false, false
}

// match reports whether the pattern of a role names the action: "*" stands for
// any run of characters, and case does not matter.
func match(pattern string, a Action) bool {
	p, i, star, retry := 0, 0, -1, 0
	for i < len(a) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, i
			p++
		case p < len(pattern) && lower(pattern[p]) == lower(a[i]):
			p, i = p+1, i+1
		case star >= 0: // let the last star swallow one character more
			retry++
			p, i = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
