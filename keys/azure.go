package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// AzureKeyVault is a key vault or a managed HSM of Azure. RSA keys wrap, and the
// symmetric ones of a managed HSM; its EC keys only sign.
type AzureKeyVault struct{ client *azkeys.Client }

// AzureOptions say where it is and who we are there.
type AzureOptions struct {
	Reach
	Endpoint  string // https://NAME.vault.azure.net
	Authority string // "" is https://login.microsoftonline.com
	Tenant    string
	Client    string // application id
	// Method is what the credential is: "secret", or "workload", a token of another
	// issuer that the application is federated with. "" is secret.
	Method     string
	Credential string // a file in Directory, read again for every token
}

// NewAzureKeyVault checks the options; nothing is asked yet.
func NewAzureKeyVault(o AzureOptions) (*AzureKeyVault, error) {
	u, err := endpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if !validName(o.Tenant) || !validName(o.Client) {
		return nil, errors.New("tenantId and clientId say who we are at the key vault")
	}
	if o.Method != "" && o.Method != "secret" && o.Method != "workload" {
		return nil, errors.New("method is secret or workload")
	}
	common := azcore.ClientOptions{Transport: o.client(), Retry: policy.RetryOptions{MaxRetries: -1}} // who asks asks again
	// What is logged by the SDK is off unless the process asks, and never has a body.
	who := common
	if o.Authority != "" {
		a, err := endpoint(o.Authority)
		if err != nil {
			return nil, err
		}
		who.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: a.String()}
	}
	c, err := azkeys.NewClient(u.String(), &azureCredential{o, who}, &azkeys.ClientOptions{ClientOptions: common})
	if err != nil {
		return nil, err
	}
	return &AzureKeyVault{c}, nil
}

// azureCredential reads its file for every token, so that who replaces a secret has
// nothing to restart. The key vault's client keeps the token.
type azureCredential struct {
	AzureOptions
	who azcore.ClientOptions
}

func (c *azureCredential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	b, err := c.file(c.Credential)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	var source azcore.TokenCredential
	if c.Method == "workload" {
		source, err = azidentity.NewClientAssertionCredential(c.Tenant, c.Client, func(context.Context) (string, error) { return string(b), nil },
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: c.who, DisableInstanceDiscovery: true})
	} else {
		source, err = azidentity.NewClientSecretCredential(c.Tenant, c.Client, string(b),
			&azidentity.ClientSecretCredentialOptions{ClientOptions: c.who, DisableInstanceDiscovery: true})
	}
	if err != nil {
		return azcore.AccessToken{}, errors.New("the credential is none of its method")
	}
	o.TenantID = "" // the vault says which tenant it wants a token of; we have one
	t, err := source.GetToken(ctx, o)
	if failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok && failed.RawResponse != nil && failed.RawResponse.StatusCode/100 == 4 && failed.RawResponse.StatusCode != http.StatusTooManyRequests {
		return t, errBarred
	}
	if err != nil {
		err = errors.New("no token") // the SDK's text has the whole answer
	}
	return t, err
}

// errBarred is what a credential that is refused is to verdict.
var errBarred = errors.New("the credential is refused")

// Describe implements Provider.
func (v *AzureKeyVault) Describe(ctx context.Context, key Key) (Description, error) {
	if !validName(key.Name) {
		return Description{}, refusal(key, Gone, errors.New("no name of a key"))
	}
	a, err := v.client.GetKey(ctx, key.Name, key.Version, nil)
	if err != nil {
		return Description{}, v.verdict(key, false, err)
	}
	d := Description{State: Disabled}
	if a.Key == nil || a.Key.KID == nil || a.Key.Kty == nil || a.Attributes == nil {
		return d, down("Azure Key Vault", errors.New("an answer without a key"))
	}
	d.Version = a.Key.KID.Version()
	switch kind := *a.Key.Kty; kind {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		d.Algorithm, d.Bits = RSA, 8*len(a.Key.N)
	case azkeys.KeyTypeOct, azkeys.KeyTypeOctHSM:
		d.Algorithm, d.Bits = AESWrap, 256 // managed HSM does not say, and makes 128 and 192 only if it is told to
	default:
		d.Algorithm = string(kind)
	}
	at := func(t *time.Time) time.Time {
		if t == nil {
			return time.Time{}
		}
		return *t
	}
	d.Created, d.Begins, d.Expires = at(a.Attributes.Created), at(a.Attributes.NotBefore), at(a.Attributes.Expires)
	may := map[azkeys.KeyOperation]bool{}
	for _, op := range a.Key.KeyOps {
		if op != nil {
			may[*op] = true
		}
	}
	if a.Attributes.Enabled != nil && *a.Attributes.Enabled && may[azkeys.KeyOperationWrapKey] && may[azkeys.KeyOperationUnwrapKey] {
		d.State = Enabled
	}
	return d, nil
}

