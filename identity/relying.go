package identity

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"breakwater/fault"
)

// As a client of external issuers (OpenID Connect, authorization code with PKCE),
// this server lets people sign in through them in a browser.

// discoveryLife is how long what an issuer says about itself is believed.
const discoveryLife = 10 * time.Minute

// known is what the issuers have said about themselves.
type known struct {
	mu  sync.Mutex
	got map[string]heard // by the UID of the issuer
}

type heard struct {
	discovery
	source *source // that was asked
	until  time.Time
}

// SignInIssuers are the names of the issuers that people may sign in through.
func (s *Store) SignInIssuers(ctx context.Context) ([]string, error) {
	all, err := s.loadIssuers(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range all.byID {
		if i.SignIn != nil && i.Status == EnabledStatus {
			names = append(names, i.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// signInIssuer is the issuer of that name, with what it says about itself.
func (s *Store) signInIssuer(ctx context.Context, name string) (*Issuer, discovery, error) {
	all, err := s.loadIssuers(ctx)
	if err != nil {
		return nil, discovery{}, err
	}
	i := all.byID[IssuerID(name).Key()]
	if i == nil || i.SignIn == nil || i.Status != EnabledStatus {
		return nil, discovery{}, fault.New(fault.NotFound, "nobody signs in through an issuer of this name")
	}
	s.known.mu.Lock()
	got, ok := s.known.got[i.UID]
	s.known.mu.Unlock()
	if ok && got.source == i.source && time.Now().Before(got.until) {
		return i, got.discovery, nil
	}
	if wait := s.asked.take(i.UID, 5, time.Second); wait > 0 {
		return nil, discovery{}, fault.New(fault.Unavailable, "the issuer cannot be asked now; try again").After(wait)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	d, err := i.source.asker().endpoints(ctx, i.Issuer)
	if err != nil {
		return nil, discovery{}, fault.New(fault.Unavailable, "the issuer does not answer now; try again").Because(fmt.Errorf("ask the issuer %s: %w", i.Issuer, err))
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if s.known.got == nil || len(s.known.got) >= 1000 {
		s.known.got = map[string]heard{}
	}
	s.known.got[i.UID] = heard{d, i.source, time.Now().Add(discoveryLife)}
	return i, d, nil
}

// endpoints is discover for who signs people in.
func (a asker) endpoints(ctx context.Context, issuer string) (discovery, error) {
	d, err := a.discover(ctx, issuer)
	for _, endpoint := range []string{d.Authorization, d.Token} {
		if err == nil {
			_, err = secureURL(endpoint)
		}
	}
	return d, err
}

// SignInURL is where a browser goes to sign in through the issuer, and which
// issuer that is.
func (s *Store) SignInURL(ctx context.Context, name, redirect, state, nonce, challenge string) (to, issuer string, err error) {
	i, d, err := s.signInIssuer(ctx, name)
	if err != nil {
		return "", "", err
	}
	u, err := url.Parse(d.Authorization)
	if err != nil {
		return "", "", err
	}
	q := u.Query()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": i.SignIn.ClientID, "redirect_uri": redirect, "scope": "openid profile email",
		"state": state, "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256",
	} {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String(), i.Issuer, nil
}

// elsewhere proves somebody who comes back from an external issuer with a code.
func (s *Store) elsewhere(ctx context.Context, r Realm, c Credentials) (Principal, error) {
	i, d, err := s.signInIssuer(ctx, c.Name)
	if err != nil {
		return Principal{}, err
	}
	secret, err := s.openSignIn(ctx, i)
	if err != nil {
		return Principal{}, err
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {string(c.Secret)}, "redirect_uri": {c.Redirect},
		"client_id": {i.SignIn.ClientID}, "code_verifier": {string(c.Verifier)}}
	basic := secret != "" && (len(d.TokenAuthentication) == 0 || slices.Contains(d.TokenAuthentication, "client_secret_basic"))
	if secret != "" && !basic {
		form.Set("client_secret", string(secret))
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a := i.source.asker()
	// Where another host than the issuer's is asked, the issuer is asked first: it has
	// to name that one, and one that is outside must not send us inside.
	if to, err := secureURL(i.Issuer); err != nil || !strings.EqualFold(to.Host, hostOf(d.Token)) {
		if d, err = a.endpoints(ctx, i.Issuer); err != nil {
			return Principal{}, unreachable(err)
		}
	}
	question, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return Principal{}, err
	}
	question.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		question.SetBasicAuth(url.QueryEscape(i.SignIn.ClientID), url.QueryEscape(string(secret)))
	}
	body, _, err := a.read(question)
	if err != nil {
		return Principal{}, doubt("redeem the code of the issuer %s: %w", i.Issuer, err)
	}
	var answer struct {
		ID Secret `json:"id_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.ID == "" {
		return Principal{}, doubt("the issuer %s answers without an id_token", i.Issuer)
	}
	v, err := s.verifyExternal(ctx, string(answer.ID))
	if err != nil {
		return Principal{}, err
	}
	j, err := parseJWT(string(answer.ID))
	if err != nil {
		return Principal{}, err
	}
	nonce, err := j.claims.text("nonce")
	if err != nil || subtle.ConstantTimeCompare([]byte(nonce), []byte(c.Nonce)) != 1 || v.issuer.UID != i.UID {
		return Principal{}, doubt("the id_token is not the answer to what this browser asked")
	}
	if party, err := j.claims.optional("azp"); err != nil || party != "" && party != i.SignIn.ClientID || party == "" && len(v.audience) > 1 {
		return Principal{}, doubt("the id_token is for another client")
	}
	return s.external(ctx, r, AuthorityPlane, answer.ID)
}

func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}
