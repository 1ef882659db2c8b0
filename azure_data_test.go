package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/containers/azcontainerregistry"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/ref"
)

// sdk is how a program that uses Azure's SDK for Go is pointed at the server: by
// another cloud configuration, and nothing else.
func (d *desk) sdk() azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: d.client.Server, Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			azcontainerregistry.ServiceName: {Audience: identity.RegistryAudience},
		}},
		Transport: d.client.http, Retry: policy.RetryOptions{MaxRetries: -1},
	}
}

// sdkCredential is a service principal that holds a role, as azidentity knows it.
func (d *desk) sdkCredential(name, role string) azcore.TokenCredential {
	d.t.Helper()
	text, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(d.holder(name, role), "Basic "))
	if err != nil {
		d.t.Fatal(err)
	}
	id, secret, _ := strings.Cut(string(text), ":")
	var tenants struct{ Value []struct{ TenantID string } }
	_, list := d.ask("GET", "/tenants", "")
	if err := json.Unmarshal([]byte(list), &tenants); err != nil || len(tenants.Value) != 1 {
		d.t.Fatalf("%s, %v", list, err)
	}
	c, err := azidentity.NewClientSecretCredential(tenants.Value[0].TenantID, id, secret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: d.sdk(), DisableInstanceDiscovery: true})
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

type dataClients struct {
	*azcontainerregistry.Client
	blobs *azcontainerregistry.BlobClient
}

// clients are fresh ones, whose first request is sent without its body.
func (d *desk) clients(c azcore.TokenCredential) dataClients {
	d.t.Helper()
	client, err := azcontainerregistry.NewClient(d.client.Server, c, &azcontainerregistry.ClientOptions{ClientOptions: d.sdk()})
	if err != nil {
		d.t.Fatal(err)
	}
	blobs, err := azcontainerregistry.NewBlobClient(d.client.Server, c, &azcontainerregistry.BlobClientOptions{ClientOptions: d.sdk()})
	if err != nil {
		d.t.Fatal(err)
	}
	return dataClients{client, blobs}
}

// is checks how a call of the SDK ended: with a code of the registry, or well.
func (d *desk) is(err error, status int, code string) {
	d.t.Helper()
	var refused *azcore.ResponseError
	switch {
	case status == 0 && err == nil:
	case !errors.As(err, &refused) || refused.StatusCode != status || refused.ErrorCode != code:
		d.t.Fatalf("%v, want %d %s", err, status, code)
	}
}

// upload sends a blob in chunks.
func (c dataClients) upload(d *desk, repo string, chunks ...string) (digest string) {
	d.t.Helper()
	start, err := c.blobs.StartUpload(d.t.Context(), repo, nil)
	d.is(err, 0, "")
	location, calculator := *start.Location, azcontainerregistry.NewBlobDigestCalculator()
	at := 0
	for _, chunk := range chunks {
		r := azcontainerregistry.BlobClientUploadChunkOptions{}
		if len(chunks) > 1 {
			from, to := int32(at), int32(at+len(chunk)-1)
			r.RangeStart, r.RangeEnd = &from, &to
		}
		sent, err := c.blobs.UploadChunk(d.t.Context(), location, strings.NewReader(chunk), calculator, &r)
		d.is(err, 0, "")
		location, at = *sent.Location, at+len(chunk)
		status, err := c.blobs.GetUploadStatus(d.t.Context(), location, nil)
		d.is(err, 0, "")
		if want := fmt.Sprintf("0-%d", at-1); *status.Range != want {
			d.t.Errorf("the upload is at %s, want %s", *status.Range, want)
		}
	}
	done, err := c.blobs.CompleteUpload(d.t.Context(), location, calculator, nil)
	d.is(err, 0, "")
	return *done.DockerContentDigest
}

