package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// place is where a room stands in the picture: rows count from the top.
type place struct{ row, column int }

// layers reads the picture in docs/architecture.md.
func layers(t *testing.T) map[string]place {
	t.Helper()
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, ok := strings.Cut(string(doc), "\n```layers\n")
	picture, _, closed := strings.Cut(picture, "\n```")
	if !ok || !closed {
		t.Fatal("docs/architecture.md has no ```layers block")
	}
	rooms := map[string]place{}
	for row, line := range strings.Split(picture, "\n") {
		names, _, ok := strings.Cut(line, "|")
		if !ok {
			t.Fatalf("no bar in the row %q", line)
		}
		for column, name := range strings.Fields(names) {
			if _, twice := rooms[name]; twice {
				t.Fatalf("%s stands twice in the picture", name)
			}
			rooms[name] = place{row, column}
		}
	}
	return rooms
}

// room is the part of the picture that an import path belongs to: "breakwater"
// itself is main, and breakwater/db/dbtest belongs to db.
func room(importPath string) (string, bool) {
	if importPath == "breakwater" {
		return "main", true
	}
	rest, ours := strings.CutPrefix(importPath, "breakwater/")
	name, _, _ := strings.Cut(rest, "/")
	return name, ours
}

// A package imports only what is below it in the picture, or to its right on
// the same row, and every package is in the picture.
func TestPackagesImportOnlyDownAndToTheRight(t *testing.T) {
	rooms := layers(t)
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal("go list: ", err)
	}
	seen := 0
	for list := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from, _ := room(p.ImportPath)
		here, ok := rooms[from]
		if !ok {
			t.Errorf("%s is not in the picture of docs/architecture.md", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := room(imported)
			if !ours || to == from {
				continue
			}
			there, ok := rooms[to]
			if ok && (there.row > here.row || there.row == here.row && there.column > here.column) {
				continue
			}
			t.Errorf("%s imports %s, which is not below it nor to its right", p.ImportPath, imported)
		}
	}
	if seen < 2 {
		t.Errorf("go list named %d packages", seen)
	}
}

// Folders that say nothing about what they know do not exist.
func TestThereAreNoDrawers(t *testing.T) {
	drawers := []string{"pkg", "internal", "util", "utils", "common", "lib", "model", "models", "service", "services", "manager", "helper", "helpers", "misc"}
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		t.Fatal("go list: ", err)
	}
	for p := range strings.Lines(string(out)) {
		if p = strings.TrimSpace(p); slices.Contains(drawers, path.Base(p)) {
			t.Errorf("%s: name it for what it knows", p)
		}
	}
}