// Azure's algorithms are a byte before what was wrapped.
var azureAlgorithms = map[byte]azkeys.EncryptionAlgorithm{1: azkeys.EncryptionAlgorithmRSAOAEP256, 2: azkeys.EncryptionAlgorithmA256KW}

// Wrap implements Provider.
func (v *AzureKeyVault) Wrap(ctx context.Context, key Key, id KeyID, secret []byte) ([]byte, string, error) {
	d, err := v.Describe(ctx, key)
	if err != nil {
		return nil, "", err
	}
	b, err := bind(id, secret)
	if err != nil {
		return nil, "", err
	}
	defer clear(b)
	kind := byte(1)
	if d.Algorithm == AESWrap {
		kind = 2
	}
	algorithm := azureAlgorithms[kind]
	a, err := v.client.WrapKey(ctx, key.Name, d.Version, azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: b}, nil)
	if err != nil {
		return nil, "", v.verdict(key, false, err)
	}
	if a.KID == nil || a.KID.Version() != d.Version || len(a.Result) == 0 {
		return nil, "", down("Azure Key Vault", errors.New("an answer without what was wrapped"))
	}
	return append([]byte{kind}, a.Result...), d.Version, nil
}

// Unwrap implements Provider.
func (v *AzureKeyVault) Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 2 || azureAlgorithms[wrapped[0]] == "" {
		return nil, ErrWrapped
	}
	if !validName(key.Name) {
		return nil, refusal(key, Gone, errors.New("no name of a key"))
	}
	algorithm := azureAlgorithms[wrapped[0]]
	a, err := v.client.UnwrapKey(ctx, key.Name, key.Version, azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: wrapped[1:]}, nil)
	if err != nil {
		return nil, v.verdict(key, true, err)
	}
	return unbind("Azure Key Vault", id, a.Result)
}

// verdict tells the failures apart by status and code: Key Vault's REST reference,
// "Key Vault error codes".
func (v *AzureKeyVault) verdict(key Key, unwrap bool, err error) error {
	a, ok := errors.AsType[*azcore.ResponseError](err)
	if errors.Is(err, errBarred) {
		return refusal(key, Barred, errBarred)
	}
	if !ok {
		return down("Azure Key Vault", plain(err))
	}
	cause := fmt.Errorf("key vault: status %d %.40q", a.StatusCode, a.ErrorCode)
	inner := azureInner(a)
	switch {
	case a.StatusCode == http.StatusNotFound:
		return refusal(key, Gone, cause)
	case a.StatusCode == http.StatusForbidden && (inner == "KeyDisabled" || inner == "KeyNotYetValid" || inner == "KeyExpired"):
		return refusal(key, map[string]State{"KeyDisabled": Disabled, "KeyNotYetValid": Early, "KeyExpired": Expired}[inner], cause)
	case a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusUnauthorized:
		return refusal(key, Barred, cause)
	case a.StatusCode == http.StatusConflict:
		return refusal(key, Gone, cause) // it is being deleted or purged
	case a.StatusCode == http.StatusBadRequest && unwrap:
		return fmt.Errorf("%w (%w)", ErrWrapped, cause)
	case a.StatusCode == http.StatusBadRequest:
		return cause
	}
	return down("Azure Key Vault", cause)
}

// azureInner is the inner error of an answer: Forbidden alone may be anything.
func azureInner(a *azcore.ResponseError) string {
	if a.RawResponse == nil || a.RawResponse.Body == nil {
		return ""
	}
	var said struct {
		Error struct {
			Inner struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	b, err := runtime.Payload(a.RawResponse)
	if err != nil || json.Unmarshal(b, &said) != nil {
		return ""
	}
	return said.Error.Inner.Code
}
