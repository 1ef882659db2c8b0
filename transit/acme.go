package transit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// What an authority elsewhere certifies lies in documents, so that every node shows
// it. What is secret in them is sealed; no surface serves their types.
const (
	CertificateType = "Breakwater.Network/certificates"
	challengeType   = "Breakwater.Network/challenges"
	accountType     = "Breakwater.Network/accounts"
)

// How long an order may take, and how long a name rests after one that failed:
// authorities count failures, and for some hours refuse who has too many.
const (
	orderTimeout = 3 * time.Minute
	firstRest    = time.Minute
	longestRest  = 6 * time.Hour
)

// ACMEProtocols are the ALPN protocols of a listener that answers challenges.
var ACMEProtocols = []string{"h2", "http/1.1", acme.ALPNProto}

// ACMEOptions say which authority elsewhere signs (RFC 8555).
type ACMEOptions struct {
	Directory string
	Contact   []string // e-mail addresses
	// BindingID and BindingKey are the external account that some authorities want.
	BindingID  string
	BindingKey []byte
	Client     *http.Client // how the authority is asked
	// Names are those to have certificates for. What is no public name is left out.
	Names func(context.Context) ([]string, error)

	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Who       ledger.Who // this server
	Key       []byte     // seals private keys: 32 bytes
}

// An ACME shows certificates that an authority elsewhere signs, and those of
// otherwise for every name that has none. Names are proven by tls-alpn-01
// (RFC 8737), at the listener itself: nothing has to listen in clear text.
//
// One node asks, the one that leads; all of them show the same certificate and
// answer for each other's challenges, because both are documents. Nothing is asked
// for in a handshake: a stranger who invents names costs a look-up.
type ACME struct {
	otherwise Certificate
	opened    atomic.Pointer[acmeStore] // nil until the database is
}

// NewACME shows what otherwise shows until it is opened.
func NewACME(otherwise Certificate) *ACME { return &ACME{otherwise: otherwise} }

// Open begins to show what is in the database.
func (a *ACME) Open(o ACMEOptions) error {
	block, err := aes.NewCipher(o.Key)
	if err != nil {
		return err
	}
	sealing, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	a.opened.Store(&acmeStore{ACMEOptions: o, sealing: sealing, rests: map[string]rest{}})
	return nil
}

// Certificate is what is shown at this moment.
func (a *ACME) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s, name := a.opened.Load(), strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	challenged := slices.Contains(hello.SupportedProtos, acme.ALPNProto)
	if s == nil || !Certifiable(name) {
		if challenged {
			return nil, errors.New("no name of this server is being proven")
		}
		return a.otherwise(hello)
	}
	ctx := hello.Context()
	if ctx == nil { // asked for by Names, outside any handshake
		ctx = context.Background()
	}
	if challenged {
		pair, err := s.load(ctx, challengeType, name)
		if pair == nil && err == nil {
			err = errors.New("the name is not being proven")
		}
		return pair, err
	}
	if pair, err := s.certified(ctx, name); err != nil || pair != nil {
		return pair, err
	}
	return a.otherwise(hello)
}

// Shows reports whether who trusts the authority elsewhere believes what is shown for
// a name. Names that it cannot know are nobody's but of those who trust ours.
func (a *ACME) Shows(ctx context.Context, name string) bool {
	s := a.opened.Load()
	if s == nil || !Certifiable(name) {
		return true
	}
	pair, err := s.certified(ctx, name)
	return err == nil && pair != nil
}

// certified is the certificate for the name, while it holds; nil for none.
func (s *acmeStore) certified(ctx context.Context, name string) (*tls.Certificate, error) {
	pair, err := s.shown.Get(ctx, s.Documents, name, func(ctx context.Context) (*tls.Certificate, error) {
		return s.load(ctx, CertificateType, name)
	})
	if pair != nil && !time.Now().Before(pair.Leaf.NotAfter) {
		return nil, err
	}
	return pair, err
}

