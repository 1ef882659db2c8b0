//go:build !preview

package azure

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/monitor/armmonitor"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armpolicy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armsubscriptions"
)

func TestSubscriptionsTenantsAndLocations(t *testing.T) {
	f := ok(armsubscriptions.NewClientFactory(world.credential, world.options))(t)
	if s := ok(f.NewClient().Get(t.Context(), world.subscription, nil))(t); v(s.SubscriptionID) != world.subscription || v(s.State) != "Enabled" || v(s.DisplayName) == "" {
		t.Errorf("%+v", s)
	}
	if !has(all(t, f.NewClient().NewListPager(nil), func(p armsubscriptions.ClientListResponse) []*armsubscriptions.Subscription { return p.Value }),
		func(s *armsubscriptions.Subscription) *string { return s.SubscriptionID }, world.subscription) {
		t.Error("the list does not have the subscription")
	}
	if tenants := all(t, f.NewTenantsClient().NewListPager(nil), func(p armsubscriptions.TenantsClientListResponse) []*armsubscriptions.TenantIDDescription {
		return p.Value
	}); len(tenants) != 1 || v(tenants[0].TenantID) != world.tenant {
		t.Errorf("%d tenants", len(tenants))
	}
	if places := all(t, f.NewClient().NewListLocationsPager(world.subscription, nil), func(p armsubscriptions.ClientListLocationsResponse) []*armsubscriptions.Location { return p.Value }); len(places) == 0 || v(places[0].Name) == "" {
		t.Errorf("%d locations", len(places))
	}
}

