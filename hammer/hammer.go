// Package hammer loads a registry and judges it: whatever was acknowledged must
// be there afterwards, whatever happened to the process in between.
//
// Run pushes, pulls, tags, deletes and mounts, and keeps a journal of what it
// asked for and what was acknowledged. Verify replays the journal against the
// registry. Between the two anything may happen to the server: kill -9, a full
// disk, a failing device (threats.md §2.3).
package hammer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"breakwater/ref"
)

// Options of a run.
type Options struct {
	Target   Target
	Journal  string // path of the journal, on another file system than the data
	Workers  int
	Duration time.Duration
	Steps    int // each worker ends after so many, the first of which is a push; 0: only Duration ends it
	Seed     uint64
	Prefix   string // of the repositories it works in
}

// A Summary counts the steps of a run by outcome.
type Summary struct {
	Acknowledged int64 `json:"acknowledged"`
	Unknown      int64 `json:"unknown"` // no answer: the server died
	Refused      int64 `json:"refused"` // 429, 503, 507: certainly not done
}

// Shared things, so that workers meet: repositories, tags that all move, and
// contents that all push.
const (
	sharedRepos    = 3
	sharedTags     = 4
	sharedContents = 16
)

// Run works until the time is over, the server is gone, or an answer comes that
// a registry must never give; only the last is an error.
func Run(ctx context.Context, o Options) (Summary, error) {
	c, err := newClient(o.Target)
	if err != nil {
		return Summary{}, err
	}
	j, err := openJournal(o.Journal)
	if err != nil {
		return Summary{}, err
	}
	defer j.Close()
	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()

	var sum Summary
	errs := make([]error, o.Workers)
	var wg sync.WaitGroup
	for i := range o.Workers {
		w := &worker{
			client: c, journal: j, sum: &sum, prefix: o.Prefix, id: fmt.Sprintf("r%d-w%d", j.run, i),
			rng: rand.New(rand.NewPCG(o.Seed, uint64(j.run)<<16|uint64(i))),
		}
		wg.Go(func() {
			// Requests are not cut off by the end of the time: an answer that was on its way counts.
			for n := 0; ctx.Err() == nil && errs[i] == nil && (o.Steps == 0 || n < o.Steps); n++ {
				if errs[i] = w.step(context.WithoutCancel(ctx)); errors.Is(errs[i], errUnknown) {
					errs[i] = nil
					return // the server is gone
				}
				if errors.Is(errs[i], errRefused) {
					errs[i] = nil
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	return sum, errors.Join(errs...)
}

type worker struct {
	client  *client
	journal *journal
	sum     *Summary
	prefix  string
	id      string
	rng     *rand.Rand
	count   int
	own     []image // pushed by this worker, not deleted
}

// An image is a manifest and its blobs in one repository.
type image struct {
	repo     string
	tag      string // the one tag that only this worker moves
	manifest []byte
	digest   ref.Digest
	blobs    []ref.Digest
	unique   []ref.Digest // those of the blobs that nobody else pushes
}

// ask journals one step around its request.
func (w *worker) ask(do string, k key, value string, request func() (line, error)) error {
	step, err := w.journal.begin(line{Do: do, Key: k.String(), Value: value})
	if err != nil {
		return err
	}
	end, err := request()
	end.Step, end.End = step, true
	switch {
	case errors.Is(err, errRefused):
		end.Refused = true
		atomic.AddInt64(&w.sum.Refused, 1)
	case err != nil:
		end.Unknown = true
		atomic.AddInt64(&w.sum.Unknown, 1)
	default:
		atomic.AddInt64(&w.sum.Acknowledged, 1)
	}
	return errors.Join(w.journal.write(end), err)
}

func (w *worker) put(k key, value ref.Digest, request func() error) error {
	return w.ask(doPut, k, value.String(), func() (line, error) { return line{}, request() })
}

func (w *worker) remove(ctx context.Context, k key) error {
	return w.ask(doDelete, k, "", func() (line, error) {
		there, err := w.client.remove(ctx, k)
		return line{Nothing: err == nil && !there}, err
	})
}

func (w *worker) get(ctx context.Context, k key) (content []byte, err error) {
	err = w.ask(doGet, k, "", func() (line, error) {
		var present bool
		if content, present, err = w.client.get(ctx, k); err != nil || !present {
			return line{}, err
		}
		return line{Value: ref.SHA256.Sum(content).String()}, nil
	})
	return content, err
}

func (w *worker) repo() string { return fmt.Sprintf("%s/shared-%d", w.prefix, w.rng.IntN(sharedRepos)) }

// step does one thing that users do.
func (w *worker) step(ctx context.Context) error {
	switch p := w.rng.IntN(100); {
	case p < 35 || len(w.own) == 0:
		return w.push(ctx)
	case p < 50:
		return w.pull(ctx)
	case p < 65:
		return w.moveSharedTag(ctx)
	case p < 75:
		return w.mount(ctx)
	case p < 82:
		return w.pullSharedTag(ctx)
	case p < 90:
		return w.deleteTag(ctx)
	default:
		return w.deleteManifest(ctx)
	}
}

// content is mostly new and sometimes what other workers push at the same time.
func (w *worker) content() (content []byte, unique bool) {
	seed, size := w.rng.Uint64(), 16+w.rng.IntN(4<<10)
	unique = true
	switch w.rng.IntN(4) {
	case 0:
		seed, size, unique = uint64(w.rng.IntN(sharedContents)), 32<<10, false
	case 1:
		size = 16 + w.rng.IntN(200<<10)
	}
	content = make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(content)
	return content, unique
}

func (w *worker) push(ctx context.Context) error {
	w.count++
	img := image{repo: w.repo(), tag: fmt.Sprintf("%s-%d", w.id, w.count)}
	var descriptors []map[string]any
	for range 2 {
		content, unique := w.content()
		digest := ref.SHA256.Sum(content)
		chunks := max(0, w.rng.IntN(5)-2)
		if err := w.put(key{kindBlob, img.repo, digest.String()}, digest, func() error {
			return w.client.pushBlob(ctx, img.repo, content, chunks)
		}); err != nil {
			return err
		}
		img.blobs = append(img.blobs, digest)
		if unique {
			img.unique = append(img.unique, digest)
		}
		descriptors = append(descriptors, map[string]any{"mediaType": "application/octet-stream", "digest": digest, "size": len(content)})
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": imageManifest, "artifactType": "application/vnd.breakwater.hammer",
		"config": descriptors[0], "layers": descriptors[1:], "annotations": map[string]string{"hammer": img.tag},
	})
	if err != nil {
		return err
	}
	img.manifest, img.digest = manifest, ref.SHA256.Sum(manifest)
	// One request makes two facts; both are known or unknown together.
	err = w.put(key{kindManifest, img.repo, img.digest.String()}, img.digest, func() error {
		return w.put(key{kindTag, img.repo, img.tag}, img.digest, func() error {
			return w.client.putManifest(ctx, img.repo, img.tag, manifest)
		})
	})
	if err == nil {
		w.own = append(w.own, img)
	}
	return err
}

func (w *worker) pick() (int, image) {
	i := w.rng.IntN(len(w.own))
	return i, w.own[i]
}

func (w *worker) pull(ctx context.Context) error {
	_, img := w.pick()
	if _, err := w.get(ctx, key{kindTag, img.repo, img.tag}); err != nil {
		return err
	}
	for _, d := range img.blobs {
		if _, err := w.get(ctx, key{kindBlob, img.repo, d.String()}); err != nil {
			return err
		}
	}
	return nil
}

// moveSharedTag puts one of a few manifests that nobody deletes under one of a
// few tags: what workers race for.
func (w *worker) moveSharedTag(ctx context.Context) error {
	repo := w.repo()
	config := []byte("{}")
	digest := ref.SHA256.Sum(config)
	if err := w.put(key{kindBlob, repo, digest.String()}, digest, func() error {
		return w.client.pushBlob(ctx, repo, config, 0)
	}); err != nil {
		return err
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`,
		imageManifest, digest, w.rng.IntN(sharedContents))
	moved := ref.SHA256.Sum(manifest)
	k := key{kindTag, repo, fmt.Sprintf("shared-%d", w.rng.IntN(sharedTags))}
	return w.put(k, moved, func() error { return w.client.putManifest(ctx, repo, k.name, manifest) })
}

func (w *worker) pullSharedTag(ctx context.Context) error {
	_, err := w.get(ctx, key{kindTag, w.repo(), fmt.Sprintf("shared-%d", w.rng.IntN(sharedTags))})
	return err
}

func (w *worker) mount(ctx context.Context) error {
	_, img := w.pick()
	to, digest := w.repo(), img.blobs[0]
	var mounted bool
	return w.ask(doPut, key{kindBlob, to, digest.String()}, digest.String(), func() (line, error) {
		var err error
		mounted, err = w.client.mount(ctx, to, img.repo, digest)
		if err == nil && !mounted {
			err = &unexpected{what: "mount of a blob that was acknowledged in " + img.repo, status: 202}
		}
		return line{}, err
	})
}

func (w *worker) deleteTag(ctx context.Context) error {
	_, img := w.pick()
	return w.remove(ctx, key{kindTag, img.repo, img.tag})
}

func (w *worker) deleteManifest(ctx context.Context) error {
	i, img := w.pick()
	w.own = append(w.own[:i], w.own[i+1:]...)
	// The tag goes with its manifest: one request, two facts.
	step, err := w.journal.begin(line{Do: doDelete, Key: key{kindTag, img.repo, img.tag}.String(), Implied: true})
	if err != nil {
		return err
	}
	err = w.remove(ctx, key{kindManifest, img.repo, img.digest.String()})
	refused := errors.Is(err, errRefused)
	if err := errors.Join(w.journal.write(line{Step: step, End: true, Unknown: err != nil && !refused, Refused: refused}), err); err != nil {
		return err
	}
	for _, d := range img.unique {
		if err := w.remove(ctx, key{kindBlob, img.repo, d.String()}); err != nil {
			return err
		}
	}
	return nil
}
