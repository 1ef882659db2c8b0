// Package azure drives Azure's own Resource Manager clients, unmodified, against a
// server that runs. What the server is, and who calls, is in the environment: the
// story azure-sdk starts one, and go test runs here.
//
// go.mod has the stable version of armcontainerregistry. beta.mod, with the tag
// preview, has the preview's.
package azure

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
)

const group, home = "breakwater", "breakwater" // of the default registry

// world is the server and who calls it.
var world struct {
	server, subscription, tenant string
	client                       *http.Client
	credential                   azcore.TokenCredential
	options                      *arm.ClientOptions
	acr                          *armcontainerregistry.ClientFactory
}

func TestMain(m *testing.M) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	if world.server = os.Getenv("SERVER"); world.server == "" {
		must(errors.New("the environment names no SERVER; the story azure-sdk does"))
	}
	world.subscription, world.tenant = os.Getenv("SUBSCRIPTION"), os.Getenv("TENANT")
	ca, err := os.ReadFile(os.Getenv("CA"))
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	here := strings.TrimPrefix(world.server, "https://")
	world.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		// Every name of a registry is this server's.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, here)
		},
	}}
	client := azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: world.server + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: world.server, Audience: "https://management.core.windows.net/"},
		}},
		Transport: world.client, Retry: policy.RetryOptions{MaxRetries: -1},
	}
	world.credential, err = azidentity.NewClientSecretCredential(world.tenant, os.Getenv("CLIENT"), os.Getenv("SECRET"),
		&azidentity.ClientSecretCredentialOptions{ClientOptions: client, DisableInstanceDiscovery: true})
	must(err)
	world.options = &arm.ClientOptions{ClientOptions: client}
	world.acr, err = armcontainerregistry.NewClientFactory(world.subscription, world.credential, world.options)
	must(err)
	os.Exit(m.Run())
}

func p[T any](v T) *T { return &v }

// v is what a pointer of an answer holds; nothing for none.
func v[T any](at *T) (value T) {
	if at != nil {
		value = *at
	}
	return value
}

func ok[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// done is the result of what may take long; here it does not.
func done[T any](poller *runtime.Poller[T], err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		v, err := poller.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// all is every page of a list.
func all[P, I any](t testing.TB, pager *runtime.Pager[P], items func(P) []*I) (got []*I) {
	t.Helper()
	for pager.More() {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, items(page)...)
	}
	return got
}

// has reports whether one of a list is called so.
func has[I any](all []*I, name func(*I) *string, want string) bool {
	for _, i := range all {
		if strings.EqualFold(v(name(i)), want) {
			return true
		}
	}
	return false
}

// refused says that the error has this status, and the ARM code if there is one.
func refused(t testing.TB, err error, status int, code string) {
	t.Helper()
	var r *azcore.ResponseError
	if !errors.As(err, &r) || r.StatusCode != status || code != "" && r.ErrorCode != code {
		t.Errorf("want %d %s: %v", status, code, err)
	}
}

func registryID(name string) string {
	return "/subscriptions/" + world.subscription + "/resourceGroups/" + group + "/providers/Microsoft.ContainerRegistry/registries/" + name
}

// Somebody at the content of a registry.
type login struct{ host, user, password string }

// do asks for content and returns the status, the body and where to go on.
func (l login) do(t testing.TB, method, path, media string, body []byte) (int, []byte, string) {
	t.Helper()
	at := "https://" + l.host + path
	r, err := http.NewRequestWithContext(t.Context(), method, at, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	if l.user != "" {
		r.SetBasicAuth(l.user, l.password)
	}
	res, err := world.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, text, res.Header.Get("Location")
}

const image = "application/vnd.oci.image.manifest.v1+json"

// push stores a small image; 201, or the status of what refused it.
func (l login) push(t testing.TB, repo, tag string) int {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(config))
	status, _, location := l.do(t, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil)
	if status != 202 {
		return status
	}
	join := "?"
	if strings.Contains(location, "?") {
		join = "&"
	}
	if status, _, _ := l.do(t, "PUT", location+join+"digest="+digest, "application/octet-stream", config); status != 201 {
		return status
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": image, "layers": []any{},
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}})
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ = l.do(t, "PUT", "/v2/"+repo+"/manifests/"+tag, image, manifest)
	return status
}

func (l login) pull(t testing.TB, repo, tag string) int {
	t.Helper()
	status, _, _ := l.do(t, "GET", "/v2/"+repo+"/manifests/"+tag, "", nil)
	return status
}

// knock is how the registry answers who only says hello.
func (l login) knock(t testing.TB) int {
	t.Helper()
	status, _, _ := l.do(t, "GET", "/v2/", "", nil)
	return status
}
