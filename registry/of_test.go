package registry

import (
	"strings"
	"testing"

	"breakwater/ref"
)

func TestAnIDLiesInOneRegistryOrInNone(t *testing.T) {
	const shop = "/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/Shop"
	for id, want := range map[ref.ID]ref.ID{
		shop:                       shop,
		shop + "/tokens/ci":        shop,
		shop + "/repositories/a/b": shop,
		shop + "/providers/N/t/x":  shop,
		"/subscriptions/S/resourceGroups/G/providers/microsoft.containerregistry/REGISTRIES/x": "/subscriptions/S/resourceGroups/G/providers/microsoft.containerregistry/REGISTRIES/x",
		shop + "/providers/Microsoft.ContainerRegistry/registries/other":                       shop,
		"":                                  "",
		"/":                                 "",
		"/subscriptions/S/resourceGroups/G": "",
		"/subscriptions/S/providers/Microsoft.ContainerRegistry/registries/x":                      "",
		"/providers/Microsoft.ContainerRegistry/registries/x":                                      "",
		"/providers/A/b/c/providers/Microsoft.ContainerRegistry/registries/x":                      "",
		"/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/other/x":          "",
		"/subscriptions/S/resourceGroups/G/a/b/providers/Microsoft.ContainerRegistry/registries/x": "",
	} {
		if got := Of(id); got != want {
			t.Errorf("%s lies in %q", id, got)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/Shop/tokens/ci")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ref.ParseID(text)
		if err != nil {
			return
		}
		of := Of(id)
		if of == "" {
			return
		}
		if !of.Scope().Covers(id.Scope()) || Of(of) != of || strings.Count(string(of), "/") != 8 || of.Name() == "" {
			t.Errorf("%s lies in %q", id, of)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("SystemAssigned, UserAssigned", true)
	f.Add("none", false)
	f.Fuzz(func(t *testing.T, kind string, assigned bool) {
		i := Identity{Type: kind}
		if assigned {
			i.Assigned = map[ref.ID]AssignedIdentity{"/a/b": {}}
		}
		once, err := i.normal()
		if err != nil {
			return
		}
		if twice, err := once.normal(); err != nil || twice.Type != once.Type || strings.Contains(once.Type, UserAssigned) != (len(once.Assigned) > 0) {
			t.Errorf("%q is %+v, then %+v, %v", kind, once, twice, err)
		}
	})
}
