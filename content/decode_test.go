package content

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/ref"
)

const digestA = `"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`

const (
	someConfig = `{"mediaType":"application/vnd.oci.image.config.v1+json",` + digestA + `,"size":7}`
	someImage  = `{"schemaVersion":2,"config":` + someConfig + `,"layers":[]}`
)

func TestDocumentsThatTwoReadersCouldUnderstandDifferentlyAreRefused(t *testing.T) {
	for what, text := range map[string]string{
		"nothing":                       ``,
		"no object":                     `[]`,
		"no object either":              `7`,
		"trailing document":             someImage + `{}`,
		"trailing text":                 someImage + `x`,
		"cut off":                       someImage[:len(someImage)-1],
		"byte order mark":               "\ufeff" + someImage,
		"no UTF-8":                      `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"x":"` + "\xff" + `"}`,
		"key twice":                     `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"layers":[` + someConfig + `]}`,
		"key twice, escaped":            `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"l\u0061yers":[]}`,
		"key twice, another case":       `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"Layers":[]}`,
		"key once, another case":        `{"schemaVersion":2,"config":` + someConfig + `,"LAYERS":[]}`,
		"key once, a Kelvin sign":       `{"schemaVersion":2,"config":` + someConfig + `,"layerſ":[]}`,
		"unknown key twice":             `{"schemaVersion":2,"config":` + someConfig + `,"x":1,"x":2}`,
		"unknown key twice, deep":       `{"schemaVersion":2,"config":` + someConfig + `,"x":[{"y":{"z":1,"Z":2}}]}`,
		"digest twice":                  strings.Replace(someImage, `"size":7`, `"size":7,`+digestA, 1),
		"digest in another case":        strings.Replace(someImage, `"digest"`, `"Digest"`, 1),
		"annotation twice":              `{"schemaVersion":2,"config":` + someConfig + `,"annotations":{"a":"1","a":"2"}}`,
		"annotation that is no string":  `{"schemaVersion":2,"config":` + someConfig + `,"annotations":{"a":1}}`,
		"image and index":               `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"manifests":[]}`,
		"image and schema 1":            `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"fsLayers":[]}`,
		"index with layers":             `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[],"layers":[]}`,
		"index with config":             `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[],"config":` + someConfig + `}`,
		"artifact with layers":          `{"mediaType":"` + ociArtifact + `","blobs":[],"layers":[]}`,
		"image without config":          `{"schemaVersion":2,"layers":[]}`,
		"null for a config":             `{"schemaVersion":2,"config":null,"layers":[]}`,
		"schema 1":                      `{"schemaVersion":1,"config":` + someConfig + `}`,
		"schema 2.0":                    `{"schemaVersion":2.0,"config":` + someConfig + `}`,
		"no schema version":             `{"config":` + someConfig + `}`,
		"string for a version":          `{"schemaVersion":"2","config":` + someConfig + `}`,
		"string for a list":             `{"schemaVersion":2,"config":` + someConfig + `,"layers":"x"}`,
		"list for an object":            `{"schemaVersion":2,"config":[],"layers":[]}`,
		"another type than announced":   `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[]}`,
		"unknown type":                  `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v1+prettyjws"}`,
		"media type with a line break":  `{"schemaVersion":2,"artifactType":"a\nb","config":` + someConfig + `}`,
		"negative size":                 strings.Replace(someImage, `"size":7`, `"size":-7`, 1),
		"fraction of a byte":            strings.Replace(someImage, `"size":7`, `"size":7.5`, 1),
		"exponent for a size":           strings.Replace(someImage, `"size":7`, `"size":7e1`, 1),
		"size beyond 64 bits":           strings.Replace(someImage, `"size":7`, `"size":9223372036854775808`, 1),
		"string for a size":             strings.Replace(someImage, `"size":7`, `"size":"7"`, 1),
		"no size":                       strings.Replace(someImage, `,"size":7`, ``, 1),
		"no digest":                     strings.Replace(someImage, digestA+`,`, ``, 1),
		"no media type of a descriptor": strings.Replace(someImage, `"mediaType":"application/vnd.oci.image.config.v1+json",`, ``, 1),
		"short digest":                  strings.Replace(someImage, `sha256:aa`, `sha256:a`, 1),
		"digest in upper case":          strings.Replace(someImage, `sha256:aa`, `sha256:AA`, 1),
		"unknown algorithm":             strings.Replace(someImage, `sha256:`, `md5:`, 1),
		"two sizes of one digest":       strings.Replace(someImage, `[]`, `[`+strings.Replace(someConfig, `7`, `8`, 1)+`]`, 1),
		"data that is something else":   strings.Replace(someImage, `"size":7`, `"size":3,"data":"Zm9v"`, 1),
		"subject without size":          `{"schemaVersion":2,"config":` + someConfig + `,"subject":{"mediaType":"x/y",` + digestA + `}}`,
		"too deep":                      `{"schemaVersion":2,"config":` + someConfig + `,"x":` + strings.Repeat(`[`, maxDepth) + strings.Repeat(`]`, maxDepth) + `}`,
	} {
		contentType := ""
		if what == "another type than announced" {
			contentType = ociImage
		}
		if _, err := decode([]byte(text), contentType); fault.Of(err) != fault.ManifestInvalid || err == nil {
			t.Errorf("%s: got %v", what, err)
		}
	}
	_, err := decode([]byte(someImage+strings.Repeat(" ", MaxManifest)), "")
	wants(t, err, fault.ManifestTooLarge)
	var many []doc
	for i := range maxReferences + 1 {
		many = append(many, describe("x/y", fmt.Append(nil, i)))
	}
	_, err = decode(text(doc{"schemaVersion": 2, "mediaType": ociIndex, "manifests": many}), "")
	wants(t, err, fault.ManifestInvalid)
	_, err = decode(text(doc{"schemaVersion": 2, "mediaType": ociIndex, "manifests": many[1:]}), "")
	must(t, err)
}

