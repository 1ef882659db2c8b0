package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"breakwater/ref"
)

const naming = `TYPE is the last word of a type, in one or many: registry, tokens, scopeMap,
roleAssignments. "breakwater list" shows all that the server has. NAME may say what
the resource is in (shop/ci is the token ci of the registry shop); otherwise that is
the login's registry or what --in says: an id, the name of a registry, {registry}/…,
or / for what lies above all.`

// resourceCommand completes a command about resources.
func resourceCommand(c *cobra.Command) (in *string) {
	in = asClient(c).Flags().String("in", "", "what the resource lies in or on: an id, the name of a registry, or /")
	c.Long = strings.TrimSpace(c.Short + ".\n\n" + c.Long + naming)
	c.ValidArgsFunction = completeResources
	completeSites(c)
	return in
}

func getCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "get TYPE NAME | get ID", Short: "Show a resource", Args: cobra.RangeArgs(1, 2),
		Example: `  breakwater get registry breakwater
  breakwater get token shop/ci --output yaml`,
	}
	in := resourceCommand(c)
	output := outputFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && !isID(args[0]) {
			return usagef("get: a name is needed, or an id; breakwater list %s shows what there is", args[0])
		}
		client, id, _, err := reach(c, *in, args)
		if err != nil {
			return err
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodGet, id+apiVersion, nil, &whole); err != nil {
			return err
		}
		return showOne(c.OutOrStdout(), output, whole)
	}
	return c
}

func listCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list [TYPE]", Short: "List the resources of a type, or the types that there are", Args: cobra.MaximumNArgs(1),
		Example: `  breakwater list
  breakwater list registries
  breakwater list roleAssignments --in /
  breakwater list tokens --in shop --output json`,
	}
	in := resourceCommand(c)
	output := outputFlag(c, "table", "json", "yaml")
	filter := c.Flags().String("filter", "", "a $filter that the server's list of the type knows")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		ctx := c.Context()
		all, err := client.types(ctx)
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return showTypes(c.OutOrStdout(), output, all)
		}
		t, err := typeOf(all, args[0])
		if err != nil {
			return err
		}
		path, err := site{client, *in}.list(ctx, t)
		if err != nil {
			return err
		}
		path += apiVersion
		if *filter != "" {
			path += "&" + url.Values{"$filter": {*filter}}.Encode()
		}
		items := []json.RawMessage{}
		if err := list(ctx, client, path, func(item json.RawMessage) error { items = append(items, item); return nil }); err != nil {
			return err
		}
		return showMany(c.OutOrStdout(), output, items)
	}
	return c
}

func setCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "set TYPE NAME [KEY=VALUE…] | set ID [KEY=VALUE…] | set TYPE NAME -f FILE", Short: "Make a resource, or change it", Args: cobra.MinimumNArgs(1),
		Long: `A KEY is a property, with dots between its parts; location, tags.NAME, sku.NAME and
identity.type are as such. VALUE is a JSON value, or text; KEY=@FILE reads it, and a
secret is given in no other way. What is not named stays as it is.

With -f the whole resource is sent, as get prints it; if it has an etag, nobody may
have changed it meanwhile.

`,
		Example: `  breakwater set registry shop anonymousPullEnabled=false networkRuleSet.defaultAction=Deny tags.team=web
  breakwater set scopeMap readers 'actions=["repositories/team/*/content/read"]'
  breakwater set roleAssignment {guid} --in / roleDefinitionId=Reader principalId=ID
  breakwater set webhook shop/ci -f webhook.yaml`,
	}
	in := resourceCommand(c)
	output := outputFlag(c, "table", "json", "yaml")
	file := c.Flags().StringP("file", "f", "", "JSON or YAML of the whole resource; - is standard input")
	c.RunE = func(c *cobra.Command, args []string) error {
		named := 2
		if isID(args[0]) {
			named = 1
		}
		if len(args) < named {
			return usagef("set: a name is needed, or an id")
		}
		names, pairs := args[:named], args[named:]
		if names[named-1] = strings.ReplaceAll(names[named-1], "{guid}", ref.NewGUID()); len(pairs) > 0 && *file != "" {
			return usagef("set: say what as KEY=VALUE or with -f FILE, not both")
		}
		var change fields
		var err error
		if *file != "" {
			change, err = readResource(c, *file)
		} else {
			change, err = parsePairs(c, pairs)
		}
		if err != nil {
			return err
		}
		client, id, t, err := reach(c, *in, names)
		if err != nil {
			return err
		}
		whole, err := client.set(c.Context(), t, id, change, *file != "")
		if err != nil {
			return err
		}
		return showOne(c.OutOrStdout(), output, whole)
	}
	return c
}

func deleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "delete TYPE NAME | delete ID", Short: "Delete a resource, and what lies in it", Args: cobra.RangeArgs(1, 2),
		Example: `  breakwater delete token ci
  breakwater delete registry shop --yes`,
	}
	in := resourceCommand(c)
	yes := c.Flags().BoolP("yes", "y", false, "do not ask, at a terminal, whether it is meant")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && !isID(args[0]) {
			return usagef("delete: a name is needed, or an id")
		}
		client, id, _, err := reach(c, *in, args)
		if err != nil {
			return err
		}
		if stdin, ok := c.InOrStdin().(*os.File); ok && !*yes && term.IsTerminal(int(stdin.Fd())) {
			fmt.Fprintf(c.ErrOrStderr(), "delete %s? [y/N] ", printable(id))
			var said string
			_, _ = fmt.Fscanln(stdin, &said) // nothing is no
			if !strings.EqualFold(said, "y") && !strings.EqualFold(said, "yes") {
				return errors.New("nothing was deleted")
			}
		}
		return client.remove(c.Context(), id)
	}
	return c
}

// completeSites completes --in by the names of registries.
func completeSites(c *cobra.Command) {
	_ = c.RegisterFlagCompletionFunc("in", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) { // fails only for a flag that is not there
		return completed(c, "/providers/Microsoft.ContainerRegistry/registries", func(d document) string { return d.Name })
	})
}

// remove deletes what is there.
func (c *client) remove(ctx context.Context, id string) error {
	err := c.call(ctx, http.MethodDelete, id+apiVersion, nil, nil, "If-Match", "*")
	if r, ok := errors.AsType[*refusal](err); ok && (r.status == http.StatusNotFound || r.status == http.StatusPreconditionFailed) {
		return fmt.Errorf("there is no %s", printable(ending(id)))
	}
	return err
}

func isID(s string) bool { return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "{registry}") }

// reach makes the client, and finds the id that TYPE NAME or ID mean.
func reach(c *cobra.Command, in string, args []string) (_ *client, id string, t resourceType, err error) {
	client, err := connect(c)
	if err != nil {
		return nil, "", t, err
	}
	s := site{client, in}
	if len(args) == 1 {
		if in != "" {
			return nil, "", t, usagef("an id says where it lies, without --in")
		}
		s.in = args[0]
		id, err = s.base(c.Context())
		return client, id, t, err
	}
	if t, err = client.resourceType(c.Context(), args[0]); err == nil {
		id, err = s.id(c.Context(), t, args[1])
	}
	return client, id, t, err
}

// set makes a resource or changes it. A change is merged by the server, but for
// tags, which it takes as a whole.
func (c *client) set(ctx context.Context, t resourceType, id string, change fields, whole bool) (answer json.RawMessage, err error) {
	if whole {
		var match []string
		if etag, _ := change["etag"].(string); etag != "" {
			match = []string{"If-Match", etag}
		}
		return answer, stale(c.call(ctx, http.MethodPut, id+apiVersion, change, &answer, match...))
	}
	var now struct {
		Etag string
		Tags map[string]any
	}
	err = c.call(ctx, http.MethodGet, id+apiVersion, nil, &now)
	if missing(err) {
		if _, located := change["location"]; !located {
			c.locate(ctx, t, id, change)
		}
		return answer, c.call(ctx, http.MethodPut, id+apiVersion, change, &answer, "If-None-Match", "*")
	}
	if err != nil {
		return nil, err
	}
	var match []string
	if tags, ok := change["tags"].(map[string]any); ok {
		for name, value := range now.Tags {
			if _, given := tags[name]; !given {
				tags[name] = value
			}
		}
		if now.Etag != "" {
			match = []string{"If-Match", now.Etag}
		}
	}
	err = c.call(ctx, http.MethodPatch, id+apiVersion, change, &answer, match...)
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusMethodNotAllowed {
		err = c.call(ctx, http.MethodPut, id+apiVersion, change, &answer, match...)
	}
	return answer, stale(err)
}

// locate puts a new resource where its group is.
func (c *client) locate(ctx context.Context, t resourceType, id string, change fields) {
	_, ok := t.inGroup()
	parts := strings.SplitN(id, "/", 6)
	if !ok || strings.Count(t.Path, hole) != 3 || len(parts) < 6 {
		return
	}
	var group struct{ Location string }
	if c.call(ctx, http.MethodGet, strings.Join(parts[:5], "/")+apiVersion, nil, &group) == nil && group.Location != "" {
		change["location"] = group.Location // otherwise the server asks for it
	}
}

func stale(err error) error {
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusPreconditionFailed {
		return errors.New("somebody else changed it at the same time; look at it and try again")
	}
	return err
}

