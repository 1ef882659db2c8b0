package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A resourceType is what the server says of a type that it offers: which types
// there are is the server's to know.
type resourceType struct {
	Type string `json:"type"` // Microsoft.ContainerRegistry/registries/tokens
	Path string `json:"path"` // of a resource, with {} for names; {scope} is any id, or nothing
	Can  string `json:"can"`  // the last words of the operations there are
}

func (c *client) types(ctx context.Context) (all []resourceType, err error) {
	type provider struct {
		Namespace     string
		ResourceTypes []struct {
			ResourceType, Pattern string
			Operations            []string
		}
	}
	err = list(ctx, c, "/providers"+apiVersion, func(p provider) error {
		for _, t := range p.ResourceTypes {
			var can []string
			for _, operation := range t.Operations {
				words := strings.Split(strings.TrimSuffix(operation, "/action"), "/")
				if last := words[len(words)-1]; !slices.Contains(can, last) {
					can = append(can, last)
				}
			}
			all = append(all, resourceType{p.Namespace + "/" + t.ResourceType, t.Pattern, strings.Join(can, " ")})
		}
		return nil
	})
	return all, err
}

// resourceType finds the type that somebody means: by its last words, in one or
// many, in any case.
func (c *client) resourceType(ctx context.Context, word string) (resourceType, error) {
	all, err := c.types(ctx)
	if err != nil {
		return resourceType{}, err
	}
	return typeOf(all, word)
}

// typeOf prefers what is not part of something else: subscriptions are not those
// of a management group.
func typeOf(all []resourceType, word string) (resourceType, error) {
	var found []resourceType
	for _, t := range all {
		full := "/" + strings.ToLower(t.Type)
		for _, meant := range [...]string{word, word + "s", strings.TrimSuffix(word, "y") + "ies"} {
			if strings.HasSuffix(full, "/"+strings.ToLower(meant)) {
				found = append(found, t)
				break
			}
		}
	}
	if len(found) == 0 {
		return resourceType{}, usagef("the server has no type %q; breakwater list shows those that it has", word)
	}
	depth := func(t resourceType) int { return strings.Count(t.Type, "/") }
	slices.SortStableFunc(found, func(a, b resourceType) int { return depth(a) - depth(b) })
	if len(found) > 1 && depth(found[0]) == depth(found[1]) {
		return resourceType{}, usagef("%q may be %s or %s: say more of it", word, found[0].Type, found[1].Type)
	}
	return found[0], nil
}

// shortType is the shortest name that means the type and no other.
func shortType(all []resourceType, t resourceType) string {
	words := strings.Split(t.Type, "/")
	for i := len(words) - 1; i > 0; i-- {
		short := strings.Join(words[i:], "/")
		if found, err := typeOf(all, short); err == nil && found.Type == t.Type {
			return short
		}
	}
	return t.Type
}

const (
	hole     = "{}"
	anywhere = "{scope}"
	inGroups = "/subscriptions/{}/resourceGroups/{}/providers/"
)

// inGroup tells whether resources of the type lie in resource groups, and the path
// of the list of all that the caller may see: for children, of what they are in.
func (t resourceType) inGroup() (all string, ok bool) {
	rest, ok := strings.CutPrefix(t.Path, inGroups)
	rest, _, _ = strings.Cut(rest, "/"+hole)
	return "/providers/" + rest, ok
}

// A site is where somebody says that a resource is.
type site struct {
	client *client
	in     string // an id, "/" for above all, or the name of a registry; "" is the login's registry
}

