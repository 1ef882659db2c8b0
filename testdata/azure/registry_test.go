package azure

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
)

// made is a registry of its own for a test, and who may do everything with it.
func made(t *testing.T, name string) (*armcontainerregistry.Registry, login) {
	t.Helper()
	c := world.acr.NewRegistriesClient()
	r := done(c.BeginCreate(t.Context(), group, name, armcontainerregistry.Registry{
		Location: p("local"), SKU: &armcontainerregistry.SKU{Name: p(armcontainerregistry.SKUNamePremium)}, Tags: map[string]*string{"tour": &name},
		Properties: &armcontainerregistry.RegistryProperties{AdminUserEnabled: p(true), DataEndpointEnabled: p(true)},
	}, nil))(t).Registry
	t.Cleanup(func() { done(c.BeginDelete(context.Background(), group, name, nil)) }) // the test's own context has ended
	keys := ok(c.RegenerateCredential(t.Context(), group, name, armcontainerregistry.RegenerateCredentialParameters{Name: p(armcontainerregistry.PasswordNamePassword)}, nil))(t)
	return &r, login{v(r.Properties.LoginServer), v(keys.Username), password(keys.Passwords, armcontainerregistry.PasswordNamePassword)}
}

func password(all []*armcontainerregistry.RegistryPassword, name armcontainerregistry.PasswordName) string {
	for _, p := range all {
		if v(p.Name) == name {
			return v(p.Value)
		}
	}
	return ""
}