func TestAResourceGroupLives(t *testing.T) {
	const name = "grouptour"
	f, ctx := ok(armresources.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context()
	c := f.NewResourceGroupsClient()
	g := ok(c.CreateOrUpdate(ctx, name, armresources.ResourceGroup{Location: p("local"), Tags: map[string]*string{"a": p("b")}}, nil))(t)
	if v(g.Name) != name || v(g.Properties.ProvisioningState) != "Succeeded" || v(g.Tags["a"]) != "b" {
		t.Errorf("%+v", g)
	}
	if g := ok(c.Update(ctx, name, armresources.ResourceGroupPatchable{Tags: map[string]*string{"c": p("d")}}, nil))(t); v(g.Tags["c"]) != "d" || v(g.Location) != "local" {
		t.Errorf("%+v", g)
	}
	if !ok(c.CheckExistence(ctx, name, nil))(t).Success || ok(c.CheckExistence(ctx, "nogroup", nil))(t).Success {
		t.Error("HEAD says otherwise")
	}
	if !has(all(t, c.NewListPager(nil), func(p armresources.ResourceGroupsClientListResponse) []*armresources.ResourceGroup { return p.Value }),
		func(g *armresources.ResourceGroup) *string { return g.Name }, name) {
		t.Error("the list does not have it")
	}
	// What lies in it goes with it, and answers nobody.
	registries := world.acr.NewRegistriesClient()
	inside := done(registries.BeginCreate(ctx, name, name, armcontainerregistry.Registry{Location: p("local"), SKU: &armcontainerregistry.SKU{Name: p(armcontainerregistry.SKUNameBasic)},
		Properties: &armcontainerregistry.RegistryProperties{AdminUserEnabled: p(true)}}, nil))(t)
	keys := ok(registries.RegenerateCredential(ctx, name, name, armcontainerregistry.RegenerateCredentialParameters{Name: p(armcontainerregistry.PasswordNamePassword)}, nil))(t)
	admin := login{v(inside.Properties.LoginServer), v(keys.Username), password(keys.Passwords, armcontainerregistry.PasswordNamePassword)}
	if admin.push(t, "team/app", "v1") != 201 {
		t.Error("push")
	}
	done(c.BeginDelete(ctx, name, nil))(t)
	_, err := c.Get(ctx, name, nil)
	refused(t, err, 404, "ResourceGroupNotFound")
	_, err = registries.Get(ctx, name, name, nil)
	refused(t, err, 404, "")
	if status := admin.pull(t, "team/app", "v1"); status == 200 {
		t.Errorf("the registry of a group that is gone: %d", status)
	}
	_, err = c.BeginDelete(ctx, name, nil)
	refused(t, err, 404, "ResourceGroupNotFound")
}

func TestResourcesAreListedAcrossTypes(t *testing.T) {
	f, ctx := ok(armresources.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context()
	named := func(r *armresources.GenericResourceExpanded) *string { return r.Name }
	of := func(filter string) []*armresources.GenericResourceExpanded {
		return all(t, f.NewClient().NewListPager(&armresources.ClientListOptions{Filter: &filter}), func(p armresources.ClientListResponse) []*armresources.GenericResourceExpanded {
			return p.Value
		})
	}
	if !has(of("resourceType eq 'Microsoft.ContainerRegistry/registries'"), named, home) || has(of("resourceType eq 'Microsoft.ManagedIdentity/userAssignedIdentities'"), named, home) {
		t.Error("the filter means something else")
	}
	if !has(all(t, f.NewClient().NewListByResourceGroupPager(group, nil), func(p armresources.ClientListByResourceGroupResponse) []*armresources.GenericResourceExpanded {
		return p.Value
	}), named, home) {
		t.Error("the group does not have the registry")
	}
	provider := ok(f.NewProvidersClient().Get(ctx, "Microsoft.ContainerRegistry", nil))(t)
	newest := ""
	for _, typ := range provider.ResourceTypes {
		if v(typ.ResourceType) == "registries" && len(typ.APIVersions) > 0 {
			newest = v(typ.APIVersions[0])
		}
	}
	if v(provider.RegistrationState) != "Registered" || newest == "" {
		t.Fatalf("%+v", provider)
	}
	if p := ok(f.NewProvidersClient().Register(ctx, "Microsoft.ContainerRegistry", nil))(t); v(p.RegistrationState) != "Registered" {
		t.Errorf("%+v", p)
	}
	if !has(all(t, f.NewProvidersClient().NewListPager(nil), func(p armresources.ProvidersClientListResponse) []*armresources.Provider { return p.Value }),
		func(p *armresources.Provider) *string { return p.Namespace }, "Microsoft.ContainerRegistry") {
		t.Error("the list does not have the provider")
	}
	if r := ok(f.NewClient().GetByID(ctx, registryID(home), newest, nil))(t); !strings.EqualFold(v(r.Name), home) {
		t.Errorf("%+v", r)
	}
	if !ok(f.NewClient().CheckExistenceByID(ctx, registryID(home), newest, nil))(t).Success {
		t.Error("HEAD of the registry")
	}
}

func TestRolesAreDefinedAndAssigned(t *testing.T) {
	const role, assignment, principal = "5e0f0b32-0f57-4f9c-9d53-6b0c3a1d7e01", "5e0f0b32-0f57-4f9c-9d53-6b0c3a1d7e02", "5e0f0b32-0f57-4f9c-9d53-6b0c3a1d7e03"
	f, ctx, scope := ok(armauthorization.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context(), registryID(home)
	defs, given := f.NewRoleDefinitionsClient(), f.NewRoleAssignmentsClient()
	made := ok(defs.CreateOrUpdate(ctx, "/subscriptions/"+world.subscription, role, armauthorization.RoleDefinition{Properties: &armauthorization.RoleDefinitionProperties{
		RoleName: p("Tourist"), RoleType: p("CustomRole"), Description: p("looks"), AssignableScopes: to.SliceOfPtrs("/subscriptions/" + world.subscription),
		Permissions: []*armauthorization.Permission{{Actions: to.SliceOfPtrs("Microsoft.ContainerRegistry/registries/read")}}}}, nil))(t)
	if v(made.Properties.RoleName) != "Tourist" || v(made.Properties.RoleType) != "CustomRole" {
		t.Errorf("%+v", made.Properties)
	}
	byName := func(name string) []*armauthorization.RoleDefinition {
		return all(t, defs.NewListPager(scope, &armauthorization.RoleDefinitionsClientListOptions{Filter: p(fmt.Sprintf("roleName eq '%s'", name))}), func(p armauthorization.RoleDefinitionsClientListResponse) []*armauthorization.RoleDefinition {
			return p.Value
		})
	}
	if pull := byName("AcrPull"); len(pull) != 1 || v(pull[0].Name) != "7f951dda-4ed3-4680-a7ca-43fe172d538d" || len(byName("Tourist")) != 1 {
		t.Errorf("%d called AcrPull", len(pull))
	}
	a := ok(given.Create(ctx, scope, assignment, armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		RoleDefinitionID: made.ID, PrincipalID: p(principal), PrincipalType: p(armauthorization.PrincipalTypeServicePrincipal), Description: p("a tour")}}, nil))(t)
	if v(a.Properties.PrincipalID) != principal || !strings.EqualFold(v(a.Properties.Scope), scope) || v(a.Properties.Description) != "a tour" {
		t.Errorf("%+v", a.Properties)
	}
	_, err := given.Create(ctx, scope, "5e0f0b32-0f57-4f9c-9d53-6b0c3a1d7e04", armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		RoleDefinitionID: made.ID, PrincipalID: p(principal), PrincipalType: p(armauthorization.PrincipalTypeServicePrincipal)}}, nil)
	refused(t, err, 409, "RoleAssignmentExists")
	if list := all(t, given.NewListForScopePager(scope, &armauthorization.RoleAssignmentsClientListForScopeOptions{Filter: p("principalId%20eq%20'" + principal + "'")}), func(p armauthorization.RoleAssignmentsClientListForScopeResponse) []*armauthorization.RoleAssignment {
		return p.Value
	}); len(list) != 1 {
		t.Errorf("%d assignments", len(list))
	}
	if got := ok(given.GetByID(ctx, v(a.ID), nil))(t); v(got.Name) != assignment {
		t.Errorf("%+v", got)
	}
	ok(given.Delete(ctx, scope, assignment, nil))(t)
	_, err = given.Get(ctx, scope, assignment, nil)
	refused(t, err, 404, "")
	ok(defs.Delete(ctx, "/subscriptions/"+world.subscription, role, nil))(t)
	if len(byName("Tourist")) != 0 {
		t.Error("the definition is there still")
	}
}

