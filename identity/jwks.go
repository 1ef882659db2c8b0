package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	strict "github.com/go-jose/go-jose/v4/json" // member names as they are, and each once

	"breakwater/fault"
	"breakwater/network"
)

// How long the keys of an issuer count before it is asked again: as long as its
// answer says (max-age), within bounds.
const (
	keysLeast = time.Minute
	keysUsual = 10 * time.Minute
	keysMost  = time.Hour
	keysGrace = time.Hour // and how much longer for what they had proven, while nobody answers

	askAgain   = 5 * time.Second  // after a question that was not answered
	askUnknown = 30 * time.Second // between questions for keys that nobody has heard of
)

// What a question to an issuer may take.
const (
	askTime  = 5 * time.Second
	askBytes = 512 << 10
	maxKeys  = 100
)

// A keySet is what an issuer signs with, as it said at one time. The same answer
// again is the same keySet, so that what one has proven can name it.
type keySet struct {
	keys    []jose.JSONWebKey
	version [sha256.Size]byte
}

// parseKeys reads a JWK set. Keys that cannot verify a signature of ours (unknown,
// weak, symmetric, for encryption) are as if they were not there, or, where a person
// wrote them, an error.
func parseKeys(text []byte, picky bool) (*keySet, error) {
	var doc struct {
		Keys *[]strict.RawMessage `json:"keys"`
	}
	if err := strict.Unmarshal(text, &doc); err != nil || doc.Keys == nil {
		return nil, errors.New("this is no JWK set")
	}
	if len(*doc.Keys) > maxKeys {
		return nil, fmt.Errorf("a JWK set has at most %d keys", maxKeys)
	}
	set, sum := new(keySet), sha256.New()
	for i, raw := range *doc.Keys {
		var k jose.JSONWebKey
		err := k.UnmarshalJSON(raw)
		if err == nil {
			err = usable(&k)
		}
		if err != nil && picky {
			return nil, fmt.Errorf("key %d of the JWK set is no public key for signatures: %w", i+1, err)
		}
		if err != nil {
			continue
		}
		k = jose.JSONWebKey{Key: k.Key, KeyID: k.KeyID, Algorithm: k.Algorithm, Use: "sig"}
		text, err := k.MarshalJSON()
		if err != nil {
			return nil, err
		}
		sum.Write(text)
		set.keys = append(set.keys, k)
	}
	sum.Sum(set.version[:0])
	return set, nil
}