func TestARegistryLives(t *testing.T) {
	c, ctx, name := world.acr.NewRegistriesClient(), t.Context(), "livetour"
	free := func(name string) armcontainerregistry.RegistryNameStatus {
		return ok(c.CheckNameAvailability(ctx, armcontainerregistry.RegistryNameCheckRequest{Name: &name, Type: to.Ptr("Microsoft.ContainerRegistry/registries")}, nil))(t).RegistryNameStatus
	}
	if got := free(name); !v(got.NameAvailable) {
		t.Errorf("%v", v(got.Message))
	}
	if got := free("a-b"); v(got.NameAvailable) || v(got.Reason) != "Invalid" {
		t.Errorf("%v %v", v(got.NameAvailable), v(got.Reason))
	}
	r, admin := made(t, name)
	if !strings.EqualFold(v(r.ID), registryID(name)) || v(r.Type) != "Microsoft.ContainerRegistry/registries" || v(r.SKU.Name) != "Premium" || v(r.SKU.Tier) != "Premium" ||
		v(r.Tags["tour"]) != name || v(r.Properties.ProvisioningState) != "Succeeded" || !v(r.Properties.AdminUserEnabled) || r.SystemData == nil || r.Properties.CreationDate == nil {
		t.Errorf("%+v %+v", r, r.Properties)
	}
	if got := free(name); v(got.NameAvailable) || v(got.Reason) != "AlreadyExists" {
		t.Errorf("%v %v", v(got.NameAvailable), v(got.Reason))
	}
	named := func(r *armcontainerregistry.Registry) *string { return r.Name }
	everywhere := all(t, c.NewListPager(nil), func(p armcontainerregistry.RegistriesClientListResponse) []*armcontainerregistry.Registry {
		return p.Value
	})
	here := all(t, c.NewListByResourceGroupPager(group, nil), func(p armcontainerregistry.RegistriesClientListByResourceGroupResponse) []*armcontainerregistry.Registry {
		return p.Value
	})
	for _, list := range [][]*armcontainerregistry.Registry{everywhere, here} {
		if !has(list, named, name) || !has(list, named, home) {
			t.Errorf("%d registries, one is missing", len(list))
		}
	}

	// It is a place for content, and the two passwords of its admin user open it.
	if status := admin.push(t, "team/app", "v1"); status != 201 {
		t.Fatalf("push: %d", status)
	}
	keys := ok(c.ListCredentials(ctx, group, name, nil))(t)
	if v(keys.Username) != name || len(keys.Passwords) == 0 {
		t.Errorf("%+v", keys)
	}
	second := ok(c.RegenerateCredential(ctx, group, name, armcontainerregistry.RegenerateCredentialParameters{Name: p(armcontainerregistry.PasswordNamePassword2)}, nil))(t)
	other := admin
	if other.password = password(second.Passwords, armcontainerregistry.PasswordNamePassword2); other.knock(t) != 200 || admin.knock(t) != 200 || other.password == admin.password {
		t.Error("the second password does not open the registry beside the first")
	}
	old := admin
	third := ok(c.RegenerateCredential(ctx, group, name, armcontainerregistry.RegenerateCredentialParameters{Name: p(armcontainerregistry.PasswordNamePassword)}, nil))(t)
	if admin.password = password(third.Passwords, armcontainerregistry.PasswordNamePassword); admin.knock(t) != 200 || old.knock(t) != 401 {
		t.Errorf("renewed: %d, before: %d", admin.knock(t), old.knock(t))
	}

	// What is changed holds from the next request on.
	change := func(p armcontainerregistry.RegistryPropertiesUpdateParameters) *armcontainerregistry.Registry {
		t.Helper()
		r := done(c.BeginUpdate(ctx, group, name, armcontainerregistry.RegistryUpdateParameters{Properties: &p}, nil))(t).Registry
		return &r
	}
	got := change(armcontainerregistry.RegistryPropertiesUpdateParameters{NetworkRuleSet: &armcontainerregistry.NetworkRuleSet{
		DefaultAction: p(armcontainerregistry.DefaultActionDeny), IPRules: []*armcontainerregistry.IPRule{{Action: p(armcontainerregistry.ActionAllow), IPAddressOrRange: p("203.0.113.0/24")}}}})
	if len(got.Properties.NetworkRuleSet.IPRules) != 1 || admin.knock(t) != 403 {
		t.Errorf("%+v, and the content answers %d", got.Properties.NetworkRuleSet, admin.knock(t))
	}
	change(armcontainerregistry.RegistryPropertiesUpdateParameters{NetworkRuleSet: &armcontainerregistry.NetworkRuleSet{
		DefaultAction: p(armcontainerregistry.DefaultActionDeny), IPRules: []*armcontainerregistry.IPRule{{Action: p(armcontainerregistry.ActionAllow), IPAddressOrRange: p("127.0.0.0/8")}}}})
	if admin.knock(t) != 200 {
		t.Errorf("an allowed address: %d", admin.knock(t))
	}
	change(armcontainerregistry.RegistryPropertiesUpdateParameters{PublicNetworkAccess: p(armcontainerregistry.PublicNetworkAccessDisabled)})
	if admin.knock(t) != 403 {
		t.Errorf("without public access: %d", admin.knock(t))
	}
	change(armcontainerregistry.RegistryPropertiesUpdateParameters{PublicNetworkAccess: p(armcontainerregistry.PublicNetworkAccessEnabled),
		NetworkRuleSet: &armcontainerregistry.NetworkRuleSet{DefaultAction: p(armcontainerregistry.DefaultActionAllow), IPRules: []*armcontainerregistry.IPRule{}}})
	got = change(armcontainerregistry.RegistryPropertiesUpdateParameters{NetworkRuleBypassOptions: p(armcontainerregistry.NetworkRuleBypassOptionsNone),
		Policies: &armcontainerregistry.Policies{
			RetentionPolicy:  &armcontainerregistry.RetentionPolicy{Days: p(int32(30)), Status: p(armcontainerregistry.PolicyStatusEnabled)},
			QuarantinePolicy: &armcontainerregistry.QuarantinePolicy{Status: p(armcontainerregistry.PolicyStatusDisabled)},
		}})
	if v(got.Properties.NetworkRuleBypassOptions) != "None" || v(got.Properties.Policies.RetentionPolicy.Days) != 30 || got.Properties.Policies.RetentionPolicy.LastUpdatedTime == nil ||
		got.Properties.Policies.TrustPolicy == nil || got.Properties.Policies.ExportPolicy == nil || !v(got.Properties.AdminUserEnabled) || v(got.Tags["tour"]) != name {
		t.Errorf("%+v %+v", got.Properties, got.Properties.Policies)
	}
	_, err := c.BeginUpdate(ctx, group, name, armcontainerregistry.RegistryUpdateParameters{Properties: &armcontainerregistry.RegistryPropertiesUpdateParameters{
		Encryption: &armcontainerregistry.EncryptionProperty{Status: p(armcontainerregistry.EncryptionStatusEnabled),
			KeyVaultProperties: &armcontainerregistry.KeyVaultProperties{KeyIdentifier: p("https://vault.example/keys/k"), Identity: p("system")}}}}, nil)
	refused(t, err, 400, "InvalidRequestContent") // a key has a provider, which is a document of its own
	change(armcontainerregistry.RegistryPropertiesUpdateParameters{AdminUserEnabled: p(false)})
	if admin.knock(t) != 401 {
		t.Errorf("the admin user is off: %d", admin.knock(t))
	}

	// What is deleted answers nobody, and is another one when it is made again.
	done(c.BeginDelete(ctx, group, name, nil))(t)
	_, err = c.Get(ctx, group, name, nil)
	refused(t, err, 404, "ResourceNotFound")
	done(c.BeginDelete(ctx, group, name, nil))(t)
	if _, again := made(t, name); again.pull(t, "team/app", "v1") != 404 || admin.knock(t) != 401 {
		t.Error("a registry of the same name has the content or the passwords of the one before")
	}
	_, err = c.BeginDelete(ctx, group, home, nil)
	refused(t, err, 409, "")
}

