//go:build preview

package azure

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	acr "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
)

// What only the preview of the API can set.
func TestARegistryHasWhatThePreviewKnows(t *testing.T) {
	const name = "previewtour"
	c, ctx := world.acr.NewRegistriesClient(), t.Context()
	_, admin := made(t, name)
	change := func(p acr.RegistryPropertiesUpdateParameters) *acr.RegistryProperties {
		t.Helper()
		return done(c.BeginUpdate(ctx, group, name, acr.RegistryUpdateParameters{Properties: &p}, nil))(t).Properties
	}
	if admin.push(t, "team/app", "v1") != 201 {
		t.Fatal("push")
	}
	nobody := login{host: admin.host}
	if nobody.pull(t, "team/app", "v1") != 401 {
		t.Errorf("a stranger: %d", nobody.pull(t, "team/app", "v1"))
	}
	if got := change(acr.RegistryPropertiesUpdateParameters{AnonymousPullEnabled: p(true)}); !v(got.AnonymousPullEnabled) || nobody.pull(t, "team/app", "v1") != 200 || nobody.push(t, "team/app", "v2") != 401 {
		t.Errorf("%v: %d", v(got.AnonymousPullEnabled), nobody.pull(t, "team/app", "v1"))
	}
	change(acr.RegistryPropertiesUpdateParameters{AnonymousPullEnabled: p(false)})
	if nobody.pull(t, "team/app", "v1") != 401 {
		t.Errorf("a stranger again: %d", nobody.pull(t, "team/app", "v1"))
	}
	if got := change(acr.RegistryPropertiesUpdateParameters{RoleAssignmentMode: p(acr.RoleAssignmentModeAbacRepositoryPermissions)}); v(got.RoleAssignmentMode) != acr.RoleAssignmentModeAbacRepositoryPermissions {
		t.Errorf("%v", v(got.RoleAssignmentMode))
	}
	policies := change(acr.RegistryPropertiesUpdateParameters{Policies: &acr.Policies{
		AzureADAuthenticationAsArmPolicy: &acr.AzureADAuthenticationAsArmPolicy{Status: p(acr.AzureADAuthenticationAsArmPolicyStatusDisabled)},
		SoftDeletePolicy:                 &acr.SoftDeletePolicy{RetentionDays: p(int32(3)), Status: p(acr.PolicyStatusEnabled)}}}).Policies
	if v(policies.AzureADAuthenticationAsArmPolicy.Status) != "disabled" || v(policies.SoftDeletePolicy.Status) != "enabled" || v(policies.SoftDeletePolicy.RetentionDays) != 3 || policies.SoftDeletePolicy.LastUpdatedTime == nil {
		t.Errorf("%+v", policies)
	}
	_, err := c.BeginUpdate(ctx, group, name, acr.RegistryUpdateParameters{Properties: &acr.RegistryPropertiesUpdateParameters{Policies: &acr.Policies{ExportPolicy: &acr.ExportPolicy{Status: p(acr.ExportPolicyStatusDisabled)}}}}, nil)
	if err == nil {
		t.Error("exports are disabled while the public network has access")
	}
	// What is deleted now is in the trash, and its manifest is answered no more.
	if status, _, _ := admin.do(t, "DELETE", "/v2/team/app/manifests/v1", "", nil); status != 202 || admin.pull(t, "team/app", "v1") != 404 {
		t.Errorf("deleted: %d", status)
	}
}

func TestAConnectedRegistryIsKept(t *testing.T) {
	const name, registry = "edgetour", "edgeparent"
	c, ctx := world.acr.NewConnectedRegistriesClient(), t.Context()
	made(t, registry)
	m := done(world.acr.NewScopeMapsClient().BeginCreate(ctx, group, registry, name, acr.ScopeMap{Properties: &acr.ScopeMapProperties{
		Actions: to.SliceOfPtrs("repositories/*/content/read", "gateway/"+name+"/config/read", "gateway/"+name+"/message/write")}}, nil))(t)
	token := done(world.acr.NewTokensClient().BeginCreate(ctx, group, registry, name, acr.Token{Properties: &acr.TokenProperties{ScopeMapID: m.ID}}, nil))(t)
	r := done(c.BeginCreate(ctx, group, registry, name, acr.ConnectedRegistry{Properties: &acr.ConnectedRegistryProperties{
		Mode:    p(acr.ConnectedRegistryModeReadOnly),
		Parent:  &acr.ParentProperties{SyncProperties: &acr.SyncProperties{TokenID: token.ID, MessageTTL: p("P2D"), Schedule: p("* * * * *")}},
		Logging: &acr.LoggingProperties{LogLevel: p(acr.LogLevelInformation), AuditLogStatus: p(acr.AuditLogStatusDisabled)}}}, nil))(t)
	if v(r.Properties.Mode) != "ReadOnly" || !strings.EqualFold(v(r.Properties.Parent.SyncProperties.TokenID), v(token.ID)) || v(r.Properties.Parent.SyncProperties.MessageTTL) != "P2D" ||
		v(r.Properties.ProvisioningState) != "Succeeded" || v(r.Properties.ConnectionState) == "Online" || v(r.Properties.Activation.Status) == "Active" {
		t.Errorf("%+v", r.Properties)
	}
	changed := done(c.BeginUpdate(ctx, group, registry, name, acr.ConnectedRegistryUpdateParameters{Properties: &acr.ConnectedRegistryUpdateProperties{
		SyncProperties: &acr.SyncUpdateProperties{MessageTTL: p("P3D")}, Logging: &acr.LoggingProperties{LogLevel: p(acr.LogLevelError)}}}, nil))(t)
	if v(changed.Properties.Parent.SyncProperties.MessageTTL) != "P3D" || v(changed.Properties.Parent.SyncProperties.Schedule) != "* * * * *" || v(changed.Properties.Logging.LogLevel) != "Error" {
		t.Errorf("%+v", changed.Properties)
	}
	if list := all(t, c.NewListPager(group, registry, nil), func(p acr.ConnectedRegistriesClientListResponse) []*acr.ConnectedRegistry { return p.Value }); len(list) != 1 {
		t.Errorf("%d connected registries", len(list))
	}
	done(c.BeginDeactivate(ctx, group, registry, name, nil))(t)
	done(c.BeginDelete(ctx, group, registry, name, nil))(t)
	_, err := c.Get(ctx, group, registry, name, nil)
	refused(t, err, 404, "ResourceNotFound")
}

// Nothing of the transfer pipelines is there, and nobody is told otherwise.
func TestThereAreNoPipelines(t *testing.T) {
	ctx := t.Context()
	_, err := world.acr.NewExportPipelinesClient().Get(ctx, group, home, "x", nil)
	refused(t, err, 404, "")
	_, err = world.acr.NewImportPipelinesClient().Get(ctx, group, home, "x", nil)
	refused(t, err, 404, "")
	_, err = world.acr.NewPipelineRunsClient().Get(ctx, group, home, "x", nil)
	refused(t, err, 404, "")
}
