package content

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
)

// Attributes say what may be done with a repository, a tag or a manifest. With a
// thing may be done only what it, and the repository that it is in, allow
// (azure-contract §2.6, §2.8).
type Attributes struct {
	Delete bool // false: it cannot be deleted
	Write  bool // false: it cannot be changed, and so not deleted either
	List   bool // false: lists do not show it
	Read   bool // false: it cannot be pulled
}

// off is what may not be done with a thing, in bits: so most things have 0, and one
// number in the row that a pull reads anyway tells all.
type off int64

const (
	noDelete off = 1 << iota
	noWrite
	noList
	noRead
	quarantined // the manifest, or that of the tag, may be pulled by who may read quarantine
	broken      // the manifest was found damaged

	locked = noDelete | noWrite // what keeps a thing from being deleted
)

func (o off) attributes() Attributes {
	return Attributes{Delete: o&noDelete == 0, Write: o&noWrite == 0, List: o&noList == 0, Read: o&noRead == 0}
}

// forbids is err, or Disallowed if o has one of the bits.
func (o off) forbids(bits off, err error) error {
	if err == nil && o&bits != 0 {
		return disallowed(o & bits)
	}
	return err
}

func disallowed(o off) error {
	what := "writeEnabled"
	switch {
	case o&noRead != 0:
		what = "readEnabled"
	case o&noWrite == 0:
		what = "deleteEnabled"
	}
	return fault.New(fault.Disallowed, "the operation is disallowed on this repository, tag or manifest; who may change its attributes can set %s", what)
}

// pull refuses what cannot be pulled: what is in quarantine is not there by its tag,
// and disallowed by its digest, but for who may read quarantine.
func (o off) pull(g access.Grant, repo ref.Repository, r ref.Reference) error {
	if o&quarantined != 0 && !g.Can(access.QuarantineRead, g.RepositoryScope(repo)) {
		if r.Digest == "" {
			return unknown(fault.TagUnknown)
		}
		return fault.New(fault.Disallowed, "the operation is disallowed: the manifest is in quarantine until somebody lets it pass")
	}
	return o.forbids(noRead, nil)
}

// hidden is what lists do not show to the caller: a tag that it could not pull is
// none.
func hidden(g access.Grant, repo ref.Repository) off {
	if g.Can(access.QuarantineRead, g.RepositoryScope(repo)) {
		return noList
	}
	return noList | quarantined
}

// States of a manifest in quarantine. One that was pushed while the registry had
// none has no state.
const (
	Quarantined = "Quarantined"
	Passed      = "Passed"
	Failed      = "Failed"
)

// An AttributesPatch changes what is not nil. Quarantine is of manifests alone, and
// a right of its own.
type AttributesPatch struct {
	Delete, Write, List, Read          *bool
	QuarantineState, QuarantineDetails *string
}

const maxDetails = 8 << 10 // bytes of what a scanner says about a manifest

func (p AttributesPatch) quarantine() bool {
	return p.QuarantineState != nil || p.QuarantineDetails != nil
}

// check refuses what has no meaning.
func (p AttributesPatch) check(manifest bool) error {
	switch {
	case !p.quarantine():
		return nil
	case !manifest:
		return fault.New(fault.BadRequest, "only a manifest is in quarantine")
	case p.QuarantineState != nil && !slices.Contains([]string{Quarantined, Passed, Failed}, *p.QuarantineState):
		return fault.New(fault.BadRequest, "quarantineState is %s, %s or %s", Quarantined, Passed, Failed)
	case p.QuarantineDetails != nil && (len(*p.QuarantineDetails) > maxDetails || !utf8.ValidString(*p.QuarantineDetails) || strings.IndexByte(*p.QuarantineDetails, 0) >= 0):
		return fault.New(fault.BadRequest, "quarantineDetails is text of at most %d bytes", maxDetails)
	}
	return nil
}

