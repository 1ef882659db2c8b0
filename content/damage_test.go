package content

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
)

// later lets the time pass in which a damaged blob is refused without a look at it.
func (w *world) later() {
	w.t.Helper()
	w.sql(`UPDATE blob SET damaged = 1 WHERE damaged IS NOT NULL`)
}

// sql is what somebody does who can write to the rows and has no key.
func (w *world) sql(statements ...string) {
	w.t.Helper()
	must(w.t, w.db.Write(w.ctx, func(tx *db.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(w.ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	}))
}

// alarms are the kinds and objects of the damage on record.
func (w *world) alarms() (all []string) {
	w.t.Helper()
	for _, e := range w.events() {
		if e.Operation != ledger.Damaged {
			continue
		}
		if e.Category != ledger.Security || e.Outcome != ledger.Failure || e.Registry != registryUID || e.Who.ID != "server" {
			w.t.Errorf("%+v", e)
		}
		all = append(all, e.Detail.More["kind"]+" "+e.Detail.More["object"])
	}
	return all
}

// exchange is SQL that exchanges a column of two rows.
func exchange(table, key, a, b, column string) []string {
	return []string{
		fmt.Sprintf(`CREATE TEMPORARY TABLE held AS SELECT %s AS k, %s AS v FROM %s WHERE %[1]s IN ('%[4]s', '%[5]s')`, key, column, table, a, b),
		fmt.Sprintf(`UPDATE %s SET %s = '-' WHERE %s = '%s'`, table, column, key, a),
		fmt.Sprintf(`UPDATE %s SET %s = (SELECT v FROM held WHERE k = '%s') WHERE %s = '%s'`, table, column, a, key, b),
		fmt.Sprintf(`UPDATE %s SET %s = (SELECT v FROM held WHERE k = '%s') WHERE %s = '%s'`, table, column, b, key, a),
		`DROP TABLE held`,
	}
}

// Blobs of one size, each whole, whose rows were exchanged or changed by somebody
// without a key: no reader gets one for the other, each is on record, and a push puts
// it right.
func TestRowsOfBlobsThatWereChangedGiveNothingWrong(t *testing.T) {
	changes := map[string]func(w *world, a, b ref.Digest) []string{
		"whose parts it has": func(w *world, a, b ref.Digest) []string {
			return exchange("blob", "digest", string(a), string(b), "bytes")
		},
		"whose parts it has, and how that is proven": func(w *world, a, b ref.Digest) []string {
			return append(exchange("blob", "digest", string(a), string(b), "bytes"), proofs(a, b)...)
		},
		"the same without a proof": func(w *world, a, b ref.Digest) []string {
			return append(exchange("blob", "digest", string(a), string(b), "bytes"), `UPDATE blob SET proof = NULL`)
		},
		"its digest": func(w *world, a, b ref.Digest) []string {
			return []string{
				fmt.Sprintf(`UPDATE blob SET digest = '-' WHERE digest = '%s'`, a),
				fmt.Sprintf(`UPDATE blob SET digest = '%s' WHERE digest = '%s'`, a, b),
				fmt.Sprintf(`UPDATE blob SET digest = '%s' WHERE digest = '-'`, b),
			}
		},
		"whose parts they are": func(w *world, a, b ref.Digest) []string {
			return []string{ // each blob has two parts: the first ones change sides
				fmt.Sprintf(`CREATE TEMPORARY TABLE held AS SELECT p.object, p.owner, p.at FROM part p JOIN blob b ON b.bytes = p.owner WHERE b.digest IN ('%s', '%s') AND p.at = 0`, a, b),
				`UPDATE part SET at = -1 - at WHERE object IN (SELECT object FROM held)`,
				`UPDATE part SET at = 0, owner = (SELECT h.owner FROM held h WHERE h.object <> part.object) WHERE object = (SELECT MIN(object) FROM held)`,
				`UPDATE part SET at = 0, owner = (SELECT h.owner FROM held h WHERE h.object <> part.object) WHERE object = (SELECT MAX(object) FROM held)`,
				`DROP TABLE held`,
			}
		},
		"their order": func(w *world, a, b ref.Digest) []string {
			return []string{
				fmt.Sprintf(`UPDATE part SET at = -1000 + at WHERE owner IN (SELECT bytes FROM blob WHERE digest IN ('%s', '%s'))`, a, b),
				`UPDATE part SET at = CASE WHEN at = -1000 THEN 500 ELSE 0 END WHERE at < 0`,
			}
		},
		"its end": func(w *world, a, b ref.Digest) []string {
			return []string{
				`UPDATE blob SET size = 500`,
				`UPDATE part SET owner = NULL, due = 9000000000000000 WHERE at = 500`,
			}
		},
		"its size": func(w *world, a, b ref.Digest) []string { return []string{`UPDATE blob SET size = 999`} },
		"a bit of the proof": func(w *world, a, b ref.Digest) []string {
			if w.db.Engine() == db.SQLite {
				return []string{`UPDATE blob SET proof = CAST(substr(proof, 1, 100) || x'00' || substr(proof, 102) AS BLOB)`}
			}
			return []string{`UPDATE blob SET proof = set_byte(proof, 100, get_byte(proof, 100) # 1)`}
		},
	}
	each(t, func(t *testing.T, w *world) {
		for name, change := range changes {
			t.Run(name, func(t *testing.T) {
				w.t = t
				before := len(w.alarms())
				two := [2][]byte{random(1000), random(1000)}
				for _, b := range two {
					u := w.start()
					_, err := w.add(u.ID, 0, b[:500])
					must(t, err)
					must(t, w.end(u.ID, 500, b[500:], sum(b)))
				}
				w.sql(change(w, sum(two[0]), sum(two[1]))...)
				for _, b := range two {
					for range 2 {
						if got, err := w.pull(repo, sum(b)); fault.Of(err) != fault.Damaged || len(got) > 0 {
							t.Fatalf("%d bytes, %v", len(got), err)
						}
					}
					if w.has(repo, sum(b)) {
						t.Error("who asks before a push is told that it is there")
					}
				}
				if told := w.alarms()[before:]; len(told) != 2 || told[0] != "blob "+string(sum(two[0])) || told[1] != "blob "+string(sum(two[1])) {
					t.Errorf("on record: %q", told)
				}
				for _, b := range two {
					w.push(repo, b)
					w.reads(repo, b)
					if !w.has(repo, sum(b)) {
						t.Error("a push did not put it right")
					}
				}
				w.sql(`DELETE FROM link`, `DELETE FROM blob`, `DELETE FROM part`)
			})
		}
	})
}

func proofs(a, b ref.Digest) []string {
	return []string{
		fmt.Sprintf(`CREATE TEMPORARY TABLE held AS SELECT digest AS k, proof AS v FROM blob WHERE digest IN ('%s', '%s')`, a, b),
		`UPDATE blob SET proof = (SELECT v FROM held WHERE k <> blob.digest)`,
		`DROP TABLE held`,
	}
}

// The same for manifests and tags.
func TestRowsOfManifestsThatWereChangedGiveNothingWrong(t *testing.T) {
	bodies := []string{
		`CREATE TEMPORARY TABLE held AS SELECT id AS k, body AS v FROM manifest`,
		`UPDATE manifest SET body = (SELECT v FROM held WHERE k <> manifest.id)`,
		`DROP TABLE held`,
	}
	changes := map[string]struct {
		sql  []string
		kind string
	}{
		"bodies exchanged": {bodies, "manifest"},
		"a body cut":       {[]string{`UPDATE manifest SET body = CAST(substr(body, 1, 120) AS BLOB)`}, "manifest"},
		"no body":          {[]string{`UPDATE manifest SET body = CAST('' AS BLOB)`}, "manifest"},
		"another size":     {[]string{`UPDATE manifest SET size = size + 1`}, "manifest"},
		"a tag that points elsewhere": {[]string{
			`CREATE TEMPORARY TABLE held AS SELECT name AS k, manifest AS v FROM tag`,
			`UPDATE tag SET manifest = (SELECT v FROM held WHERE k <> tag.name)`,
			`DROP TABLE held`,
		}, "tag"},
	}
	each(t, func(t *testing.T, w *world) {
		for name, change := range changes {
			t.Run(name, func(t *testing.T) {
				w.t = t
				before := len(w.alarms())
				two := map[string][]byte{"a": w.putImage(repo, "a", 1), "b": w.putImage(repo, "b", 1)}
				for i, s := range change.sql {
					if w.db.Engine() == db.Postgres {
						change.sql[i] = strings.ReplaceAll(s, "AS BLOB", "AS BYTEA")
					} else {
						change.sql[i] = strings.ReplaceAll(s, "AS BYTEA", "AS BLOB")
					}
				}
				w.sql(change.sql...)
				for tag, m := range two {
					for range 2 {
						_, err := w.Manifest(w.ctx, w.owner, repo, tagged(tag))
						wants(t, err, fault.Damaged)
					}
					if change.kind == "manifest" {
						_, err := w.Manifest(w.ctx, w.owner, repo, digested(m))
						wants(t, err, fault.Damaged)
						_, err = w.HeadManifest(w.ctx, w.owner, repo, digested(m))
						wants(t, err, fault.ManifestUnknown)
					}
				}
				told := w.alarms()[before:]
				if len(told) != 2 || !strings.HasPrefix(told[0], change.kind+" ") || told[0] == told[1] {
					t.Errorf("on record: %q", told)
				}
				for tag, m := range two {
					w.put(repo, tagged(tag), m)
					w.resolves(repo, tagged(tag), m)
					w.resolves(repo, digested(m), m)
					_, err := w.HeadManifest(w.ctx, w.owner, repo, tagged(tag))
					must(t, err)
				}
				if now := w.alarms()[before:]; len(now) != len(told) {
					t.Errorf("on record after the pushes: %q", now)
				}
				w.sql(`DELETE FROM tag`, `DELETE FROM needs_blob`, `DELETE FROM manifest`)
			})
		}
	})
}

// Nobody need have read a damaged manifest for a push to put it right, on record.
func TestAPushHealsAManifestThatNobodyRead(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "a", 1)
		w.sql(`UPDATE manifest SET size = 1`)
		w.put(repo, tagged("b"), m)
		w.resolves(repo, tagged("a"), m)
		if told := w.alarms(); len(told) != 1 || told[0] != "manifest "+string(sum(m)) {
			t.Errorf("on record: %q", told)
		}
		events := w.events()
		if last := events[len(events)-1]; last.Operation != PushManifest || last.Detail.More["replaced"] != "damaged" {
			t.Errorf("%+v", last)
		}
	})
}