// readResource reads a whole resource, without what is only shown.
func readResource(c *cobra.Command, file string) (change fields, err error) {
	text, err := readFileOrInput(c, file)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		var whole any
		if err := yaml.Unmarshal(text, &whole); err != nil {
			return nil, fmt.Errorf("%s is neither JSON nor YAML: %w", file, err)
		}
		if text, err = json.Marshal(whole); err != nil {
			return nil, fmt.Errorf("%s is not a resource: %w", file, err)
		}
	}
	if err := json.Unmarshal(text, &change); err != nil || change == nil {
		return nil, fmt.Errorf("%s is not a resource", file)
	}
	return change, nil
}

func readFileOrInput(c *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(c.InOrStdin(), 1<<20))
	}
	return os.ReadFile(file)
}

// parsePairs reads KEY=VALUE…
func parsePairs(c *cobra.Command, pairs []string) (fields, error) {
	change := fields{}
	for _, pair := range pairs {
		key, text, ok := strings.Cut(pair, "=")
		path := strings.Split(key, ".")
		if !ok || slices.Contains(path, "") {
			return nil, usagef("%.40q is not KEY=VALUE", pair)
		}
		switch strings.ToLower(path[0]) {
		case "location", "tags", "sku", "identity", "properties":
			path[0] = strings.ToLower(path[0])
		default:
			path = append([]string{"properties"}, path...)
		}
		var value any = text
		if file, ok := strings.CutPrefix(text, "@"); ok {
			read, err := readFileOrInput(c, file)
			if err != nil {
				return nil, err
			}
			value = strings.TrimRight(string(read), "\r\n")
		} else if path[0] != "tags" {
			if value = parseValue(text); secretly(path[max(0, len(path)-2):], value) {
				return nil, usagef("set: %s is a secret, which everybody on this machine could read here; write %[1]s=@FILE, or -f FILE", key)
			}
		}
		if err := put(change, path, value); err != nil {
			return nil, err
		}
	}
	return change, nil
}

// parseValue takes text for JSON where it can only be that: a version 1.10 is text.
func parseValue(text string) any {
	var value any
	switch {
	case text == "true", text == "false", text == "null", strings.HasPrefix(text, "{"), strings.HasPrefix(text, "["), strings.HasPrefix(text, `"`):
		if json.Unmarshal([]byte(text), &value) == nil {
			return value
		}
	default:
		if n, err := strconv.Atoi(text); err == nil && strconv.Itoa(n) == text {
			return n
		}
	}
	return text
}

func put(into map[string]any, path []string, value any) error {
	for _, name := range path[:len(path)-1] {
		below, ok := into[name].(map[string]any)
		if !ok && into[name] != nil {
			return usagef("%s is given as a value and as an object", name)
		}
		if !ok {
			below = map[string]any{}
			into[name] = below
		}
		into = below
	}
	last := path[len(path)-1]
	if _, twice := into[last]; twice {
		return usagef("%s is given twice", last)
	}
	into[last] = value
	return nil
}

// secretly reports whether a value that a command line holds is, by its name, a
// secret, or has one in it.
func secretly(path []string, value any) bool {
	switch v := value.(type) {
	case string:
		name := strings.ToLower(path[len(path)-1])
		if v != "" && (slices.ContainsFunc([]string{"password", "secret", "secrettext", "passphrase", "privatekey"}, func(s string) bool { return strings.HasSuffix(name, s) }) ||
			len(path) > 1 && strings.EqualFold(path[len(path)-2], "customHeaders")) {
			return true
		}
		u, err := url.Parse(v)
		if err != nil || u.User == nil {
			return false
		}
		_, has := u.User.Password()
		return has
	case []any:
		return slices.ContainsFunc(v, func(each any) bool { return secretly(path, each) })
	case map[string]any:
		for name, below := range v {
			if secretly([]string{path[len(path)-1], name}, below) {
				return true
			}
		}
	}
	return false
}

// completeResources completes TYPE, and then NAME, from what the server has.
func completeResources(c *cobra.Command, args []string, _ string) (found []string, _ cobra.ShellCompDirective) {
	const nothing = cobra.ShellCompDirectiveNoFileComp
	if c.Context() == nil || len(args) > 1 || len(args) == 1 && (isID(args[0]) || c.Name() == "list") {
		return nil, nothing
	}
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
	defer cancel()
	client, err := connect(c)
	if err != nil {
		return nil, nothing
	}
	all, err := client.types(ctx)
	if err != nil {
		return nil, nothing
	}
	if len(args) == 0 {
		for _, t := range all {
			found = append(found, shortType(all, t))
		}
		return found, nothing
	}
	t, err := typeOf(all, args[0])
	if err != nil {
		return nil, nothing
	}
	in, _ := c.Flags().GetString("in") // "" if there is no such flag
	path, err := site{client, in}.list(ctx, t)
	if err != nil {
		return nil, nothing
	}
	return completed(c, path, func(d document) string { return d.Name })
}