// on is o as the patch leaves it, and what the event says about that.
func (p AttributesPatch) on(o off) (off, map[string]string) {
	more := map[string]string{}
	for _, f := range []struct {
		name string
		to   *bool
		bit  off
	}{{"deleteEnabled", p.Delete, noDelete}, {"writeEnabled", p.Write, noWrite}, {"listEnabled", p.List, noList}, {"readEnabled", p.Read, noRead}} {
		if f.to == nil {
			continue
		}
		if o |= f.bit; *f.to {
			o &^= f.bit
		}
		more[f.name] = strconv.FormatBool(*f.to)
	}
	if p.QuarantineState != nil {
		if o |= quarantined; *p.QuarantineState == Passed {
			o &^= quarantined
		}
		more["quarantineState"] = *p.QuarantineState
	}
	return o, more
}

// A RepositoryInfo is a repository as its attributes show it.
type RepositoryInfo struct {
	Name            ref.Repository
	Created         time.Time
	Changed         time.Time
	Manifests, Tags int64
	Attributes
}

// A TagInfo is a tag as its attributes show it.
type TagInfo struct {
	Name       ref.Tag
	Digest     ref.Digest
	Created    time.Time // when there first was such a tag
	Changed    time.Time // when it was moved to where it points
	Quarantine string    // state of its manifest: "", Quarantined, Passed or Failed
	Attributes
}

// A ManifestInfo is a manifest as its attributes show it.
type ManifestInfo struct {
	Digest                             ref.Digest
	MediaType, ConfigMediaType         string
	Size                               int64     // bytes of it and of all that it names
	Created, Changed                   time.Time // when it was pushed: what a digest names does not change
	Architecture, OS                   string    // of its config; "" if that says none
	Tags                               []ref.Tag
	References                         []Platform // of an index
	QuarantineState, QuarantineDetails string
	Attributes
}

// A Platform is a manifest that an index names.
type Platform struct {
	Digest           ref.Digest
	Architecture, OS string
}

// An Order is the order of a list.
type Order int

const (
	ByName      Order = iota
	OldestFirst       // timeasc
	NewestFirst       // timedesc
)

// A Page is a place in a list, and how much of it is asked for.
type Page struct {
	After  string     // Place of the last item of the page before, or its name; "" is the first
	N      int        // at most so many, and at most maxPage; < 0 asks for that many
	Order  Order      // which the lists of what was deleted do not have
	Digest ref.Digest // of tags: only those that point there; "" is all
}

// Place is what a Page in this order goes on after. In the order of time it names
// the time, too: whoever deletes what a page shows goes on all the same.
func (t TagInfo) Place(o Order) string { return place(string(t.Name), t.Changed, o) }

// Place is as that of TagInfo.
func (m ManifestInfo) Place(o Order) string { return place(string(m.Digest), m.Created, o) }

// Place is what a Page goes on after: several may have the same name.
func (t DeletedTag) Place() string { return place(string(t.Name), t.At, OldestFirst) }

func place(name string, at time.Time, o Order) string {
	if o == ByName {
		return name
	}
	return name + "@" + strconv.FormatInt(at.UnixMicro(), 10)
}

// from takes a place apart. at is -1 if it is not there.
func (p Page) from() (name string, at int64, err error) {
	name, text, ok := strings.Cut(p.After, "@")
	if !ok {
		return name, -1, nil
	}
	if at, err = strconv.ParseInt(text, 10, 64); err != nil || at < 0 {
		return "", 0, lostPlace()
	}
	return name, at, nil
}

func lostPlace() error {
	return fault.New(fault.BadRequest, "the list does not go on after that; follow the Link that a page came with")
}

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// Repository shows a repository.
func (s *Store) Repository(ctx context.Context, g access.Grant, repo ref.Repository) (RepositoryInfo, error) {
	if err := g.Allows(access.MetadataRead, g.RepositoryScope(repo)); err != nil {
		return RepositoryInfo{}, err
	}
	r, err := showRepository(ctx, s.db, g.Registry(), repo)
	return r, absent(err, fault.NameUnknown)
}

