package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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

// A command that a document shows exists, and so does each of its flags.
func TestTheDocumentedCommandsExist(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^ *(?:breakwater|go run \.) +([a-z].*)$`)
	flag := regexp.MustCompile(`(?:^| )--([a-z-]+)`)
	found := 0
	for _, page := range append(pages, "README.md", "README.ko.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range shown.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\\\n", " "), -1) {
			asked, _, _ := strings.Cut(line[1], " #")
			words := strings.Fields(asked)
			words = words[:min(2, len(words))]
			if len(words) == 2 && regexp.MustCompile(`[^a-z-]|^-`).MatchString(words[1]) {
				words = words[:1]
			}
			var help, errs bytes.Buffer
			if status := run(t.Context(), append(words, "--help"), &help, &errs); status != success {
				t.Errorf("%s: breakwater %s: %s", page, asked, errs.String())
				continue
			}
			for _, f := range flag.FindAllStringSubmatch(asked, -1) {
				if !regexp.MustCompile(`--` + f[1] + `\b`).MatchString(help.String()) {
					t.Errorf("%s: breakwater %s has no flag --%s", page, words, f[1])
				}
			}
			found++
		}
	}
	if found < 20 {
		t.Errorf("the documents show %d commands", found)
	}
}
