// Package receipt says what was destroyed for certain, in a document that is signed and
// kept (DP-6): who destroyed it and when, which keys ended, how much it was, and, as
// plainly, what remained and which copies nobody here can reach.
package receipt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
)

// A Kind is what was destroyed.
type Kind string

const (
	Registry   Kind = "registry"        // all content of a registry that goes on, and its keys
	Deletion   Kind = "registryDeleted" // a registry, with all that it held, and its keys
	Repository Kind = "repository"      // a repository of a registry
)

// Format is what a receipt of this version says of itself.
const Format = "breakwater receipt 1"

// A Receipt is what is signed. Times are UTC.
type Receipt struct {
	Format     string         `json:"format"`
	ID         string         `json:"id"`
	Kind       Kind           `json:"kind"`
	Time       time.Time      `json:"time"`
	By         ledger.Who     `json:"by"`
	Request    string         `json:"request,omitempty"` // correlation id
	Registry   Of             `json:"registry"`
	Repository ref.Repository `json:"repository,omitempty"`
	Event      Event          `json:"event"`

	Keys        []keys.Ended `json:"keys,omitempty"`    // that were destroyed
	NextKey     *NextKey     `json:"nextKey,omitempty"` // what new content is sealed with, if the registry goes on
	CustomerKey *CustomerKey `json:"customerKey"`       // that held the keys too; null if the platform's alone did

	Destroyed  Tally    `json:"destroyed"`
	Remains    Remains  `json:"remains"`
	NotReached []string `json:"notReached"` // copies, in words
}

// Of is a registry, by all its names.
type Of struct {
	UID  string `json:"uid"`
	ID   ref.ID `json:"id"`
	Name string `json:"name"`
}

// An Event is where the ledger has the same fact.
type Event struct {
	Ledger    string `json:"ledger"` // uid of the registry; "" is the server's
	Seq       int64  `json:"seq"`
	Operation string `json:"operation"`
}

// A NextKey is the key that comes after those that ended.
type NextKey struct {
	Version     uint32 `json:"version"`
	CustomerKey bool   `json:"customerKey"` // whether a customer holds it as well
}

// A CustomerKey is a key of a customer that held data keys.
type CustomerKey struct {
	Provider ref.ID `json:"provider"`
	Key      string `json:"key"`
	Version  string `json:"version"`
}

// A Tally is how much was destroyed.
type Tally struct {
	Repositories int    `json:"repositories"`
	Manifests    int    `json:"manifests"` // those in the trash too
	Tags         int    `json:"tags"`
	Blobs        int    `json:"blobs"`
	Uploads      int    `json:"uploads"` // that were under way
	Objects      int    `json:"objects"` // files in the object store
	Bytes        int64  `json:"bytes"`   // of content in them
	Digests      int    `json:"digests"` // of manifests and blobs, each once
	SHA256       string `json:"sha256"`  // of their sorted list, one a line, each line ended: as sort -u | sha256sum has it
}

// List puts the digests into the tally.
func (t *Tally) List(all []ref.Digest) {
	slices.Sort(all)
	all = slices.Compact(all)
	h := sha256.New()
	for _, d := range all {
		h.Write([]byte(d))
		h.Write([]byte{'\n'})
	}
	t.Digests, t.SHA256 = len(all), hex.EncodeToString(h.Sum(nil))
}

// Remains is what was not destroyed, or not for certain.
type Remains struct {
	Shared    *Shared    `json:"shared"`    // null: none
	OldFormat *OldFormat `json:"oldFormat"` // null: none
}

// most is how many names and digests a receipt gives of what is shared.
const most = 100

// Shared is blobs that other repositories have as well.
type Shared struct {
	Blobs   int              `json:"blobs"`
	Bytes   int64            `json:"bytes"`
	Digests []ref.Digest     `json:"digests"` // the first of them
	With    []ref.Repository `json:"with"`    // the first of those that the caller may see
	Others  int              `json:"others"`  // … and how many more there are
	Why     string           `json:"why"`
}

// Share says which blobs stay, because of whom; seen reports whether the caller may
// know of a repository.
func (r *Remains) Share(blobs []ref.Digest, bytes int64, with []ref.Repository, seen func(ref.Repository) bool) {
	if len(blobs) == 0 {
		return
	}
	slices.Sort(blobs)
	s := &Shared{Blobs: len(blobs), Bytes: bytes, Digests: blobs[:min(len(blobs), most)], With: []ref.Repository{},
		Why: "other repositories of the registry have these blobs; they can be opened still"}
	for _, repo := range with {
		if len(s.With) < most && seen(repo) {
			s.With = append(s.With, repo)
		} else {
			s.Others++
		}
	}
	r.Shared = s
}

// OldFormat is objects that have no secret of their own, so that the data keys of the
// registry open a copy of them.
type OldFormat struct {
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Why     string `json:"why"`
}

// Old says that objects were deleted and not crypto-erased.
func (r *Remains) Old(objects int, bytes int64) {
	if objects > 0 {
		r.OldFormat = &OldFormat{objects, bytes, "deleted, and not crypto-erased: these objects were stored before objects had a secret of their own, " +
			"so a copy of them opens with the data keys of the registry; to destroy those, erase the registry"}
	}
}

// notReached are the copies that nobody here can reach.
func (r *Receipt) notReached() []string {
	all := []string{
		"copies of the database, such as backups, snapshots and archived logs, from before: they hold the keys or secrets that were destroyed here, for who has the platform's key" +
			map[bool]string{true: " and, for what was sealed while it held them, the customer's key"}[r.CustomerKey != nil],
		"what the server's own database keeps of deleted rows, for who has the platform's key and that database: PostgreSQL until VACUUM, and in its log; SQLite, rarely, in gaps of its pages",
		"what clients, caches and other registries have pulled",
		"the ledger, which has the names and digests of what there was",
	}
	if r.Kind == Repository {
		all = append(all, "answers that were under way")
	}
	return all
}

// ErrForged says that a receipt is not one that the keys have signed.
var ErrForged = errors.New("this receipt is not what was signed, or the keys are those of another server")

// Verify reads a receipt, if one of the keys has signed it. It takes nothing from the
// receipt but the name of the key, so that nothing in it decides how it is verified.
func Verify(text string, set jose.JSONWebKeySet) (r Receipt, err error) {
	text = strings.TrimSpace(text)
	signature, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return r, fmt.Errorf("this is no receipt: %w", err)
	}
	head := signature.Signatures[0].Protected
	if typ, _ := head.ExtraHeaders[jose.HeaderType].(string); typ != identity.ReceiptType {
		return r, fmt.Errorf("this is no receipt: its type is %q", typ)
	}
	of := slices.IndexFunc(set.Keys, func(k jose.JSONWebKey) bool { return k.KeyID == head.KeyID && k.IsPublic() && k.Use == "sig" })
	if head.KeyID == "" || of < 0 {
		return r, fmt.Errorf("%w: none of them is called %q", ErrForged, head.KeyID)
	}
	// Another text that decodes to the same would be a second spelling of one receipt.
	if same, err := signature.CompactSerialize(); err != nil || same != text {
		return r, ErrForged
	}
	payload, err := signature.Verify(set.Keys[of].Key)
	if err != nil {
		return r, ErrForged
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return r, fmt.Errorf("read the receipt: %w", err)
	}
	if r.Format != Format {
		return r, fmt.Errorf("this receipt has the format %q, which is not known here", r.Format)
	}
	return r, nil
}
