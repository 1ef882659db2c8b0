package ledger

import (
	"net/url"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// A Webhook says who is told of what happens to content (azure-contract §3.11).
// Where and how is a secret: both may carry what proves this registry there.
type Webhook struct {
	ServiceURI    string            `json:"serviceUri,omitempty"`
	CustomHeaders map[string]string `json:"customHeaders,omitempty"`
	Status        string            `json:"status"`
	Scope         string            `json:"scope"` // repo, repo:tag or repo:*; "" is everything
	Actions       []string          `json:"actions"`
}

// What a webhook can be told.
var webhookActions = []string{"push", "delete", "quarantine", "chart_push", "chart_delete"}

// Headers that say how a message is framed, or where it goes: not the owner's.
var framing = []string{"Connection", "Content-Encoding", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade"}

// Check completes w, and refuses what is not certain. was is what it was, or nil:
// where it goes to and its headers stay if they are not sent, since nobody is shown
// them. No word of either is in a message.
func (w *Webhook) Check(was *Webhook) error {
	if was != nil && w.ServiceURI == "" {
		w.ServiceURI = was.ServiceURI
	}
	if was != nil && w.CustomHeaders == nil {
		w.CustomHeaders = was.CustomHeaders
	}
	u, err := url.Parse(w.ServiceURI)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "" || len(w.ServiceURI) > 2048 {
		return fault.New(fault.BadRequest, "serviceUri is an http:// or https:// address of at most 2048 bytes, without fragment")
	}
	if err := checkHeaders(w.CustomHeaders); err != nil {
		return err
	}
	if w.Status == "" {
		w.Status = "enabled"
	}
	if w.Status != "enabled" && w.Status != "disabled" {
		return fault.New(fault.BadRequest, "the status of a webhook is enabled or disabled")
	}
	if err := checkScope(w.Scope); err != nil {
		return err
	}
	slices.Sort(w.Actions)
	if n := len(w.Actions); n == 0 || len(slices.Compact(w.Actions)) != n ||
		slices.ContainsFunc(w.Actions, func(a string) bool { return !slices.Contains(webhookActions, a) }) {
		return fault.New(fault.BadRequest, "actions are one or more of %s, each once", strings.Join(webhookActions, ", "))
	}
	return nil
}

func checkHeaders(all map[string]string) error {
	size := 0
	seen := map[string]bool{}
	for name, value := range all {
		size += len(name) + len(value)
		lower := strings.ToLower(name)
		bad := name == "" || seen[lower] ||
			strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) }) ||
			strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) ||
			slices.ContainsFunc(framing, func(s string) bool { return strings.EqualFold(s, name) })
		if seen[lower] = true; bad {
			return fault.New(fault.BadRequest, "customHeaders are names and values of HTTP headers, each once, in ASCII, and not those of the connection such as Host or Content-Length")
		}
	}
	if len(all) > 64 || size > 8<<10 {
		return fault.New(fault.BadRequest, "customHeaders are at most 64, and together at most 8 KiB")
	}
	return nil
}

func checkScope(scope string) error {
	repo, tag, tagged := strings.Cut(scope, ":")
	if scope == "" {
		return nil
	}
	_, err := ref.ParseRepository(repo)
	if err == nil && tagged && tag != "*" {
		_, err = ref.ParseTag(tag)
	}
	if err != nil {
		return fault.New(fault.BadRequest, "the scope of a webhook is repository, repository:tag or repository:*; an empty one is everything")
	}
	return nil
}
