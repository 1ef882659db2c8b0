package fault_test

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"breakwater/fault"
)

// The codes of the OCI Distribution specification, "Error Codes", code-1 to code-14.
var ociCodes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
	"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID",
	"UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
	"REGISTRY_DISALLOWED_OPERATION", // and Azure's own, for what is locked
}

func TestEveryCodeHasItsRow(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range fault.Codes() {
		row := c.Row()
		switch {
		case row.Name == "" || seen[row.Name]:
			t.Errorf("code %d: the name %q is empty or taken", c, row.Name)
		case row.Status < 400 || row.Status > 599:
			t.Errorf("%s: status %d is no failure", c, row.Status)
		case !slices.Contains(ociCodes, row.OCI):
			t.Errorf("%s: %q is not a code of the OCI specification", c, row.OCI)
		case !regexp.MustCompile(`^[A-Z][A-Za-z]+$`).MatchString(row.ARM):
			t.Errorf("%s: %q is not the shape of an ARM code", c, row.ARM)
		}
		seen[row.Name] = true
	}
	if fault.Code(-1).Row() != fault.Internal.Row() || fault.Code(1e6).Row() != fault.Internal.Row() {
		t.Error("a code outside the table is Internal")
	}
}

func TestForeignErrorTellsTheCallerNothing(t *testing.T) {
	cause := fmt.Errorf("open /var/lib/secret: %w", io.ErrUnexpectedEOF)
	f := fault.From(cause)
	if f.Code != fault.Internal || strings.Contains(f.Message, "secret") {
		t.Errorf("%v tells %q", f.Code, f.Message)
	}
	if !errors.Is(f, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost to the log")
	}
}

func TestFaultIsFoundThroughWrapping(t *testing.T) {
	err := fmt.Errorf("push: %w", fault.New(fault.Referenced, "in use").Because(io.EOF))
	if fault.Of(err) != fault.Referenced || !errors.Is(err, fault.New(fault.Referenced, "")) || !errors.Is(err, io.EOF) {
		t.Errorf("%v lost its code or cause", err)
	}
	if errors.Is(err, fault.New(fault.Denied, "")) {
		t.Error("a fault of another code matches")
	}
}