// Order asks for every certificate that is missing or has a third of its time left,
// and removes those of names that are gone. Whoever leads calls it again and again.
func (a *ACME) Order(ctx context.Context) error {
	s := a.opened.Load()
	generation, err := s.Documents.Generation(ctx)
	if err != nil || generation == s.seen && time.Now().Before(s.next) {
		return err
	}
	names, err := s.Names(ctx)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !Certifiable(n) })
	slices.Sort(names)
	names = slices.Compact(names)
	var errs []error
	next := time.Now().Add(time.Hour)
	for _, name := range names {
		pair, err := s.load(ctx, CertificateType, name)
		if err != nil {
			return err
		}
		if !due(pair, time.Now()) {
			continue
		}
		if until := s.rests[name].until; time.Now().Before(until) {
			next = earlier(next, until)
			continue
		}
		if err := s.certify(ctx, name); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			s.rests[name] = s.rests[name].longer(time.Now())
			next = earlier(next, s.rests[name].until)
			errs = append(errs, fmt.Errorf("certificate for %s: %w", name, err), s.failed(ctx, name, err))
			continue
		}
		delete(s.rests, name)
	}
	if err := s.prune(ctx, names); err != nil {
		return errors.Join(append(errs, err)...)
	}
	s.seen, s.next = generation, next // what was certified makes another generation, which is looked at once more
	return errors.Join(errs...)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Certifiable reports whether an authority elsewhere could know the name: in lower
// case, with a dot, and neither an address nor a name of this machine alone.
func Certifiable(name string) bool {
	if len(name) > 253 || !strings.Contains(name, ".") || strings.HasSuffix(name, ".localhost") || net.ParseIP(name) != nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// due reports whether it is time for another certificate, however long its kind lives.
func due(pair *tls.Certificate, now time.Time) bool {
	return pair == nil || pair.Leaf.NotAfter.Sub(now) < pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)/3
}

// A rest is how long a name is left alone after orders that failed.
type rest struct {
	until time.Time
	last  time.Duration
}

func (r rest) longer(now time.Time) rest {
	r.last = min(max(2*r.last, firstRest), longestRest)
	r.until = now.Add(r.last)
	return r
}

// An acmeStore is an ACME with a database.
type acmeStore struct {
	ACMEOptions
	sealing cipher.AEAD
	shown   resource.Cache[string, *tls.Certificate]

	// Of whoever leads: names that rest, the account, and until when nothing has to be
	// looked at if no document changes.
	rests  map[string]rest
	client *acme.Client
	seen   int64
	next   time.Time
}

// kept is the document of a pair of key and chain, or of an account's key alone.
type kept struct {
	Until  time.Time `json:"until,omitzero"`
	Sealed []byte    `json:"sealed"` // PEM
}

func documentID(typ, name string) ref.ID { return ref.ID("/providers/" + typ + "/" + name) }

// load opens the pair of that name; nil if there is none.
func (s *acmeStore) load(ctx context.Context, typ, name string) (*tls.Certificate, error) {
	text, err := s.open(ctx, documentID(typ, name))
	if text == nil || err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("read the certificate of %s: %w", name, err)
	}
	return &pair, nil
}

func (s *acmeStore) open(ctx context.Context, id ref.ID) ([]byte, error) {
	doc, err := s.Documents.Get(ctx, id)
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(doc.Properties, &k); err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	text, err := s.sealing.Open(nil, nil, k.Sealed, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("%s is sealed with another key: was the platform key replaced?", id)
	}
	return text, nil
}

// put seals a key, and the chain of its certificate if there is one. An event says
// so, but for a challenge: what comes of it is the certificate's.
func (s *acmeStore) put(ctx context.Context, typ, name string, key crypto.PrivateKey, chain [][]byte, until time.Time) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, c := range chain {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c})
	}
	doc := resource.Resource{ID: documentID(typ, name), Type: typ}
	doc.System.LastModifiedBy, doc.System.LastModifiedByType = s.Who.ID, s.Who.Kind
	if doc.Properties, err = json.Marshal(kept{Until: until, Sealed: s.sealing.Seal(nil, nil, text.Bytes(), []byte(doc.ID))}); err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := s.Documents.Put(ctx, tx, doc, resource.Any); err != nil || typ == challengeType {
			return err
		}
		return s.Ledger.Append(ctx, tx, s.event(typ+"/write", doc.ID, map[string]string{"until": until.UTC().Format(time.RFC3339)}))
	})
}

func (s *acmeStore) event(operation string, id ref.ID, more map[string]string) ledger.Event {
	return ledger.Event{Time: time.Now(), Category: ledger.Administrative, Operation: operation, Scope: id.Scope(), Who: s.Who,
		Outcome: ledger.Success, Detail: ledger.Detail{More: more}}
}