// A manifest that was found damaged and is whole again, because somebody restored it,
// is there for everybody from the next push on, as from the next pull.
func TestAPushOfAManifestThatWasRestoredUnmarksIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "a", 1)
		w.sql(`UPDATE manifest SET size = size + 1`)
		_, err := w.Manifest(w.ctx, w.owner, repo, tagged("a"))
		wants(t, err, fault.Damaged)
		w.sql(`UPDATE manifest SET size = size - 1`)
		_, err = w.HeadManifest(w.ctx, w.owner, repo, tagged("a"))
		wants(t, err, fault.ManifestUnknown)
		w.put(repo, tagged("a"), m)
		_, err = w.HeadManifest(w.ctx, w.owner, repo, tagged("a"))
		must(t, err)
		events := w.events()
		if last := events[len(events)-1]; last.Operation != PushManifest || last.Detail.More["replaced"] != "" {
			t.Errorf("%+v", last)
		}
	})
}

// Whose keys open a body may be asked, and what they said recorded, only while no
// transaction is open: that would wait for the other.
func TestAPushAsksForNoKeyWhileItWrites(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := w.putImage(repo, "a", 1)
		platform, err := keys.OpenPlatform(filepath.Join(filepath.Dir(w.dir), "platform.key"))
		must(t, err)
		rings := keys.NewRings(w.db, recording{platform, w.db})
		s := New(w.db, w.disk, rings, w.ledger, nil)
		if w.db.Engine() == db.SQLite { // sealed with a key that nobody has
			w.sql(`UPDATE manifest SET body = CAST(substr(body, 1, 11) || x'09' || substr(body, 13) AS BLOB)`)
		} else {
			w.sql(`UPDATE manifest SET body = set_byte(body, 11, 9)`)
		}
		_, err = s.PutManifest(w.ctx, w.owner, repo, Push{Reference: tagged("b"), Body: m}, Rules{})
		must(t, err)
		w.resolves(repo, tagged("a"), m)
		if told := w.alarms(); len(told) != 1 || told[0] != "manifest "+string(sum(m)) {
			t.Errorf("on record: %q", told)
		}
	})
}

