package access

import (
	"testing"

	"breakwater/ref"
)

// Who names things chooses no way around a denial: groups, registries and accounts
// may be called "repositories".
func TestNoNameHidesFromADenial(t *testing.T) {
	const group = ref.ID("/subscriptions/s/resourceGroups/repositories")
	registry := group.Extension("Microsoft.ContainerRegistry/registries", "repositories")
	api := ref.RepositoryScope(registry, "team/api")
	app := ref.ID("/providers/Breakwater.Identity/servicePrincipals/repositories")
	owner := Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything}
	for _, row := range []struct {
		at ref.Scope
		Need
	}{
		{group.Scope(), Need{Action: ContentRead, Scope: api}},
		{registry.Scope(), Need{Action: ContentRead, Scope: api}},
		{registry.Scope(), Need{Action: TokenWrite, Scope: registry.Child("tokens", "ci").Scope()}},
		{app.Scope(), Need{Action: ServicePrincipalFederatedWrite, Scope: app.Child("federatedIdentityCredentials", "f").Scope()}},
	} {
		held := NewHeld(owner, Assignment{Principal: Everybody, Deny: true, Permissions: []Permission{{Actions: []string{"*"}}}, Scope: row.at})
		if got := Decide(someone, held, row.Need, now); got.Reason != Denied {
			t.Errorf("a denial at %s does not keep %s from %s", row.at, row.Action, row.Scope)
		}
	}
	only := NewHeld(Assignment{Principal: "u1", Role: "2a1e307c-b015-4ebd-883e-5b7698a07328", Scope: registry.Scope(),
		Condition: mustCondition(name + " StringStartsWith 'team/'")})
	if got := Decide(someone, only, Need{Action: ContentRead, Scope: api, Mode: ABAC}, now); !got.Allowed {
		t.Errorf("a condition reads another name than team/api: %v", got.Reason)
	}
}
