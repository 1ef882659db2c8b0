package objecttest_test

import (
	"testing"

	"breakwater/object"
	"breakwater/object/objecttest"
)

func TestMemoryIsAStore(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Store { return objecttest.NewMemory() })
}
