package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// DefinitionType is the ARM type of a definition, SetType and AssignmentType of what
// is made of them.
const (
	DefinitionType = "Microsoft.Authorization/policyDefinitions"
	SetType        = "Microsoft.Authorization/policySetDefinitions"
	AssignmentType = "Microsoft.Authorization/policyAssignments"
)

// A builtIn is a definition that everybody has (azure-contract §8.3). if and details
// have ' for ", and $ for Microsoft.ContainerRegistry/registries.
type builtIn struct {
	guid, name, effects, condition, details string
}

const isRegistry = `{'field':'type','equals':'$'}`

// of is conditions on registries.
func of(conditions string) string { return `{'allOf':[` + isRegistry + `,` + conditions + `]}` }

func set(field, value string) string {
	return `{'conflictEffect':'audit','operations':[{'operation':'addOrReplace','field':'$/` + field + `','value':` + value + `}]}`
}

const armStatus = `{'field':'$/policies.azureADAuthenticationAsArmPolicy.status',`
const approved = `{'count':{'field':'$/privateEndpointConnections[*]','where':{'field':'$/privateEndpointConnections[*].privateLinkServiceConnectionState.status','equals':'Approved'}},'less':1}`

var builtIns = []builtIn{
	{"dc921057-6b28-4fbe-9b83-f7bec05db6c2", "Container registries should have local admin account disabled.", "Audit Deny Disabled", of(`{'field':'$/adminUserEnabled','equals':true}`), ""},
	{"79fdfe03-ffcb-4e55-b4d0-b925b8241759", "Configure container registries to disable local admin account.", "Modify Disabled", of(`{'field':'$/adminUserEnabled','equals':true}`), set("adminUserEnabled", "false")},
	{"9f2dea28-e834-476c-99c5-3507b4728395", "Container registries should have anonymous authentication disabled.", "Audit Deny Disabled", of(`{'field':'$/anonymousPullEnabled','equals':true}`), ""},
	{"cced2946-b08a-44fe-9fd9-e4ed8a779897", "Configure container registries to disable anonymous authentication.", "Modify Disabled", of(`{'field':'$/anonymousPullEnabled','equals':true}`), set("anonymousPullEnabled", "false")},
	{"42781ec6-6127-4c30-bdfa-fb423a0047d3", "Container registries should have ARM audience token authentication disabled.", "Audit Deny Disabled", of(`{'anyOf':[` + armStatus + `'exists':false},` + armStatus + `'equals':'enabled'}]}`), ""},
	{"785596ed-054f-41bc-aaec-7f3d0ba05725", "Configure container registries to disable ARM audience token authentication.", "Modify Disabled", of(`{'anyOf':[` + armStatus + `'exists':false},` + armStatus + `'equals':'enabled'}]}`), set("policies.azureADAuthenticationAsArmPolicy.status", "'disabled'")},
	{"ff05e24e-195c-447e-b322-5e90c9f9f366", "Container registries should have repository scoped access token disabled.", "Audit Deny Disabled", `{'allOf':[{'field':'type','equals':'$/tokens'},{'field':'$/tokens/status','notEquals':'disabled'}]}`, ""},
	{"a9b426fe-8856-4945-8600-18c5dd1cca2a", "Configure container registries to disable repository scoped access token.", "Modify Disabled", `{'allOf':[{'field':'type','equals':'$/tokens'},{'field':'$/tokens/status','notEquals':'disabled'}]}`, set("tokens/status", "'disabled'")},
	{"5b9159ae-1701-4a6f-9a7a-aa9c8ddd0580", "Container registries should be encrypted with a customer-managed key", "Audit Deny Disabled", of(`{'field':'$/encryption.status','notEquals':'enabled'}`), ""},
	{"524b0254-c285-4903-bee6-bb8126cde579", "Container registries should have exports disabled", "Audit Deny Disabled", of(`{'anyOf':[{'field':'$/policies.exportPolicy.status','notEquals':'Disabled'},{'field':'$/publicNetworkAccess','notEquals':'Disabled'}]}`), ""},
	{"d0793b48-0edc-4296-a390-4c75d1bdfd71", "Container registries should not allow unrestricted network access", "Audit Deny Disabled", of(`{'anyOf':[{'field':'$/networkRuleSet.defaultAction','exists':false},{'field':'$/networkRuleSet.defaultAction','equals':'Allow'}]},{'anyOf':[{'field':'$/publicNetworkAccess','exists':false},{'field':'$/publicNetworkAccess','equals':'Enabled'}]}`), ""},
	{"0fdf0491-d080-4575-b627-ad0e843cba0f", "Public network access should be disabled for Container registries", "Audit Deny Disabled", of(`{'field':'$/publicNetworkAccess','notEquals':'Disabled'}`), ""},
	{"a3701552-92ea-433e-9d17-33b7f1208fc9", "Configure Container registries to disable public network access", "Modify Disabled", of(`{'field':'$/publicNetworkAccess','notEquals':'Disabled'}`), set("publicNetworkAccess", "'Disabled'")},
	{"e8eef0a8-67cf-4eb4-9386-14b0e78733d4", "Container registries should use private link", "Audit Disabled", of(approved), ""},
	{"d85c6833-7d33-4cf5-a915-aaa2de84405f", "Configure Container registries with private endpoints", "DeployIfNotExists Disabled", of(`{'field':'$/sku.name','equals':'Premium'},` + approved), `{'type':'Microsoft.Network/privateEndpoints'}`},
	{"e9585a95-5b8c-4d03-b193-dc7eb5ac4c32", "Configure Container registries to use private DNS zones", "DeployIfNotExists Disabled", `{'allOf':[{'field':'type','equals':'Microsoft.Network/privateEndpoints'},{'count':{'field':'Microsoft.Network/privateEndpoints/privateLinkServiceConnections[*].groupIds[*]','where':{'field':'Microsoft.Network/privateEndpoints/privateLinkServiceConnections[*].groupIds[*]','equals':'registry'}},'greaterOrEquals':1}]}`, `{'type':'Microsoft.Network/privateEndpoints/privateDnsZoneGroups'}`},
	{"bd560fc0-3c69-498a-ae9f-aa8eb7de0e13", "Container registries should have SKUs that support Private Links", "Audit Deny Disabled", of(`{'field':'$/sku.name','notEquals':'Premium'}`), ""},
	{"84497762-32b6-4ab3-80b6-732ea48b85a2", "Container registries should prevent cache rule creation", "Audit Deny Disabled", `{'field':'type','equals':'$/cacheRules'}`, ""},
	{"c4857be7-912a-4c75-87e6-e30292bcdf78", "[Preview]: Container Registry should use a virtual network service endpoint", "Audit Disabled", of(`{'anyOf':[{'field':'$/networkRuleSet.defaultAction','notEquals':'Deny'},{'field':'$/networkRuleSet.virtualNetworkRules[*].action','exists':false}]}`), ""},
	{"9d2b0a20-57d6-474c-9d12-44a4a20999c6", "[Preview]: Container Registry should be Zone Redundant", "Audit Deny Disabled", of(`{'anyOf':[{'field':'$/zoneRedundancy','exists':false},{'field':'$/zoneRedundancy','equals':'Disabled'}]}`), ""},
	{"56288eb2-4350-461d-9ece-2bb242269dce", "Enable logging by category group for Container registries to Log Analytics", "DeployIfNotExists AuditIfNotExists Disabled", isRegistry, `{'type':'Microsoft.Insights/diagnosticSettings','existenceCondition':{'count':{'field':'Microsoft.Insights/diagnosticSettings/logs[*]','where':{'field':'Microsoft.Insights/diagnosticSettings/logs[*].enabled','equals':true}},'greaterOrEquals':1}}`},
	{"5f0f936f-2f01-4bf5-b6be-d423792fa562", "[Deprecated]: Azure registry container images should have vulnerabilities resolved (powered by Qualys)", "Disabled AuditIfNotExists", isRegistry, `{'type':'Microsoft.Security/assessments'}`},
	{"c25d9a16-bc35-4e15-a7e5-9db606bf9ed4", "[Deprecated]: Azure Defender for container registries should be enabled", "AuditIfNotExists Disabled", `{'field':'type','equals':'Microsoft.Resources/subscriptions'}`, `{'type':'Microsoft.Security/pricings','existenceCondition':{'field':'Microsoft.Security/pricings/pricingTier','equals':'Standard'}}`},
}

