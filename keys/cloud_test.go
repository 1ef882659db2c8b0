package keys_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/keys"
	"breakwater/keys/keystest"
)

// The services of Azure, AWS and Google cannot be run here. A cloud is a server of
// ours that speaks what their clients' sources say of the wire, and no more than that:
// azkeys 1.5.0 (models_serde.go, and its challenge policy), aws-sdk-go-v2/service/kms
// 1.62.5 (serializers.go, AWS JSON 1.1), and Google's discovery document of
// cloudkms v1. Its keys are real.
type cloud struct {
	*httptest.Server
	mu     sync.Mutex
	mode   string
	keys   map[string][]*cloudKey
	tokens int
}

type cloudKey struct {
	id       string
	rsa      *rsa.PrivateKey
	aes      cipher.AEAD
	disabled bool
	deleted  bool
	expires  time.Time
	odd      string // another kind
}

const (
	cloudSecret = "the-secret-of-this-test"
	cloudToken  = "a-token-of-this-test"
)

func newCloud(t *testing.T, speak func(*cloud, http.ResponseWriter, *http.Request, []byte)) *cloud {
	c := &cloud{mode: "well", keys: map[string][]*cloudKey{}}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch c.mode {
		case "throttled":
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"__type":"ThrottlingException","error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}`)
		case "failing":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "slow":
			c.mu.Unlock()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
			c.mu.Lock()
		case "broken":
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close()
			}
		case "empty": // as a connection that ends early, or a proxy, may have it
		case "nothing":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{}")
		case "page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, strings.Repeat("<p>a proxy's page", 1<<17))
		default:
			w.Header().Set("Content-Type", "application/json")
			speak(c, w, r, body)
		}
	}))
	c.Config.SetKeepAlivesEnabled(true)
	t.Cleanup(c.CloseClientConnections)
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) Mode(mode string) { c.mu.Lock(); c.mode = mode; c.mu.Unlock() }

func (c *cloud) add(name, kind string) {
	k := &cloudKey{id: fmt.Sprintf("%08x-0000-4000-8000-%012d", len(c.keys), 1+len(c.keys[name]))}
	switch kind {
	case "rsa":
		k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	case "weak":
		k.rsa = weak()
	case "aes":
		b := make([]byte, 32)
		rand.Read(b)
		block, _ := aes.NewCipher(b)
		k.aes, _ = cipher.NewGCMWithRandomNonce(block)
	default:
		k.odd = kind
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[name] = append(c.keys[name], k)
}

// weak is a modulus of 1024 bits, which Go makes no more.
func weak() *rsa.PrivateKey {
	k, _ := rsa.GenerateKey(rand.Reader, 2048)
	k.N.Rsh(k.N, 1024)
	return k
}

func (c *cloud) each(name string, do func(*cloudKey)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys[name] {
		do(k)
	}
}

// find is a key of a name or id, of a version or the last.
func (c *cloud) find(name, version string) *cloudKey {
	for n, all := range c.keys {
		for i := len(all) - 1; i >= 0; i-- {
			if (n == name && (version == "" || all[i].id == version)) || all[i].id == name {
				return all[i]
			}
		}
	}
	return nil
}

func (k *cloudKey) wrap(b, aad []byte) []byte {
	if k.rsa != nil {
		out, _ := rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.rsa.PublicKey, b, nil)
		return out
	}
	return append([]byte(k.id), k.aes.Seal(nil, nil, b, aad)...)
}

func (k *cloudKey) unwrap(b, aad []byte) ([]byte, error) {
	if k.rsa != nil {
		return rsa.DecryptOAEP(sha256.New(), nil, k.rsa, b, nil)
	}
	if len(b) < 36 || string(b[:36]) != k.id {
		return nil, fmt.Errorf("of another key")
	}
	return k.aes.Open(nil, nil, b[36:], aad)
}

func (c *cloud) reach(t *testing.T, credential string) keys.Reach {
	r := reach(t, map[string]string{"credential": credential})
	r.Roots = x509.NewCertPool()
	r.Roots.AddCert(c.Certificate())
	address := c.Listener.Addr().String()
	r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return r
}

func (c *cloud) world(p keys.Provider, kind string) *keystest.World {
	w := &keystest.World{Provider: p, Secrets: []string{cloudSecret, cloudToken}, Well: func() { c.Mode("well") }, Deny: func() { c.Mode("denied") },
		Keys: map[string]string{}, Outages: map[string]func(){},
		Rotate:  func(name string) { c.add(name, kind) },
		Disable: func(name string) { c.each(name, func(k *cloudKey) { k.disabled = true }) },
		Enable:  func(name string) { c.each(name, func(k *cloudKey) { k.disabled = false }) },
		Delete:  func(name string) { c.each(name, func(k *cloudKey) { k.deleted = true }) },
	}
	for _, mode := range []string{"throttled", "failing", "slow", "broken", "empty", "nothing", "page"} {
		w.Outages[mode] = func() { c.Mode(mode) }
	}
	return w
}