// PatchRepository changes what may be done with a repository and all in it.
func (s *Store) PatchRepository(ctx context.Context, g access.Grant, repo ref.Repository, p AttributesPatch) (r RepositoryInfo, err error) {
	if err := g.Allows(access.MetadataWrite, g.RepositoryScope(repo)); err != nil {
		return r, err
	}
	if err := p.check(false); err != nil {
		return r, err
	}
	d := ledger.Detail{Repository: repo}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		id, o, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err != nil {
			return absent(err, fault.NameUnknown)
		}
		o, d.More = p.on(o)
		if _, err := tx.Exec(ctx, `UPDATE repository SET off = $2 WHERE id = $1`, id, o); err != nil {
			return err
		}
		if r, err = showRepository(ctx, tx, g.Registry(), repo); err != nil {
			return err
		}
		return s.ledger.Append(ctx, tx, event(g, PatchRepository, d))
	})
	return r, err
}

// TagInfos shows a page of the tags of a repository.
func (s *Store) TagInfos(ctx context.Context, g access.Grant, repo ref.Repository, p Page) (tags []TagInfo, more bool, err error) {
	if err := g.Allows(access.MetadataRead, g.RepositoryScope(repo)); err != nil {
		return nil, false, err
	}
	id, _, err := findRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return nil, false, absent(err, fault.NameUnknown)
	}
	tags, err = showTags(ctx, s.db, id, p)
	return first(tags, page(p.N)), len(tags) > page(p.N), err
}

// TagInfo shows one tag.
func (s *Store) TagInfo(ctx context.Context, g access.Grant, repo ref.Repository, t ref.Tag) (TagInfo, error) {
	if err := g.Allows(access.MetadataRead, g.RepositoryScope(repo)); err != nil {
		return TagInfo{}, err
	}
	id, _, err := findRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return TagInfo{}, absent(err, fault.NameUnknown)
	}
	i, err := showTag(ctx, s.db, id, t)
	return i, absent(err, fault.TagUnknown)
}

// PatchTag changes what may be done with a tag. It stays so when the tag moves.
func (s *Store) PatchTag(ctx context.Context, g access.Grant, repo ref.Repository, t ref.Tag, p AttributesPatch) (i TagInfo, err error) {
	if err := g.Allows(access.MetadataWrite, g.RepositoryScope(repo)); err != nil {
		return i, err
	}
	if err := p.check(false); err != nil {
		return i, err
	}
	d := ledger.Detail{Repository: repo, Tag: t}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		id, _, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err != nil {
			return absent(err, fault.NameUnknown)
		}
		o, err := tagOff(ctx, tx, id, t)
		if err != nil {
			return absent(err, fault.TagUnknown)
		}
		o, d.More = p.on(o)
		if _, err := tx.Exec(ctx, `UPDATE tag SET off = $3 WHERE repository = $1 AND name = $2 AND until IS NULL`, id, t, o); err != nil {
			return err
		}
		if i, err = showTag(ctx, tx, id, t); err != nil {
			return err
		}
		d.Digest = i.Digest
		return s.ledger.Append(ctx, tx, event(g, PatchTag, d))
	})
	return i, err
}

// ManifestInfos shows a page of the manifests of a repository.
func (s *Store) ManifestInfos(ctx context.Context, g access.Grant, repo ref.Repository, p Page) (manifests []ManifestInfo, more bool, err error) {
	if err := g.Allows(access.MetadataRead, g.RepositoryScope(repo)); err != nil {
		return nil, false, err
	}
	id, _, err := findRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return nil, false, absent(err, fault.NameUnknown)
	}
	manifests, err = showManifests(ctx, s.db, id, p)
	return first(manifests, page(p.N)), len(manifests) > page(p.N), err
}

// ManifestInfo shows one manifest.
func (s *Store) ManifestInfo(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) (ManifestInfo, error) {
	if err := g.Allows(access.MetadataRead, g.RepositoryScope(repo)); err != nil {
		return ManifestInfo{}, err
	}
	id, _, err := findRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return ManifestInfo{}, absent(err, fault.NameUnknown)
	}
	m, err := showManifest(ctx, s.db, id, d)
	return m, absent(err, fault.ManifestUnknown)
}

