package ref_test

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/ref"
)

// The patterns of the OCI Distribution specification, "Pulling manifests",
// and of the OCI image specification, "Registered algorithms".
var (
	specName   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	specDigest = regexp.MustCompile(`^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

func FuzzParseRepository(f *testing.F) {
	for _, s := range []string{"", "a", "team/api", "a__b", "a___b", "a-_b", "a_-b", "a--b", "a.b", "a..b", "a._b",
		"-a", "a-", "A", "a//b", "/a", "a/", "a/../b", "a%2fb", strings.Repeat("a", 255), strings.Repeat("a", 256), "a\n", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ref.ParseRepository(s)
		if want := specName.MatchString(s) && len(s) <= ref.MaxRepository && !strings.HasSuffix(s, "\n"); (err == nil) != want {
			t.Fatalf("ParseRepository(%q): %v; the specification says %v", s, err, want)
		}
		if err == nil && r.String() != s {
			t.Fatalf("%q became %q", s, r)
		}
		if err != nil && fault.Of(err) != fault.NameInvalid {
			t.Fatalf("%q: %v is not NameInvalid", s, err)
		}
	})
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"", "latest", "v1.0_x-y", ".a", "-a", "_a", strings.Repeat("a", 128), strings.Repeat("a", 129),
		"sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("A", 64), "sha512:" + strings.Repeat("f", 128),
		"sha384:" + strings.Repeat("f", 96), "sha256:", ":", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ref.ParseReference(s)
		if want := specTag.MatchString(s) || specDigest.MatchString(s); (err == nil) != want {
			t.Fatalf("ParseReference(%q): %v; the specification says %v", s, err, want)
		}
		if err == nil && r.String() != s {
			t.Fatalf("%q became %q", s, r)
		}
		if err == nil && (r.Tag == "") == (r.Digest == "") {
			t.Fatalf("%q: exactly one of tag and digest is set, got %+v", s, r)
		}
	})
}

func TestDigestNamesWhatTheAlgorithmHashes(t *testing.T) {
	sum := sha256.Sum256([]byte("abc"))
	if got, want := ref.SHA256.Sum([]byte("abc")).String(), "sha256:"+hex.EncodeToString(sum[:]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	d, err := ref.ParseDigest(ref.SHA512.Sum(nil).String())
	if err != nil || d.Algorithm() != ref.SHA512 {
		t.Errorf("sha512 of nothing: %s %v", d.Algorithm(), err)
	}
}

func TestRunningHashGoesOnElsewhere(t *testing.T) {
	for _, a := range []ref.Algorithm{ref.SHA256, ref.SHA512} {
		h := a.New()
		h.Write([]byte("first half, "))
		state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		other := a.New()
		if err := other.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
			t.Fatal(err)
		}
		other.Write([]byte("second half"))
		if got, want := a.Digest(other), a.Sum([]byte("first half, second half")); got != want {
			t.Errorf("%s: got %s, want %s", a, got, want)
		}
	}
}

func TestResourceIDsAreComparedWithoutCase(t *testing.T) {
	a, err := ref.ParseID("/subscriptions/S/resourceGroups/rg/providers/Microsoft.ContainerRegistry/registries/Shop")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := ref.ParseID("/SUBSCRIPTIONS/s/resourcegroups/RG/providers/microsoft.containerregistry/Registries/shop")
	if a.Key() != b.Key() {
		t.Errorf("%s and %s are one resource", a, b)
	}
	if a.Name() != "Shop" || a.Child("tokens", "ci").Parent() != a {
		t.Errorf("name %q, parent %q", a.Name(), a.Child("tokens", "ci").Parent())
	}
	for _, bad := range []string{"", "/", "a", "/a/", "/a//b", "/a/../b", "/a/./b", "/a?b", "/a b", "/a%2fb", "/a\\b", "/é", "/" + strings.Repeat("a", ref.MaxID)} {
		if id, err := ref.ParseID(bad); err == nil {
			t.Errorf("%q was taken as %q", bad, id)
		}
	}
}

func TestScopeCoversWhatIsBelowIt(t *testing.T) {
	const registry = ref.ID("/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/shop")
	api := ref.RepositoryScope(registry, "team/api")
	if name, ok := api.Repository(); !ok || name != "team/api" {
		t.Errorf("repository of %s: %q %v", api, name, ok)
	}
	for _, c := range []struct {
		at, of ref.Scope
		want   bool
	}{
		{ref.Everything, api, true},
		{ref.Everything, ref.Everything, true},
		{ref.Subscription("s").Scope(), api, true},
		{ref.Subscription("S").Scope(), registry.Scope(), true},
		{registry.Scope(), api, true},
		{registry.Scope(), registry.Scope(), true},
		{registry.Scope(), registry.Scope() + "2", false},
		{api, registry.Scope(), false},
		{api, api, true},
		{ref.RepositoryScope(registry, "team"), api, false},
		{ref.RepositoryScope(registry, "team/ap"), api, false},
		{"", api, false},
		{"", "", false},
	} {
		if got := c.at.Covers(c.of); got != c.want {
			t.Errorf("%q covers %q: %v, want %v", c.at, c.of, got, c.want)
		}
	}
}

// What is called "repositories" without being a registry's is a place like any
// other: rights and denials above it hold there.
func TestOnlyARegistryHasRepositories(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/repositories"
	registry := ref.ID(group).Extension("Microsoft.ContainerRegistry/registries", "repositories")
	for _, id := range []ref.ID{
		registry, registry.Child("tokens", "ci"), registry.Child("repositories", ""),
		"/providers/Breakwater.Identity/servicePrincipals/repositories/federatedIdentityCredentials/f",
		"/providers/Microsoft.Management/managementGroups/repositories/subscriptions/s",
	} {
		if name, ok := id.Scope().Repository(); ok {
			t.Errorf("%s is said to be the repository %q", id, name)
		}
		if !id.Parent().Scope().Covers(id.Scope()) {
			t.Errorf("%s does not cover %s", id.Parent(), id)
		}
	}
	if name, ok := ref.RepositoryScope(registry, "team/api").Repository(); !ok || name != "team/api" {
		t.Errorf("the repository is called %q", name)
	}
}
