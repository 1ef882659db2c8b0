package content

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"breakwater/fault"
	"breakwater/ref"
)

// Bounds of what one manifest may ask of the server.
const (
	maxDepth      = 64   // of nested JSON
	maxReferences = 4096 // different blobs and manifests that it names
	maxMediaType  = 255  // characters
)

// A kind is how a media type is built.
type kind int

const (
	image    kind = iota + 1 // config and layers
	index                    // manifests
	artifact                 // blobs
)

const (
	ociImage    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociArtifact = "application/vnd.oci.artifact.manifest.v1+json"
)

var kinds = map[string]kind{
	ociImage:    image,
	ociIndex:    index,
	ociArtifact: artifact,
	"application/vnd.docker.distribution.manifest.v2+json":      image,
	"application/vnd.docker.distribution.manifest.list.v2+json": index,
	"application/vnd.cncf.oras.artifact.manifest.v1+json":       artifact,
}

// A document is a manifest as every careful reader would understand it.
type document struct {
	mediaType   string
	artifact    string // artifactType, or what stands for it; "" if nothing does
	subject     ref.Digest
	annotations json.RawMessage // as they came; nil if none
	config      descriptor      // of an image; also one of blobs
	blobs       []reference
	manifests   []reference
}

// A reference is something that a document names.
type reference struct {
	digest   ref.Digest
	size     int64
	optional bool // it need not be here: a layer that may not be distributed
}

// decode reads a manifest that came with a Content-Type, and refuses what two
// readers could understand differently: keys twice or in another case, a text
// that is an image and an index, a type that is not the one announced.
func decode(body []byte, contentType string) (*document, error) {
	switch {
	case len(body) > MaxManifest:
		return nil, fault.New(fault.ManifestTooLarge, "a manifest has at most %d bytes", MaxManifest)
	case !utf8.Valid(body) || !json.Valid(body):
		return nil, fault.New(fault.ManifestInvalid, "the manifest is not one JSON document")
	}
	p := parser{b: body}
	var doc document
	if err := p.document(&doc, contentType); err != nil {
		return nil, fault.New(fault.ManifestInvalid, "%v", err)
	}
	return &doc, nil
}

var documentKeys = spelled("schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject", "annotations", "fsLayers")

