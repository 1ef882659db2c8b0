package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	strict "github.com/go-jose/go-jose/v4/json"

	"breakwater/fault"
	"breakwater/resource"
)

// Limits of a token of an external issuer. What a principal takes along into the
// registry's own tokens has to fit there.
const (
	maxExternal  = 16 << 10
	externalSkew = time.Minute
	externalLife = 24 * time.Hour
	maxSubject   = 512
	maxName      = 128
	maxGroups    = 200 // as many as Entra ID puts into a token
	maxKept      = 2 << 10
)

// outside is what this process knows of external issuers.
type outside struct {
	issuers resource.Cache[struct{}, *issuers]
	proven  recent[shown, *vouched] // tokens whose signature has been verified

	mu      sync.Mutex
	sources map[string]*source // by the UID of the issuer
}

// vouched is what a token of an external issuer says. Whom it is for is not judged
// yet: ask meant.
type vouched struct {
	issuer   *Issuer
	keys     *keySet // with which the signature was verified
	kid      string
	subject  string // sub, as it is
	audience []string
	begin    time.Time // when it was issued
	from     time.Time // nbf
	end      time.Time // exp

	principal Principal // the token's bearer, without Until
	unfit     error     // or why it is none
}

// meant reports whether the token is for one of the audiences.
func (v *vouched) meant(audiences ...string) bool {
	return slices.ContainsFunc(v.audience, func(a string) bool { return slices.Contains(audiences, a) })
}

// doubt is refused with the reason, which the operator's log shows alone.
func doubt(format string, args ...any) *fault.Error {
	return fault.From(refused()).Because(fmt.Errorf(format, args...))
}

// verifyExternal proves that an issuer that is trusted now has signed the token,
// that it says what the issuer's document requires, and that its time is now. What
// was verified before is believed again only with the same keys and the same
// document. It is Unavailable if the issuer has to be asked and does not answer.
func (s *Store) verifyExternal(ctx context.Context, text string) (*vouched, error) {
	if len(text) > maxExternal {
		return nil, doubt("the token has more than %d bytes", maxExternal)
	}
	all, err := s.loadIssuers(ctx)
	if err != nil {
		return nil, err
	}
	seen := s.shown("external", text)
	if v, ok := s.outside.proven.get(seen); ok {
		if i := all.byURL[v.issuer.Issuer]; i != nil && i.UID == v.issuer.UID && i.Etag == v.issuer.Etag {
			// Without an answer, what these keys have proven stays proven for a while.
			if keys, err := i.source.get(ctx, v.kid); keys == v.keys || keys == nil {
				if keys == nil && err != nil {
					return nil, err
				}
				return v, v.now()
			}
		}
	}
	j, err := parseJWT(text)
	if err != nil {
		return nil, err
	}
	url, err := j.claims.text("iss")
	if err != nil {
		return nil, err
	}
	i := all.byURL[url]
	if i == nil || i.Status != EnabledStatus {
		return nil, doubt("no issuer %.200q is trusted", url)
	}
	if !slices.Contains(i.algorithms, j.alg) {
		return nil, doubt("the algorithm %.20q is not allowed", string(j.alg))
	}
	keys, err := i.source.get(ctx, j.kid)
	if err != nil {
		return nil, err
	}
	k := keys.pick(j.kid, j.alg)
	if k == nil {
		return nil, doubt("no one key of the issuer %s is called %.100q and fits %s", i.Issuer, j.kid, j.alg)
	}
	signature, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{j.alg})
	if err != nil {
		return nil, doubt("read the signature: %w", err)
	}
	if payload, err := signature.Verify(k.Key); err != nil || !bytes.Equal(payload, j.payload) {
		return nil, doubt("the signature is wrong: %w", err)
	}
	v, err := i.judge(j.claims)
	if err != nil {
		return nil, err
	}
	v.keys, v.kid = keys, j.kid
	if err := v.now(); err != nil {
		return nil, err
	}
	s.outside.proven.add(seen, v)
	return v, nil
}

