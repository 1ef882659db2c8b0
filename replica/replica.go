// Package replica will bring content to other places: regions, caches of other
// registries, and connected registries at the edge. Today it knows what their
// settings mean, and refuses those that mean nothing.
package replica

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"breakwater/fault"
	"breakwater/ref"
)

func bad(format string, args ...any) error { return fault.New(fault.BadRequest, format, args...) }

// NotBuilt is what is said of each enabled setting here: it is kept, and nothing
// comes of it yet.
const NotBuilt = "this server keeps the setting, and does not act on it yet"

// A Replication is a region that shall have a copy (azure-contract §3.10).
type Replication struct {
	RegionEndpointEnabled *bool  `json:"regionEndpointEnabled,omitempty"`
	ZoneRedundancy        string `json:"zoneRedundancy,omitempty"`
}

// Check completes r, and refuses what is not certain. home is where the registry
// is, at is where the copy shall be, before is where it was, or "".
func (r *Replication) Check(home, at, before string) error {
	at = Region(at)
	if at == "" || len(at) > 64 || strings.Trim(at, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return bad("a replication has a location, such as westeurope")
	}
	if before != "" && Region(before) != at {
		return bad("a replication stays in its location; make another one")
	}
	if at == Region(home) {
		return fault.New(fault.Conflict, "the registry is in %s itself; a replication is elsewhere", at)
	}
	if r.RegionEndpointEnabled == nil {
		yes := true
		r.RegionEndpointEnabled = &yes
	}
	if r.ZoneRedundancy == "" {
		r.ZoneRedundancy = "Disabled"
	}
	if r.ZoneRedundancy != "Enabled" && r.ZoneRedundancy != "Disabled" {
		return bad("zoneRedundancy is Enabled or Disabled")
	}
	return nil
}

// Region is the one spelling of a location: "West Europe" is westeurope.
func Region(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

// CheckName is Azure's rule for the names of replications, webhooks and the like:
// 5 to 50 letters and digits.
func CheckName(what, s string) error {
	if len(s) < 5 || len(s) > 50 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		return fault.New(fault.NameInvalid, "the name of a %s has 5 to 50 letters and digits", what)
	}
	return nil
}

var dashed = regexp.MustCompile(`^[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*$`)

// CheckDashed is the rule for cache rules, credential sets and connected registries.
func CheckDashed(what, s string) error {
	if len(s) < 5 || len(s) > 50 || !dashed.MatchString(s) {
		return fault.New(fault.NameInvalid, "the name of a %s has 5 to 50 letters, digits and '-' between them", what)
	}
	return nil
}

// A CacheRule says which repositories stand for those of another registry
// (azure-contract §3.12).
type CacheRule struct {
	Source        string `json:"sourceRepository"`
	Target        string `json:"targetRepository"`
	CredentialSet ref.ID `json:"credentialSetResourceId,omitempty"`
}

// Check refuses what is not certain. was is what the rule was, or nil: only its
// credential set can change.
func (c *CacheRule) Check(was *CacheRule) error {
	host, path, _ := strings.Cut(c.Source, "/")
	source, sourceAll := strings.CutSuffix(path, "/*")
	target, targetAll := strings.CutSuffix(c.Target, "/*")
	if path == "*" {
		source, sourceAll = "all", true
	}
	if c.Target == "*" {
		target, targetAll = "all", true
	}
	_, err := ref.ParseRepository(source)
	if !validHost(host) || err != nil {
		return bad("sourceRepository is HOST/REPOSITORY, such as docker.io/library/nginx, or HOST/PREFIX/*")
	}
	if _, err := ref.ParseRepository(target); err != nil || sourceAll != targetAll {
		return bad("targetRepository is a repository, or PREFIX/* if the source ends in /*")
	}
	if was != nil && (was.Source != c.Source || was.Target != c.Target) {
		return bad("only the credential set of a cache rule can change; delete it and make another one")
	}
	return nil
}

// Overlaps reports whether it is not certain which of two rules is meant for a
// repository: a rule for one alone goes before one for all below a prefix.
func (c *CacheRule) Overlaps(other *CacheRule) bool {
	a, aAll := strings.CutSuffix(c.Target, "*")
	b, bAll := strings.CutSuffix(other.Target, "*")
	return aAll == bAll && (a == b || aAll && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)))
}