// A Named is a built-in definition and its name.
type Named struct {
	Name string
	Definition
}

// BuiltIns are all, in order of their names.
func BuiltIns() []Named {
	all := make([]Named, len(builtIns))
	for i, b := range builtIns {
		all[i] = Named{b.guid, b.definition()}
	}
	slices.SortFunc(all, func(a, b Named) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Of is the built-in definition of that name.
func Of(name string) (*Definition, bool) {
	for _, b := range builtIns {
		if strings.EqualFold(b.guid, name) {
			d := b.definition()
			return &d, true
		}
	}
	return nil, false
}

var spell = strings.NewReplacer("'", `"`, "$", "Microsoft.ContainerRegistry/registries")

func (b builtIn) definition() Definition {
	effects := strings.Fields(b.effects)
	allowed := make([]json.RawMessage, len(effects))
	for i, e := range effects {
		allowed[i] = json.RawMessage(fmt.Sprintf("%q", e))
	}
	d := Definition{
		Text: Text{DisplayName: b.name, Metadata: map[string]json.RawMessage{"category": json.RawMessage(`"Container Registry"`), "version": json.RawMessage(`"1.0.0"`)}},
		Type: BuiltIn, Mode: "Indexed", Version: "1.0.0", Versions: []string{"1.0.0"},
		Rule:       Rule{If: json.RawMessage(spell.Replace(b.condition)), Then: Then{Effect: "[parameters('effect')]"}},
		Parameters: map[string]Parameter{"effect": {Type: "String", Default: allowed[0], Allowed: allowed}},
	}
	if b.details != "" {
		d.Rule.Then.Details = json.RawMessage(spell.Replace(b.details))
	}
	return d
}