func TestUsageIsCounted(t *testing.T) {
	const name = "usagetour"
	c, ctx := world.acr.NewRegistriesClient(), t.Context()
	_, admin := made(t, name)
	if admin.push(t, "team/app", "v1") != 201 {
		t.Fatal("push")
	}
	usage := map[string]int64{}
	for _, u := range ok(c.ListUsages(ctx, group, name, nil))(t).Value {
		usage[v(u.Name)] = v(u.CurrentValue)
	}
	if usage["Size"] == 0 {
		t.Errorf("%v", usage)
	}
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	c, ctx := world.acr.NewRegistriesClient(), t.Context()
	_, err := c.Get(ctx, group, "nowhere", nil)
	refused(t, err, 404, "ResourceNotFound")
	_, err = c.BeginImportImage(ctx, group, home, armcontainerregistry.ImportImageParameters{
		Source:     &armcontainerregistry.ImportSource{RegistryURI: p("docker.io"), SourceImage: p("library/alpine:3")},
		TargetTags: []*string{p("alpine:3")}, Mode: p(armcontainerregistry.ImportModeNoForce)}, nil)
	refused(t, err, 409, "NotImplemented")
	_, err = world.acr.NewScopeMapsClient().Get(ctx, group, "nowhere", "x", nil)
	refused(t, err, 404, "")
	links := all(t, c.NewListPrivateLinkResourcesPager(group, home, nil), func(p armcontainerregistry.RegistriesClientListPrivateLinkResourcesResponse) []*armcontainerregistry.PrivateLinkResource {
		return p.Value
	})
	if len(links) != 1 || v(links[0].Properties.GroupID) != "registry" || len(links[0].Properties.RequiredZoneNames) == 0 {
		t.Errorf("%+v", links)
	}
	if link := ok(c.GetPrivateLinkResource(ctx, group, home, "registry", nil))(t); v(link.Name) != "registry" {
		t.Errorf("%+v", link)
	}
	operations := all(t, world.acr.NewOperationsClient().NewListPager(nil), func(p armcontainerregistry.OperationsClientListResponse) []*armcontainerregistry.OperationDefinition {
		return p.Value
	})
	if !has(operations, func(o *armcontainerregistry.OperationDefinition) *string { return o.Name }, "Microsoft.ContainerRegistry/registries/write") {
		t.Errorf("%d operations", len(operations))
	}
}

