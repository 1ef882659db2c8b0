package authority

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/network"
	"breakwater/resource"
	"breakwater/transit"
)

// An sdk is how Azure's library for Go is pointed at the authority.
type sdk struct {
	name, tenant string
	known        bool // DisableInstanceDiscovery: the library does not ask Microsoft about the authority
}

func (w *town) sdks() []sdk {
	return []sdk{{"adfs", "adfs", false}, {"tenant", w.tenant, true}}
}

func (w *town) options() azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: w.url + "/"}, Transport: w.client, Retry: policy.RetryOptions{MaxRetries: -1},
	}
}

// got asks a credential for tokens of the control plane and of registries, and is
// whom the first proves.
func (w *town) got(c azcore.TokenCredential, err error) identity.Principal {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, scope := range []string{identity.RegistryAudience + "/.default", arm + "/.default"} {
		token, err := c.GetToken(w.t.Context(), policy.TokenRequestOptions{Scopes: []string{scope}})
		if err != nil {
			w.t.Fatal(err)
		}
		if left := time.Until(token.ExpiresOn); left < 50*time.Minute || left > identity.TokenLife+time.Minute {
			w.t.Errorf("the token lives %v", left)
		}
		if !strings.HasPrefix(scope, arm) {
			// It becomes one of the registry's.
			_, err := w.Identity.Authenticate(w.t.Context(), w.Registry.Realm(), identity.ContentPlane,
				identity.Credentials{Method: identity.ExternalToken, Secret: identity.Secret(token.Token)}, network.Origin{})
			if err != nil {
				w.t.Error(err)
			}
			continue
		}
		return w.known(token.Token)
	}
	return identity.Principal{}
}

func (w *town) application(name string, redirects ...string) directory.ServicePrincipal {
	w.t.Helper()
	p, err := w.Directory.PutServicePrincipal(w.t.Context(), w.Server(), name, directory.ServicePrincipalSettings{RedirectURIs: redirects}, resource.Any)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func certificate(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ci"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAzidentityGetsTokensForAnApplication(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := open(t, d)
		ci := w.application("ci")
		secret, err := w.Directory.AddPassword(t.Context(), w.Server(), "ci", "", time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		key, _ := rsa.GenerateKey(rand.Reader, 2048)
		leaf := certificate(t, key)
		if _, err := w.Directory.AddKey(t.Context(), w.Server(), "ci", "", leaf.Raw); err != nil {
			t.Fatal(err)
		}
		cluster := identitytest.Kubernetes(t)
		w.issuer("cluster", identity.IssuerProperties{Issuer: cluster.URL, Audiences: []string{"api://AzureADTokenExchange"}, CACertificates: cluster.CA,
			Status: identity.EnabledStatus, PrincipalType: identity.PrincipalApplication})
		_, err = w.Directory.PutFederatedCredential(t.Context(), w.Server(), identity.FederatedCredentialID(ci.ID, "build"), identity.FederatedCredentialProperties{
			Issuer: cluster.URL, Subject: "system:serviceaccount:ci:build", Audiences: []string{"api://AzureADTokenExchange"}}, resource.Any)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(cluster.Workload("ci", "build", "api://AzureADTokenExchange")), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, at := range w.sdks() {
			t.Run(at.name, func(t *testing.T) {
				w := *w
				w.t = t
				for how, make := range map[string]func() (azcore.TokenCredential, error){
					"secret": func() (azcore.TokenCredential, error) {
						return azidentity.NewClientSecretCredential(at.tenant, ci.AppID, string(secret.Text), &azidentity.ClientSecretCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known})
					},
					"certificate": func() (azcore.TokenCredential, error) {
						return azidentity.NewClientCertificateCredential(at.tenant, ci.AppID, []*x509.Certificate{leaf}, key, &azidentity.ClientCertificateCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known})
					},
					"assertion": func() (azcore.TokenCredential, error) {
						return azidentity.NewClientAssertionCredential(at.tenant, ci.AppID, func(context.Context) (string, error) {
							return cluster.Workload("ci", "build", "api://AzureADTokenExchange"), nil
						},
							&azidentity.ClientAssertionCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known})
					},
					"workload": func() (azcore.TokenCredential, error) {
						return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known,
							TenantID: at.tenant, ClientID: ci.AppID, TokenFilePath: file})
					},
				} {
					p := w.got(make())
					if p.ID != ci.PrincipalID || p.Kind != identity.ServicePrincipal || p.Client != ci.AppID {
						t.Errorf("%s: %+v", how, p)
					}
				}
				_, err := mustCredential(azidentity.NewClientSecretCredential(at.tenant, ci.AppID, "wrong", &azidentity.ClientSecretCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known})).
					GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{arm + "/.default"}})
				if err == nil || !strings.Contains(err.Error(), "AADSTS7000215") {
					t.Errorf("a wrong secret: %v", err)
				}
				_, err = mustCredential(azidentity.NewClientAssertionCredential(at.tenant, ci.AppID, func(context.Context) (string, error) {
					return cluster.Workload("ci", "other", "api://AzureADTokenExchange"), nil
				},
					&azidentity.ClientAssertionCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known})).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{arm + "/.default"}})
				if err == nil || !strings.Contains(err.Error(), "invalid_client") {
					t.Errorf("the assertion of another subject: %v", err)
				}
			})
		}
	})
}

