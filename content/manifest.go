package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/seal"
)

// A Manifest is a document that names blobs and other manifests. Body is nil
// where only the rest was asked for.
type Manifest struct {
	Digest    ref.Digest
	MediaType string
	Artifact  string // its artifactType, or what stands for it
	Size      int64
	Body      []byte
}

// Manifest reads a manifest; an absent one is ManifestUnknown or TagUnknown.
func (s *Store) Manifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Manifest{}, err
	}
	m, err := findManifest(ctx, s.db, g.Registry(), repo, r, true)
	if err != nil {
		return m, err
	}
	ring, err := s.rings.Ring(ctx, g.Registry())
	if err != nil {
		return m, err
	}
	if m.Body, err = seal.OpenSmall(ring, manifestPlace(g, m.Digest), m.Body); err != nil {
		return m, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return m, nil
}

// HeadManifest is Manifest without its Body.
func (s *Store) HeadManifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Manifest{}, err
	}
	return findManifest(ctx, s.db, g.Registry(), repo, r, false)
}

// manifestPlace binds a body to its digest: two repositories of one registry may
// hold the same sealed bytes, no two digests may.
func manifestPlace(g access.Grant, d ref.Digest) seal.Place {
	return seal.Place{Registry: g.Registry(), Object: "manifest/" + string(d)}
}

// A Push is a manifest as a client sends it.
type Push struct {
	Reference ref.Reference // as in the path
	Tags      []ref.Tag     // and the tags in the query
	MediaType string        // Content-Type; its parameters are ignored; "" takes the document's own
	Body      []byte        // at most MaxManifest
}

// Pushed is what became of a Push.
type Pushed struct {
	Manifest            // without Body
	Subject  ref.Digest // that it is about; "" if it says none
	Tags     []ref.Tag  // that point to it now, in the order asked
}

// PutManifest stores a manifest and moves its tags to it, in one transaction.
// Everything that it names must be in the repository (ManifestBlobUnknown) with
// the size that it gives, except its subject and what may not be distributed.
// The media type of the first push of a digest stays.
func (s *Store) PutManifest(ctx context.Context, g access.Grant, repo ref.Repository, p Push, rules Rules) (Pushed, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Pushed{}, err
	}
	digest, tags := p.Reference.Digest, p.Tags
	if digest == "" {
		digest, tags = ref.SHA256.Sum(p.Body), append([]ref.Tag{p.Reference.Tag}, p.Tags...)
	} else if digest != digest.Algorithm().Sum(p.Body) {
		return Pushed{}, fault.New(fault.DigestInvalid, "the manifest that came is not the one of this digest; send its exact bytes")
	}
	doc, err := decode(p.Body, p.MediaType)
	if err != nil {
		return Pushed{}, err
	}
	m := Manifest{Digest: digest, MediaType: doc.mediaType, Artifact: doc.artifact, Size: int64(len(p.Body))}
	ring, err := s.rings.Ring(ctx, g.Registry())
	if err != nil {
		return Pushed{}, err
	}
	sealed, err := seal.Small(ring.Current(), manifestPlace(g, digest), p.Body)
	if err != nil {
		return Pushed{}, err
	}
	if tags, err = distinct(tags); err != nil {
		return Pushed{}, err
	}
	d := ledger.Detail{Repository: repo, Digest: digest, MediaType: m.MediaType, ArtifactType: m.Artifact, Size: m.Size}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		at := now()
		repository, err := touchRepository(ctx, tx, g.Registry(), repo, at)
		if err != nil {
			return err
		}
		id, err := s.putManifest(ctx, tx, g.Registry(), repository, m, doc, sealed, at, rules)
		if err != nil {
			return err
		}
		events := make([]ledger.Event, 0, 1+len(tags))
		for _, d.Tag = range tags {
			if err := moveTag(ctx, tx, repository, d.Tag, digest, id, at); err != nil {
				return err
			}
			events = append(events, event(g, PushManifest, d))
		}
		if len(events) == 0 {
			events = append(events, event(g, PushManifest, d))
		}
		return s.ledger.Append(ctx, tx, events...)
	})
	if err != nil {
		return Pushed{}, err
	}
	return Pushed{Manifest: m, Subject: doc.subject, Tags: tags}, nil
}

