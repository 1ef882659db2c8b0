package replica

import (
	"strings"
	"testing"
	"time"

	"breakwater/ref"
)

func TestSchedulesAndDurations(t *testing.T) {
	for s, want := range map[string]bool{
		"* * * * *": true, "0 3 * * 0-6": true, "*/15 0,12 1-31/2 1,6 7": true, "0 0 1 1 *": true,
		"": false, "* * * *": false, "60 * * * *": false, "* 24 * * *": false, "* * 0 * *": false, "5-1 * * * *": false, "*/0 * * * *": false,
		"@daily": false, "* * * * * *": false, "1- * * * *": false, ", * * * *": false, "-1 * * * *": false, "a * * * *": false,
	} {
		if Cron(s) != want {
			t.Errorf("%q is a schedule: %t", s, !want)
		}
	}
	for s, want := range map[string]time.Duration{"P2D": 48 * time.Hour, "PT4H": 4 * time.Hour, "P1DT1H30M": 25*time.Hour + 30*time.Minute, "P1W": 168 * time.Hour, "PT5S": 5 * time.Second} {
		if d, ok := Duration(s); !ok || d != want {
			t.Errorf("%s: %v %t", s, d, ok)
		}
	}
	for _, s := range []string{"", "P", "PT", "P1Y", "P1M", "2D", "P2DT", "-P1D", "P1.5D", "P2D ", "PT99999999S"} {
		if d, ok := Duration(s); ok {
			t.Errorf("%q lasts %v", s, d)
		}
	}
}

func FuzzCronAndDuration(f *testing.F) {
	f.Add("*/15 0,12 1-31/2 1,6 7")
	f.Add("P1DT1H30M5S")
	f.Fuzz(func(t *testing.T, s string) {
		if Cron(s) && (len(strings.Fields(s)) != 5 || strings.Trim(s, "0123456789*,-/ \t\n\v\f\r\u0085\u00a0") != "") {
			t.Errorf("%q is no schedule", s)
		}
		if d, ok := Duration(s); ok && (d < 0 || s[0] != 'P') {
			t.Errorf("%q lasts %v", s, d)
		}
	})
}

func TestACacheRuleSaysWhatStandsForWhat(t *testing.T) {
	for _, r := range []CacheRule{
		{"docker.io/library/nginx", "nginx", ""}, {"docker.io/library/*", "hub/*", ""}, {"docker.io/*", "*", ""},
		{"localhost:5000/a", "a", ""}, {"[::1]:5000/a", "a", ""}, {"mcr.microsoft.com/a/b/c", "x/y", ""},
	} {
		if err := r.Check(nil); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, r := range []CacheRule{
		{"", "", ""}, {"nginx", "nginx", ""}, {"docker/nginx", "nginx", ""}, {"docker.io/Nginx", "nginx", ""}, {"docker.io/a", "a/*", ""}, {"docker.io/a/*", "a", ""},
		{"me:pw@docker.io/a", "a", ""}, {"https://docker.io/a", "a", ""}, {"docker.io/a:v1", "a", ""}, {"docker.io/a", "", ""}, {"docker.io/a/../b", "a", ""}, {"docker.io/*/a", "a", ""},
	} {
		if err := r.Check(nil); err == nil {
			t.Errorf("%+v means nothing", r)
		}
	}
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/*", "a/b/*", true}, {"a/*", "ab/*", false}, {"*", "a/*", true}, {"a/*", "a/b", false}, {"*", "*", true},
	} {
		a, b := CacheRule{Target: test.a}, CacheRule{Target: test.b}
		if a.Overlaps(&b) != test.want || b.Overlaps(&a) != test.want {
			t.Errorf("%s and %s: %t", test.a, test.b, !test.want)
		}
	}
}

func FuzzCacheRule(f *testing.F) {
	f.Add("docker.io/library/*", "hub/*")
	f.Add("[::1]:5000/a", "a")
	f.Fuzz(func(t *testing.T, source, target string) {
		r := CacheRule{Source: source, Target: target}
		if r.Check(nil) != nil {
			return
		}
		if strings.ContainsAny(source, "@ ?#%\\") || strings.Contains(source, "//") || strings.Count(target, "*") > 1 {
			t.Errorf("%+v", r)
		}
		if _, err := ref.ParseRepository(strings.TrimSuffix(strings.TrimSuffix(target, "*"), "/")); err != nil && target != "*" {
			t.Errorf("%q: %v", target, err)
		}
	})
}

// What names a secret is kept, and what is one is refused, without repeating it.
func TestACredentialSetHoldsNoSecret(t *testing.T) {
	set := func(identifier string) *CredentialSet {
		return &CredentialSet{"docker.io", []AuthCredential{{"", identifier, "https://vault.example.com/secrets/pass"}}}
	}
	for _, ok := range []string{"https://vault.example.com/secrets/user", "https://vault.example.com:8200/secrets/user/0123abc"} {
		if err := set(ok).Check(nil); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "hunter2", "http://vault.example.com/secrets/hunter2", "https://me:hunter2@vault.example.com/secrets/user", "https://vault.example.com/secrets/user?token=hunter2",
		"https://vault.example.com/secrets/user#hunter2", "https://vault.example.com/secrets/../hunter2", "https://vault.example.com/keys/hunter2", "https://vault.example.com/secrets/a%2fhunter2", "https:///secrets/hunter2"} {
		if err := set(bad).Check(nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestNotificationsNameArtifacts(t *testing.T) {
	for s, want := range map[string]bool{
		"hello:*:push": true, "hello:v1:delete": true, "hello:*": true, "*:*:*": true, "team/*:push": true, "a@sha256:" + strings.Repeat("0", 64) + ":push": true,
		"": false, "hello": false, "hello:v1:fly": false, "Hello:v1:push": false, "a@sha256:0:push": false, "a:b:c:push": false,
	} {
		if notification(s) != want {
			t.Errorf("%q is a notification: %t", s, !want)
		}
	}
}
