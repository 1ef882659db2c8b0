package acr

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/oci"
	"breakwater/ref"
)

// maxBody bounds the body of a change, in bytes.
const maxBody = 64 << 10

// The shapes of azure-contract §2.6. Each answer says which registry and repository
// it is about.
type (
	wrapper struct {
		Registry  string         `json:"registry"`
		ImageName ref.Repository `json:"imageName"`
	}
	attributes struct {
		Delete            bool   `json:"deleteEnabled"`
		Write             bool   `json:"writeEnabled"`
		List              bool   `json:"listEnabled"`
		Read              bool   `json:"readEnabled"`
		QuarantineState   string `json:"quarantineState,omitempty"`
		QuarantineDetails string `json:"quarantineDetails,omitempty"`
	}
	repositoryShape struct {
		wrapper
		Created    stamp      `json:"createdTime"`
		Changed    stamp      `json:"lastUpdateTime"`
		Manifests  int64      `json:"manifestCount"`
		Tags       int64      `json:"tagCount"`
		Attributes attributes `json:"changeableAttributes"`
	}
	tagShape struct {
		Name       ref.Tag    `json:"name"`
		Digest     ref.Digest `json:"digest"`
		Created    stamp      `json:"createdTime"`
		Changed    stamp      `json:"lastUpdateTime"`
		Signed     bool       `json:"signed"`
		Quarantine string     `json:"quarantineState,omitempty"`
		Attributes attributes `json:"changeableAttributes"`
	}
	manifestShape struct {
		Digest          ref.Digest      `json:"digest"`
		Size            int64           `json:"imageSize"`
		Created         stamp           `json:"createdTime"`
		Changed         stamp           `json:"lastUpdateTime"`
		Architecture    string          `json:"architecture,omitempty"`
		OS              string          `json:"os,omitempty"`
		MediaType       string          `json:"mediaType"`
		ConfigMediaType string          `json:"configMediaType,omitempty"`
		Tags            []ref.Tag       `json:"tags"`
		References      []platformShape `json:"references,omitempty"`
		Attributes      attributes      `json:"changeableAttributes"`
	}
	platformShape struct {
		Digest       ref.Digest `json:"digest"`
		Architecture string     `json:"architecture,omitempty"`
		OS           string     `json:"os,omitempty"`
	}
	deletedManifestShape struct {
		Digest  ref.Digest `json:"digest"`
		Tags    []ref.Tag  `json:"tags"`
		Deleted stamp      `json:"deletedAt"`
	}
	deletedTagShape struct {
		Tag     ref.Tag    `json:"tag"`
		Digest  ref.Digest `json:"digest"`
		Deleted stamp      `json:"deletedAt"`
	}
)

// A stamp is a time with the seven digits that Azure writes.
type stamp time.Time

func (s stamp) MarshalText() ([]byte, error) {
	return time.Time(s).UTC().AppendFormat(nil, "2006-01-02T15:04:05.0000000Z"), nil
}

func attributesOf(a content.Attributes) attributes {
	return attributes{Delete: a.Delete, Write: a.Write, List: a.List, Read: a.Read}
}

func tagOf(t content.TagInfo) tagShape {
	return tagShape{t.Name, t.Digest, stamp(t.Created), stamp(t.Changed), false, t.Quarantine, attributesOf(t.Attributes)}
}

func manifestOf(m content.ManifestInfo) manifestShape {
	s := manifestShape{Digest: m.Digest, Size: m.Size, Created: stamp(m.Created), Changed: stamp(m.Changed), Architecture: m.Architecture, OS: m.OS,
		MediaType: m.MediaType, ConfigMediaType: m.ConfigMediaType, Tags: list(m.Tags), Attributes: attributesOf(m.Attributes)}
	s.Attributes.QuarantineState, s.Attributes.QuarantineDetails = m.QuarantineState, m.QuarantineDetails
	for _, p := range m.References {
		s.References = append(s.References, platformShape(p))
	}
	return s
}

// list is all, and [] if there is none.
func list[T any](all []T) []T { return append(make([]T, 0, len(all)), all...) }

func each[T, S any](all []T, shape func(T) S) []S {
	shaped := make([]S, len(all))
	for i := range all {
		shaped[i] = shape(all[i])
	}
	return shaped
}

// page reads which part of a list is asked for, and gives what the links to its
// other parts repeat.
func page(r *http.Request) (p content.Page, repeat url.Values, err error) {
	if p.After, p.N, err = oci.Page(r); err != nil {
		return p, nil, err
	}
	repeat = url.Values{}
	query := r.URL.Query() // which oci.Page could read
	for _, name := range []string{"orderby", "digest"} {
		switch given := query[name]; {
		case len(given) > 1:
			return p, nil, fault.New(fault.BadRequest, "the parameter %q may stand in the query once", name)
		case len(given) == 1 && given[0] != "":
			repeat.Set(name, given[0])
		}
	}
	switch order := repeat.Get("orderby"); order {
	case "", "none":
	case "timeasc":
		p.Order = content.OldestFirst
	case "timedesc":
		p.Order = content.NewestFirst
	default:
		return p, nil, fault.New(fault.BadRequest, "orderby is timeasc, timedesc or none")
	}
	if d := repeat.Get("digest"); d != "" {
		p.Digest, err = ref.ParseDigest(d)
	}
	return p, repeat, err
}