// PatchManifest changes what may be done with a manifest, and lets it into or out of
// quarantine: each is a right of its own.
func (s *Store) PatchManifest(ctx context.Context, g access.Grant, repo ref.Repository, digest ref.Digest, p AttributesPatch) (m ManifestInfo, err error) {
	if p.quarantine() {
		if err := g.Allows(access.QuarantineWrite, g.RepositoryScope(repo)); err != nil {
			return m, err
		}
	}
	if !p.quarantine() || p.Delete != nil || p.Write != nil || p.List != nil || p.Read != nil {
		if err := g.Allows(access.MetadataWrite, g.RepositoryScope(repo)); err != nil {
			return m, err
		}
	}
	if err := p.check(true); err != nil {
		return m, err
	}
	d := ledger.Detail{Repository: repo, Digest: digest}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		repository, _, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err != nil {
			return absent(err, fault.NameUnknown)
		}
		row, err := findManifestRow(ctx, tx, repository, digest)
		if err == nil && row.deleted {
			err = db.ErrNoRows
		}
		if err != nil {
			return absent(err, fault.ManifestUnknown)
		}
		var o off
		o, d.More = p.on(row.off)
		if err := patchManifest(ctx, tx, row.id, o, p); err != nil {
			return err
		}
		if m, err = showManifest(ctx, tx, repository, digest); err != nil {
			return err
		}
		return s.ledger.Append(ctx, tx, event(g, PatchManifest, d))
	})
	return m, err
}

// writable refuses early what would be refused at the end of a push: then nobody
// sends gigabytes to a locked repository.
func (s *Store) writable(ctx context.Context, g access.Grant, repo ref.Repository) error {
	_, o, err := findRepository(ctx, s.db, g.Registry(), repo)
	if errors.Is(err, db.ErrNoRows) {
		return nil
	}
	return o.forbids(noWrite, err)
}

// Usage is how many bytes the registry keeps (listUsages "Size"). Whoever calls it
// has asked the grant for the registry.
func (s *Store) Usage(ctx context.Context, registryUID string) (bytes int64, err error) {
	err = s.db.QueryRow(ctx, `SELECT CAST(COALESCE((SELECT SUM(size) FROM blob WHERE registry = $1), 0) +
		COALESCE((SELECT SUM(m.size) FROM manifest m JOIN repository r ON r.id = m.repository WHERE r.registry = $1), 0) AS BIGINT)`, registryUID).Scan(&bytes)
	return bytes, err
}

// about is what a push keeps of a manifest for those who look at it.
type about struct {
	off                      off
	quarantine               string
	untagged                 *int64
	total                    int64
	config, architecture, os string
}

const (
	maxConfig   = 1 << 20 // bytes of a config that is read for its platform
	maxPlatform = 64      // characters of its architecture or os
)

// about reads the config of an image for its platform. A config that is not there,
// or says nothing that can be understood, makes no difference to the push.
func (s *Store) about(ctx context.Context, g access.Grant, repo ref.Repository, m Manifest, doc *document) about {
	a := about{total: m.Size, config: doc.config.mediaType}
	for _, r := range doc.blobs {
		a.total += r.size
	}
	for _, r := range doc.manifests {
		a.total += r.size
	}
	if doc.config.size > maxConfig || !slices.Contains([]string{"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}, a.config) {
		return a
	}
	b, _, err := blobParts(ctx, s.db, g.Registry(), repo, doc.config.digest)
	if err != nil || b.size != doc.config.size {
		return a
	}
	r, err := s.read(ctx, found(g, ledger.Detail{Repository: repo}), b)
	if err != nil {
		return a
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err == nil {
		a.architecture, a.os = platform(text)
	}
	return a
}

// platform is what a config says about where the image runs.
func platform(config []byte) (architecture, os string) {
	var c struct{ Architecture, OS any }
	if json.Unmarshal(config, &c) != nil {
		return "", ""
	}
	word := func(v any) string {
		s, _ := v.(string)
		if len(s) > maxPlatform || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '|' }) {
			return ""
		}
		return s
	}
	return word(c.Architecture), word(c.OS)
}