func (p *parser) document(doc *document, contentType string) error {
	var version, ownType string
	var config *descriptor
	var layers, blobs, manifests []descriptor
	has := map[string]bool{}
	err := p.object(documentKeys, func(key string) (err error) {
		if p.null() { // what Go clients write for an empty list
			return nil
		}
		has[key] = true
		switch key {
		case "schemaVersion":
			version, err = p.number()
		case "mediaType":
			ownType, err = p.mediaType()
		case "artifactType":
			doc.artifact, err = p.mediaType()
		case "config":
			config = new(descriptor)
			*config, err = p.descriptor()
		case "layers":
			layers, err = p.descriptors()
		case "blobs":
			blobs, err = p.descriptors()
		case "manifests":
			manifests, err = p.descriptors()
		case "subject":
			var subject descriptor
			subject, err = p.descriptor()
			doc.subject = subject.digest
		case "annotations":
			doc.annotations, err = p.annotations()
		default:
			err = p.skip()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return err
	}

	announced, _, _ := strings.Cut(contentType, ";")
	announced = strings.TrimSpace(announced)
	switch {
	case announced != "" && ownType != "" && announced != ownType:
		return fmt.Errorf("its mediaType is %s, but it came as %s", ownType, announced)
	case announced != "":
		doc.mediaType = announced
	case ownType != "":
		doc.mediaType = ownType
	case has["manifests"]:
		doc.mediaType = ociIndex
	default:
		doc.mediaType = ociImage
	}

	// Each kind has its own members, and none of another's.
	var want, foreign []string
	k := kinds[doc.mediaType]
	switch k {
	case image:
		want, foreign = []string{"schemaVersion", "config"}, []string{"manifests", "blobs", "fsLayers"}
	case index:
		want, foreign = []string{"schemaVersion"}, []string{"config", "layers", "blobs", "fsLayers"}
	case artifact:
		foreign = []string{"config", "layers", "manifests", "fsLayers"}
	default:
		return fmt.Errorf("%s is no manifest that this registry knows", doc.mediaType)
	}
	for _, key := range want {
		if !has[key] {
			return fmt.Errorf("%s is missing", key)
		}
	}
	for _, key := range foreign {
		if has[key] {
			return fmt.Errorf("%s does not belong in %s", key, doc.mediaType)
		}
	}
	if has["schemaVersion"] && version != "2" {
		return fmt.Errorf("its schemaVersion is not 2")
	}

	if config != nil {
		doc.config = *config
		if doc.artifact == "" {
			doc.artifact = config.mediaType
		}
		blobs = append(blobs, *config)
	}
	if doc.blobs, err = references(append(blobs, layers...)); err != nil {
		return err
	}
	if doc.manifests, err = references(manifests); err != nil {
		return err
	}
	if len(doc.blobs)+len(doc.manifests) > maxReferences {
		return fmt.Errorf("it names more than %d blobs and manifests", maxReferences)
	}
	return nil
}

// references is each digest once.
func references(all []descriptor) ([]reference, error) {
	var refs []reference
	at := make(map[ref.Digest]int, len(all))
	for _, d := range all {
		i, twice := at[d.digest]
		if !twice {
			at[d.digest] = len(refs)
			refs = append(refs, reference{d.digest, d.size, d.foreign()})
			continue
		}
		if refs[i].size != d.size {
			return nil, fmt.Errorf("it names %s with two sizes", d.digest)
		}
		refs[i].optional = refs[i].optional && d.foreign()
	}
	return refs, nil
}

// A descriptor is one member that names content.
type descriptor struct {
	mediaType string
	digest    ref.Digest
	size      int64
}

// foreign reports a layer that its owner does not let others distribute.
func (d descriptor) foreign() bool {
	return strings.HasPrefix(d.mediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(d.mediaType, "application/vnd.docker.image.rootfs.foreign.")
}

func (p *parser) descriptors() (all []descriptor, err error) {
	err = p.array(func() error {
		d, err := p.descriptor()
		all = append(all, d)
		return err
	})
	return all, err
}

var descriptorKeys = spelled("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")

func (p *parser) descriptor() (d descriptor, err error) {
	var data *string
	size := ""
	err = p.object(descriptorKeys, func(key string) (err error) {
		switch key {
		case "mediaType":
			d.mediaType, err = p.mediaType()
		case "digest":
			var s string
			if s, err = p.string(); err == nil {
				if d.digest, err = ref.ParseDigest(s); err != nil {
					err = fmt.Errorf("%q is no digest that this registry knows", cut(s))
				}
			}
		case "size":
			size, err = p.number()
		case "data":
			if !p.null() {
				data = new(string)
				*data, err = p.string()
			}
		case "annotations":
			if !p.null() {
				_, err = p.annotations()
			}
		default:
			err = p.skip()
		}
		return err
	})
	if err != nil {
		return d, err
	}
	if d.mediaType == "" || d.digest == "" || size == "" {
		return d, fmt.Errorf("a descriptor needs mediaType, digest and size")
	}
	if d.size, err = strconv.ParseInt(size, 10, 64); err != nil || d.size < 0 {
		return d, fmt.Errorf("the size of %s is no number of bytes", d.digest)
	}
	if data != nil {
		content, err := base64.StdEncoding.DecodeString(*data)
		if err != nil || int64(len(content)) != d.size || d.digest.Algorithm().Sum(content) != d.digest {
			return d, fmt.Errorf("the data of %s is something else", d.digest)
		}
	}
	return d, nil
}

// annotations returns a map of strings as it came, without its white space. Its
// keys are the client's own, so they may differ by case alone.
func (p *parser) annotations() (json.RawMessage, error) {
	from := p.at()
	err := p.members(true, nil, func(string) error { _, err := p.string(); return err })
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, p.b[from:p.i]); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// mediaType accepts what a header and an index can hold.
func (p *parser) mediaType() (string, error) {
	s, err := p.string()
	if err != nil {
		return "", err
	}
	if len(s) > maxMediaType || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%q is no media type", cut(s))
	}
	return s, nil
}

// A parser walks over JSON that is known to be valid, so it never looks past
// the end. It takes names by their exact spelling, unlike encoding/json, and
// nothing twice.
type parser struct {
	b     []byte
	i     int
	depth int
}

// names are the keys that mean something, by what fold makes of them.
type names map[string]string

func spelled(keys ...string) names {
	n := names{}
	for _, key := range keys {
		n[fold(key)] = key
	}
	return n
}

// at is where the next value starts.
func (p *parser) at() int {
	for p.i < len(p.b) && strings.IndexByte(" \t\r\n", p.b[p.i]) >= 0 {
		p.i++
	}
	return p.i
}

// next is the first byte of what comes next.
func (p *parser) next() byte { return p.b[p.at()] }

// object walks over the members of an object; member must consume the value of
// each. A key that only differs in case from another, or from one of names, is
// refused: some readers would take it for the other.
func (p *parser) object(names names, member func(key string) error) error {
	return p.members(false, names, member)
}

func (p *parser) members(exact bool, names names, member func(key string) error) error {
	if p.next() != '{' {
		return fmt.Errorf("it is no object")
	}
	seen := map[string]bool{}
	return p.inside('}', func() error {
		key, err := p.string()
		if err != nil {
			return err
		}
		id := key
		if !exact {
			id = fold(key)
		}
		if seen[id] {
			return fmt.Errorf("the key %q is there twice", cut(key))
		}
		seen[id] = true
		if name, known := names[id]; known && name != key {
			return fmt.Errorf("the key %q is not spelled as it must be", cut(key))
		}
		p.at()
		p.i++ // ':'
		return member(key)
	})
}

func (p *parser) array(element func() error) error {
	if p.next() != '[' {
		return fmt.Errorf("it is no list")
	}
	return p.inside(']', element)
}

// inside walks over what stands between a bracket and its end.
func (p *parser) inside(end byte, element func() error) error {
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	p.i++
	for p.next() != end {
		if err := element(); err != nil {
			return err
		}
		if p.next() == ',' {
			p.i++
		}
	}
	p.i++
	p.depth--
	return nil
}

func (p *parser) string() (string, error) {
	if p.next() != '"' {
		return "", fmt.Errorf("it is no string")
	}
	from, escaped := p.i, false
	for p.i++; p.b[p.i] != '"'; p.i++ {
		if p.b[p.i] == '\\' {
			escaped = true
			p.i++
		}
	}
	p.i++
	if !escaped {
		return string(p.b[from+1 : p.i-1]), nil
	}
	var s string
	err := json.Unmarshal(p.b[from:p.i], &s)
	return s, err
}

func (p *parser) number() (string, error) {
	if c := p.next(); c != '-' && (c < '0' || '9' < c) {
		return "", fmt.Errorf("it is no number")
	}
	return p.word(), nil
}

func (p *parser) null() bool {
	if p.next() != 'n' {
		return false
	}
	p.word()
	return true
}

// word is a number or one of true, false and null.
func (p *parser) word() string {
	from := p.i
	for p.i < len(p.b) && strings.IndexByte(",]} \t\r\n", p.b[p.i]) < 0 {
		p.i++
	}
	return string(p.b[from:p.i])
}

// skip walks over any value.
func (p *parser) skip() error {
	switch p.next() {
	case '{':
		return p.object(nil, func(string) error { return p.skip() })
	case '[':
		return p.array(p.skip)
	case '"':
		_, err := p.string()
		return err
	}
	p.word()
	return nil
}

// fold is equal for two keys that encoding/json takes for one.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, s)
}

// cut shortens what a client sent, for a message.
func cut(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
