package azure

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	acr "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
)

// Resources that hold a setting whose behaviour comes later are kept and shown as
// they were sent, without what is secret in them.

func TestAWebhookIsKept(t *testing.T) {
	const name = "hooktour"
	c, ctx := world.acr.NewWebhooksClient(), t.Context()
	hook := done(c.BeginCreate(ctx, group, home, name, acr.WebhookCreateParameters{Location: p("local"), Tags: map[string]*string{"a": p("b")},
		Properties: &acr.WebhookPropertiesCreateParameters{ServiceURI: p("https://hooks.example/in"), Scope: p("team/app:*"), Status: p(acr.WebhookStatusEnabled),
			Actions: to.SliceOfPtrs(acr.WebhookActionPush, acr.WebhookActionDelete), CustomHeaders: map[string]*string{"Authorization": p("hush")}}}, nil))(t)
	if v(hook.Properties.Scope) != "team/app:*" || v(hook.Properties.Status) != "enabled" || len(hook.Properties.Actions) != 2 || v(hook.Tags["a"]) != "b" || v(hook.Properties.ProvisioningState) != "Succeeded" {
		t.Errorf("%+v", hook.Properties)
	}
	secret := ok(c.GetCallbackConfig(ctx, group, home, name, nil))(t)
	if v(secret.ServiceURI) != "https://hooks.example/in" || v(secret.CustomHeaders["Authorization"]) != "hush" {
		t.Errorf("%+v", secret)
	}
	changed := done(c.BeginUpdate(ctx, group, home, name, acr.WebhookUpdateParameters{Properties: &acr.WebhookPropertiesUpdateParameters{Status: p(acr.WebhookStatusDisabled)}}, nil))(t)
	if v(changed.Properties.Status) != "disabled" || v(changed.Properties.Scope) != "team/app:*" || v(ok(c.GetCallbackConfig(ctx, group, home, name, nil))(t).ServiceURI) != "https://hooks.example/in" {
		t.Errorf("%+v", changed.Properties)
	}
	if !has(all(t, c.NewListPager(group, home, nil), func(p acr.WebhooksClientListResponse) []*acr.Webhook { return p.Value }), func(w *acr.Webhook) *string { return w.Name }, name) {
		t.Error("the list does not have it")
	}
	if events := all(t, c.NewListEventsPager(group, home, name, nil), func(p acr.WebhooksClientListEventsResponse) []*acr.Event { return p.Value }); len(events) != 0 {
		t.Errorf("%d events, and nothing was delivered", len(events))
	}
	_, err := c.Ping(ctx, group, home, name, nil)
	refused(t, err, 409, "NotImplemented")
	done(c.BeginDelete(ctx, group, home, name, nil))(t)
	_, err = c.Get(ctx, group, home, name, nil)
	refused(t, err, 404, "ResourceNotFound")
	_, err = c.BeginCreate(ctx, group, "nowhere", name, acr.WebhookCreateParameters{Location: p("local"), Properties: &acr.WebhookPropertiesCreateParameters{
		ServiceURI: p("https://hooks.example/in"), Actions: to.SliceOfPtrs(acr.WebhookActionPush)}}, nil)
	refused(t, err, 404, "")
}

func TestAReplicationIsKept(t *testing.T) {
	const name = "northeurope"
	c, ctx := world.acr.NewReplicationsClient(), t.Context()
	r := done(c.BeginCreate(ctx, group, home, name, acr.Replication{Location: p(name), Tags: map[string]*string{"a": p("b")},
		Properties: &acr.ReplicationProperties{RegionEndpointEnabled: p(false), ZoneRedundancy: p(acr.ZoneRedundancyDisabled)}}, nil))(t)
	if v(r.Location) != name || v(r.Properties.RegionEndpointEnabled) || v(r.Properties.ProvisioningState) != "Succeeded" || r.Properties.Status == nil || v(r.Properties.Status.DisplayStatus) == "Ready" {
		t.Errorf("%+v %+v", r.Properties, r.Properties.Status)
	}
	changed := done(c.BeginUpdate(ctx, group, home, name, acr.ReplicationUpdateParameters{Properties: &acr.ReplicationUpdateParametersProperties{RegionEndpointEnabled: p(true)}}, nil))(t)
	if !v(changed.Properties.RegionEndpointEnabled) || v(changed.Tags["a"]) != "b" || !v(ok(c.Get(ctx, group, home, name, nil))(t).Properties.RegionEndpointEnabled) {
		t.Errorf("%+v", changed.Properties)
	}
	if !has(all(t, c.NewListPager(group, home, nil), func(p acr.ReplicationsClientListResponse) []*acr.Replication { return p.Value }), func(r *acr.Replication) *string { return r.Name }, name) {
		t.Error("the list does not have it")
	}
	done(c.BeginDelete(ctx, group, home, name, nil))(t)
	_, err := c.Get(ctx, group, home, name, nil)
	refused(t, err, 404, "ResourceNotFound")
}