func TestPermissionsAreTold(t *testing.T) {
	f := ok(armauthorization.NewClientFactory(world.subscription, world.credential, world.options))(t)
	for _, list := range [][]*armauthorization.Permission{
		all(t, f.NewPermissionsClient().NewListForResourceGroupPager(group, nil), func(p armauthorization.PermissionsClientListForResourceGroupResponse) []*armauthorization.Permission {
			return p.Value
		}),
		all(t, f.NewPermissionsClient().NewListForResourcePager(group, "Microsoft.ContainerRegistry", "", "registries", home, nil), func(p armauthorization.PermissionsClientListForResourceResponse) []*armauthorization.Permission {
			return p.Value
		}),
	} {
		if len(list) == 0 || len(list[0].Actions) == 0 || v(list[0].Actions[0]) != "*" {
			t.Errorf("%d permissions of an owner", len(list))
		}
	}
}

func TestPoliciesAreDefinedAndAssigned(t *testing.T) {
	const name, admin = "policytour", "dc921057-6b28-4fbe-9b83-f7bec05db6c2"
	f, ctx := ok(armpolicy.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context()
	defs, given := f.NewDefinitionsClient(), f.NewAssignmentsClient()
	rule := map[string]any{"if": map[string]any{"field": "type", "equals": "Microsoft.ContainerRegistry/registries"}, "then": map[string]any{"effect": "audit"}}
	for range 2 { // a change is answered as a creation
		d := ok(defs.CreateOrUpdate(ctx, name, armpolicy.Definition{Properties: &armpolicy.DefinitionProperties{
			DisplayName: p("A tour"), Mode: p("All"), PolicyType: p(armpolicy.PolicyTypeCustom), PolicyRule: rule}}, nil))(t)
		if v(d.Properties.DisplayName) != "A tour" || v(d.Properties.PolicyType) != "Custom" || fmt.Sprint(d.Properties.PolicyRule) != fmt.Sprint(any(rule)) {
			t.Errorf("%+v", d.Properties)
		}
	}
	if b := ok(defs.GetBuiltIn(ctx, admin, nil))(t); v(b.Properties.PolicyType) != "BuiltIn" || b.Properties.PolicyRule == nil {
		t.Errorf("%+v", b.Properties)
	}
	named := func(d *armpolicy.Definition) *string { return d.Name }
	if !has(all(t, defs.NewListBuiltInPager(nil), func(p armpolicy.DefinitionsClientListBuiltInResponse) []*armpolicy.Definition { return p.Value }), named, admin) ||
		!has(all(t, defs.NewListPager(nil), func(p armpolicy.DefinitionsClientListResponse) []*armpolicy.Definition { return p.Value }), named, name) {
		t.Error("the lists do not have them")
	}
	d := ok(defs.Get(ctx, name, nil))(t)
	scope := "/subscriptions/" + world.subscription + "/resourceGroups/" + group
	a := ok(given.Create(ctx, scope, name, armpolicy.Assignment{Properties: &armpolicy.AssignmentProperties{
		PolicyDefinitionID: d.ID, DisplayName: p("Tour here"), EnforcementMode: p(armpolicy.EnforcementModeDefault)}}, nil))(t)
	if !strings.EqualFold(v(a.Properties.PolicyDefinitionID), v(d.ID)) || v(a.Properties.EnforcementMode) != "Default" || !strings.EqualFold(v(a.Properties.Scope), scope) {
		t.Errorf("%+v", a.Properties)
	}
	is := func(a *armpolicy.Assignment) *string { return a.Name }
	if !has(all(t, given.NewListForResourcePager(group, "Microsoft.ContainerRegistry", "", "registries", home, nil), func(p armpolicy.AssignmentsClientListForResourceResponse) []*armpolicy.Assignment {
		return p.Value
	}), is, name) || !has(all(t, given.NewListForResourceGroupPager(group, nil), func(p armpolicy.AssignmentsClientListForResourceGroupResponse) []*armpolicy.Assignment {
		return p.Value
	}), is, name) || !has(all(t, given.NewListPager(nil), func(p armpolicy.AssignmentsClientListResponse) []*armpolicy.Assignment { return p.Value }), is, name) {
		t.Error("the lists do not have it, or not what is inherited")
	}
	ok(given.Update(ctx, scope, name, armpolicy.AssignmentUpdate{Location: p("local"), Identity: &armpolicy.Identity{Type: p(armpolicy.ResourceIdentityTypeSystemAssigned)}}, nil))(t)
	ok(given.Delete(ctx, scope, name, nil))(t)
	_, err := given.Get(ctx, scope, name, nil)
	refused(t, err, 404, "")
	ok(defs.Delete(ctx, name, nil))(t)
	_, err = defs.Get(ctx, name, nil)
	refused(t, err, 404, "")
}

func TestDiagnosticSettingsAreKept(t *testing.T) {
	const name = "diagnosticstour"
	f, ctx := ok(armmonitor.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context()
	c, kinds := f.NewDiagnosticSettingsClient(), f.NewDiagnosticSettingsCategoryClient()
	workspace := "/subscriptions/" + world.subscription + "/resourceGroups/" + group + "/providers/Microsoft.OperationalInsights/workspaces/w"
	for range 2 {
		s := ok(c.CreateOrUpdate(ctx, registryID(home), name, armmonitor.DiagnosticSettingsResource{Properties: &armmonitor.DiagnosticSettings{WorkspaceID: &workspace,
			Logs:    []*armmonitor.LogSettings{{Category: p("ContainerRegistryLoginEvents"), Enabled: p(true)}, {Category: p("ContainerRegistryRepositoryEvents"), Enabled: p(false)}},
			Metrics: []*armmonitor.MetricSettings{{Category: p("AllMetrics"), Enabled: p(true)}}}}, nil))(t)
		if v(s.Properties.WorkspaceID) != workspace || len(s.Properties.Logs) != 2 || !v(s.Properties.Logs[0].Enabled) || v(s.Properties.Logs[1].Enabled) {
			t.Errorf("%+v", s.Properties)
		}
	}
	if got := ok(c.Get(ctx, registryID(home), name, nil))(t); v(got.Name) != name {
		t.Errorf("%+v", got)
	}
	if !has(all(t, c.NewListPager(registryID(home), nil), func(p armmonitor.DiagnosticSettingsClientListResponse) []*armmonitor.DiagnosticSettingsResource {
		return p.Value
	}), func(s *armmonitor.DiagnosticSettingsResource) *string { return s.Name }, name) {
		t.Error("the list does not have it")
	}
	if !has(all(t, kinds.NewListPager(registryID(home), nil), func(p armmonitor.DiagnosticSettingsCategoryClientListResponse) []*armmonitor.DiagnosticSettingsCategoryResource {
		return p.Value
	}), func(c *armmonitor.DiagnosticSettingsCategoryResource) *string { return c.Name }, "ContainerRegistryLoginEvents") {
		t.Error("there is no category of logins")
	}
	if k := ok(kinds.Get(ctx, registryID(home), "AllMetrics", nil))(t); v(k.Properties.CategoryType) != "Metrics" {
		t.Errorf("%+v", k.Properties)
	}
	ok(c.Delete(ctx, registryID(home), name, nil))(t)
	_, err := c.Get(ctx, registryID(home), name, nil)
	refused(t, err, 404, "")
}

func TestTheActivityLogHasWhatWasChanged(t *testing.T) {
	f, since := ok(armmonitor.NewClientFactory(world.subscription, world.credential, world.options))(t), time.Now().Add(-time.Minute).UTC()
	c := world.acr.NewScopeMapsClient()
	done(c.BeginDelete(t.Context(), group, home, "nothing", nil))(t) // nothing happens, nothing is recorded
	ok(f.NewDiagnosticSettingsClient().Delete(t.Context(), registryID(home), "nothing", nil))(t)
	registryTags(t, map[string]*string{"logged": p("yes")})
	filter := fmt.Sprintf("eventTimestamp ge '%s' and eventTimestamp le '%s' and resourceId eq '%s'", since.Format(time.RFC3339), time.Now().Add(time.Minute).UTC().Format(time.RFC3339), registryID(home))
	events := all(t, f.NewActivityLogsClient().NewListPager(filter, nil), func(p armmonitor.ActivityLogsClientListResponse) []*armmonitor.EventData { return p.Value })
	found := false
	for _, e := range events {
		if e.OperationName != nil && strings.EqualFold(v(e.OperationName.Value), "Microsoft.ContainerRegistry/registries/write") {
			found = found || v(e.Status.Value) != "" && v(e.Caller) != "" && v(e.CorrelationID) != "" && strings.EqualFold(v(e.ResourceID), registryID(home)) && e.EventTimestamp.After(since)
		}
	}
	if !found {
		for _, e := range events {
			t.Logf("%s %s %s %v %v", v(e.OperationName.Value), v(e.Status.Value), v(e.Caller), v(e.ResourceID), v(e.EventTimestamp))
		}
		t.Errorf("%d events, and none is the change", len(events))
	}
}

func registryTags(t *testing.T, tags map[string]*string) {
	t.Helper()
	done(world.acr.NewRegistriesClient().BeginUpdate(t.Context(), group, home, armcontainerregistry.RegistryUpdateParameters{Tags: tags}, nil))(t)
}

func TestARegistryHasIdentities(t *testing.T) {
	const name = "identitytour"
	f, ctx := ok(armresources.NewClientFactory(world.subscription, world.credential, world.options))(t), t.Context()
	id := "/subscriptions/" + world.subscription + "/resourceGroups/" + group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
	identity := done(f.NewClient().BeginCreateOrUpdateByID(ctx, id, "2023-01-31", armresources.GenericResource{Location: p("local")}, nil))(t)
	known, _ := identity.Properties.(map[string]any)
	made(t, name)
	c := world.acr.NewRegistriesClient()
	change := func(i armcontainerregistry.IdentityProperties) *armcontainerregistry.IdentityProperties {
		t.Helper()
		return done(c.BeginUpdate(ctx, group, name, armcontainerregistry.RegistryUpdateParameters{Identity: &i}, nil))(t).Identity
	}
	got := change(armcontainerregistry.IdentityProperties{Type: p(armcontainerregistry.ResourceIdentityTypeSystemAssignedUserAssigned),
		UserAssignedIdentities: map[string]*armcontainerregistry.UserIdentityProperties{id: {}}})
	if got == nil || v(got.PrincipalID) == "" || v(got.TenantID) != world.tenant || len(got.UserAssignedIdentities) != 1 {
		t.Fatalf("%+v", got)
	}
	for _, i := range got.UserAssignedIdentities {
		if v(i.ClientID) == "" || v(i.ClientID) != known["clientId"] || v(i.PrincipalID) != known["principalId"] {
			t.Errorf("%+v is not %v", i, known)
		}
	}
	if got := change(armcontainerregistry.IdentityProperties{Type: p(armcontainerregistry.ResourceIdentityTypeNone)}); got != nil && (v(got.PrincipalID) != "" || len(got.UserAssignedIdentities) > 0) {
		t.Errorf("%+v", got)
	}
	_, err := c.BeginUpdate(ctx, group, name, armcontainerregistry.RegistryUpdateParameters{Identity: &armcontainerregistry.IdentityProperties{
		Type: p(armcontainerregistry.ResourceIdentityTypeUserAssigned), UserAssignedIdentities: map[string]*armcontainerregistry.UserIdentityProperties{id + "x": {}}}}, nil)
	if err == nil {
		t.Error("an identity that is not there was taken")
	}
	done(f.NewClient().BeginDeleteByID(ctx, id, "2023-01-31", nil))(t)
}

// A caller may do what its role at the scope says, from the next request on.
func TestACallerMayDoWhatItsRoleSays(t *testing.T) {
	const name, reader = "readertour", "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	ctx, id := t.Context(), "/providers/Breakwater.Identity/servicePrincipals/readertour"
	f := ok(armresources.NewClientFactory(world.subscription, world.credential, world.options))(t)
	made := done(f.NewClient().BeginCreateOrUpdateByID(ctx, id, "2026-01-01", armresources.GenericResource{Properties: map[string]any{"displayName": "Reader"}}, nil))(t)
	known, _ := made.Properties.(map[string]any)
	app, principal := fmt.Sprint(known["appId"]), fmt.Sprint(known["principalId"])
	token := ok(world.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://management.core.windows.net//.default"}}))(t)
	r := ok(http.NewRequestWithContext(ctx, "POST", world.server+id+"/addPassword", strings.NewReader(`{"passwordCredential":{"displayName":"tour"}}`)))(t)
	r.Header.Set("Authorization", "Bearer "+token.Token)
	res := ok(world.client.Do(r))(t)
	defer res.Body.Close()
	var secret struct{ SecretText string }
	if err := json.NewDecoder(res.Body).Decode(&secret); err != nil || secret.SecretText == "" {
		t.Fatalf("%s %v", res.Status, err)
	}
	credential := ok(azidentity.NewClientSecretCredential(world.tenant, app, secret.SecretText, &azidentity.ClientSecretCredentialOptions{ClientOptions: world.options.ClientOptions, DisableInstanceDiscovery: true}))(t)
	c := ok(armcontainerregistry.NewRegistriesClient(world.subscription, credential, world.options))(t)
	_, err := c.Get(ctx, group, home, nil)
	refused(t, err, 403, "AuthorizationFailed")
	_, err = c.Get(ctx, group, "nowhere", nil) // which tells it nothing
	refused(t, err, 403, "AuthorizationFailed")
	given := ok(armauthorization.NewRoleAssignmentsClient(world.subscription, world.credential, world.options))(t)
	a := ok(given.Create(ctx, registryID(home), "5e0f0b32-0f57-4f9c-9d53-6b0c3a1d7e05", armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		RoleDefinitionID: p("/providers/Microsoft.Authorization/roleDefinitions/" + reader), PrincipalID: &principal, PrincipalType: p(armauthorization.PrincipalTypeServicePrincipal)}}, nil))(t)
	ok(c.Get(ctx, group, home, nil))(t)
	_, err = c.BeginUpdate(ctx, group, home, armcontainerregistry.RegistryUpdateParameters{Tags: map[string]*string{"a": p("b")}}, nil)
	refused(t, err, 403, "AuthorizationFailed")
	_, err = c.BeginDelete(ctx, group, home, nil)
	refused(t, err, 403, "AuthorizationFailed")
	_, err = c.ListCredentials(ctx, group, home, nil)
	refused(t, err, 403, "AuthorizationFailed")
	ok(given.DeleteByID(ctx, v(a.ID), nil))(t)
	_, err = c.Get(ctx, group, home, nil)
	refused(t, err, 403, "AuthorizationFailed")
	done(f.NewClient().BeginDeleteByID(ctx, id, "2026-01-01", nil))(t)
	_, err = c.Get(ctx, group, home, nil) // with the token that it has
	refused(t, err, 401, "")
	credential = ok(azidentity.NewClientSecretCredential(world.tenant, app, secret.SecretText, &azidentity.ClientSecretCredentialOptions{ClientOptions: world.options.ClientOptions, DisableInstanceDiscovery: true}))(t)
	_, err = credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://management.core.windows.net//.default"}})
	if err == nil {
		t.Errorf("%s is gone, and gets a token", name)
	}
}
