package object_test

import (
	"testing"

	"breakwater/object"
	"breakwater/object/objecttest"
)

func TestDiskIsAStore(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) object.Store {
		d, err := object.NewDisk(t.TempDir(), func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
