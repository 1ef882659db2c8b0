package content

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
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

// Manifest reads a manifest; an absent one is ManifestUnknown or TagUnknown. One that
// is not what was stored is Damaged, and on record.
func (s *Store) Manifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Manifest{}, err
	}
	m, o, err := s.manifest(ctx, g, repo, r, true)
	if err != nil {
		return Manifest{}, err
	}
	err = s.unseal(ctx, g.Registry(), func(ring *keys.Ring) error {
		body, err := openManifest(ring, m)
		if err == nil {
			m.Body = body
		}
		return err
	})
	if err != nil {
		return m, s.manifestDamaged(ctx, found(g, ledger.Detail{Repository: repo}), m, err)
	}
	if o&broken != 0 { // somebody has restored it
		err = s.db.Write(ctx, func(tx *db.Tx) error { return unmarkManifest(ctx, tx, g.Registry(), repo, m.Digest) })
	}
	return m, err
}

// HeadManifest is Manifest without its Body. One that was found damaged is not there:
// who asks before a push shall push it again.
func (s *Store) HeadManifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Manifest{}, err
	}
	m, o, err := s.manifest(ctx, g, repo, r, false)
	if err == nil && o&broken != 0 {
		err = unknown(fault.ManifestUnknown)
	}
	if err == nil {
		_, err = s.ring(ctx, g.Registry()) // a registry without its key tells nothing of what it holds
	}
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// manifest finds a manifest that the caller may pull, with its body as it is sealed.
func (s *Store) manifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference, body bool) (Manifest, off, error) {
	m, o, said, err := findManifest(ctx, s.db, g.Registry(), repo, r, body)
	if err == nil && o != 0 {
		err = o.pull(g, repo, r)
	}
	if err == nil && said != m.Digest {
		err = s.tagDamaged(ctx, g, repo, r.Tag, said, m.Digest)
	}
	return m, o, err
}