func TestAzureKeyVaultIsAProvider(t *testing.T) {
	keystest.Run(t, func(t *testing.T) *keystest.World {
		c := newCloud(t, azure)
		p, err := keys.NewAzureKeyVault(keys.AzureOptions{Reach: c.reach(t, cloudSecret), Endpoint: "https://kv1.example.com", Authority: "https://example.com",
			Tenant: "11111111-1111-1111-1111-111111111111", Client: "22222222-2222-2222-2222-222222222222", Credential: "credential"})
		if err != nil {
			t.Fatal(err)
		}
		c.add("good", "rsa")
		c.add("expiring", "rsa")
		c.add("weak", "weak")
		c.add("curve", "EC")
		w := c.world(p, "rsa")
		w.Keys["good"], w.Keys["expiring"] = keys.RSA, keys.RSA
		w.Weak = []string{"weak", "curve"}
		w.Expire = func(name string) { c.each(name, func(k *cloudKey) { k.expires = time.Now().Add(-time.Hour) }) }
		return w
	})
}

func azure(c *cloud, w http.ResponseWriter, r *http.Request, body []byte) {
	say := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	fail := func(status int, code, inner string) {
		say(status, map[string]any{"error": map[string]any{"code": code, "message": "…", "innererror": map[string]string{"code": inner}}})
	}
	const tenant = "/11111111-1111-1111-1111-111111111111"
	if path, ok := strings.CutPrefix(r.URL.Path, tenant); ok {
		if strings.HasSuffix(path, "openid-configuration") {
			say(200, map[string]string{"token_endpoint": "https://example.com" + tenant + "/oauth2/v2.0/token", "authorization_endpoint": "https://example.com" + tenant + "/oauth2/v2.0/authorize",
				"issuer": "https://example.com" + tenant + "/v2.0", "jwks_uri": "https://example.com/keys"})
			return
		}
		if c.mode == "denied" || !strings.Contains(string(body), "client_secret="+cloudSecret) {
			say(401, map[string]string{"error": "invalid_client"})
			return
		}
		c.tokens++
		say(200, map[string]any{"access_token": cloudToken, "token_type": "Bearer", "expires_in": 3600})
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+cloudToken {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://example.com`+tenant+`", resource="https://example.com"`)
		fail(401, "Unauthorized", "")
		return
	}
	if c.mode == "denied" {
		fail(403, "Forbidden", "AccessDenied")
		return
	}
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // keys/NAME[/VERSION[/wrapkey]]
	version, verb := "", ""
	if len(part) > 2 {
		version = part[2]
	}
	if last := part[len(part)-1]; strings.HasSuffix(last, "wrapkey") {
		verb = last
		if len(part) == 3 {
			version = ""
		}
	}
	k := c.find(part[1], version)
	kid := "https://kv1.example.com/keys/" + part[1]
	switch {
	case k == nil || k.deleted:
		fail(404, "KeyNotFound", "")
	case verb == "":
		jwk := map[string]any{"kid": kid + "/" + k.id, "kty": "RSA", "key_ops": []string{"wrapKey", "unwrapKey"}}
		if k.rsa != nil {
			jwk["n"], jwk["e"] = base64.RawURLEncoding.EncodeToString(k.rsa.N.Bytes()), "AQAB"
		} else {
			jwk["kty"] = k.odd
		}
		attributes := map[string]any{"enabled": !k.disabled, "created": 1760000000}
		if !k.expires.IsZero() {
			attributes["exp"] = k.expires.Unix()
		}
		say(200, map[string]any{"key": jwk, "attributes": attributes})
	case k.disabled:
		fail(403, "Forbidden", "KeyDisabled")
	default:
		var in struct{ Alg, Value string }
		_ = json.Unmarshal(body, &in)
		b, err := base64.RawURLEncoding.DecodeString(in.Value)
		if verb == "wrapkey" {
			b = k.wrap(b, nil)
		} else if err == nil {
			b, err = k.unwrap(b, nil)
		}
		if err != nil || in.Alg != "RSA-OAEP-256" {
			fail(400, "BadParameter", "")
			return
		}
		say(200, map[string]string{"kid": kid + "/" + k.id, "value": base64.RawURLEncoding.EncodeToString(b)})
	}
}

func TestAWSKMSIsAProvider(t *testing.T) {
	for _, kind := range []string{"aes", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			keystest.Run(t, func(t *testing.T) *keystest.World {
				c := newCloud(t, awsSpeak)
				p, err := keys.NewAWSKMS(keys.AWSOptions{Reach: c.reach(t, `{"accessKeyId":"AKIDTEST","secretAccessKey":"`+cloudSecret+`"}`), Region: "eu-central-1", Endpoint: "https://example.com", Credential: "credential"})
				if err != nil {
					t.Fatal(err)
				}
				c.add("good", kind)
				c.add("curve", "ECC_NIST_P256")
				w := c.world(p, kind)
				w.Keys["good"] = map[string]string{"aes": keys.AES, "rsa": keys.RSA}[kind]
				w.Weak = []string{"curve"}
				return w
			})
		})
	}
}