// validHost is a DNS name or address with an optional port, as image names have.
func validHost(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && len(s) <= 255 && strings.ContainsAny(s, ".:") &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || 'A' <= r && r <= 'Z' || strings.ContainsRune(`/@%\?#*`, r)
		})
}

// A CredentialSet says where the login of another registry lies: what it is, is not
// here.
type CredentialSet struct {
	LoginServer string           `json:"loginServer"`
	Credentials []AuthCredential `json:"authCredentials"`
}

// An AuthCredential names two secrets of a key vault.
type AuthCredential struct {
	Name     string `json:"name"`
	Username string `json:"usernameSecretIdentifier"`
	Password string `json:"passwordSecretIdentifier"`
}

// Check refuses what is not certain, and identifiers that hold a secret themselves.
// No word of one is in a message.
func (c *CredentialSet) Check(was *CredentialSet) error {
	if !validHost(c.LoginServer) {
		return bad("loginServer is the host of another registry, such as docker.io")
	}
	if was != nil && was.LoginServer != c.LoginServer {
		return bad("a credential set is for one login server; make another one")
	}
	if len(c.Credentials) != 1 {
		return bad("authCredentials has one entry")
	}
	a := &c.Credentials[0]
	if a.Name == "" {
		a.Name = "Credential1"
	}
	if a.Name != "Credential1" || !secretIdentifier(a.Username) || !secretIdentifier(a.Password) {
		return bad("an entry of authCredentials is called Credential1, and its usernameSecretIdentifier and passwordSecretIdentifier are https://VAULT/secrets/NAME or https://VAULT/secrets/NAME/VERSION: never the secret itself")
	}
	return nil
}

func secretIdentifier(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || len(s) > 512 || u.RawPath != "" {
		return false
	}
	part := strings.Split(strings.TrimSuffix(u.Path, "/"), "/")
	return (len(part) == 3 || len(part) == 4) && part[0] == "" && part[1] == "secrets" &&
		!slices.ContainsFunc(part[2:], func(s string) bool { return len(s) > 127 || !dashed.MatchString(s) })
}

// A ConnectedRegistry is a registry elsewhere that shall follow this one
// (azure-contract §3.13).
type ConnectedRegistry struct {
	Mode          string      `json:"mode"`
	Parent        Parent      `json:"parent"`
	ClientTokens  []ref.ID    `json:"clientTokenIds"`
	Logging       Logging     `json:"logging"`
	Notifications []string    `json:"notificationsList"`
	Garbage       *Collection `json:"garbageCollection,omitempty"`
}

// A Parent is what a connected registry follows, and how.
type Parent struct {
	ID   ref.ID `json:"id,omitempty"` // another connected registry; "" is the registry itself
	Sync Sync   `json:"syncProperties"`
}

// Sync says as whom and when.
type Sync struct {
	TokenID    ref.ID `json:"tokenId,omitempty"`
	Schedule   string `json:"schedule,omitempty"`
	Window     string `json:"syncWindow,omitempty"`
	MessageTTL string `json:"messageTtl,omitempty"`
}

type Logging struct {
	Level string `json:"logLevel"`
	Audit string `json:"auditLogStatus"`
}

type Collection struct {
	Enabled  bool   `json:"enabled"`
	Schedule string `json:"schedule,omitempty"`
}