func TestAPrivateEndpointConnectionIsApprovedAndRejected(t *testing.T) {
	const name = "connectiontour"
	c, ctx := world.acr.NewPrivateEndpointConnectionsClient(), t.Context()
	endpoint := "/subscriptions/" + world.subscription + "/resourceGroups/net/providers/Microsoft.Network/privateEndpoints/p"
	state := func(s acr.ConnectionStatus) *acr.PrivateEndpointConnection {
		t.Helper()
		done(c.BeginCreateOrUpdate(ctx, group, home, name, acr.PrivateEndpointConnection{Properties: &acr.PrivateEndpointConnectionProperties{
			PrivateEndpoint:                   &acr.PrivateEndpoint{ID: &endpoint},
			PrivateLinkServiceConnectionState: &acr.PrivateLinkServiceConnectionState{Status: &s, Description: p("by the tour")}}}, nil))(t)
		got := ok(c.Get(ctx, group, home, name, nil))(t).PrivateEndpointConnection
		if v(got.Properties.PrivateLinkServiceConnectionState.Status) != s || v(got.Properties.PrivateEndpoint.ID) != endpoint {
			t.Errorf("%+v", got.Properties)
		}
		return &got
	}
	state(acr.ConnectionStatusApproved)
	state(acr.ConnectionStatusRejected)
	if !has(all(t, c.NewListPager(group, home, nil), func(p acr.PrivateEndpointConnectionsClientListResponse) []*acr.PrivateEndpointConnection {
		return p.Value
	}), func(c *acr.PrivateEndpointConnection) *string { return c.Name }, name) {
		t.Error("the list does not have it")
	}
	done(c.BeginDelete(ctx, group, home, name, nil))(t)
	_, err := c.Get(ctx, group, home, name, nil)
	refused(t, err, 404, "ResourceNotFound")
}

func TestACacheRuleAndItsCredentialsAreKept(t *testing.T) {
	const name = "cachetour"
	sets, rules, ctx := world.acr.NewCredentialSetsClient(), world.acr.NewCacheRulesClient(), t.Context()
	set := done(sets.BeginCreate(ctx, group, home, name, acr.CredentialSet{Identity: &acr.IdentityProperties{Type: p(acr.ResourceIdentityTypeSystemAssigned)},
		Properties: &acr.CredentialSetProperties{LoginServer: p("docker.io"), AuthCredentials: []*acr.AuthCredential{{Name: p(acr.CredentialNameCredential1),
			UsernameSecretIdentifier: p("https://vault.example/secrets/u"), PasswordSecretIdentifier: p("https://vault.example/secrets/p")}}}}, nil))(t)
	if v(set.Properties.LoginServer) != "docker.io" || len(set.Properties.AuthCredentials) != 1 || v(set.Properties.ProvisioningState) != "Succeeded" {
		t.Errorf("%+v", set.Properties)
	}
	rule := done(rules.BeginCreate(ctx, group, home, name, acr.CacheRule{Properties: &acr.CacheRuleProperties{
		SourceRepository: p("docker.io/library/hello-world"), TargetRepository: p("hello-world")}}, nil))(t)
	if v(rule.Properties.SourceRepository) != "docker.io/library/hello-world" || v(rule.Properties.TargetRepository) != "hello-world" || rule.Properties.CreationDate == nil {
		t.Errorf("%+v", rule.Properties)
	}
	changed := done(rules.BeginUpdate(ctx, group, home, name, acr.CacheRuleUpdateParameters{Properties: &acr.CacheRuleUpdateProperties{CredentialSetResourceID: set.ID}}, nil))(t)
	if !strings.EqualFold(v(changed.Properties.CredentialSetResourceID), v(set.ID)) || !strings.EqualFold(v(ok(rules.Get(ctx, group, home, name, nil))(t).Properties.CredentialSetResourceID), v(set.ID)) {
		t.Errorf("%+v", changed.Properties)
	}
	if got := done(sets.BeginUpdate(ctx, group, home, name, acr.CredentialSetUpdateParameters{Properties: &acr.CredentialSetUpdateProperties{AuthCredentials: []*acr.AuthCredential{{
		Name: p(acr.CredentialNameCredential1), UsernameSecretIdentifier: p("https://vault.example/secrets/u2"), PasswordSecretIdentifier: p("https://vault.example/secrets/p2")}}}}, nil))(t); v(got.Properties.LoginServer) != "docker.io" || len(got.Properties.AuthCredentials) != 1 {
		t.Errorf("%+v", got.Properties)
	}
	if !has(all(t, rules.NewListPager(group, home, nil), func(p acr.CacheRulesClientListResponse) []*acr.CacheRule { return p.Value }), func(r *acr.CacheRule) *string { return r.Name }, name) ||
		!has(all(t, sets.NewListPager(group, home, nil), func(p acr.CredentialSetsClientListResponse) []*acr.CredentialSet { return p.Value }), func(s *acr.CredentialSet) *string { return s.Name }, name) {
		t.Error("the lists do not have them")
	}
	done(rules.BeginDelete(ctx, group, home, name, nil))(t)
	done(sets.BeginDelete(ctx, group, home, name, nil))(t)
	_, err := rules.Get(ctx, group, home, name, nil)
	refused(t, err, 404, "ResourceNotFound")
	_, err = sets.Get(ctx, group, home, name, nil)
	refused(t, err, 404, "ResourceNotFound")
}