// A recording vault writes down what it opens.
type recording struct {
	keys.Vault
	db *db.DB
}

func (v recording) Unwrap(ctx context.Context, w keys.Wrapped) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := v.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE repository SET changed = changed`)
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.Vault.Unwrap(ctx, w)
}

// How far an upload is can be changed by nobody without a key, and it says nothing
// about what was sent: the state of a hash has up to 127 bytes of it.
func TestTheRowOfAnUploadIsSealed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		two := [2][]byte{random(63), random(63)}
		var ids [2]string
		for i, b := range two {
			u := w.start()
			ids[i] = u.ID
			_, err := w.add(u.ID, 0, b)
			must(t, err)
		}
		rows, err := w.db.Query(w.ctx, `SELECT hash FROM upload`)
		states, err := scan(rows, err, func(b *[]byte) []any { return []any{b} })
		must(t, err)
		for _, state := range states {
			for _, b := range two {
				if len(state) == 0 || bytes.Contains(state, b[:8]) {
					t.Fatal("what was sent can be read in the row")
				}
			}
		}
		w.sql(`CREATE TEMPORARY TABLE held AS SELECT id AS k, hash AS v FROM upload`,
			`UPDATE upload SET hash = (SELECT v FROM held WHERE k <> upload.id)`, `DROP TABLE held`)
		for i, id := range ids {
			_, err := w.add(id, 63, random(10))
			wants(t, err, fault.Damaged)
			wants(t, w.end(id, 63, nil, sum(two[1-i])), fault.Damaged)
			_, err = w.UploadStatus(w.ctx, w.owner, repo, id)
			wants(t, err, fault.Damaged)
		}
		if told := w.alarms(); len(told) != 2 || !strings.HasPrefix(told[0], "upload ") || told[0] == told[1] {
			t.Errorf("on record: %q", told)
		}
	})
}

// Parts of two uploads that change sides before either is a blob.
func TestPartsOfUploadsThatWereExchangedGiveNothingWrong(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		two := [2][]byte{random(500), random(500)}
		var ids [2]string
		for i, b := range two {
			u := w.start()
			ids[i] = u.ID
			_, err := w.add(u.ID, 0, b)
			must(t, err)
		}
		w.sql(`CREATE TEMPORARY TABLE held AS SELECT object, owner FROM part`,
			`UPDATE part SET at = -1 WHERE object = (SELECT MIN(object) FROM held)`,
			`UPDATE part SET owner = (SELECT h.owner FROM held h WHERE h.object <> part.object) WHERE at = 0`,
			`UPDATE part SET at = 0, owner = (SELECT h.owner FROM held h WHERE h.object <> part.object) WHERE at = -1`,
			`DROP TABLE held`)
		must(t, w.end(ids[0], -1, nil, sum(two[0])))
		if got, err := w.pull(repo, sum(two[0])); fault.Of(err) != fault.Damaged || len(got) > 0 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		// The client names another algorithm, so what it sent is read again.
		wants(t, w.end(ids[1], -1, nil, ref.SHA512.Sum(two[1])), fault.Damaged)
		w.push(repo, two[0])
		w.reads(repo, two[0])
	})
}

// There is no older object of the same place: a key is used once. What can be rolled
// back is a row with its objects, and that is the same content or none.
func TestAnOlderStateOfABlobIsTheSameContentOrNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push(repo, b)
		files := map[string][]byte{}
		for info, err := range w.disk.List(w.ctx, "") {
			must(t, err)
			path := filepath.Join(w.dir, info.Key)
			content, err := os.ReadFile(path)
			must(t, err)
			files[path] = content
			must(t, os.Truncate(path, 100))
			if _, err := w.disk.Put(w.ctx, info.Key, bytes.NewReader(content)); err == nil {
				t.Fatal("an object was written over another")
			}
		}
		w.sql(`CREATE TABLE before AS SELECT * FROM blob`)
		w.push(repo, b) // which heals it: other objects
		w.sweep(Sweep{Objects: true})
		w.sql(`UPDATE blob SET bytes = (SELECT bytes FROM before), proof = (SELECT proof FROM before)`, `DROP TABLE before`)
		_, err := w.pull(repo, sum(b)) // their rows are gone
		wants(t, err, fault.Damaged)
		w.push(repo, b)
		w.reads(repo, b)
		for path, content := range files {
			must(t, os.WriteFile(path, content, 0o600))
		}
		w.reads(repo, b)
	})
}

// A row of keys that was exchanged with another registry's opens nothing, says so, and
// is on record.
func TestARowOfKeysThatWasChangedIsRefusedAndOnRecord(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		b := random(1000)
		w.push(repo, b)
		must(t, w.db.Write(w.ctx, func(tx *db.Tx) error { return w.rings.Create(w.ctx, tx, "another") }))
		w.sql(`CREATE TABLE before AS SELECT registry, wrapped FROM keyring`,
			`UPDATE keyring SET wrapped = (SELECT b.wrapped FROM before b WHERE b.registry <> keyring.registry)`)
		w.rings.Forget(registryUID)
		for range 2 {
			_, err := w.pull(repo, sum(b))
			wants(t, err, fault.Unavailable)
			_, err = w.PutBlob(w.ctx, w.owner, repo, sum(b), -1, bytes.NewReader(b))
			wants(t, err, fault.Unavailable)
		}
		if told := w.alarms(); len(told) != 1 || told[0] != "key registry/"+registryUID {
			t.Errorf("on record: %q", told)
		}
		w.sql(`UPDATE keyring SET wrapped = (SELECT b.wrapped FROM before b WHERE b.registry = keyring.registry)`, `DROP TABLE before`)
		w.reads(repo, b)
	})
}

// Damage that nobody has met is found by a scrub, which goes on where the last one ended.
func TestAScrubFindsDamageThatNobodyMet(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var all [][]byte
		for range 20 {
			all = append(all, random(1000))
			w.push(repo, all[len(all)-1])
		}
		m := w.putImage(repo, "a", 1)
		good := w.putImage(repo, "b", 1)
		stop, cancel := context.WithCancel(w.ctx)
		cancel()
		if _, err := w.Scrub(stop, 1<<30); err == nil {
			t.Fatal("it does not stop")
		}
		n, err := w.Scrub(w.ctx, 1<<30)
		must(t, err)
		if n.Blobs != 24 || n.Manifests != 2 || n.Damaged != 0 {
			t.Fatalf("%+v", n)
		}
		w.sql(fmt.Sprintf(`UPDATE manifest SET size = 1 WHERE digest = '%s'`, sum(m)),
			fmt.Sprintf(`UPDATE blob SET size = 1 WHERE digest = '%s'`, sum(all[7])))
		for range 2 {
			n, err = w.Scrub(w.ctx, 1<<30)
			must(t, err)
			if n.Blobs != 24 || n.Manifests != 2 || n.Damaged != 2 {
				t.Fatalf("%+v", n)
			}
		}
		if told := w.alarms(); len(told) != 2 || told[0] != "manifest "+string(sum(m)) || told[1] != "blob "+string(sum(all[7])) {
			t.Errorf("on record: %q", told)
		}
		if w.has(repo, sum(all[7])) || !w.has(repo, sum(all[8])) {
			t.Error("the wrong one was marked")
		}
		w.resolves(repo, tagged("b"), good)
		began := time.Now()
		if _, err := w.Scrub(w.ctx, 100_000); err != nil || time.Since(began) < 200*time.Millisecond {
			t.Errorf("23 blobs of 1,000 bytes at 100,000 a second took %v, %v", time.Since(began), err)
		}
	})
}
