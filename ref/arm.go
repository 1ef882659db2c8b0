package ref

import (
	"strings"

	"breakwater/fault"
)

// MaxID is the longest resource id, in bytes.
const MaxID = 2048

// An ID is the ARM id of a resource, such as
// /subscriptions/<guid>/resourceGroups/<group>/providers/Microsoft.ContainerRegistry/registries/<name>.
// ARM ids are compared without regard to case; an ID keeps the spelling it was
// made with, and Key is what to compare and to store by.
type ID string

// ParseID checks the shape: it starts with "/", has no empty, "." or ".."
// segment and no trailing "/", and is printable ASCII without '?', '#', '\\' or '%'.
func ParseID(s string) (ID, error) {
	if len(s) < 2 || len(s) > MaxID || s[0] != '/' {
		return "", fault.New(fault.BadRequest, "a resource id starts with '/' and has at most %d characters", MaxID)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`?#\%`, c) >= 0 {
			return "", fault.New(fault.BadRequest, "a resource id has a character that is not allowed")
		}
	}
	for part := range strings.SplitSeq(s[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return "", fault.New(fault.BadRequest, "a resource id has an empty or relative segment")
		}
	}
	return ID(s), nil
}

// Key is the id in lower case: two ids name one resource if their keys are equal.
func (id ID) Key() string { return strings.ToLower(string(id)) }

// Name is the last segment.
func (id ID) Name() string { return string(id[strings.LastIndexByte(string(id), '/')+1:]) }

// Child is the id of a sub-resource: id/kind/name.
func (id ID) Child(kind, name string) ID { return id + ID("/"+kind+"/"+name) }

// Extension is the id of an extension resource on id:
// id/providers/<type>/<name>.
func (id ID) Extension(typ, name string) ID { return id + ID("/providers/"+typ+"/"+name) }

// Parent is the id that id is a child of; "" at the top.
func (id ID) Parent() ID {
	s := string(id)
	for range 2 {
		i := strings.LastIndexByte(s, '/')
		if i < 0 {
			return ""
		}
		s = s[:i]
	}
	return ID(s)
}

// Subscription is the id of a subscription.
func Subscription(guid string) ID { return ID("/subscriptions/" + guid) }

// Scope is the scope that a resource is.
func (id ID) Scope() Scope { return Scope(id.Key()) }

// A Scope is where a permission holds: "/" (everything), an ARM id, or a
// repository of a registry. It is lower case, so that Covers is a prefix test.
type Scope string

// Everything covers every scope.
const Everything Scope = "/"

// RepositoryScope is the scope of one repository of the registry id.
func RepositoryScope(registry ID, r Repository) Scope {
	return Scope(registry.Key() + "/repositories/" + string(r))
}

// Repository is the repository that s names, if it names one. Only what stands
// below a registry is one: a group or an account may be called "repositories" too.
func (s Scope) Repository() (Repository, bool) {
	_, below, ok := strings.Cut(string(s), "/providers/microsoft.containerregistry/registries/")
	if !ok {
		return "", false
	}
	_, child, _ := strings.Cut(below, "/")
	name, ok := strings.CutPrefix(child, "repositories/")
	return Repository(name), ok && name != ""
}

// Covers reports whether a permission at s holds at t: they are equal or t is
// below s in the tree of ids. A repository covers only itself: "team" does not
// cover "team/api", because repository names are not a tree of rights.
func (s Scope) Covers(t Scope) bool {
	if s == Everything || s == t {
		return s != ""
	}
	if _, ok := s.Repository(); ok || s == "" {
		return false
	}
	return strings.HasPrefix(string(t), string(s)+"/")
}

func (s Scope) String() string { return string(s) }
