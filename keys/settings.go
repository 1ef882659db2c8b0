package keys

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

// ProviderType is the ARM type of a provider's document. There are at most
// MaxProviders.
const (
	ProviderType = "Breakwater.Keys/providers"
	MaxProviders = 1000
)

// ProviderID is the document of the provider of that name.
func ProviderID(name string) ref.ID { return ref.ID("/providers/" + ProviderType + "/" + name) }

// Kinds of providers.
const (
	KindTransit = "Transit"
	KindPKCS11  = "PKCS11"
	KindAzure   = "AzureKeyVault"
	KindAWS     = "AWSKMS"
	KindGoogle  = "GoogleKMS"
)

// Settings say where customers' keys lie and how the server proves itself there.
// Nothing in them is secret: a credential is the name of a file.
type Settings struct {
	Kind       string `json:"kind"`
	Endpoint   string `json:"endpoint,omitempty"`
	Credential string `json:"credential,omitempty"`
	Method     string `json:"method,omitempty"`     // how to log in at Transit, and what the credential is at Azure
	Mount      string `json:"mount,omitempty"`      // of Transit
	Namespace  string `json:"namespace,omitempty"`  // of Transit
	Role       string `json:"role,omitempty"`       // of Transit, with the method jwt
	LoginMount string `json:"loginMount,omitempty"` // of Transit
	Socket     string `json:"socket,omitempty"`     // of breakwater-pkcs11
	Authority  string `json:"authority,omitempty"`  // of Azure
	Tenant     string `json:"tenantId,omitempty"`   // of Azure
	Client     string `json:"clientId,omitempty"`   // of Azure
	Region     string `json:"region,omitempty"`     // of AWS
	KeyRing    string `json:"keyRing,omitempty"`    // of Google

	// BridgeMinutes is how long a registry whose keys are open goes on while the
	// provider does not answer; nil is a quarter of an hour. A key that is refused is
	// never bridged.
	BridgeMinutes *int `json:"bridgeMinutes,omitempty"`
}

const (
	bridge           = 15 * time.Minute
	maxBridgeMinutes = 24 * 60
)

// Bridge is how long an outage is bridged.
func (p Settings) Bridge() time.Duration {
	if p.BridgeMinutes == nil {
		return bridge
	}
	return time.Duration(*p.BridgeMinutes) * time.Minute
}

// A kind is how its providers are opened, and which settings are its own.
type kind struct {
	name string
	has  []string
	open func(p Settings, r Reach) (Provider, error)
}

var kinds = []kind{
	{KindTransit, []string{"endpoint", "credential", "method", "mount", "namespace", "role", "loginMount"}, func(p Settings, r Reach) (Provider, error) {
		return NewTransit(TransitOptions{Reach: r, Endpoint: p.Endpoint, Mount: p.Mount, Namespace: p.Namespace, Method: p.Method, Role: p.Role, LoginMount: p.LoginMount, Credential: p.Credential})
	}},
	{KindPKCS11, []string{"socket"}, func(p Settings, r Reach) (Provider, error) { return NewPKCS11(r, p.Socket) }},
	{KindAzure, []string{"endpoint", "credential", "method", "authority", "tenantId", "clientId"}, func(p Settings, r Reach) (Provider, error) {
		return NewAzureKeyVault(AzureOptions{Reach: r, Endpoint: p.Endpoint, Authority: p.Authority, Tenant: p.Tenant, Client: p.Client, Method: p.Method, Credential: p.Credential})
	}},
	{KindAWS, []string{"endpoint", "credential", "region"}, func(p Settings, r Reach) (Provider, error) {
		return NewAWSKMS(AWSOptions{Reach: r, Region: p.Region, Endpoint: p.Endpoint, Credential: p.Credential})
	}},
	{KindGoogle, []string{"endpoint", "credential", "keyRing"}, func(p Settings, r Reach) (Provider, error) {
		return NewGoogleKMS(GoogleOptions{Reach: r, Endpoint: p.Endpoint, KeyRing: p.KeyRing, Credential: p.Credential})
	}},
}