// push makes an image whose config names its platform.
func (c dataClients) push(d *desk, repo, reference, layer string) (digest string, size int64) {
	d.t.Helper()
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","note":%q,"rootfs":{"type":"layers","diff_ids":[]}}`, layer)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		c.upload(d, repo, config), len(config), c.upload(d, repo, layer), len(layer))
	if reference == "" {
		reference = string(ref.SHA256.Sum([]byte(manifest)))
	}
	pushed, err := c.UploadManifest(d.t.Context(), repo, reference, azcontainerregistry.ContentTypeApplicationVndOciImageManifestV1JSON, streaming.NopCloser(strings.NewReader(manifest)), nil)
	d.is(err, 0, "")
	return *pushed.DockerContentDigest, int64(len(config) + len(layer) + len(manifest))
}

// Every method of Client and BlobClient, as programs call them. Names have a "/",
// which the SDK escapes.
func TestAzureSDKForGoDrivesTheDataPlane(t *testing.T) {
	d := openDesk(t)
	ctx, owner := t.Context(), d.sdkCredential("owner-of-all", access.OwnerRole)
	c := d.clients(owner)
	const repo = "team/shop/api"
	login := strings.TrimPrefix(d.client.Server, "https://")

	digest, size := c.push(d, repo, "v1", "the layer of v1")
	second, _ := c.push(d, repo, "v2", "the layer of v2")
	loose, _ := c.push(d, repo, "", "the layer of none")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[`+
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"platform":{"architecture":"amd64","os":"linux"}}]}`, digest, manifestSize(d, c, repo, digest))
	many, err := c.UploadManifest(ctx, repo, "many", azcontainerregistry.ContentType("application/vnd.oci.image.index.v1+json"), streaming.NopCloser(strings.NewReader(index)), nil)
	d.is(err, 0, "")

	// Manifests and blobs come back as they were sent.
	got, err := c.GetManifest(ctx, repo, "v1", nil)
	d.is(err, 0, "")
	body, err := io.ReadAll(got.ManifestData)
	if err != nil || string(ref.SHA256.Sum(body)) != digest || *got.DockerContentDigest != digest {
		t.Errorf("v1 is %s, want %s (%v)", *got.DockerContentDigest, digest, err)
	}
	_, err = c.GetManifest(ctx, repo, "v9", nil)
	d.is(err, 404, "MANIFEST_UNKNOWN")
	blob := c.upload(d, repo, "in three ", "pieces, of ", "which two are read")
	whole, err := c.blobs.GetBlob(ctx, repo, blob, nil)
	d.is(err, 0, "")
	reader, err := azcontainerregistry.NewDigestValidationReader(blob, whole.BlobData)
	d.is(err, 0, "")
	if text, err := io.ReadAll(reader); err != nil || string(text) != "in three pieces, of which two are read" {
		t.Errorf("%q, %v", text, err)
	}
	there, err := c.blobs.CheckBlobExists(ctx, repo, blob, nil)
	d.is(err, 0, "")
	if *there.ContentLength != 38 || *there.DockerContentDigest != blob {
		t.Errorf("%+v", there)
	}
	chunk, err := c.blobs.GetChunk(ctx, repo, blob, "bytes=3-7", nil)
	d.is(err, 0, "")
	if text, _ := io.ReadAll(chunk.ChunkData); string(text) != "three" || *chunk.ContentRange != "bytes 3-7/38" {
		t.Errorf("%q %s", text, *chunk.ContentRange)
	}
	_, err = c.blobs.CheckChunkExists(ctx, repo, blob, "bytes=0-1", nil)
	d.is(err, 0, "")
	_, err = c.blobs.MountBlob(ctx, "team/other", repo, blob, nil)
	d.is(err, 0, "")
	_, err = c.blobs.CheckBlobExists(ctx, "team/other", blob, nil)
	d.is(err, 0, "")
	_, err = c.blobs.DeleteBlob(ctx, "team/other", blob, nil)
	d.is(err, 0, "")
	_, err = c.blobs.CheckBlobExists(ctx, "team/other", blob, nil)
	d.is(err, 404, "BLOB_UNKNOWN")
	upload, err := c.blobs.StartUpload(ctx, repo, nil)
	d.is(err, 0, "")
	_, err = c.blobs.CancelUpload(ctx, *upload.Location, nil)
	d.is(err, 0, "")
	_, err = c.blobs.GetUploadStatus(ctx, *upload.Location, nil)
	d.is(err, 404, "BLOB_UPLOAD_UNKNOWN")

	// Properties say what OCI does not.
	repository, err := c.GetRepositoryProperties(ctx, repo, nil)
	d.is(err, 0, "")
	if p := repository.ContainerRepositoryProperties; *p.Name != repo || *p.RegistryLoginServer != login || *p.ManifestCount != 4 || *p.TagCount != 3 ||
		p.CreatedOn.IsZero() || p.LastUpdatedOn.Before(*p.CreatedOn) || !*p.ChangeableAttributes.CanDelete || !*p.ChangeableAttributes.CanWrite || !*p.ChangeableAttributes.CanList || !*p.ChangeableAttributes.CanRead {
		t.Errorf("%+v", p)
	}
	tag, err := c.GetTagProperties(ctx, repo, "v1", nil)
	d.is(err, 0, "")
	if p := tag.Tag; *tag.RepositoryName != repo || *tag.RegistryLoginServer != login || *p.Name != "v1" || *p.Digest != digest || p.CreatedOn.IsZero() || !*p.ChangeableAttributes.CanDelete {
		t.Errorf("%+v", p)
	}
	_, err = c.GetTagProperties(ctx, repo, "v9", nil)
	d.is(err, 404, "TAG_UNKNOWN")
	manifest, err := c.GetManifestProperties(ctx, repo, digest, nil)
	d.is(err, 0, "")
	if p := manifest.Manifest; *p.Digest != digest || *p.Size != size || *p.Architecture != azcontainerregistry.ArtifactArchitectureAmd64 || *p.OperatingSystem != azcontainerregistry.ArtifactOperatingSystemLinux ||
		*p.MediaType != "application/vnd.oci.image.manifest.v1+json" || *p.ConfigMediaType != "application/vnd.oci.image.config.v1+json" || len(p.Tags) != 1 || *p.Tags[0] != "v1" {
		text, _ := json.Marshal(p)
		t.Errorf("%s, want %d bytes", text, size)
	}
	manifest, err = c.GetManifestProperties(ctx, repo, *many.DockerContentDigest, nil)
	d.is(err, 0, "")
	if p := manifest.Manifest; len(p.RelatedArtifacts) != 1 || *p.RelatedArtifacts[0].Digest != digest || *p.RelatedArtifacts[0].Architecture != azcontainerregistry.ArtifactArchitectureAmd64 {
		t.Errorf("an index names %+v", p.RelatedArtifacts)
	}

	// Lists come page by page, in the order that is asked for.
	one := int32(1)
	var repositories []string
	for pager := c.NewListRepositoriesPager(&azcontainerregistry.ClientListRepositoriesOptions{MaxNum: &one}); pager.More(); {
		page, err := pager.NextPage(ctx)
		d.is(err, 0, "")
		for _, name := range page.Names {
			repositories = append(repositories, *name)
		}
	}
	if !slices.Contains(repositories, repo) || !slices.IsSorted(repositories) {
		t.Errorf("the catalog is %v", repositories)
	}
	for order, want := range map[azcontainerregistry.ArtifactTagOrderBy]string{"": "many v1 v2", azcontainerregistry.ArtifactTagOrderByNone: "many v1 v2",
		azcontainerregistry.ArtifactTagOrderByLastUpdatedOnAscending: "v1 v2 many", azcontainerregistry.ArtifactTagOrderByLastUpdatedOnDescending: "many v2 v1"} {
		if got := c.tags(d, repo, azcontainerregistry.ClientListTagsOptions{MaxNum: &one, OrderBy: &order}); strings.Join(got, " ") != want {
			t.Errorf("tags by %q are %v, want %s", order, got, want)
		}
	}
	if got := c.tags(d, repo, azcontainerregistry.ClientListTagsOptions{Digest: &second}); strings.Join(got, " ") != "v2" {
		t.Errorf("tags of a digest: %v", got)
	}
	for order, want := range map[azcontainerregistry.ArtifactManifestOrderBy][]string{
		azcontainerregistry.ArtifactManifestOrderByLastUpdatedOnAscending:  {digest, second, loose, *many.DockerContentDigest},
		azcontainerregistry.ArtifactManifestOrderByLastUpdatedOnDescending: {*many.DockerContentDigest, loose, second, digest},
	} {
		var got []string
		for pager := c.NewListManifestsPager(repo, &azcontainerregistry.ClientListManifestsOptions{MaxNum: &one, OrderBy: &order}); pager.More(); {
			page, err := pager.NextPage(ctx)
			d.is(err, 0, "")
			for _, m := range page.Manifests.Attributes {
				got = append(got, *m.Digest)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("manifests by %s are %v, want %v", order, got, want)
		}
	}

	// A fresh client's first request loses its body to the challenge; its change
	// counts all the same, at once, for everybody.
	no, yes := false, true
	locked, err := d.clients(owner).UpdateTagProperties(ctx, repo, "v1", &azcontainerregistry.ClientUpdateTagPropertiesOptions{Value: &azcontainerregistry.TagWriteableProperties{CanDelete: &no, CanWrite: &no}})
	d.is(err, 0, "")
	if a := locked.Tag.ChangeableAttributes; *a.CanDelete || *a.CanWrite || !*a.CanRead || !*a.CanList {
		t.Errorf("%+v", a)
	}
	_, err = c.DeleteTag(ctx, repo, "v1", nil)
	d.is(err, 405, "REGISTRY_DISALLOWED_OPERATION")
	_, err = c.UploadManifest(ctx, repo, "v1", azcontainerregistry.ContentTypeApplicationVndOciImageManifestV1JSON, streaming.NopCloser(bytes.NewReader(body)), nil)
	if err == nil { // the same bytes are no change; other bytes are
		other, err := c.GetManifest(ctx, repo, "v2", nil)
		d.is(err, 0, "")
		text, _ := io.ReadAll(other.ManifestData)
		_, err = c.UploadManifest(ctx, repo, "v1", azcontainerregistry.ContentTypeApplicationVndOciImageManifestV1JSON, streaming.NopCloser(bytes.NewReader(text)), nil)
		d.is(err, 405, "REGISTRY_DISALLOWED_OPERATION")
	}
	_, err = c.UpdateTagProperties(ctx, repo, "v1", &azcontainerregistry.ClientUpdateTagPropertiesOptions{Value: &azcontainerregistry.TagWriteableProperties{CanDelete: &yes, CanWrite: &yes}})
	d.is(err, 0, "")
	hidden, err := d.clients(owner).UpdateManifestProperties(ctx, repo, second, &azcontainerregistry.ClientUpdateManifestPropertiesOptions{Value: &azcontainerregistry.ManifestWriteableProperties{CanRead: &no}})
	d.is(err, 0, "")
	if *hidden.Manifest.ChangeableAttributes.CanRead {
		t.Error("readEnabled stays on")
	}
	_, err = c.GetManifest(ctx, repo, second, nil)
	d.is(err, 405, "REGISTRY_DISALLOWED_OPERATION")
	_, err = c.UpdateManifestProperties(ctx, repo, second, &azcontainerregistry.ClientUpdateManifestPropertiesOptions{Value: &azcontainerregistry.ManifestWriteableProperties{CanRead: &yes}})
	d.is(err, 0, "")
	kept, err := d.clients(owner).UpdateRepositoryProperties(ctx, repo, &azcontainerregistry.ClientUpdateRepositoryPropertiesOptions{Value: &azcontainerregistry.RepositoryWriteableProperties{CanDelete: &no}})
	d.is(err, 0, "")
	if *kept.ContainerRepositoryProperties.ChangeableAttributes.CanDelete {
		t.Error("deleteEnabled stays on")
	}
	_, err = c.DeleteRepository(ctx, repo, nil)
	d.is(err, 405, "REGISTRY_DISALLOWED_OPERATION")
	_, err = c.UpdateRepositoryProperties(ctx, repo, &azcontainerregistry.ClientUpdateRepositoryPropertiesOptions{Value: &azcontainerregistry.RepositoryWriteableProperties{CanDelete: &yes}})
	d.is(err, 0, "")

	// Nobody in particular may pull where that is allowed, and nothing else.
	nobody := d.clients(nil)
	_, err = nobody.GetManifest(ctx, repo, "v1", nil)
	d.is(err, 401, "UNAUTHORIZED")
	if r, text := d.ask("PATCH", d.id, `{"properties":{"anonymousPullEnabled":true}}`); r.StatusCode != http.StatusOK {
		t.Fatal(text)
	}
	nobody = d.clients(nil)
	_, err = nobody.GetManifest(ctx, repo, "v1", nil)
	d.is(err, 0, "")
	_, err = nobody.blobs.GetBlob(ctx, repo, blob, nil)
	d.is(err, 0, "")
	if got := nobody.tags(d, repo, azcontainerregistry.ClientListTagsOptions{}); len(got) != 3 {
		t.Errorf("nobody sees %v", got)
	}
	_, err = nobody.GetRepositoryProperties(ctx, repo, nil)
	d.is(err, 0, "")
	_, err = nobody.UpdateTagProperties(ctx, repo, "v1", &azcontainerregistry.ClientUpdateTagPropertiesOptions{Value: &azcontainerregistry.TagWriteableProperties{CanDelete: &no}})
	d.is(err, 401, "UNAUTHORIZED")
	_, err = nobody.DeleteRepository(ctx, repo, nil)
	d.is(err, 401, "UNAUTHORIZED")
	_, err = nobody.blobs.StartUpload(ctx, repo, nil)
	d.is(err, 401, "UNAUTHORIZED")
	_, err = nobody.NewListRepositoriesPager(nil).NextPage(ctx)
	d.is(err, 401, "UNAUTHORIZED")

	// Who may pull may not change, and hears so without a loop.
	puller := d.clients(d.sdkCredential("puller", access.PullRole))
	_, err = puller.GetManifest(ctx, repo, "v1", nil)
	d.is(err, 0, "")
	_, err = puller.DeleteTag(ctx, repo, "v1", nil)
	d.is(err, 401, "UNAUTHORIZED")

	// What is deleted is gone.
	_, err = c.DeleteTag(ctx, repo, "v1", nil)
	d.is(err, 0, "")
	_, err = c.DeleteTag(ctx, repo, "v1", nil)
	d.is(err, 0, "") // 404, which the SDK takes
	_, err = c.DeleteManifest(ctx, repo, second, nil)
	d.is(err, 0, "")
	if got := c.tags(d, repo, azcontainerregistry.ClientListTagsOptions{}); strings.Join(got, " ") != "many" {
		t.Errorf("tags are left: %v", got)
	}
	_, err = c.DeleteRepository(ctx, repo, nil)
	d.is(err, 0, "")
	_, err = c.GetRepositoryProperties(ctx, repo, nil)
	d.is(err, 404, "NAME_UNKNOWN")
	_, err = c.GetManifest(ctx, repo, digest, nil)
	if err == nil {
		t.Error("a manifest of a deleted repository is there")
	}
}

func (c dataClients) tags(d *desk, repo string, o azcontainerregistry.ClientListTagsOptions) (names []string) {
	d.t.Helper()
	for pager := c.NewListTagsPager(repo, &o); pager.More(); {
		page, err := pager.NextPage(d.t.Context())
		d.is(err, 0, "")
		for _, t := range page.Tags {
			names = append(names, *t.Name)
		}
	}
	return names
}

func manifestSize(d *desk, c dataClients, repo, digest string) int {
	d.t.Helper()
	m, err := c.GetManifest(d.t.Context(), repo, digest, nil)
	d.is(err, 0, "")
	body, err := io.ReadAll(m.ManifestData)
	d.is(err, 0, "")
	return len(body)
}