func awsSpeak(c *cloud, w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	fail := func(code string) {
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"__type":%q,"message":"…"}`, code)
	}
	if a := r.Header.Get("Authorization"); !strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKIDTEST/") || strings.Contains(a, cloudSecret) {
		fail("MissingAuthenticationToken")
		return
	}
	if c.mode == "denied" {
		fail("AccessDeniedException")
		return
	}
	var in struct {
		KeyId, EncryptionAlgorithm string
		Plaintext, CiphertextBlob  []byte
		EncryptionContext          map[string]string
	}
	_ = json.Unmarshal(body, &in)
	k := c.find(strings.TrimPrefix(in.KeyId, "alias/"), "")
	verb := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	aad, _ := json.Marshal(in.EncryptionContext)
	switch {
	case k == nil:
		fail("NotFoundException")
	case verb == "DescribeKey":
		m := map[string]any{"KeyId": k.id, "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "CreationDate": 1760000000.5}
		if k.rsa != nil {
			m["KeySpec"] = "RSA_2048"
		}
		if k.odd != "" {
			m["KeySpec"] = k.odd
		}
		if k.disabled {
			m["KeyState"] = "Disabled"
		}
		if k.deleted {
			m["KeyState"] = "PendingDeletion"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyMetadata": m})
	case k.deleted:
		fail("KMSInvalidStateException")
	case k.disabled:
		fail("DisabledException")
	case verb == "Encrypt":
		_ = json.NewEncoder(w).Encode(map[string]any{"CiphertextBlob": k.wrap(in.Plaintext, aad), "KeyId": "arn:aws:kms:eu-central-1:1:key/" + k.id})
	default:
		b, err := k.unwrap(in.CiphertextBlob, aad)
		if err != nil {
			fail("InvalidCiphertextException")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Plaintext": b, "KeyId": k.id})
	}
}

func TestGoogleKMSIsAProvider(t *testing.T) {
	account, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(account)
	if err != nil {
		t.Fatal(err)
	}
	credential, _ := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@p.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": "https://example.com/token"})
	keystest.Run(t, func(t *testing.T) *keystest.World {
		c := newCloud(t, googleSpeak)
		p, err := keys.NewGoogleKMS(keys.GoogleOptions{Reach: c.reach(t, string(credential)), Endpoint: "https://example.com", KeyRing: "projects/p/locations/global/keyRings/r", Credential: "credential"})
		if err != nil {
			t.Fatal(err)
		}
		c.add("good", "aes")
		c.add("signs", "ASYMMETRIC_SIGN")
		w := c.world(p, "aes")
		w.Keys["good"] = keys.AES
		w.Weak = []string{"signs"}
		return w
	})
}

func googleSpeak(c *cloud, w http.ResponseWriter, r *http.Request, body []byte) {
	fail := func(status int, code, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "status": code, "message": message}})
	}
	if r.URL.Path == "/token" {
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, cloudToken)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+cloudToken {
		fail(401, "UNAUTHENTICATED", "")
		return
	}
	if c.mode == "denied" {
		fail(403, "PERMISSION_DENIED", "")
		return
	}
	const ring = "/v1/projects/p/locations/global/keyRings/r/cryptoKeys/"
	path, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, ring), ":")
	name, version, one := strings.Cut(path, "/cryptoKeyVersions/")
	k := c.find(name, version)
	if k == nil {
		fail(404, "NOT_FOUND", "")
		return
	}
	state := "ENABLED"
	if k.disabled {
		state = "DISABLED"
	}
	if k.deleted {
		state = "DESTROYED"
	}
	is := map[string]any{"name": ring[4:] + name + "/cryptoKeyVersions/" + k.id, "state": state, "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION", "createTime": "2026-01-02T03:04:05.678Z"}
	var in struct{ Plaintext, Ciphertext, AdditionalAuthenticatedData []byte }
	_ = json.Unmarshal(body, &in)
	switch {
	case verb == "" && one:
		_ = json.NewEncoder(w).Encode(is)
	case verb == "" && k.odd != "":
		_ = json.NewEncoder(w).Encode(map[string]any{"purpose": k.odd})
	case verb == "":
		_ = json.NewEncoder(w).Encode(map[string]any{"purpose": "ENCRYPT_DECRYPT", "primary": is})
	case state != "ENABLED":
		fail(400, "FAILED_PRECONDITION", "the key version is not enabled, current state is: "+state+".")
	case verb == "encrypt":
		_ = json.NewEncoder(w).Encode(map[string]any{"name": is["name"], "ciphertext": k.wrap(in.Plaintext, in.AdditionalAuthenticatedData)})
	default:
		for _, k := range c.keys[name] {
			if b, err := k.unwrap(in.Ciphertext, in.AdditionalAuthenticatedData); err == nil {
				_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": b})
				return
			}
		}
		fail(400, "INVALID_ARGUMENT", "Decryption failed")
	}
}
