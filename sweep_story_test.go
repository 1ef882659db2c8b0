package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"breakwater/ref"
)

// What goes with time goes in the running server, too: manifests without a tag by the
// registry's policy, and all of a registry that was deleted.
func TestTheServerSweepsWhatItsRegistriesSay(t *testing.T) {
	config := filepath.Join(t.TempDir(), "breakwater.yaml")
	if err := os.WriteFile(config, []byte("sweep: {every: 300ms, grace: 0s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, "--config", config, "--domain", "registries.test")
	objects := func() (n int) {
		err := filepath.WalkDir(filepath.Join(filepath.Dir(d.owner), "objects"), func(_ string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	within := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	do := func(host, method, path, body string, status int) string {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, d.client.Server+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			q.Host = host
		}
		q.Header.Set("Content-Type", "application/json")
		if strings.Contains(path, "/manifests/") {
			q.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		}
		q.SetBasicAuth(d.client.Username, d.client.Password)
		r, err := d.client.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != status {
			t.Fatalf("%s %s: %d", method, path, r.StatusCode)
		}
		return r.Header.Get("Location")
	}
	const (
		index = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
		host  = "shop01.registries.test"
	)
	shop := d.id[:strings.LastIndexByte(d.id, '/')+1] + "shop01"
	do("", "PUT", shop+"?api-version=2023-07-01", `{"location":"westeurope","sku":{"name":"Premium"}}`, 201)
	blob := strings.Repeat("x", 5000)
	do(host, "POST", "/v2/a/blobs/uploads/?digest="+string(ref.SHA256.Sum([]byte(blob))), blob, 201)
	do(host, "PUT", "/v2/a/manifests/v1", index, 201)
	untagged := fmt.Sprint("/v2/a/manifests/", ref.SHA256.Sum([]byte(index)))
	do("", "PUT", "/v2/a/manifests/v1", index, 201)
	do("", "DELETE", "/v2/a/manifests/v1", "", 202)
	time.Sleep(time.Second)
	do("", "GET", untagged, "", 200) // no policy, no end
	if objects() != 1 {
		t.Fatal("a sweep takes what somebody has")
	}

	do("", "PATCH", d.id+"?api-version=2023-07-01", `{"properties":{"policies":{"retentionPolicy":{"status":"enabled","days":0}}}}`, 200)
	do("", "PUT", "/v2/a/manifests/v1", index, 201)
	do("", "DELETE", "/v2/a/manifests/v1", "", 202)
	within("a manifest without a tag stays", func() bool {
		r, _ := d.ask("GET", untagged, "")
		return r.StatusCode == http.StatusNotFound
	})
	do(host, "GET", "/v2/a/manifests/v1", "", 200) // which has no such policy

	do("", "DELETE", shop+"?api-version=2023-07-01", "", 200)
	within("the bytes of a deleted registry stay", func() bool { return objects() == 0 })
}
