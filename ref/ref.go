// Package ref holds the names of things: repositories, tags, digests, ARM
// resource ids and scopes.
//
// A name is parsed once, where it enters the process, and is carried as its
// type from there on. A value of one of these types is therefore canonical and
// bounded; code that receives one does not check it again.
package ref

import (
	"strings"

	"breakwater/fault"
)

// Limits of names, in bytes.
const (
	MaxRepository = 255 // as ACR; OCI clients count the host too
	MaxTag        = 128 // OCI Distribution, "Pulling manifests"
)

// A Repository is the name of a repository inside one registry, as the OCI
// Distribution specification spells <name>: lower-case path components
// separated by "/", at most MaxRepository bytes.
type Repository string

// ParseRepository accepts exactly the canonical spelling; anything else is
// NameInvalid.
func ParseRepository(s string) (Repository, error) {
	if len(s) == 0 || len(s) > MaxRepository {
		return "", fault.New(fault.NameInvalid, "a repository name has 1 to %d characters", MaxRepository)
	}
	for part := range strings.SplitSeq(s, "/") {
		if !component(part) {
			return "", fault.New(fault.NameInvalid,
				"a repository name is made of lower-case letters and digits, joined by one '.', one or two '_' or any number of '-', in parts separated by '/'")
		}
	}
	return Repository(s), nil
}

// component reports whether s is [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func component(s string) bool {
	separators, last := "", byte(0)
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			separators = ""
		case i == 0:
			return false
		case c == '-' && strings.Trim(separators, "-") == "",
			c == '.' && separators == "",
			c == '_' && (separators == "" || separators == "_"):
			separators += string(c)
		default:
			return false
		}
		last = c
	}
	return last != 0 && separators == ""
}

func (r Repository) String() string { return string(r) }

// A Tag is a mutable name of a manifest in a repository.
type Tag string

// ParseTag accepts [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}; anything else is TagInvalid.
func ParseTag(s string) (Tag, error) {
	ok := 0 < len(s) && len(s) <= MaxTag && s[0] != '.' && s[0] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-'
	}
	if !ok {
		return "", fault.New(fault.TagInvalid, "a tag has 1 to %d letters, digits, '_', '.' and '-', and does not start with '.' or '-'", MaxTag)
	}
	return Tag(s), nil
}

func (t Tag) String() string { return string(t) }

// A Reference is what stands at the end of a manifest path: a tag or a digest.
// Exactly one of the two is set.
type Reference struct {
	Tag    Tag
	Digest Digest
}

// ParseReference tells a digest from a tag by its ':'.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	t, err := ParseTag(s)
	return Reference{Tag: t}, err
}

func (r Reference) String() string {
	if r.Digest != "" {
		return string(r.Digest)
	}
	return string(r.Tag)
}