// now refuses a token whose time is not now.
func (v *vouched) now() error {
	switch now := time.Now(); {
	case !now.Before(v.end.Add(externalSkew)):
		return doubt("the token ended at %v", v.end.UTC())
	case now.Before(v.from.Add(-externalSkew)), now.Before(v.begin.Add(-externalSkew)):
		return doubt("the token is from the future: %v", v.begin.UTC())
	}
	return nil
}

// external proves a token of an external issuer.
func (s *Store) external(ctx context.Context, r Realm, at Plane, token Secret) (Principal, error) {
	v, err := s.verifyExternal(ctx, string(token))
	if err != nil {
		return Principal{}, err
	}
	if !v.meant(v.issuer.accepted(r, at)...) {
		return Principal{}, doubt("the token is for %.300q", v.audience)
	}
	if v.unfit != nil {
		return Principal{}, v.unfit
	}
	// A build takes longer than many a token of a pipeline lives. What follows from a
	// sign-in may last as long as a refresh token, counted from when it was shown.
	p := v.principal
	p.Until = time.Now().Add(RefreshLife)
	return p, nil
}

// accepted are the audiences whose tokens count at a plane. What Azure's clients get
// for the registry is nothing on the control plane, and the other way round if the
// registry says so; an audience of the operator's own is for both. At the authority
// it is this server itself, as a client.
func (i *Issuer) accepted(r Realm, at Plane) (all []string) {
	if at == AuthorityPlane {
		if i.SignIn != nil {
			all = append(all, i.SignIn.ClientID)
		}
		return all
	}
	for _, a := range i.Audiences {
		registry, control := opens(r, a)
		if at == ControlPlane && registry && !control || at == ContentPlane && control && !r.ARMTokens {
			continue
		}
		all = append(all, a)
	}
	return all
}

// judge reads what the claims say of whom. The signature is right.
func (i *Issuer) judge(c claimSet) (v *vouched, err error) {
	v = &vouched{issuer: i}
	if v.subject, err = c.text("sub"); err != nil {
		return nil, err
	}
	if v.audience, err = c.texts("aud", maxAudiences); err != nil {
		return nil, err
	}
	var ends, begins, starts bool
	if v.end, ends, err = c.time("exp"); err != nil {
		return nil, err
	}
	if v.from, starts, err = c.time("nbf"); err != nil {
		return nil, err
	}
	if v.begin, begins, err = c.time("iat"); err != nil {
		return nil, err
	}
	if !begins {
		v.begin = v.from
	}
	if !ends || !begins && !starts || v.end.Sub(v.begin) > externalLife {
		return nil, doubt("a token says when it was issued and when it ends, which is at most %v later", externalLife)
	}
	for _, name := range []string{"cnf", "events"} { // bound to a key (RFC 7800); tells of something (RFC 8417)
		if c[name] != nil {
			return nil, doubt("a token with %s is no bearer token", name)
		}
	}
	if typ, ok := text(c["typ"]); ok && slices.Contains([]string{"refresh", "offline", "logout"}, strings.ToLower(typ)) { // Keycloak
		return nil, doubt("a token of type %s is no sign-in", typ)
	}
	for name, want := range i.RequiredClaims {
		if got, ok := scalar(c.find(name)); !ok || got != want {
			return nil, doubt("the claim %s is not as required", name)
		}
	}
	v.principal, v.unfit = i.bearer(v, c)
	return v, nil
}