// putManifest makes the rows of a manifest unless they are there, and returns
// its id.
func (s *Store) putManifest(ctx context.Context, tx *db.Tx, registry string, repository int64, m Manifest, doc *document, sealed []byte, at int64, rules Rules) (int64, error) {
	id, mediaType, sparse, err := manifestRow(ctx, tx, repository, m.Digest)
	switch {
	case errors.Is(err, db.ErrNoRows):
		if id, err = insertManifest(ctx, tx, repository, m, sealed, at); err != nil {
			return 0, err
		}
		if doc.subject != "" {
			if err := insertReferrer(ctx, tx, repository, id, doc.subject, m.Artifact, doc.descriptor(m)); err != nil {
				return 0, err
			}
		}
	case err != nil:
		return 0, err
	case mediaType != m.MediaType:
		return 0, fault.New(fault.ManifestInvalid, "this manifest was pushed as %s before; push it as that", mediaType)
	case !sparse:
		return id, nil // it has all that it names, and that cannot go
	}
	missing, err := s.need(ctx, tx, registry, repository, id, doc)
	if err != nil {
		return 0, err
	}
	if len(missing) > 0 && !rules.Sparse {
		return 0, fault.New(fault.ManifestBlobUnknown, "the manifest names %d blobs or manifests that this repository does not have; push them first", len(missing)).
			With(map[string]any{"digests": first(missing, 100)})
	}
	if sparse != (len(missing) > 0) {
		return id, markSparse(ctx, tx, id, len(missing) > 0)
	}
	return id, nil
}

// need makes an edge to each thing that the document names, and returns those
// that are not there.
func (s *Store) need(ctx context.Context, tx *db.Tx, registry string, repository, id int64, doc *document) (missing []ref.Digest, err error) {
	edge := func(all []reference, insert func(reference) (size int64, err error)) error {
		for _, r := range all {
			size, err := insert(r)
			if errors.Is(err, db.ErrNoRows) {
				if !r.optional {
					missing = append(missing, r.digest)
				}
				continue
			}
			if err != nil {
				return err
			}
			if size != r.size {
				return fault.New(fault.ManifestInvalid, "%s has %d bytes, not the %d that the manifest says", r.digest, size, r.size)
			}
		}
		return nil
	}
	err = edge(doc.blobs, func(r reference) (int64, error) { return needBlob(ctx, tx, registry, repository, id, r.digest) })
	if err == nil {
		err = edge(doc.manifests, func(r reference) (int64, error) { return needManifest(ctx, tx, repository, id, r.digest) })
	}
	return missing, err
}

// descriptor is what a list of referrers shows of a manifest.
func (doc *document) descriptor(m Manifest) json.RawMessage {
	b, err := json.Marshal(struct {
		MediaType    string          `json:"mediaType"`
		Digest       ref.Digest      `json:"digest"`
		Size         int64           `json:"size"`
		ArtifactType string          `json:"artifactType,omitempty"`
		Annotations  json.RawMessage `json:"annotations,omitempty"`
	}{m.MediaType, m.Digest, m.Size, m.Artifact, doc.annotations})
	if err != nil {
		panic(err) // nothing here cannot be JSON
	}
	return b
}

func distinct(tags []ref.Tag) (once []ref.Tag, err error) {
	if len(tags) > maxTags {
		return nil, fault.New(fault.URITooLong, "one push moves at most %d tags", maxTags)
	}
	for _, t := range tags {
		if !slices.Contains(once, t) {
			once = append(once, t)
		}
	}
	return once, nil
}

// DeleteManifest removes a manifest and every tag that points to it. One that
// an index in the repository names is Referenced. Its referrers stay: a subject
// need not be there.
func (s *Store) DeleteManifest(ctx context.Context, g access.Grant, repo ref.Repository, digest ref.Digest) error {
	if err := g.Allows(access.ContentDelete, g.RepositoryScope(repo)); err != nil {
		return err
	}
	return s.change(ctx, g, DeleteManifest, ledger.Detail{Repository: repo, Digest: digest}, func(tx *db.Tx) error {
		repository, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err != nil {
			return absent(err, fault.NameUnknown)
		}
		id, _, _, err := manifestRow(ctx, tx, repository, digest)
		if err != nil {
			return absent(err, fault.ManifestUnknown)
		}
		err = dropManifest(ctx, tx, repository, id, now())
		if db.IsForeignKey(err) {
			return fault.New(fault.Referenced, "an index in this repository names this manifest; delete the index first").Because(err)
		}
		return err
	})
}

// referrersPage and referrersBytes bound a page of referrers: what clients read
// at once, and what costs the server little.
const (
	referrersPage  = 100
	referrersBytes = MaxManifest - 64<<10
)

// Referrers is a page of the manifests whose subject is a digest.
type Referrers struct {
	Manifests json.RawMessage // JSON array of descriptors
	Next      string          // where the next page begins; "" on the last
}

// Referrers lists the manifests in the repository whose subject is d, of one
// artifact type unless that is "", from where the page before said ("" is the
// first). There may be none, and d need not be there.
func (s *Store) Referrers(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, artifactType, after string) (Referrers, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Referrers{}, err
	}
	from := int64(0)
	if after != "" {
		var err error
		if from, err = strconv.ParseInt(after, 10, 64); err != nil || from < 0 {
			return Referrers{}, fault.New(fault.BadRequest, "this is no page of a list of referrers; follow the Link that a page came with")
		}
	}
	return listReferrers(ctx, s.db, g.Registry(), repo, d, artifactType, from)
}
