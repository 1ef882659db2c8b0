package db

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"
)

// plain turns an argument into one of nil, bool, int64, float64, string and
// []byte, so that both engines bind the same value.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, int64, float64, string, []byte:
		return v, nil
	case int:
		return int64(v), nil
	case json.RawMessage: // JSON is TEXT
		if v == nil {
			return nil, nil
		}
		return string(v), nil
	case time.Time:
		return v.UnixMicro(), nil
	case driver.Valuer:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
			return nil, nil
		}
		inner, err := v.Value()
		if err != nil {
			return nil, err
		}
		if _, again := inner.(driver.Valuer); again {
			return nil, fmt.Errorf("db: %T gives a driver.Valuer", v)
		}
		return plain(inner)
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Pointer:
		if r.IsNil() {
			return nil, nil
		}
		return plain(r.Elem().Interface())
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("db: %d is too large for BIGINT", r.Uint())
		}
		return int64(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return r.Float(), nil
	case reflect.String:
		return r.String(), nil
	case reflect.Slice:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			return r.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("db: cannot store a %T", v)
}

func plainAll(args []any) ([]any, error) {
	all := make([]any, len(args))
	for i, a := range args {
		var err error
		if all[i], err = plain(a); err != nil {
			return nil, fmt.Errorf("argument $%d: %w", i+1, err)
		}
	}
	return all, nil
}

// micros scans BIGINT microseconds into a time in UTC.
type micros struct{ t *time.Time }

func (m micros) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("db: a time is BIGINT microseconds, not %T", v)
	}
	*m.t = time.UnixMicro(n).UTC()
	return nil
}

func mismatch(column fmt.Stringer, dest any) error {
	return fmt.Errorf("db: %v does not fit into %T", column, dest)
}

// assign copies a value into a pointer to a pointer or to a named type, through
// get, which copies it into a pointer to a basic type.
func assign(dest any, null bool, get func(dest any) error) error {
	r := reflect.ValueOf(dest)
	if r.Kind() != reflect.Pointer || r.IsNil() {
		return fmt.Errorf("db: cannot scan into a %T", dest)
	}
	r = r.Elem()
	switch r.Kind() {
	case reflect.Pointer:
		if null {
			r.SetZero()
			return nil
		}
		p := reflect.New(r.Type().Elem())
		r.Set(p)
		return get(p.Interface())
	case reflect.String:
		var v string
		err := get(&v)
		r.SetString(v)
		return err
	case reflect.Bool:
		var v bool
		err := get(&v)
		r.SetBool(v)
		return err
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int, reflect.Int64:
		var v int64
		err := get(&v)
		if r.OverflowInt(v) {
			return fmt.Errorf("db: %d does not fit into %T", v, dest)
		}
		r.SetInt(v)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint, reflect.Uint64:
		var v int64
		err := get(&v)
		if v < 0 || r.OverflowUint(uint64(v)) {
			return fmt.Errorf("db: %d does not fit into %T", v, dest)
		}
		r.SetUint(uint64(v))
		return err
	case reflect.Float32, reflect.Float64:
		var v float64
		err := get(&v)
		r.SetFloat(v)
		return err
	case reflect.Slice:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			var v []byte
			err := get(&v)
			r.SetBytes(v)
			return err
		}
	}
	return fmt.Errorf("db: cannot scan into a %T", dest)
}