// bearer is who shows the token. What it takes along into the registry's own tokens
// is bounded, and nothing is left out: a group that is not known could be one that
// something is denied to.
func (i *Issuer) bearer(v *vouched, c claimSet) (p Principal, err error) {
	subject := v.subject
	if i.Claims.Subject != "" {
		if subject, err = c.text(i.Claims.Subject); err != nil {
			return p, err
		}
	}
	p = Principal{ID: i.Principal(subject), Kind: Federated, Name: subject, Account: i.ID, Credential: i.credential}
	if i.Claims.Name != "" {
		if name, err := c.text(i.Claims.Name); err == nil && len(name) <= maxName {
			p.Name = name
		}
	}
	for _, name := range []string{"azp", "client_id", "appid"} {
		if p.Client == "" {
			if p.Client, err = c.optional(name); err != nil {
				return p, err
			}
		}
	}
	elsewhere, _ := parseClaims(c["_claim_names"]) // OpenID Connect Core, 5.6.2
	for _, name := range i.Claims.Groups {
		if elsewhere[name] != nil || string(c["hasgroups"]) == "true" {
			return p, doubt("the token leaves out %s, which are too many for it; let the issuer name only the groups that matter here", name)
		}
		if raw := c.find(name); raw == nil || string(raw) == "null" {
			continue
		}
		values, err := c.texts(name, maxGroups)
		if err != nil {
			return p, err
		}
		for _, value := range values {
			p.Groups = append(p.Groups, i.Group(name, value))
		}
	}
	slices.Sort(p.Groups)
	if p.Groups = slices.Compact(p.Groups); len(p.Groups) > maxGroups {
		return p, doubt("the token names more than %d groups", maxGroups)
	}
	a := Authentication{Issuer: i.Issuer, Time: v.begin.UTC()}
	if at, ok, err := c.time("auth_time"); err != nil {
		return p, err
	} else if ok {
		a.Time = at.UTC()
	}
	if a.Time.After(time.Now().Add(externalSkew)) {
		return p, doubt("the sign-in is in the future: %v", a.Time)
	}
	if a.ACR, err = c.optional("acr"); err != nil {
		return p, err
	}
	size := len(a.ACR)
	if raw := c["amr"]; raw != nil && string(raw) != "null" {
		if a.AMR, err = c.texts("amr", maxNamed); err != nil {
			return p, err
		}
	}
	for _, m := range a.AMR {
		size += len(m)
	}
	for _, name := range i.Claims.Keep {
		values := c.scalars(name)
		if values == nil {
			continue
		}
		if a.Claims == nil {
			a.Claims = map[string][]string{}
		}
		a.Claims[name] = values
		for size += len(name); len(values) > 0; values = values[1:] {
			size += len(values[0]) + 3
		}
	}
	if size > maxKept {
		return p, doubt("acr, amr and the claims to keep have more than %d bytes", maxKept)
	}
	p.Authentication = a
	return p, nil
}

// ARMAudience reports whether a token for that audience is for the control plane
// of the server that is called host.
func ARMAudience(audience, host string) bool {
	a := strings.TrimSuffix(audience, "/")
	return a == "https://management.core.windows.net" || a == "https://management.azure.com" || a == "https://"+host
}

// federated is the principal of a token of ours that descends from an external
// sign-in, if its issuer still vouches for it.
func (s *Store) federated(ctx context.Context, c *claims) (Principal, error) {
	i, err := s.vouches(ctx, c.Account, c.Credential)
	if err != nil {
		return Principal{}, err
	}
	return Principal{ID: c.Principal, Kind: Federated, Name: c.Subject, Account: i.ID, Client: c.Client, Through: c.Through, Groups: c.Groups,
		Credential: c.Credential, Authentication: c.Authentication}, nil
}

// A jwt is a token as its text says: nothing of it is believed yet.
type jwt struct {
	alg     jose.SignatureAlgorithm
	kid     string
	payload []byte
	claims  claimSet
}

// parseJWT reads a token in its one spelling. A header that brings its own key,
// names one elsewhere or changes what is signed makes it no token.
func parseJWT(text string) (*jwt, error) {
	parts := strings.Split(text, ".")
	if len(text) > maxExternal || len(parts) != 3 || parts[2] == "" {
		return nil, doubt("this is no signed token")
	}
	var raw [2][]byte
	for n, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, doubt("part %d of the token is not spelled as base64url", n+1)
		}
		if n < len(raw) {
			raw[n] = b
		}
	}
	head, err := parseClaims(raw[0])
	if err != nil {
		return nil, doubt("the header of the token cannot be read: %w", err)
	}
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty"} {
		if head[name] != nil {
			return nil, doubt("the header of the token has %s", name)
		}
	}
	j := &jwt{payload: raw[1]}
	alg, err := head.text("alg")
	if err != nil {
		return nil, err
	}
	if j.alg = jose.SignatureAlgorithm(alg); !slices.Contains(algorithms, j.alg) {
		return nil, doubt("the algorithm %.20q is never allowed", alg)
	}
	if head["kid"] != nil {
		if j.kid, err = head.text("kid"); err != nil {
			return nil, err
		}
	}
	if head["typ"] != nil {
		typ, err := head.text("typ")
		if err != nil {
			return nil, err
		}
		if t := strings.TrimPrefix(strings.ToLower(typ), "application/"); t != "jwt" && t != "at+jwt" {
			return nil, doubt("a token of type %.50q is no sign-in", typ)
		}
	}
	if j.claims, err = parseClaims(raw[1]); err != nil {
		return nil, doubt("the claims of the token cannot be read: %w", err)
	}
	return j, nil
}