func TestATokenOpensWhatItsScopeMapSays(t *testing.T) {
	_, admin := made(t, "tokentour")
	const name, registry = "ci", "tokentour"
	ctx, maps, tokens, c := t.Context(), world.acr.NewScopeMapsClient(), world.acr.NewTokensClient(), world.acr.NewRegistriesClient()
	actions := func(all ...string) []*string { return to.SliceOfPtrs(all...) }
	m := done(maps.BeginCreate(ctx, group, registry, name, armcontainerregistry.ScopeMap{Properties: &armcontainerregistry.ScopeMapProperties{
		Description: p("the pipeline's"), Actions: actions("repositories/team/app/content/read", "repositories/team/app/content/write")}}, nil))(t)
	if v(m.Properties.Type) != "UserDefined" || v(m.Properties.ProvisioningState) != "Succeeded" || v(m.Properties.Description) != "the pipeline's" || len(m.Properties.Actions) != 2 {
		t.Errorf("%+v", m.Properties)
	}
	token := done(tokens.BeginCreate(ctx, group, registry, name, armcontainerregistry.Token{Properties: &armcontainerregistry.TokenProperties{
		ScopeMapID: m.ID, Status: p(armcontainerregistry.TokenStatusEnabled)}}, nil))(t)
	if token.Properties.Credentials == nil || !strings.EqualFold(v(token.Properties.ScopeMapID), v(m.ID)) {
		t.Errorf("%+v", token.Properties)
	}
	expiry := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	made := done(c.BeginGenerateCredentials(ctx, group, registry, armcontainerregistry.GenerateCredentialsParameters{TokenID: token.ID, Expiry: &expiry}, nil))(t)
	if v(made.Username) != name || len(made.Passwords) != 2 || !v(made.Passwords[0].Expiry).Equal(expiry) {
		t.Fatalf("%+v", made)
	}
	ci := login{admin.host, name, v(made.Passwords[0].Value)}
	if ci.push(t, "team/app", "v1") != 201 || ci.pull(t, "team/app", "v1") != 200 || ci.push(t, "team/other", "v1") != 401 && ci.push(t, "team/other", "v1") != 403 {
		t.Error("the token opens more or less than its scope map says")
	}
	shown := ok(tokens.Get(ctx, group, registry, name, nil))(t)
	for _, p := range shown.Properties.Credentials.Passwords {
		if p.Value != nil {
			t.Error("a password is shown again")
		}
	}

	changed := done(maps.BeginUpdate(ctx, group, registry, name, armcontainerregistry.ScopeMapUpdateParameters{Properties: &armcontainerregistry.ScopeMapPropertiesUpdateParameters{
		Actions: actions("repositories/team/app/content/read")}}, nil))(t)
	if len(changed.Properties.Actions) != 1 || v(changed.Properties.Description) != "the pipeline's" || ci.push(t, "team/app", "v2") == 201 || ci.pull(t, "team/app", "v1") != 200 {
		t.Errorf("%+v", changed.Properties)
	}
	// To leave a password out is to take it away.
	done(tokens.BeginUpdate(ctx, group, registry, name, armcontainerregistry.TokenUpdateParameters{Properties: &armcontainerregistry.TokenUpdateProperties{
		Credentials: &armcontainerregistry.TokenCredentialsProperties{Passwords: []*armcontainerregistry.TokenPassword{{Name: p(armcontainerregistry.TokenPasswordNamePassword2)}}}}}, nil))(t)
	second := login{ci.host, name, v(made.Passwords[1].Value)}
	if ci.knock(t) != 401 || second.knock(t) != 200 {
		t.Errorf("taken away: %d, kept: %d", ci.knock(t), second.knock(t))
	}
	done(tokens.BeginUpdate(ctx, group, registry, name, armcontainerregistry.TokenUpdateParameters{Properties: &armcontainerregistry.TokenUpdateProperties{Status: p(armcontainerregistry.TokenStatusDisabled)}}, nil))(t)
	if second.knock(t) != 401 {
		t.Errorf("disabled: %d", second.knock(t))
	}
	if list := all(t, tokens.NewListPager(group, registry, nil), func(p armcontainerregistry.TokensClientListResponse) []*armcontainerregistry.Token { return p.Value }); len(list) != 1 {
		t.Errorf("%d tokens", len(list))
	}
	if list := all(t, maps.NewListPager(group, registry, nil), func(p armcontainerregistry.ScopeMapsClientListResponse) []*armcontainerregistry.ScopeMap {
		return p.Value
	}); !has(list, func(m *armcontainerregistry.ScopeMap) *string { return m.Name }, name) {
		t.Errorf("%d scope maps", len(list))
	}
	done(tokens.BeginDelete(ctx, group, registry, name, nil))(t)
	done(maps.BeginDelete(ctx, group, registry, name, nil))(t)
	_, err := tokens.Get(ctx, group, registry, name, nil)
	refused(t, err, 404, "")
	_, err = maps.Get(ctx, group, registry, name, nil)
	refused(t, err, 404, "")
}