func mustCredential[T azcore.TokenCredential](c T, err error) azcore.TokenCredential {
	if err != nil {
		panic(err)
	}
	return c
}

// What a client has signed for another server's token endpoint is nothing here,
// whatever name we are called by.
func TestAnAssertionForAnotherServerIsNone(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	ci := w.application("ci")
	k := identitytest.Key{Private: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), Alg: "ES256"}
	leaf := certificate(t, k.Private)
	if _, err := w.Directory.AddKey(t.Context(), w.Server(), "ci", "", leaf.Raw); err != nil {
		t.Fatal(err)
	}
	shown := func(host, audience string) (int, map[string]any) {
		now := time.Now().Unix()
		assertion := k.Sign(map[string]any{"alg": "ES256", "typ": "JWT", "x5t#S256": thumbprint(leaf)},
			map[string]any{"iss": ci.AppID, "sub": ci.AppID, "aud": audience, "jti": rand.Text(), "exp": now + 600, "nbf": now})
		r := w.request("POST", "/adfs/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {ci.AppID}, "client_assertion": {assertion},
			"client_assertion_type": {assertionType}, "scope": {arm + "/.default"}})
		if host != "" {
			r.Host = host
		}
		res, _ := w.do(w.client, r)
		return res.StatusCode, nil
	}
	if status, _ := shown("", w.url+"/adfs/oauth2/token"); status != 200 {
		t.Errorf("the assertion is for us: %d", status)
	}
	for _, audience := range []string{"https://evil.example/adfs/oauth2/token", "https://localhost/adfs/oauth2/token", w.url, ""} {
		if status, _ := shown("", audience); status != 401 {
			t.Errorf("for %q: %d", audience, status)
		}
	}
	if status, _ := shown("evil.example", "https://evil.example/adfs/oauth2/token"); status != 400 {
		t.Errorf("called by another's name: %d", status)
	}
}

func thumbprint(c *x509.Certificate) string { return s256(string(c.Raw)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAzidentityGetsTokensForAPersonAtAnotherDevice(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	for _, at := range w.sdks() {
		c, err := azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{ClientOptions: w.options(), DisableInstanceDiscovery: at.known, TenantID: at.tenant,
			UserPrompt: func(_ context.Context, m azidentity.DeviceCodeMessage) error {
				b := w.browser()
				_, body := b.send("/devicelogin", url.Values{"user_code": {m.UserCode}})
				if res, body := b.send("/signin", url.Values{"request": {asked(t, body)}, "username": {w.OwnerName}, "password": {w.OwnerPassword}}); res.StatusCode != 200 {
					t.Errorf("%d %s", res.StatusCode, body)
				}
				return nil
			}})
		if p := w.got(c, err); p.Name != w.OwnerName || p.Kind != identity.User {
			t.Errorf("%s: %+v", at.name, p)
		}
	}
}

// hosting opens the endpoint for the workloads of this machine, who are the
// managed identities of these names.
func (w *town) hosting(address string, names ...string) (endpoint string, all []directory.ManagedIdentity) {
	w.t.Helper()
	o := identity.Options{DB: w.DB, Documents: w.Documents, Ledger: w.Ledger, Vault: w.Platform, Check: w.Platform.Derive("token-check"),
		Host: identity.Host{Listener: "managedIdentity", Secret: "hush"}}
	group := w.Registry.ID.Parent().Parent()
	if err := w.DB.Write(w.t.Context(), func(tx *db.Tx) error {
		_, err := w.Documents.Put(w.t.Context(), tx, resource.Resource{ID: group, Type: "Microsoft.Resources/subscriptions/resourceGroups"}, resource.Any)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		m, err := w.Directory.PutManagedIdentity(w.t.Context(), w.Server(), group.Extension(identity.ManagedIdentityType, name), "local", nil, resource.Any)
		if err != nil {
			w.t.Fatal(err)
		}
		all, o.Host.Identities = append(all, m), append(o.Host.Identities, m.ID)
	}
	ids, err := identity.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Identity = ids
	door := gate.New(gate.Options{Documents: w.Documents, Registries: w.Registries, Identity: ids, Access: w.Access, Ledger: w.Ledger, Log: slog.Default()})
	l, err := transit.Listen(w.t.Context(), transit.Options{Name: "managedIdentity", Address: address, Clear: true, Log: slog.Default()})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, door.Serve(&Host{Identity: ids, Registries: w.Registries, Server: "https://localhost"}))
	}()
	w.t.Cleanup(func() { stop(); <-done })
	return "http://" + l.Addr().String() + "/msi/token", all
}

