package oci_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"breakwater/registry"
)

// "Conformance": the specification's own program, with everything switched on
// that its main branch knows, through TLS and token login. $OCI_CONFORMANCE names
// the program, which is built from folder "conformance" of
// opencontainers/distribution-spec.
func TestConformance(t *testing.T) {
	program := os.Getenv("OCI_CONFORMANCE")
	if program == "" {
		t.Skip("$OCI_CONFORMANCE names no program")
	}
	each(t, func(t *testing.T, s *server, _ *client) {
		s.Update(t, func(r *registry.Registry) { r.Policies.SparseManifests.Status = "enabled" })
		dir := t.TempDir()
		ca := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate}), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		cmd.Dir = dir
		cmd.Env = []string{
			"SSL_CERT_FILE=" + ca, "SSL_CERT_DIR=" + dir, "OCI_VERSION=dev", "OCI_REGISTRY=" + strings.TrimPrefix(s.url, "https://"), "OCI_TLS=enabled",
			"OCI_USERNAME=" + s.OwnerName, "OCI_PASSWORD=" + s.OwnerPassword, "OCI_RESULTS_DIR=" + dir,
			"OCI_API_PING=true", "OCI_API_PULL=true", "OCI_API_PUSH=true", "OCI_API_REFERRER=true",
			"OCI_API_BLOBS_ATOMIC=true", "OCI_API_BLOBS_DELETE=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
			"OCI_API_BLOBS_MOUNT_ANONYMOUS=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true",
			"OCI_API_MANIFESTS_ATOMIC=true", "OCI_API_MANIFESTS_DELETE=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true",
			"OCI_API_TAGS_ATOMIC=true", "OCI_API_TAGS_DELETE=true", "OCI_API_TAGS_LIST=true",
			"OCI_DATA_IMAGE=true", "OCI_DATA_INDEX=true", "OCI_DATA_INDEX_LIST=true", "OCI_DATA_SPARSE=true", "OCI_DATA_ARTIFACT=true",
			"OCI_DATA_SUBJECT=true", "OCI_DATA_SUBJECT_MISSING=true", "OCI_DATA_ARTIFACT_LIST=true", "OCI_DATA_SUBJECT_LIST=true",
			"OCI_DATA_DATA_FIELD=true", "OCI_DATA_NONDISTRIBUTABLE=true", "OCI_DATA_CUSTOM_FIELDS=true", "OCI_DATA_NO_LAYERS=true",
			"OCI_DATA_EMPTY_BLOB=true", "OCI_DATA_SHA512=true",
		}
		out, err := cmd.CombinedOutput()
		for _, kind := range []string{"Skip", "Disabled", "FAIL", "Error"} {
			found := regexp.MustCompile(`(?m)^  ` + kind + `\.+: +(\d+)$`).FindSubmatch(out)
			if found == nil || string(found[1]) != "0" {
				t.Errorf("%s: %s", kind, found)
			}
		}
		if err != nil || !bytes.Contains(out, []byte("OCI Conformance Result: Pass")) {
			t.Errorf("%v\n%s", err, out)
		} else {
			t.Logf("%s", regexp.MustCompile(`(?m)^  (Pass|Total)\.+: +\d+$`).FindAll(out, -1))
		}
	})
}