// read decodes the body of a change: one JSON object that has no members but those
// of into.
func read(r *http.Request, into any) error {
	body, err := gate.ReadJSON(r, maxBody)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(body, []byte("{")) {
		return fault.New(fault.BadRequest, "the body is a JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	if err == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fault.New(fault.BadRequest, "nothing here has a member %.100s; leave it out", name)
	}
	return fault.New(fault.BadRequest, "a value has another type than it should").Because(err)
}

// switches are the attributes of a repository or tag that a body may set; what it
// leaves out stays.
type switches struct {
	Delete *bool `json:"deleteEnabled"`
	Write  *bool `json:"writeEnabled"`
	List   *bool `json:"listEnabled"`
	Read   *bool `json:"readEnabled"`
}

func (s switches) patch() content.AttributesPatch {
	return content.AttributesPatch{Delete: s.Delete, Write: s.Write, List: s.List, Read: s.Read}
}

func (a *API) about(r *http.Request, q *request) (wrapper, error) {
	reg, err := a.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return wrapper{}, err
	}
	return wrapper{reg.LoginServer, q.repo}, nil
}

func (a *API) rules(r *http.Request) (content.Rules, error) {
	reg, err := a.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return content.Rules{}, err
	}
	return content.RulesOf(reg), nil
}

func write(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header()["Content-Type"] = []string{"application/json; charset=utf-8"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}

func (a *API) listRepositories(w http.ResponseWriter, r *http.Request, g access.Grant, _ *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	names, more, err := a.Content.Repositories(r.Context(), g, p.After, p.N)
	if err != nil {
		return err
	}
	return catalogOf(w, r, p, repeat, names, more)
}

func (a *API) listDeletedRepositories(w http.ResponseWriter, r *http.Request, g access.Grant, _ *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	names, more, err := a.Content.DeletedRepositories(r.Context(), g, p)
	if err != nil {
		return err
	}
	return catalogOf(w, r, p, repeat, names, more)
}

func catalogOf(w http.ResponseWriter, r *http.Request, p content.Page, repeat url.Values, names []ref.Repository, more bool) error {
	if len(names) > 0 {
		oci.Next(w, r.URL.Path, repeat, string(names[len(names)-1]), p.N, more)
	}
	return write(w, http.StatusOK, struct {
		Repositories []ref.Repository `json:"repositories"`
	}{list(names)})
}

func (a *API) getRepository(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	info, err := a.Content.Repository(r.Context(), g, q.repo)
	if err != nil {
		return err
	}
	return a.showRepository(w, r, q, info)
}

func (a *API) patchRepository(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	var s switches
	if err := read(r, &s); err != nil {
		return a.unless(g, q, err)
	}
	info, err := a.Content.PatchRepository(r.Context(), g, q.repo, s.patch())
	if err != nil {
		return err
	}
	return a.showRepository(w, r, q, info)
}

// unless is err for a caller who could make the change, if it were readable: who
// could not hears that. The door lets in whoever may change one of the attributes.
func (*API) unless(g access.Grant, q *request, err error) error {
	if no := g.Allows(access.MetadataWrite, g.RepositoryScope(q.repo)); no != nil {
		return no
	}
	return err
}

func (a *API) showRepository(w http.ResponseWriter, r *http.Request, q *request, i content.RepositoryInfo) error {
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, repositoryShape{about, stamp(i.Created), stamp(i.Changed), i.Manifests, i.Tags, attributesOf(i.Attributes)})
}

// deleteRepository answers with what is gone, which az shows.
func (a *API) deleteRepository(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	rules, err := a.rules(r)
	if err != nil {
		return err
	}
	manifests, tags, err := a.Content.DeleteRepository(r.Context(), g, q.repo, rules)
	if err != nil {
		return err
	}
	return write(w, http.StatusAccepted, struct {
		Manifests []ref.Digest `json:"manifestsDeleted"`
		Tags      []ref.Tag    `json:"tagsDeleted"`
	}{list(manifests), list(tags)})
}

func (a *API) listTags(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	tags, more, err := a.Content.TagInfos(r.Context(), g, q.repo, p)
	if err != nil {
		return err
	}
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	if len(tags) > 0 {
		oci.Next(w, base+string(q.repo)+"/_tags", repeat, tags[len(tags)-1].Place(p.Order), p.N, more)
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Tags []tagShape `json:"tags"`
	}{about, each(tags, tagOf)})
}