func TestAzidentityGetsTokensOfManagedIdentities(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	endpoint, all := w.hosting("127.0.0.1:0", "build", "deploy")
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	options := azcore.ClientOptions{Transport: plain, Retry: policy.RetryOptions{MaxRetries: -1}}
	for shape, env := range map[string]map[string]string{
		"App Service":      {"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": "hush"},
		"App Service 2017": {"MSI_ENDPOINT": endpoint, "MSI_SECRET": "hush"},
	} {
		t.Run(shape, func(t *testing.T) {
			w := *w
			w.t = t
			for name, value := range env {
				t.Setenv(name, value)
			}
			for _, m := range all {
				for _, id := range []azidentity.ManagedIDKind{azidentity.ClientID(m.ClientID), azidentity.ObjectID(m.PrincipalID), azidentity.ResourceID(m.ID)} {
					c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options, ID: id})
					if shape == "App Service 2017" && err != nil {
						continue // it knows client ids alone
					}
					token, err := mustCredential(c, err).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{arm + "/.default"}})
					if err != nil {
						if _, ok := id.(azidentity.ClientID); shape == "App Service 2017" && !ok {
							continue
						}
						t.Fatal(err)
					}
					if p := w.known(token.Token); p.ID != m.PrincipalID || p.Kind != identity.ManagedIdentity || p.Client != m.ClientID {
						t.Errorf("%+v", p)
					}
					if c := claims(t, token.Token); c["xms_mirid"] != string(m.ID) || c["idtyp"] != "app" || c["tid"] != w.tenant {
						t.Errorf("%v", c)
					}
				}
			}
			c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options})
			if _, err := mustCredential(c, err).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{arm + "/.default"}}); err == nil {
				t.Error("there are two identities, none was named, and a token came")
			}
		})
	}
}