func usable(k *jose.JSONWebKey) error {
	if k.Use != "" && k.Use != "sig" {
		return errors.New("it is not for signatures")
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < 2048 || n > 8192 {
			return errors.New("an RSA key has 2048 to 8192 bits")
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return errors.New("it is neither RSA nor EC nor Ed25519, or it is private")
	}
	return nil
}

// fits reports whether a signature of the algorithm can be one of this key.
func fits(k *jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(alg) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && key.Curve == elliptic.P256() || alg == jose.ES384 && key.Curve == elliptic.P384() ||
			alg == jose.ES512 && key.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// pick is the one key that can have made a signature of the algorithm under that
// kid ("" if the token names none). Where two could, nobody guesses.
func (s *keySet) pick(kid string, alg jose.SignatureAlgorithm) (found *jose.JSONWebKey) {
	for i := range s.keys {
		if k := &s.keys[i]; (kid == "" || k.KeyID == kid) && fits(k, alg) {
			if found != nil {
				return nil
			}
			found = k
		}
	}
	return found
}

func (s *keySet) knows(kid string) bool {
	for i := range s.keys {
		if s.keys[i].KeyID == kid {
			return true
		}
	}
	return kid == ""
}

// A source is where the keys of an issuer come from. Who finds them too old asks
// the issuer, and who comes meanwhile waits for the same answer; nobody else does.
type source struct {
	made  [sha256.Size]byte // of what the source was made from
	url   string
	out   *network.Egress
	roots *x509.CertPool // nil: the system's
	fixed bool           // the keys stand in the issuer's document

	mu     sync.Mutex
	keys   *keySet
	fresh  time.Time     // until then the keys count without a question
	again  time.Time     // after a question that failed: no other before
	kids   time.Time     // no question for an unknown kid before
	why    error         // what the last question failed with
	asking chan struct{} // closed when the question under way is over
}

// get is the keys of the issuer, as fresh as they have to be. If nobody answers it
// is Unavailable, and the keys are those known before, if that is not too long ago:
// they prove nothing new.
func (o *source) get(ctx context.Context, kid string) (*keySet, error) {
	for asked := false; ; asked = true {
		o.mu.Lock()
		now := time.Now()
		fresh := o.fixed || o.keys != nil && now.Before(o.fresh)
		switch {
		case fresh && (o.fixed || asked || o.keys.knows(kid) || now.Before(o.kids)):
			defer o.mu.Unlock()
			return o.keys, nil
		case o.asking != nil:
			over := o.asking
			o.mu.Unlock()
			select {
			case <-over:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		case !fresh && now.Before(o.again):
			defer o.mu.Unlock()
			keys := o.keys
			if now.After(o.fresh.Add(keysGrace)) {
				keys = nil
			}
			return keys, unreachable(o.why).After(o.again.Sub(now))
		case fresh:
			o.kids = now.Add(askUnknown)
		}
		o.asking = make(chan struct{})
		o.mu.Unlock()
		o.ask(context.WithoutCancel(ctx)) // others wait for it too
	}
}

func unreachable(why error) *fault.Error {
	return fault.New(fault.Unavailable, "the issuer of the token does not tell its keys now; try again").Because(why)
}

// ask puts the question, and what came of it in its place.
func (o *source) ask(ctx context.Context) {
	var keys *keySet
	var life time.Duration
	err := errors.New("the question broke off")
	start := time.Now()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		switch o.why = err; {
		case err != nil:
			o.again = time.Now().Add(askAgain)
		case o.keys == nil || o.keys.version != keys.version:
			o.keys = keys
			fallthrough
		default:
			o.fresh = start.Add(life)
		}
		close(o.asking)
		o.asking = nil
	}()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a := o.asker()
	known, err2 := a.discover(ctx, o.url)
	if err2 == nil {
		keys, life, err2 = a.keys(ctx, known.JWKS)
	}
	if err = err2; err != nil {
		err = fmt.Errorf("ask the issuer %s: %w", o.url, err)
	}
}

// An asker is one conversation with an issuer: HTTPS only, no redirects, little time
// and little text, with the issuer and with whom its answer names. An issuer may be in
// a private network; but one that is not cannot send us into ours.
type asker struct {
	way  *network.Way
	http *http.Client
}

func (o *source) asker() asker {
	way := o.out.To(network.ForIssuer, o.url)
	return asker{way, way.Client(network.ClientOptions{Roots: o.roots, Timeout: askTime, Answer: askBytes, Once: true})}
}

// read asks a question and returns the answer. Its errors name the host alone: an
// issuer chose the rest of the URL, and there may be a secret in it.
func (a asker) read(r *http.Request) ([]byte, http.Header, error) {
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "breakwater")
	res, err := a.http.Do(r)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.URL.Host, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %d", r.URL.Host, res.StatusCode)
	}
	body, err := io.ReadAll(res.Body)
	return body, res.Header, err
}

// A discovery is what an issuer says about itself (OpenID Connect Discovery).
type discovery struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
	JWKS          string `json:"jwks_uri"`

	TokenAuthentication []string `json:"token_endpoint_auth_methods_supported"`
}

func (a asker) discover(ctx context.Context, issuer string) (d discovery, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return d, err
	}
	body, _, err := a.read(r)
	if err != nil {
		return d, err
	}
	if err := strict.Unmarshal(body, &d); err != nil {
		return d, errors.New("its discovery document cannot be read")
	}
	if d.Issuer != issuer {
		return d, fmt.Errorf("it calls itself %.200q", d.Issuer)
	}
	a.way.Also(d.JWKS, d.Token)
	return d, nil
}

func (a asker) keys(ctx context.Context, from string) (*keySet, time.Duration, error) {
	if _, err := secureURL(from); err != nil {
		return nil, 0, errors.New("its jwks_uri is no https URL")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, 0, err
	}
	body, header, err := a.read(r)
	if err != nil {
		return nil, 0, err
	}
	set, err := parseKeys(body, false)
	return set, life(header), err
}

// secureURL reads an https URL with a host and without secrets.
func secureURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New("this is no https URL")
	}
	return u, nil
}

// life is how long an answer may be kept.
func life(h http.Header) time.Duration {
	for _, line := range h.Values("Cache-Control") {
		for part := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), "=")
			switch name {
			case "no-store", "no-cache":
				return keysLeast
			case "max-age":
				if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
					return min(max(time.Duration(n)*time.Second, keysLeast), keysMost)
				}
			}
		}
	}
	return keysUsual
}