func (a *API) getTag(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	t, err := a.Content.TagInfo(r.Context(), g, q.repo, q.tag)
	if err != nil {
		return err
	}
	return a.showTag(w, r, q, t)
}

func (a *API) patchTag(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	var s switches
	if err := read(r, &s); err != nil {
		return a.unless(g, q, err)
	}
	t, err := a.Content.PatchTag(r.Context(), g, q.repo, q.tag, s.patch())
	if err != nil {
		return err
	}
	return a.showTag(w, r, q, t)
}

func (a *API) showTag(w http.ResponseWriter, r *http.Request, q *request, t content.TagInfo) error {
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	q.detail.Digest = t.Digest
	return write(w, http.StatusOK, struct {
		wrapper
		Tag tagShape `json:"tag"`
	}{about, tagOf(t)})
}

func (a *API) deleteTag(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	rules, err := a.rules(r)
	if err != nil {
		return err
	}
	if err := a.Content.DeleteTag(r.Context(), g, q.repo, q.tag, rules); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (a *API) listManifests(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	manifests, more, err := a.Content.ManifestInfos(r.Context(), g, q.repo, p)
	if err != nil {
		return err
	}
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	if len(manifests) > 0 {
		oci.Next(w, base+string(q.repo)+"/_manifests", repeat, manifests[len(manifests)-1].Place(p.Order), p.N, more)
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Manifests []manifestShape `json:"manifests"`
	}{about, each(manifests, manifestOf)})
}

func (a *API) getManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	m, err := a.Content.ManifestInfo(r.Context(), g, q.repo, q.digest)
	if err != nil {
		return err
	}
	return a.showManifest(w, r, q, m)
}

func (a *API) patchManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	var sent struct {
		switches
		State   *string `json:"quarantineState"`
		Details *string `json:"quarantineDetails"`
	}
	if err := read(r, &sent); err != nil {
		return a.unless(g, q, err)
	}
	patch := sent.patch()
	patch.QuarantineState, patch.QuarantineDetails = sent.State, sent.Details
	m, err := a.Content.PatchManifest(r.Context(), g, q.repo, q.digest, patch)
	if err != nil {
		return err
	}
	return a.showManifest(w, r, q, m)
}

func (a *API) showManifest(w http.ResponseWriter, r *http.Request, q *request, m content.ManifestInfo) error {
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Manifest manifestShape `json:"manifest"`
	}{about, manifestOf(m)})
}

func (a *API) listDeletedManifests(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	all, more, err := a.Content.DeletedManifests(r.Context(), g, q.repo, p)
	if err != nil {
		return err
	}
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		oci.Next(w, base+"_deleted/"+string(q.repo)+"/_manifests", repeat, string(all[len(all)-1].Digest), p.N, more)
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Manifests []deletedManifestShape `json:"manifests"`
	}{about, each(all, func(d content.Deleted) deletedManifestShape {
		return deletedManifestShape{d.Digest, list(d.Tags), stamp(d.At)}
	})})
}

func (a *API) listDeletedTags(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	p, repeat, err := page(r)
	if err != nil {
		return err
	}
	all, more, err := a.Content.DeletedTags(r.Context(), g, q.repo, p)
	if err != nil {
		return err
	}
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		oci.Next(w, base+"_deleted/"+string(q.repo)+"/_tags", repeat, all[len(all)-1].Place(), p.N, more)
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Tags []deletedTagShape `json:"tags"`
	}{about, each(all, func(d content.DeletedTag) deletedTagShape { return deletedTagShape{d.Name, d.Digest, stamp(d.At)} })})
}

// restoreManifest takes a manifest out of the trash, and gives it the tag that the
// body names; with force also one that points elsewhere by now.
func (a *API) restoreManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	var sent struct {
		Tag *string `json:"tag"`
	}
	if err := read(r, &sent); err != nil {
		return err
	}
	var t ref.Tag
	var err error
	if sent.Tag != nil && *sent.Tag != "" {
		if t, err = ref.ParseTag(*sent.Tag); err != nil {
			return err
		}
	}
	force := false
	switch given := r.URL.Query()["force"]; {
	case len(given) == 1 && strings.EqualFold(given[0], "true"):
		force = true
	case len(given) == 1 && strings.EqualFold(given[0], "false") || len(given) == 0:
	default:
		return fault.New(fault.BadRequest, "force is true or false")
	}
	rules, err := a.rules(r)
	if err != nil {
		return err
	}
	if err := a.Content.Restore(r.Context(), g, q.repo, q.digest, t, force, rules); err != nil {
		return err
	}
	about, err := a.about(r, q)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, struct {
		wrapper
		Digest ref.Digest `json:"digest"`
		Tag    ref.Tag    `json:"tag,omitempty"`
	}{about, q.digest, t})
}