// Check completes c, and refuses what is not certain. was is what it was, or nil:
// its mode, its parent and its token stay.
func (c *ConnectedRegistry) Check(was *ConnectedRegistry) error {
	if !oneOf(&c.Mode, "ReadWrite", "ReadOnly", "Registry", "Mirror") {
		return bad("the mode of a connected registry is ReadWrite, ReadOnly, Registry or Mirror")
	}
	s := &c.Parent.Sync
	if s.TokenID == "" {
		return bad("parent.syncProperties.tokenId is the id of the token with which the connected registry comes")
	}
	if was != nil && (was.Mode != c.Mode || was.Parent.ID.Key() != c.Parent.ID.Key() || was.Parent.Sync.TokenID.Key() != s.TokenID.Key()) {
		return bad("the mode, the parent and the sync token of a connected registry do not change; delete it and make another one")
	}
	if s.Schedule == "" {
		s.Schedule = always
	}
	if !Cron(s.Schedule) {
		return bad("schedule is a cron expression of five fields, such as 0 3 * * *")
	}
	if d, ok := Duration(s.MessageTTL); !ok || d < 24*time.Hour || d > 90*24*time.Hour {
		return bad("messageTtl is a duration of 1 to 90 days, such as P2D")
	}
	if d, ok := Duration(s.Window); s.Window != "" && (!ok || d < time.Hour || d > 7*24*time.Hour) {
		return bad("syncWindow is a duration of 1 hour to 7 days, such as PT4H")
	}
	if c.Logging.Level == "" {
		c.Logging.Level = "Information"
	}
	if c.Logging.Audit == "" {
		c.Logging.Audit = "Disabled"
	}
	if !oneOf(&c.Logging.Level, "Debug", "Information", "Warning", "Error", "None") || !oneOf(&c.Logging.Audit, "Enabled", "Disabled") {
		return bad("logging has a logLevel (Debug, Information, Warning, Error or None) and an auditLogStatus (Enabled or Disabled)")
	}
	if g := c.Garbage; g != nil && g.Schedule != "" && !Cron(g.Schedule) {
		return bad("garbageCollection.schedule is a cron expression of five fields")
	}
	seen := map[string]bool{}
	for _, id := range c.ClientTokens {
		if seen[id.Key()] || id.Key() == s.TokenID.Key() {
			return bad("clientTokenIds are ids of tokens, each once, and not the sync token")
		}
		seen[id.Key()] = true
	}
	if len(c.ClientTokens) > 100 || len(c.Notifications) > 100 {
		return bad("a connected registry has at most 100 client tokens, and 100 notifications")
	}
	for _, n := range c.Notifications {
		if !notification(n) {
			return bad("a notification is REPOSITORY:TAG:ACTION or REPOSITORY@DIGEST:ACTION, where the action is push, delete or *")
		}
	}
	return nil
}

const always = "* * * * *"

func oneOf(s *string, known ...string) bool {
	for _, k := range known {
		if strings.EqualFold(k, *s) {
			*s = k
			return true
		}
	}
	return false
}

// notification is repository[:tag or @digest][:action], with * for any.
func notification(s string) bool {
	at := strings.LastIndexByte(s, ':')
	if at < 0 || len(s) > 512 || !slices.Contains([]string{"push", "delete", "*"}, s[at+1:]) {
		return false
	}
	name := s[:at]
	repo, digest, byDigest := strings.Cut(name, "@")
	var err error
	if byDigest {
		_, err = ref.ParseDigest(digest)
	} else {
		tag, tagged := "", false
		if repo, tag, tagged = strings.Cut(name, ":"); tagged && tag != "*" {
			_, err = ref.ParseTag(tag)
		}
	}
	if err == nil && repo != "*" {
		_, err = ref.ParseRepository(strings.TrimSuffix(repo, "/*"))
	}
	return err == nil
}

// Cron reports whether s is a cron expression: minute, hour, day of the month,
// month, day of the week, each *, numbers, ranges and steps.
func Cron(s string) bool {
	fields := strings.Fields(s)
	if len(fields) != len(cronRange) || len(s) > 128 {
		return false
	}
	for i, field := range fields {
		for item := range strings.SplitSeq(field, ",") {
			span, step, stepped := strings.Cut(item, "/")
			if n, ok := number(step, 1, cronRange[i][1]); stepped && (!ok || n < 1) {
				return false
			}
			if span == "*" {
				continue
			}
			from, to, ranged := strings.Cut(span, "-")
			a, ok := number(from, cronRange[i][0], cronRange[i][1])
			if !ok {
				return false
			}
			if b, ok := number(to, cronRange[i][0], cronRange[i][1]); ranged && (!ok || b < a) {
				return false
			}
		}
	}
	return true
}

var cronRange = [...][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}}

func number(s string, least, most int) (n int, ok bool) {
	if s == "" || len(s) > 2 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, least <= n && n <= most
}

var iso = regexp.MustCompile(`^P(?:([0-9]{1,3})W)?(?:([0-9]{1,4})D)?(?:T(?:([0-9]{1,4})H)?(?:([0-9]{1,5})M)?(?:([0-9]{1,6})S)?)?$`)

// Duration reads a duration of ISO 8601 without years and months, which have no
// certain length.
func Duration(s string) (d time.Duration, ok bool) {
	m := iso.FindStringSubmatch(s)
	if m == nil || s == "P" || strings.HasSuffix(s, "T") {
		return 0, false
	}
	for i, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n := 0
		for _, c := range []byte(m[i+1]) {
			n = 10*n + int(c-'0')
		}
		d += time.Duration(n) * unit
	}
	return d, true
}
