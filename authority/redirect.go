package authority

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"breakwater/identity"
)

// mayReturn reports whether answers for the application may go to redirect: to an
// address that it has registered, character by character; for an application on
// people's own machines to any port of the loopback (RFC 8252); for the portal to
// this very server. A registered address that a browser could read in another way
// than it was meant counts for nothing.
func mayReturn(app identity.Application, server, redirect string) bool {
	if len(redirect) > 512 || !plainURL(redirect) {
		return false
	}
	return app.Loopback && isLoopback(redirect) || app.Portal && redirect == server+"/portal/signin" || slices.Contains(app.Redirects, redirect)
}

// plainURL reports whether every program reads the text as the same https or
// loopback URL: no user, no fragment, and no character that some correct.
func plainURL(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"'<>\^`+"`{|}", c) >= 0 {
			return false
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Opaque != "" || u.Hostname() == "" || strings.Contains(text, "#") || strings.Contains(u.Host, "%") || u.String() != text {
		return false
	}
	_, port, ok := strings.Cut(u.Host[strings.LastIndexByte(u.Host, ']')+1:], ":")
	if ok && !validPort(":"+port) {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && isLoopback("http://"+u.Host)
}

// isLoopback reports whether the URL is http://localhost, 127.0.0.1 or [::1], at any
// port, without a path.
func isLoopback(text string) bool {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(text, "/"), "http://")
	return ok && slices.ContainsFunc([]string{"localhost", "127.0.0.1", "[::1]"}, func(host string) bool {
		port, ok := strings.CutPrefix(rest, host)
		return ok && (port == "" || validPort(port))
	})
}

// validPort reads ":8400" in its one spelling.
func validPort(text string) bool {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, ":"), 10, 16)
	return err == nil && n > 0 && text == ":"+strconv.FormatUint(n, 10)
}

// returned is the redirect with an answer in its query.
func returned(redirect string, answer url.Values) string {
	u, err := url.Parse(redirect)
	if err != nil {
		return "" // it has been parsed before
	}
	q := u.Query()
	for name, values := range answer {
		if len(values) == 1 && values[0] != "" {
			q.Set(name, values[0])
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// formAction is what a page may post to, for its policy: this server, and where the
// answer sends the browser on. Browsers count that as well.
func formAction(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil || u.Host == "" {
		return "'self'"
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.Is6() {
		return "'self' " + u.Scheme + ":" // the policy's grammar has no such host
	}
	return "'self' " + u.Scheme + "://" + u.Host
}
