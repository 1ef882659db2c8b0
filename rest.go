package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"breakwater/ref"
)

// restCommand is for what has no command of its own: like az rest, it asks the
// control plane and prints the answer.
func restCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rest [--method get] PATH [--body JSON]",
		Short: "Ask the control plane for anything and print its JSON",
		Long: `Ask the control plane for anything and print its JSON, as az rest does.

PATH is a path of the server, or a URL of it. {registry} and {subscriptionId} in
it, and in the body, are those of the login's registry; {guid} is a new one.`,
		Example: `  breakwater rest '{registry}/providers/Microsoft.Authorization/roleAssignments?$filter=atScope()'
  breakwater rest --method put /providers/Breakwater.Identity/servicePrincipals/ci --body '{"properties":{"displayName":"CI"}}'
  breakwater rest --method put '{registry}/providers/Microsoft.Authorization/denyAssignments/{guid}' --body @deny.json`,
		Args: cobra.MaximumNArgs(1),
	}
	asClient(c)
	f := c.Flags()
	method := f.StringP("method", "m", "get", "get, put, patch, post or delete")
	where := f.StringP("url", "u", "", "the path, instead of the argument")
	body := f.StringP("body", "b", "", "JSON to send, or @FILE that holds it; @- is standard input")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 == f.Changed("url") {
			return usagef("rest: one path is needed, as an argument or as --url")
		}
		path := *where + strings.Join(args, "")
		verb := strings.ToUpper(*method)
		if !slices.Contains([]string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete}, verb) {
			return usagef("--method is get, put, patch, post or delete, not %q", *method)
		}
		text, err := restBody(c, *body)
		if err != nil {
			return err
		}
		client, err := connect(c)
		if err != nil {
			return err
		}
		if path, err = client.path(path); err != nil {
			return err
		}
		if path, text, err = client.fill(c.Context(), path, text); err != nil {
			return err
		}
		var sent any
		if text != "" {
			if !json.Valid([]byte(text)) {
				return usagef("--body is not JSON")
			}
			var whole any
			if err := json.Unmarshal([]byte(text), &whole); err != nil {
				return err
			}
			if !strings.HasPrefix(*body, "@") && secretly([]string{""}, whole) {
				return usagef("--body has a secret, which everybody on this machine could read here; write it into a file, and --body @FILE")
			}
			sent = json.RawMessage(text)
		}
		var answer json.RawMessage
		err = client.call(c.Context(), verb, strings.ReplaceAll(path, " ", "%20"), sent, &answer)
		if r, ok := errors.AsType[*refusal](err); ok && r.code != "" {
			return fmt.Errorf("(%s) %w", r.code, err)
		} else if err != nil {
			return err
		}
		if len(answer) == 0 {
			return nil
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, answer, "", "  "); err != nil {
			return err
		}
		pretty.WriteByte('\n')
		_, err = pretty.WriteTo(c.OutOrStdout())
		return err
	}
	return c
}

func restBody(c *cobra.Command, body string) (string, error) {
	name, file := strings.CutPrefix(body, "@")
	if !file {
		return body, nil
	}
	if name == "-" {
		text, err := io.ReadAll(c.InOrStdin())
		return string(text), err
	}
	text, err := os.ReadFile(name)
	return string(text), err
}

// path is what where asks the server of c for: a URL must be one of its own,
// because the login goes there.
func (c *client) path(where string) (string, error) {
	if strings.HasPrefix(where, "/") || strings.HasPrefix(where, "{registry}") {
		return where, nil
	}
	u, err := url.Parse(where)
	if err != nil || u.Host == "" {
		return "", usagef("%q is no path: a path starts with / or with {registry}", where)
	}
	if own, err := url.Parse(c.Server); err != nil || !strings.EqualFold(u.Scheme, own.Scheme) || !strings.EqualFold(u.Host, own.Host) || u.User != nil {
		return "", usagef("%s is not %s: the login is for that server only", where, c.Server)
	}
	return u.RequestURI(), nil
}

// fill puts a new GUID, and what is known about the login's registry, in the place
// of their names.
func (c *client) fill(ctx context.Context, path, body string) (string, string, error) {
	const guid, registry, subscription = "{guid}", "{registry}", "{subscriptionId}"
	known := []string{guid, ref.NewGUID()}
	if all := path + body; strings.Contains(all, registry) || strings.Contains(all, subscription) {
		id, err := c.registry(ctx)
		if err != nil {
			return "", "", err
		}
		part := strings.Split(id, "/")
		if len(part) < 3 {
			return "", "", fmt.Errorf("the registry's id is %q", id)
		}
		known = append(known, registry, id, subscription, part[2])
	}
	r := strings.NewReplacer(known...)
	return r.Replace(path), r.Replace(body), nil
}
