package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

// A row is a kind whose room knows its resources as T, and whose properties
// callers see and send as V. All that such kinds have in common is in kind.
type row[T, V any] struct {
	Kind
	shown  func(T) (resource.Resource, V) // the resource may lack its properties
	get    func(ctx context.Context, g access.Grant, id ref.ID) (T, error)
	list   func(ctx context.Context, g access.Grant, q Query) ([]T, error)
	put    func(ctx context.Context, g access.Grant, next resource.Resource, v V, ifMatch string) (T, error)
	remove func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error
}

func (r row[T, V]) kind() Kind {
	k := r.Kind
	see := func(t T, err error) (resource.Resource, error) {
		if err != nil {
			return resource.Resource{}, err
		}
		doc, v := r.shown(t)
		doc.Properties, err = json.Marshal(v)
		return doc, err
	}
	k.Get = func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
		return see(r.get(ctx, g, id))
	}
	k.List = func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error) {
		all, err := r.list(ctx, g, q)
		if err != nil {
			return nil, err
		}
		docs := make([]resource.Resource, len(all))
		for i, t := range all {
			if docs[i], err = see(t, nil); err != nil {
				return nil, err
			}
		}
		return docs, nil
	}
	k.Put = func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
		var v V
		if err := understand(next.Properties, &v); err != nil {
			return next, err
		}
		return see(r.put(ctx, g, next, v, ifMatch))
	}
	k.Remove = func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
		return resource.Resource{}, r.remove(ctx, g, id, ifMatch)
	}
	return k
}

func absent(typ string) error { return fault.New(fault.NotFound, "there is no %s of this name", typ) }

// understand takes what a caller sent. A name that nothing here has is refused: a
// setting that silently does nothing, such as a misspelt one, is worse than none.
func understand(sent json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(sent))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fault.New(fault.NotImplemented, "this server has no property %s; leave it out, because nothing would come of it", name)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f // said by the type of a property, such as a network
	}
	return fault.New(fault.BadRequest, "a value has another type than it should").Because(err)
}