// base is the id that stands for what a name leaves out.
func (s site) base(ctx context.Context) (string, error) {
	switch {
	case s.in == "/":
		return "", nil
	case strings.HasPrefix(s.in, "/"):
		return escaped(strings.TrimRight(s.in, "/")), nil
	case strings.HasPrefix(s.in, "{registry}"):
		id, err := s.client.registry(ctx)
		return id + escaped(strings.TrimPrefix(s.in, "{registry}")), err
	case s.in != "":
		return s.client.named(ctx, "/providers/Microsoft.ContainerRegistry/registries", s.in)
	}
	id, err := s.client.registry(ctx)
	if err == nil {
		return id, nil
	}
	// Who sees no registry, or many, may still see one subscription.
	var found []string
	if list(ctx, s.client, "/subscriptions"+apiVersion, func(d document) error { found = append(found, d.ID); return nil }) != nil || len(found) != 1 {
		return "", fmt.Errorf("%w; say with --in what is meant", err)
	}
	return found[0], nil
}

func escaped(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// named finds the one resource of a name in a list. None is missing.
func (c *client) named(ctx context.Context, path, name string) (string, error) {
	var found []string
	err := list(ctx, c, path+apiVersion, func(d document) error {
		if strings.EqualFold(d.Name, name) {
			found = append(found, d.ID)
		}
		return nil
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", &refusal{http.StatusNotFound, "ResourceNotFound", fmt.Sprintf("this login sees no %s named %q", ending(path), name)}
	case len(found) > 1:
		return "", fmt.Errorf("there is more than one %q: %s; give the id", name, strings.Join(found, ", "))
	}
	return found[0], nil
}

// id is the path of the resource of a type and name. A name may say what the
// resource is in (shop/ci); what it does not say, the site does.
func (s site) id(ctx context.Context, t resourceType, name string) (string, error) {
	names := strings.Split(name, "/")
	if slices.Contains(names, "") {
		return "", usagef("%q is no name of a resource", name)
	}
	for i := range names {
		names[i] = url.PathEscape(names[i])
	}
	if all, ok := t.inGroup(); ok && s.in == "" && len(names) == strings.Count(t.Path, hole)-2 {
		top, err := s.client.named(ctx, all, strings.Split(name, "/")[0])
		if err == nil {
			return placed(t.Path, names[1:], top)
		}
		if r, ok := errors.AsType[*refusal](err); !ok || r.status != http.StatusNotFound && r.status != http.StatusForbidden {
			return "", err
		}
	}
	if !strings.HasPrefix(t.Path, anywhere) && len(names) >= strings.Count(t.Path, hole) {
		return placed(t.Path, names, "")
	}
	base, err := s.base(ctx)
	if err != nil {
		return "", err
	}
	return placed(t.Path, names, base)
}

// list is the path of the list of a type.
func (s site) list(ctx context.Context, t resourceType) (string, error) {
	pattern := t.Path[:strings.LastIndexByte(t.Path, '/')]
	all, ok := t.inGroup()
	top := ok && strings.Count(t.Path, hole) == 3
	if top && s.in == "" {
		return all, nil
	}
	if !strings.Contains(pattern, "{") {
		return pattern, nil
	}
	base, err := s.base(ctx)
	if err != nil {
		return "", err
	}
	if top && !strings.Contains(base, "/providers/") {
		return base + all, nil // all of a subscription, or of one group
	}
	return placed(pattern, nil, base)
}

// placed puts names into the last holes of a pattern, and into the others what
// stands there in base, which must be like the pattern as far as that.
func placed(pattern string, names []string, base string) (string, error) {
	if rest, ok := strings.CutPrefix(pattern, anywhere); ok {
		path, err := placed(rest, names, "")
		return base + path, err
	}
	parts, given := strings.Split(pattern, "/"), strings.Split(base, "/")
	left := strings.Count(pattern, hole) - len(names)
	if left < 0 {
		return "", usagef("%q has too many parts", strings.Join(names, "/"))
	}
	for i, part := range parts {
		switch {
		case part == hole && left == 0:
			parts[i], names = names[0], names[1:]
		case left == 0:
		case i >= len(given) || part != hole && !strings.EqualFold(part, given[i]):
			return "", usagef("say with --in where it lies: it is %s", pattern)
		case part == hole:
			parts[i], left = given[i], left-1
		}
	}
	return strings.Join(parts, "/"), nil
}
