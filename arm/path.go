package arm

import (
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// A target is what a path names: a resource, or a segment after one, which is a
// list of what is below it or something to do with it.
type target struct {
	ID   ref.ID // the resource; "" is the root of the tree
	Type string // its type
	Last string // the segment after it; "" if the path names the resource itself
	List string // the type that Last lists, if it is a list
}

// parse reads a path of the control plane:
//
//	/subscriptions/S/resourceGroups/G/providers/NAMESPACE/TYPE/NAME/TYPE/NAME/…
//
// Clients differ in case, double their slashes and end in one; that changes
// nothing. The spelling of names is kept.
func parse(path string) (target, error) {
	var t target
	var pending string // the /providers/NAMESPACE before a resource that is not read yet
	typ := ""          // what the next segment is a part of
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for len(parts) > 0 {
		first := parts[0]
		switch {
		case strings.EqualFold(first, "providers") && len(parts) > 2 && pending == "":
			pending, typ = "/providers/"+parts[1], parts[1]
			parts = parts[2:]
			continue
		case pending == "" && (t.ID == "" && strings.EqualFold(first, "subscriptions") ||
			strings.EqualFold(t.Type, SubscriptionType) && strings.EqualFold(first, "resourceGroups")):
			typ = "Microsoft.Resources"
		case pending == "" && t.ID == "":
			return target{}, unknown()
		}
		if len(parts) == 1 {
			t.Last, t.List = first, typ+"/"+first
			break
		}
		typ += "/" + first
		t.ID += ref.ID(pending + "/" + first + "/" + parts[1])
		t.Type, pending = typ, ""
		parts = parts[2:]
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

func unknown() error {
	return fault.New(fault.NotFound, "the path names no resource; resources are /subscriptions/ID/resourceGroups/GROUP/providers/NAMESPACE/TYPE/NAME")
}
