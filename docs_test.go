package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestTheDocumentedIssuersAreTaken(t *testing.T) {
	text, err := os.ReadFile("docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	d := openDesk(t)
	documents := 0
	for _, part := range strings.Split(string(text), "```json\n")[1:] {
		document, _, _ := strings.Cut(part, "```")
		documents++
		if r, answer := d.ask("PUT", fmt.Sprintf("/providers/Breakwater.Identity/issuers/documented-%d", documents), document); r.StatusCode != http.StatusCreated {
			t.Errorf("%d %s\n%s", r.StatusCode, answer, document)
		}
	}
	if documents < 5 {
		t.Errorf("docs/identity.md has %d issuers", documents)
	}
}
