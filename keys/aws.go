package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// AWSKMS is the Key Management Service of AWS: its symmetric keys and RSA keys that
// encrypt.
type AWSKMS struct{ client *kms.Client }

// AWSOptions say where it is and who we are there.
type AWSOptions struct {
	Reach
	Region     string
	Endpoint   string // "" is the region's
	Credential string // a file in Directory: JSON, {"accessKeyId", "secretAccessKey", "sessionToken"}, read again for every request
}

// NewAWSKMS checks the options; nothing is asked yet.
func NewAWSKMS(o AWSOptions) (*AWSKMS, error) {
	if !validName(o.Region) {
		return nil, errors.New("region is one of AWS, such as eu-central-1")
	}
	var base *string
	if o.Endpoint != "" {
		u, err := endpoint(o.Endpoint)
		if err != nil {
			return nil, err
		}
		base = aws.String(u.String())
	}
	who := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		b, err := o.file(o.Credential)
		if err != nil {
			return aws.Credentials{}, err
		}
		defer clear(b)
		var c aws.Credentials
		if json.Unmarshal(b, &c) != nil || !c.HasKeys() { // its names are ours but for their case
			return aws.Credentials{}, errors.New("the credential is no JSON with accessKeyId and secretAccessKey")
		}
		return aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}, nil
	})
	return &AWSKMS{kms.New(kms.Options{Region: o.Region, BaseEndpoint: base, Credentials: who, HTTPClient: o.client(), Retryer: aws.NopRetryer{}})}, nil
}

// id is the key's name as AWS takes it: the id of a key, or an alias.
func (a *AWSKMS) id(key Key) *string {
	if strings.Count(key.Name, "-") == 4 && len(key.Name) == 36 || strings.HasPrefix(key.Name, "mrk-") {
		return &key.Name
	}
	return aws.String("alias/" + key.Name)
}

// Describe implements Provider. A version is the id of the key: an alias that leads
// elsewhere is a new one. How often AWS renews what is inside a key is its own matter.
func (a *AWSKMS) Describe(ctx context.Context, key Key) (Description, error) {
	d, _, err := a.describe(ctx, key)
	return d, err
}

func (a *AWSKMS) describe(ctx context.Context, key Key) (Description, *string, error) {
	if !validName(key.Name) {
		return Description{}, nil, refusal(key, Gone, errors.New("no name of a key"))
	}
	id := a.id(key)
	if key.Version != "" {
		id = &key.Version
	}
	out, err := a.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id})
	if err != nil {
		return Description{}, nil, a.verdict(key, err)
	}
	m := out.KeyMetadata
	if m == nil || m.KeyId == nil {
		return Description{}, nil, down("AWS KMS", errors.New("an answer without a key"))
	}
	d := Description{State: Disabled, Version: *m.KeyId}
	switch m.KeySpec {
	case types.KeySpecSymmetricDefault:
		d.Algorithm, d.Bits = AES, 256
	case types.KeySpecRsa2048, types.KeySpecRsa3072, types.KeySpecRsa4096:
		d.Algorithm, d.Bits = RSA, map[types.KeySpec]int{types.KeySpecRsa2048: 2048, types.KeySpecRsa3072: 3072, types.KeySpecRsa4096: 4096}[m.KeySpec]
	default:
		d.Algorithm = string(m.KeySpec)
	}
	if m.CreationDate != nil {
		d.Created = *m.CreationDate
	}
	if m.ValidTo != nil {
		d.Expires = *m.ValidTo
	}
	switch m.KeyState {
	case types.KeyStateEnabled:
		if m.KeyUsage == types.KeyUsageTypeEncryptDecrypt {
			d.State = Enabled
		}
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		d.State = Gone
	case types.KeyStateUnavailable:
		return d, nil, down("AWS KMS", errors.New("the key's custom store is unavailable"))
	}
	return d, m.KeyId, nil
}

// Wrap implements Provider. The place is also said as the encryption context, which
// AWS writes into the customer's own log.
func (a *AWSKMS) Wrap(ctx context.Context, key Key, id KeyID, secret []byte) ([]byte, string, error) {
	d, name, err := a.describe(ctx, key)
	if err != nil {
		return nil, "", err
	}
	b, err := bind(id, secret)
	if err != nil {
		return nil, "", err
	}
	defer clear(b)
	in := &kms.EncryptInput{KeyId: name, Plaintext: b}
	kind := byte(1)
	if d.Algorithm == RSA {
		kind, in.EncryptionAlgorithm = 2, types.EncryptionAlgorithmSpecRsaesOaepSha256
	} else {
		in.EncryptionContext = awsContext(id)
	}
	out, err := a.client.Encrypt(ctx, in)
	if err != nil {
		return nil, "", a.verdict(key, err)
	}
	if len(out.CiphertextBlob) == 0 {
		return nil, "", down("AWS KMS", errors.New("an answer without what was wrapped"))
	}
	return append([]byte{kind}, out.CiphertextBlob...), d.Version, nil
}

func awsContext(id KeyID) map[string]string { return map[string]string{"breakwater": string(id)} }

// Unwrap implements Provider.
func (a *AWSKMS) Unwrap(ctx context.Context, key Key, id KeyID, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 2 || wrapped[0] != 1 && wrapped[0] != 2 {
		return nil, ErrWrapped
	}
	if !validName(key.Name) {
		return nil, refusal(key, Gone, errors.New("no name of a key"))
	}
	in := &kms.DecryptInput{KeyId: a.id(key), CiphertextBlob: wrapped[1:]}
	if key.Version != "" {
		in.KeyId = &key.Version
	}
	if wrapped[0] == 2 {
		in.EncryptionAlgorithm = types.EncryptionAlgorithmSpecRsaesOaepSha256
	} else {
		in.EncryptionContext = awsContext(id)
	}
	out, err := a.client.Decrypt(ctx, in)
	if err != nil {
		return nil, a.verdict(key, err)
	}
	return unbind("AWS KMS", id, out.Plaintext)
}

// awsVerdicts are AWS's exceptions (API reference of KMS, "Errors" of each action and
// "Common errors"). What is not here is an outage.
var awsVerdicts = map[string]State{
	"DisabledException": Disabled, "NotFoundException": Gone, "KMSInvalidStateException": Gone, "InvalidKeyUsageException": Disabled,
	"InvalidArnException": Gone, "AccessDeniedException": Barred, "UnrecognizedClientException": Barred, "InvalidSignatureException": Barred,
	"ExpiredTokenException": Barred, "IncompleteSignature": Barred, "InvalidClientTokenId": Barred, "MissingAuthenticationToken": Barred,
	"OptInRequired": Barred, "NotAuthorized": Barred, "InvalidGrantTokenException": Barred,
}

func (a *AWSKMS) verdict(key Key, err error) error {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return down("AWS KMS", errors.New("no answer")) // the SDK's text may have the request's headers in it
	}
	cause := fmt.Errorf("AWS KMS: %.60q", e.ErrorCode())
	switch state, refused := awsVerdicts[e.ErrorCode()]; {
	case refused:
		return refusal(key, state, cause)
	case e.ErrorCode() == "InvalidCiphertextException", e.ErrorCode() == "IncorrectKeyException":
		return fmt.Errorf("%w (%w)", ErrWrapped, cause)
	case e.ErrorCode() == "ValidationException":
		return cause
	}
	return down("AWS KMS", cause)
}
