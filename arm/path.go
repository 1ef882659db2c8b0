package arm

import (
	"strings"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/registry"
)

// A place is where resources of a kind lie.
type place int

const (
	inGroup   place = iota // in a resource group: G/providers/NAMESPACE/TYPE/NAME
	inTenant               // above all: /providers/NAMESPACE/TYPE/NAME
	extension              // on any resource, and above all: S/providers/NAMESPACE/TYPE/NAME
	above                  // before any provider: subscriptions and resource groups
)

// A target is what a path names: a resource, or a segment after one, which is a
// list of what is below it or something to do with it.
type target struct {
	ID    ref.ID // the resource; "" is the root of the tree
	Type  string // its type
	Last  string // the segment after it; "" if the path names the resource itself
	List  string // the type that Last lists, if it is a list
	On    ref.ID // what stands before the last /providers/
	Place place  // … and what that is: extension if it is neither the root nor a group
}

const repositoryType = registry.Type + "/repositories"

// parse reads a path of the control plane:
//
//	/subscriptions/S/resourceGroups/G/providers/NAMESPACE/TYPE/NAME/TYPE/NAME/…
//
// Clients differ in case, double their slashes and end in one; that changes
// nothing. The spelling of names is kept. The name of a repository has slashes of
// its own: it runs to the last /providers/, or to the end.
func parse(path string) (target, error) {
	t := target{Place: above}
	var pending string // the /providers/NAMESPACE before a resource that is not read yet
	typ := ""          // what the next segment is a part of
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for len(parts) > 0 {
		first := parts[0]
		switch {
		case provides(first) && len(parts) > 2 && pending == "":
			t.On, t.Place = t.ID, extension
			if t.ID == "" {
				t.Place = inTenant
			} else if strings.EqualFold(t.Type, ResourceGroupType) {
				t.Place = inGroup
			}
			pending, typ = "/providers/"+parts[1], parts[1]
			parts = parts[2:]
			continue
		case pending == "" && (t.ID == "" && strings.EqualFold(first, "subscriptions") ||
			strings.EqualFold(t.Type, SubscriptionType) && strings.EqualFold(first, "resourceGroups")):
			typ = "Microsoft.Resources"
		case pending == "" && t.ID == "":
			if len(parts) > 1 || !strings.EqualFold(first, "tenants") {
				return target{}, unknown()
			}
			typ = "Microsoft.Resources"
		}
		if typ == "Microsoft.Resources" {
			for _, as := range []string{"subscriptions", "resourceGroups", "tenants"} { // az writes resourcegroups
				if strings.EqualFold(first, as) {
					first = as
				}
			}
		}
		if len(parts) == 1 {
			t.Last, t.List = first, typ+"/"+first
			break
		}
		typ += "/" + first
		name, rest := parts[1], parts[2:]
		if pending == "" && strings.EqualFold(typ, repositoryType) {
			end := len(parts)
			for i := len(parts) - 3; i > 1 && end == len(parts); i-- {
				if provides(parts[i]) {
					end = i
				}
			}
			repo, err := ref.ParseRepository(strings.ToLower(strings.Join(parts[1:end], "/")))
			if err != nil {
				return target{}, err
			}
			name, rest = string(repo), parts[end:]
		}
		t.ID += ref.ID(pending + "/" + first + "/" + name)
		t.Type, pending = typ, ""
		parts = rest
	}
	if t.ID == "" && t.Last == "" {
		return target{}, unknown()
	}
	if t.ID != "" {
		if _, err := ref.ParseID(string(t.ID)); err != nil {
			return target{}, err
		}
	}
	return t, nil
}

func provides(segment string) bool { return strings.EqualFold(segment, "providers") }

func unknown() error {
	return fault.New(fault.NotFound, "the path names no resource; resources are /subscriptions/ID/resourceGroups/GROUP/providers/NAMESPACE/TYPE/NAME or /providers/NAMESPACE/TYPE/NAME, and breakwater surface lists every TYPE")
}