// A claimSet is a JSON object whose members are each there once, under the name
// that is spelled so.
type claimSet map[string]strict.RawMessage

func parseClaims(text []byte) (c claimSet, err error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	if err = strict.Unmarshal(text, &c); err == nil && c == nil {
		err = fmt.Errorf("it is no object")
	}
	return c, err
}

// find is the value of a claim, by name or by JSON pointer; nil if there is none.
func (c claimSet) find(name string) strict.RawMessage {
	pointer, ok := strings.CutPrefix(name, "/")
	if !ok {
		return c[name]
	}
	var value strict.RawMessage
	for step := range strings.SplitSeq(pointer, "/") {
		if value = c[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]; value == nil {
			return nil
		}
		next, err := parseClaims(value)
		if err != nil {
			next = nil
		}
		c = next
	}
	return value
}

// text is a claim that has to be a text and to say something. U+FFFD is what other
// characters become that cannot be told apart any more.
func (c claimSet) text(name string) (string, error) {
	return said(name, c.find(name))
}

func said(name string, raw strict.RawMessage) (string, error) {
	s, ok := text(raw)
	if !ok || s == "" || len(s) > maxSubject || hasControl(s) || strings.ContainsRune(s, utf8.RuneError) {
		return "", doubt("%.50s is no text of 1 to %d bytes", name, maxSubject)
	}
	return s, nil
}

func text(raw strict.RawMessage) (s string, ok bool) {
	return s, len(raw) > 0 && raw[0] == '"' && strict.Unmarshal(raw, &s) == nil
}

// optional is text, or "" if there is no such claim.
func (c claimSet) optional(name string) (string, error) {
	if raw := c.find(name); raw == nil || string(raw) == "null" {
		return "", nil
	}
	return c.text(name)
}

// texts is a claim that is a text or a list of texts.
func (c claimSet) texts(name string, most int) ([]string, error) {
	raw := c.find(name)
	if len(raw) == 0 || raw[0] != '[' {
		s, err := c.text(name)
		return []string{s}, err
	}
	var list []strict.RawMessage
	if err := strict.Unmarshal(raw, &list); err != nil || len(list) > most {
		return nil, doubt("%.50s is no list of at most %d texts", name, most)
	}
	all := make([]string, len(list))
	for n, raw := range list {
		var err error
		if all[n], err = said(name, raw); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// time is a claim that is a NumericDate (RFC 7519); ok is false if there is none.
func (c claimSet) time(name string) (t time.Time, ok bool, err error) {
	raw := c[name]
	if raw == nil {
		return t, false, nil
	}
	n, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || raw[0] < '0' || raw[0] > '9' || n > 1<<35 {
		return t, false, doubt("%s is no time", name)
	}
	return time.UnixMilli(int64(n * 1000)), true, nil
}

// scalar is a text, number or truth value as conditions compare it.
func scalar(raw strict.RawMessage) (string, bool) {
	if len(raw) == 0 || strings.ContainsRune("[{n", rune(raw[0])) {
		return "", false
	}
	if raw[0] == '"' {
		return text(raw)
	}
	return string(raw), true
}

// scalars are the values of a claim: one, or those of a list.
func (c claimSet) scalars(name string) (all []string) {
	list := []strict.RawMessage{c.find(name)}
	if raw := list[0]; len(raw) > 0 && raw[0] == '[' && strict.Unmarshal(raw, &list) != nil {
		return nil
	}
	for _, raw := range list {
		if s, ok := scalar(raw); ok {
			all = append(all, s)
		}
	}
	return all
}