// The endpoint is for programs of this machine that mean it: neither for a browser
// that somebody led here, nor for what a proxy forwards.
func TestTheEndpointOfWorkloadsTakesNoForwardedQuestions(t *testing.T) {
	w := open(t, dbtest.SQLite(t))
	endpoint, all := w.hosting("127.0.0.1:0", "build")
	base := strings.TrimSuffix(endpoint, "/msi/token")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	imds := base + imdsPath + "?api-version=2018-02-01&resource=" + url.QueryEscape(arm)
	app := endpoint + "?api-version=2019-08-01&resource=" + url.QueryEscape(arm)
	for name, row := range map[string]struct {
		url    string
		header map[string]string
		host   string
		status int
	}{
		"virtual machine":             {imds, map[string]string{"Metadata": "true"}, "", 200},
		"virtual machine, True":       {imds, map[string]string{"Metadata": "True"}, "", 200},
		"no header":                   {imds, nil, "", 400},
		"forwarded":                   {imds, map[string]string{"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}, "", 400},
		"by a proxy that says so":     {imds, map[string]string{"Metadata": "true", "Via": "1.1 squid"}, "", 400},
		"for an address elsewhere":    {imds, map[string]string{"Metadata": "true", "X-Real-IP": "10.0.0.1"}, "", 400},
		"from a page":                 {imds, map[string]string{"Metadata": "true", "Origin": "https://evil.example"}, "", 400},
		"a name that means us":        {imds, map[string]string{"Metadata": "true"}, "evil.example", 400},
		"app service":                 {app, map[string]string{"X-IDENTITY-HEADER": "hush"}, "", 200},
		"app service of 2017":         {app, map[string]string{"secret": "hush"}, "", 200},
		"wrong secret":                {app, map[string]string{"X-IDENTITY-HEADER": "loud"}, "", 401},
		"no secret":                   {app, map[string]string{"Metadata": "true"}, "", 401},
		"wrong secret, other shape":   {imds, map[string]string{"Metadata": "true", "X-IDENTITY-HEADER": "loud"}, "", 401},
		"another resource":            {base + imdsPath + "?resource=https://vault.azure.net", map[string]string{"Metadata": "true"}, "", 400},
		"another identity":            {imds + "&client_id=11111111-1111-1111-1111-111111111111", map[string]string{"Metadata": "true"}, "", 400},
		"the identity, by name twice": {imds + "&client_id=" + all[0].ClientID + "&object_id=" + all[0].PrincipalID, map[string]string{"Metadata": "true"}, "", 400},
		"the authority":               {base + "/adfs/.well-known/openid-configuration", nil, "", 404},
	} {
		r := w.request("GET", row.url, nil)
		if r.Host = row.host; row.host == "" {
			r.Host = r.URL.Host
		}
		for name, value := range row.header {
			r.Header.Set(name, value)
		}
		if res, body := w.do(c, r); res.StatusCode != row.status {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		} else if res.StatusCode == 200 && (!strings.Contains(body, `"expires_on":"`) || !strings.Contains(body, all[0].ClientID)) {
			t.Errorf("%s: %s", name, body)
		}
	}
	// The shape of Cloud Shell.
	r := w.request("POST", endpoint, url.Values{"resource": {arm}})
	r.Header.Set("Metadata", "true")
	if res, body := w.do(c, r); res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	// Nobody is a workload of this host who comes in elsewhere.
	_, err := w.Identity.Authenticate(t.Context(), w.Registry.Realm(), identity.AuthorityPlane, identity.Credentials{Method: identity.HostIdentity}, network.Origin{Addr: netip.MustParseAddr("127.0.0.1"), Listener: "registry"})
	if err == nil {
		t.Error("a caller of another listener is a workload of this host")
	}
	// An identity that is taken away takes its tokens along.
	r = w.request("GET", imds, nil)
	r.Header.Set("Metadata", "true")
	_, body := w.do(c, r)
	token := strings.Split(strings.Split(body, `"access_token":"`)[1], `"`)[0]
	w.known(token)
	if err := w.Directory.DeleteManagedIdentity(t.Context(), w.Server(), all[0].ID, resource.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Identity.Authenticate(t.Context(), w.Registry.Realm(), identity.ControlPlane, identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(token)}, network.Origin{}); err == nil {
		t.Error("the token of an identity that is gone still works")
	}
}

// insideEnv says that the test process is alone in a network.
const insideEnv = "BREAKWATER_TEST_INSIDE"

// The address of the endpoint of virtual machines is fixed, so this has a network
// of its own where the loopback has it.
func TestAzidentityGetsTokensAsOnAVirtualMachine(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		_, err := exec.LookPath("unshare")
		if os.Getuid() != 0 || err != nil {
			if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
				t.Fatal("a network of its own needs root and unshare")
			}
			t.Skip("a network of its own needs root and unshare")
		}
		again := exec.CommandContext(t.Context(), "unshare", "--net", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		again.Env = append(os.Environ(), insideEnv+"=yes")
		if out, err := again.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for _, args := range []string{"link set lo up", "address add 169.254.169.254/32 dev lo"} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	w := open(t, dbtest.SQLite(t))
	_, all := w.hosting("169.254.169.254:80", "build")
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, id := range []azidentity.ManagedIDKind{nil, azidentity.ClientID(all[0].ClientID), azidentity.ObjectID(all[0].PrincipalID), azidentity.ResourceID(all[0].ID)} {
		c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: id,
			ClientOptions: azcore.ClientOptions{Transport: plain, Retry: policy.RetryOptions{MaxRetries: -1}}})
		if p := w.got(c, err); p.ID != all[0].PrincipalID {
			t.Errorf("%v: %+v", id, p)
		}
	}
}