// failed puts on record that a name has no new certificate, and why.
func (s *acmeStore) failed(ctx context.Context, name string, why error) error {
	reason := why.Error()
	e := s.event(CertificateType+"/write", documentID(CertificateType, name), map[string]string{"error": reason[:min(len(reason), 1000)]})
	e.Outcome = ledger.Failure
	return s.Ledger.Record(ctx, e)
}

func (s *acmeStore) remove(ctx context.Context, id ref.ID, told bool) error {
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Delete(ctx, tx, id, resource.Any); err != nil && fault.Of(err) != fault.NotFound || !told {
			return err
		}
		return s.Ledger.Append(ctx, tx, s.event(CertificateType+"/delete", id, nil))
	})
}

// prune forgets certificates of names that are no longer wanted.
func (s *acmeStore) prune(ctx context.Context, names []string) error {
	for after := ref.ID(""); ; {
		docs, err := s.Documents.List(ctx, "", CertificateType, after, 1000)
		if err != nil || len(docs) == 0 {
			return err
		}
		for _, doc := range docs {
			after = doc.ID
			if _, wanted := slices.BinarySearch(names, doc.ID.Name()); wanted {
				continue
			}
			if err := s.remove(ctx, doc.ID, true); err != nil {
				return err
			}
		}
	}
}

// certify gets one name its certificate.
func (s *acmeStore) certify(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	client, err := s.account(ctx)
	if err != nil {
		return fmt.Errorf("account at %s: %w", s.Directory, err)
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(name))
	if err != nil {
		return err
	}
	for _, url := range order.AuthzURLs {
		if err := s.prove(ctx, client, name, url); err != nil {
			return err
		}
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return err
	}
	chain, _, err := client.CreateCertFromOrder(ctx, order, request, true)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) || leaf.VerifyHostname(name) != nil || time.Now().After(leaf.NotAfter) {
		return errors.New("the authority signed something else than it was asked for")
	}
	return s.put(ctx, CertificateType, name, key, chain, leaf.NotAfter)
}

// prove shows the authority that the name leads here.
func (s *acmeStore) prove(ctx context.Context, client *acme.Client, name, url string) error {
	authorization, err := client.GetAuthorization(ctx, url)
	if err != nil || authorization.Status == acme.StatusValid {
		return err
	}
	i := slices.IndexFunc(authorization.Challenges, func(c *acme.Challenge) bool { return c.Type == "tls-alpn-01" })
	if i < 0 {
		return errors.New("the authority does not offer tls-alpn-01, the one challenge that needs no listener in clear text")
	}
	challenge := authorization.Challenges[i]
	pair, err := client.TLSALPN01ChallengeCert(challenge.Token, name)
	if err != nil {
		return err
	}
	if err := s.put(ctx, challengeType, name, pair.PrivateKey, pair.Certificate, time.Time{}); err != nil {
		return err
	}
	defer func() { _ = s.remove(context.WithoutCancel(ctx), documentID(challengeType, name), false) }()
	if _, err := client.Accept(ctx, challenge); err != nil {
		return err
	}
	_, err = client.WaitAuthorization(ctx, url)
	return err
}

// account is a client with this server's account, made when there is none.
func (s *acmeStore) account(ctx context.Context) (*acme.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	sum := sha256.Sum256([]byte(s.Directory + "\x00" + s.BindingID))
	id := documentID(accountType, fmt.Sprintf("%x", sum[:16]))
	text, err := s.open(ctx, id)
	if err != nil {
		return nil, err
	}
	client := &acme.Client{DirectoryURL: s.Directory, HTTPClient: s.Client, UserAgent: "breakwater"}
	if text == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		// Kept before it is registered: a crash in between leaves no account without its key.
		if err := s.put(ctx, accountType, id.Name(), key, nil, time.Time{}); err != nil {
			return nil, err
		}
		client.Key = key
	} else if client.Key, err = parseKey(text); err != nil {
		return nil, err
	}
	account := &acme.Account{}
	for _, c := range s.Contact {
		account.Contact = append(account.Contact, "mailto:"+c)
	}
	if s.BindingID != "" {
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: s.BindingID, Key: s.BindingKey}
	}
	if _, err := client.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, err
	}
	s.client = client
	return client, nil
}

// BindingKey reads the key of an external account as authorities hand it out.
func BindingKey(text []byte) ([]byte, error) {
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(string(text)), "="))
	if err != nil || len(key) < 16 {
		return nil, errors.New("not a key in base64url")
	}
	return key, nil
}