// openManifest opens the body of a manifest where it lies.
func openManifest(ring *keys.Ring, m Manifest) ([]byte, error) {
	body, err := seal.OpenSmall(ring, manifestPlace(ring.Registry(), m.Digest), m.Body)
	if err == nil && int64(len(body)) != m.Size {
		err = fmt.Errorf("%w: it has %d bytes, not %d", seal.ErrDamaged, len(body), m.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return body, nil
}

// manifestPlace binds a body to its digest: two repositories of one registry may
// hold the same sealed bytes, no two digests may.
func manifestPlace(registry string, d ref.Digest) seal.Place {
	return seal.Place{Registry: registry, Object: "manifest/" + string(d)}
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
// The media type of the first push of a digest stays. What is in the trash must be
// restored, not pushed (Conflict); what is locked does not change (Disallowed).
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
	ring, err := s.ring(ctx, g.Registry())
	if err != nil {
		return Pushed{}, err
	}
	sealed, err := seal.Small(ring.Current(), manifestPlace(g.Registry(), digest), p.Body)
	if err != nil {
		return Pushed{}, err
	}
	if tags, err = distinct(tags); err != nil {
		return Pushed{}, err
	}
	a := s.about(ctx, g, repo, m, doc)
	if rules.Quarantine {
		a.off, a.quarantine = quarantined, Quarantined
	}
	d := ledger.Detail{Repository: repo, Digest: digest, MediaType: m.MediaType, ArtifactType: m.Artifact, Size: m.Size}
	alarm := ledger.Damage(found(g, d), "manifest", string(digest))
	var row manifestRow
	var there examined
	push := func(tx *db.Tx) error {
		at := now()
		if err := s.rings.Hold(ctx, tx, ring.Current()); err != nil {
			return err
		}
		repository, err := touchRepository(ctx, tx, g.Registry(), repo, at)
		if err != nil {
			return err
		}
		if a.untagged = nil; len(tags) == 0 {
			a.untagged = &at
		}
		if row, err = s.putManifest(ctx, tx, ring, repository, m, doc, a, sealed, &there, at, rules); err != nil {
			return err
		}
		d.More = map[string]string{}
		if row.off&quarantined != 0 {
			d.More["quarantineState"] = Quarantined
		}
		events := make([]ledger.Event, 0, 2+len(tags))
		if row.damage != nil {
			d.More["replaced"] = "damaged"
			if row.off&broken == 0 { // else it is on record already
				events = append(events, alarm)
			}
		}
		said := len(events)
		for _, d.Tag = range tags {
			if err := moveTag(ctx, tx, repository, d.Tag, digest, row.id, at, row.off&quarantined); err != nil {
				return err
			}
			events = append(events, event(g, PushManifest, d))
		}
		if len(events) == said {
			events = append(events, event(g, PushManifest, d))
		}
		return s.ledger.Append(ctx, tx, events...)
	}
	for err = s.db.Write(ctx, push); err == errUnread; err = s.db.Write(ctx, push) {
		there.damage = s.unseal(ctx, g.Registry(), func(ring *keys.Ring) error {
			_, err := openManifest(ring, there.Manifest)
			return err
		})
		if there.damage != nil && !damaged(there.damage) {
			return Pushed{}, there.damage
		}
	}
	if err != nil {
		return Pushed{}, err
	}
	if row.damage != nil && row.off&broken == 0 {
		s.ledger.Told(ctx, alarm, row.damage)
	}
	return Pushed{Manifest: m, Subject: doc.subject, Tags: tags}, nil
}

// putManifest makes the rows of a manifest unless they are there, and returns what
// there is of it. A body that is damaged is replaced; one that nobody has examined is
// left in there, and errUnread.
func (s *Store) putManifest(ctx context.Context, tx *db.Tx, ring *keys.Ring, repository int64, m Manifest, doc *document, a about, sealed []byte, there *examined, at int64, rules Rules) (manifestRow, error) {
	row, err := findManifestRow(ctx, tx, repository, m.Digest)
	switch {
	case errors.Is(err, db.ErrNoRows):
		row = manifestRow{total: a.total, off: a.off}
		if row.id, err = insertManifest(ctx, tx, repository, m, a, sealed, at); err != nil {
			return row, err
		}
		if doc.subject != "" {
			if err := insertReferrer(ctx, tx, repository, row.id, doc.subject, m.Artifact, doc.descriptor(m)); err != nil {
				return row, err
			}
		}
	case err != nil:
		return row, err
	case row.deleted:
		return row, fault.New(fault.Conflict, "this manifest was deleted and is in the trash; restore it, or wait until it is gone")
	case row.off&noWrite != 0:
		return row, disallowed(noWrite)
	case row.mediaType != m.MediaType:
		return row, fault.New(fault.ManifestInvalid, "this manifest was pushed as %s before; push it as that", row.mediaType)
	default:
		if a.untagged == nil { // it gets a tag
			if err := tagManifest(ctx, tx, row.id); err != nil {
				return row, err
			}
		}
		row.damage, err = healManifest(ctx, tx, row.id, m, sealed, there)
		if err == nil && row.damage == nil && row.off&broken != 0 { // somebody has restored it
			err = unmarkManifestRow(ctx, tx, row.id)
		}
		if err != nil {
			return row, err
		}
		if !row.sparse {
			return row, nil // it has all that it names, and that cannot go
		}
	}
	missing, more, err := s.need(ctx, tx, ring.Registry(), repository, row.id, doc)
	if err != nil {
		return row, err
	}
	if len(missing) > 0 && !rules.Sparse {
		return row, fault.New(fault.ManifestBlobUnknown, "the manifest names %d blobs or manifests that this repository does not have; push them first", len(missing)).
			With(map[string]any{"digests": first(missing, 100)})
	}
	if total := a.total + more; row.sparse != (len(missing) > 0) || row.total != total {
		return row, markManifest(ctx, tx, row.id, len(missing) > 0, total)
	}
	return row, nil
}

// An examined manifest is one as its row has it, and why that does not open; nil if it
// does.
type examined struct {
	Manifest
	damage error
}

// healManifest puts the body that was pushed in the place of one that does not open,
// and returns why that did not. It opens nothing: whose key that takes may be asked
// only while nothing waits for this transaction.
func healManifest(ctx context.Context, tx *db.Tx, id int64, m Manifest, sealed []byte, there *examined) (damage, err error) {
	body, size, err := sealedBody(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	if there.Digest == "" || size != there.Size || !bytes.Equal(body, there.Body) {
		*there = examined{Manifest: Manifest{Digest: m.Digest, Size: size, Body: body}}
		return nil, errUnread
	}
	if there.damage == nil {
		return nil, nil
	}
	return there.damage, replaceBody(ctx, tx, id, m.Size, sealed)
}

// need makes an edge to each thing that the document names, and returns those
// that are not there; more is what the manifests among them name.
func (s *Store) need(ctx context.Context, tx *db.Tx, registry string, repository, id int64, doc *document) (missing []ref.Digest, more int64, err error) {
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
		err = edge(doc.manifests, func(r reference) (int64, error) {
			size, total, err := needManifest(ctx, tx, repository, id, r.digest)
			more += total - size
			return size, err
		})
	}
	return missing, more, err
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
// an index in the repository names is Referenced; one that is locked, or that a
// locked tag points to, is Disallowed. Its referrers stay: a subject need not be
// there.
func (s *Store) DeleteManifest(ctx context.Context, g access.Grant, repo ref.Repository, digest ref.Digest, rules Rules) error {
	if err := g.Allows(access.ContentDelete, g.RepositoryScope(repo)); err != nil {
		return err
	}
	d := ledger.Detail{Repository: repo, Digest: digest}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		repository, o, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err = o.forbids(locked, err); err != nil {
			return absent(err, fault.NameUnknown)
		}
		row, err := findManifestRow(ctx, tx, repository, digest)
		if err == nil && row.deleted {
			err = db.ErrNoRows
		}
		if err = row.off.forbids(locked, err); err != nil {
			return absent(err, fault.ManifestUnknown)
		}
		tags, err := tagsOff(ctx, tx, row.id)
		if err = tags.forbids(locked, err); err != nil {
			return err
		}
		due, err := removeManifest(ctx, tx, repository, row.id, now(), rules)
		if err != nil {
			return err
		}
		d.More = restorable(due)
		return s.ledger.Append(ctx, tx, event(g, DeleteManifest, d))
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
	return listReferrers(ctx, s.db, g.Registry(), repo, d, artifactType, from, hidden(g, repo))
}