func (p Settings) kind() (kind, error) {
	for _, k := range kinds {
		if k.name == p.Kind {
			return k, nil
		}
	}
	return kind{}, fault.New(fault.BadRequest, "kind is %s, %s, %s, %s or %s", KindTransit, KindPKCS11, KindAzure, KindAWS, KindGoogle)
}

func (p Settings) open(r Reach) (Provider, error) {
	k, err := p.kind()
	if err != nil {
		return nil, err
	}
	return k.open(p, r)
}

// Check refuses what no provider could be reached with. Nothing is asked of it: one
// that is down can be written down.
func (p Settings) Check() error {
	if p.BridgeMinutes != nil && (*p.BridgeMinutes < 0 || *p.BridgeMinutes > maxBridgeMinutes) {
		return fault.New(fault.BadRequest, "bridgeMinutes is 0 to %d", maxBridgeMinutes)
	}
	k, err := p.kind()
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"endpoint": p.Endpoint, "credential": p.Credential, "method": p.Method, "mount": p.Mount, "namespace": p.Namespace, "role": p.Role, "loginMount": p.LoginMount,
		"socket": p.Socket, "authority": p.Authority, "tenantId": p.Tenant, "clientId": p.Client, "region": p.Region, "keyRing": p.KeyRing,
	} {
		if value != "" && !slices.Contains(k.has, name) {
			return fault.New(fault.BadRequest, "a provider of the kind %s has no %s; it has %s", p.Kind, name, strings.Join(k.has, ", "))
		}
	}
	if slices.Contains(k.has, "credential") && !validName(p.Credential) {
		return fault.New(fault.BadRequest, "credential is the name of a file in the server's directory of keys (keys.directory)")
	}
	if _, err := k.open(p, Reach{Directory: "/"}); err != nil {
		return fault.New(fault.BadRequest, "%s", err)
	}
	return nil
}

// CheckProviderName is why a provider cannot be called so: its name is the host of
// its keys' identifiers.
func CheckProviderName(name string) error {
	ok := 1 <= len(name) && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && name[0] != '-' && name[len(name)-1] != '-'
	if !ok {
		return fault.New(fault.BadRequest, "the name of a provider has 1 to 63 small letters, digits and dashes, because it is the host in https://NAME/keys/KEY")
	}
	return nil
}

// An Identifier is which key of whom, as Azure's clients say it:
// https://HOST/keys/KEY or https://HOST/keys/KEY/VERSION. HOST is the name of a
// provider, which has no dot, or the host of a key vault of Azure.
type Identifier struct {
	Host string
	Key
}

// ParseIdentifier takes such a URL and nothing else.
func ParseIdentifier(s string) (Identifier, error) {
	bad := fault.New(fault.BadRequest, "a key is https://PROVIDER/keys/KEY or https://PROVIDER/keys/KEY/VERSION: PROVIDER is the name of one of %s, or the host of an Azure key vault that one of them leads to", ProviderType)
	u, err := url.Parse(s)
	if err != nil || len(s) > 512 || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.RawPath != "" || strings.HasSuffix(s, "?") || strings.HasSuffix(s, "#") {
		return Identifier{}, bad
	}
	part := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if len(part) < 2 || len(part) > 3 || part[0] != "keys" || u.Host == "" || !validName(part[1]) {
		return Identifier{}, bad
	}
	id := Identifier{strings.ToLower(u.Host), Key{Name: part[1]}}
	if len(part) == 3 {
		if id.Version = part[2]; !validName(id.Version) {
			return Identifier{}, bad
		}
	}
	return id, nil
}

func (i Identifier) String() string { return "https://" + i.Host + "/keys/" + i.Key.String() }

// At is the identifier of a version of the key.
func (i Identifier) At(version string) Identifier {
	i.Version = version
	return i
}