func TestDocumentsThatMeanOneThingAreAccepted(t *testing.T) {
	data := base64.StdEncoding.EncodeToString([]byte("{}"))
	config := `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + string(sum([]byte("{}"))) + `","size":2,"data":"` + data + `"}`
	for what, c := range map[string]struct {
		text, contentType, mediaType, artifact string
		blobs, manifests                       int
	}{
		"an image":                    {someImage, "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"with a charset":              {someImage, ociImage + "; charset=utf-8", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"of Docker":                   {someImage, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.config.v1+json", 1, 0},
		"with white space":            {" \n" + someImage + "\r\n\t ", "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"null for lists":              {`{"schemaVersion":2,"config":` + config + `,"layers":null,"annotations":null,"subject":null,"manifests":null}`, "", ociImage, "application/vnd.oci.empty.v1+json", 1, 0},
		"an artifact":                 {`{"schemaVersion":2,"artifactType":"a/b","config":` + config + `,"layers":[` + config + `]}`, "", ociImage, "a/b", 1, 0},
		"an index":                    {`{"schemaVersion":2,"manifests":[` + someConfig + `,` + someConfig + `]}`, "", ociIndex, "", 0, 1},
		"an empty index":              {`{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[]}`, ociIndex, ociIndex, "", 0, 0},
		"an artifact manifest":        {`{"mediaType":"` + ociArtifact + `","artifactType":"a/b","blobs":[` + someConfig + `]}`, "", ociArtifact, "a/b", 1, 0},
		"annotations by case":         {`{"schemaVersion":2,"config":` + someConfig + `,"annotations":{"a":"1","A":"2"}}`, "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"anything custom":             {`{"schemaVersion":2,"config":` + someConfig + `,"org.example":[1,-2.5e3,true,false,null,"\u00e4\"",{"x":{}}]}`, "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"as deep as it may be":        {`{"schemaVersion":2,"config":` + someConfig + `,"x":` + strings.Repeat(`[`, maxDepth-1) + strings.Repeat(`]`, maxDepth-1) + `}`, "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
		"platform and urls, of times": {strings.Replace(someImage, `"size":7`, `"size":7,"platform":{"os":"linux"},"urls":["https://a"],"annotations":{"x":"y"}`, 1), "", ociImage, "application/vnd.oci.image.config.v1+json", 1, 0},
	} {
		d, err := decode([]byte(c.text), c.contentType)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if d.mediaType != c.mediaType || d.artifact != c.artifact || len(d.blobs) != c.blobs || len(d.manifests) != c.manifests {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

// FuzzDecode: what is accepted means the same to encoding/json, the reader that
// is least careful about the case of keys and about keys that are there twice.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(someImage), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+someConfig+`],"subject":`+someConfig+`,"annotations":{"a":"1"}}`), ociIndex)
	f.Add([]byte(`{"mediaType":"`+ociArtifact+`","blobs":[`+someConfig+`],"x":[1,{"y":null}]}`), ociArtifact+"; a=b")
	f.Fuzz(func(t *testing.T, b []byte, contentType string) {
		d, err := decode(b, contentType)
		if err != nil {
			if c := fault.Of(err); c != fault.ManifestInvalid && c != fault.ManifestTooLarge {
				t.Fatal(err)
			}
			return
		}
		type descriptor struct {
			MediaType string
			Digest    ref.Digest
			Size      int64
		}
		var other struct {
			MediaType                string
			ArtifactType             string
			Config, Subject          *descriptor
			Layers, Blobs, Manifests []descriptor
			Annotations              map[string]string
		}
		if err := json.Unmarshal(b, &other); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		if other.MediaType != "" && other.MediaType != d.mediaType {
			t.Fatalf("type %q, or %q", d.mediaType, other.MediaType)
		}
		if other.Config != nil {
			other.Layers = append(other.Layers, *other.Config)
			if other.ArtifactType == "" {
				other.ArtifactType = other.Config.MediaType
			}
		}
		if other.ArtifactType != d.artifact {
			t.Fatalf("artifact %q, or %q", d.artifact, other.ArtifactType)
		}
		if other.Subject == nil && d.subject != "" || other.Subject != nil && other.Subject.Digest != d.subject {
			t.Fatalf("subject %q, or %v", d.subject, other.Subject)
		}
		same := func(ours []reference, theirs []descriptor) {
			t.Helper()
			for _, r := range theirs {
				if !slices.ContainsFunc(ours, func(o reference) bool { return o.digest == r.Digest && o.size == r.Size }) {
					t.Fatalf("%v is missed", r)
				}
			}
			for _, o := range ours {
				if !slices.ContainsFunc(theirs, func(r descriptor) bool { return o.digest == r.Digest && o.size == r.Size }) {
					t.Fatalf("%v is made up", o)
				}
			}
		}
		same(d.blobs, append(other.Layers, other.Blobs...))
		same(d.manifests, other.Manifests)
		var annotations map[string]string
		if d.annotations != nil {
			if err := json.Unmarshal(d.annotations, &annotations); err != nil {
				t.Fatal(err)
			}
		}
		if len(annotations)+len(other.Annotations) > 0 && !reflect.DeepEqual(annotations, other.Annotations) {
			t.Fatalf("annotations %v, or %v", annotations, other.Annotations)
		}
		if !json.Valid(d.descriptor(Manifest{Digest: sum(b), MediaType: d.mediaType, Artifact: d.artifact, Size: int64(len(b))})) {
			t.Fatal("the descriptor is no JSON")
		}
	})
}
