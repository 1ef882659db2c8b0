package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
)

// A repository token is two resources: a scope map says what may be done, the
// token is who does it. Commands keep one map for each token.
const mapSuffix = "-scope-map"

func tokenCommand() *cobra.Command {
	c := family("token", "Repository tokens: who may pull or push what, until when", tokenCreate(), tokenList(), tokenRevoke())
	asClient(c)
	return c
}

func tokenCreate() *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME --action repositories/REPOSITORY/content/read [--action …] [--expires 24h]",
		Short: "Make a token and show its password, this once",
		Example: `  breakwater token create ci --action 'repositories/team/*/content/read' --action 'repositories/team/*/content/write'
  breakwater token create reader --action repositories/team/api/content/read --expires 24h --output json`,
		Args: cobra.ExactArgs(1),
	}
	actions := c.Flags().StringArray("action", nil, "repositories/REPOSITORY/content/read|content/write|content/delete|metadata/read|metadata/write; REPOSITORY may end in /* or be *")
	expires := lifetime(90 * 24 * time.Hour)
	c.Flags().Var(&expires, "expires", "how long the password holds: 24h, 90d; 0 for ever")
	output := outputFlag(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		name := args[0]
		if !identity.ValidName(name + mapSuffix) {
			return usagef("a token's name has 1 to 54 letters, digits, '-', '_', '.' or '@', and starts with a letter or digit: %q does not", name)
		}
		if len(*actions) == 0 {
			return usagef("token create: at least one --action is needed; without one the token may do nothing")
		}
		for _, a := range *actions {
			if _, err := access.ParseMapped("", a); err != nil {
				return usagef("--action %s: %s", a, fault.From(err).Message)
			}
		}
		ctx := c.Context()
		client, registry, err := connectRegistry(c)
		if err != nil {
			return err
		}
		token, scopeMap := registry+"/tokens/"+name, registry+"/scopeMaps/"+name+mapSuffix
		if err := client.call(ctx, http.MethodGet, token+apiVersion, nil, nil); err == nil {
			return fmt.Errorf("a token named %s exists; revoke it first", name)
		} else if !missing(err) {
			return err
		}
		err = client.call(ctx, http.MethodPut, scopeMap+apiVersion, fields{"properties": fields{
			"description": "of the token " + name, "actions": *actions,
		}}, nil)
		if err != nil {
			return err
		}
		err = client.call(ctx, http.MethodPut, token+apiVersion, fields{"properties": fields{
			"scopeMapId": scopeMap, "status": "enabled",
		}}, nil, "If-None-Match", "*")
		if err != nil {
			return err
		}
		wanted := fields{"tokenId": token, "name": "password1"}
		if expires > 0 {
			wanted["expiry"] = time.Now().Add(time.Duration(expires)).UTC().Format(time.RFC3339Nano)
		}
		var made passwords
		err = client.call(ctx, http.MethodPost, registry+"/generateCredentials"+apiVersion, wanted, &made)
		if err != nil { // a token that nobody can use is only in the way
			return errors.Join(err, client.call(ctx, http.MethodDelete, token+apiVersion, nil, nil))
		}
		return made.print(c, output)
	}
	return c
}

func tokenList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the tokens, what they may do and until when", Args: cobra.NoArgs}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx := c.Context()
		client, registry, err := connectRegistry(c)
		if err != nil {
			return err
		}
		actions := map[string][]string{}
		err = list(ctx, client, registry+"/scopeMaps"+apiVersion, func(d document) error {
			var p struct{ Actions []string }
			actions[strings.ToLower(d.ID)] = nil
			err := json.Unmarshal(d.Properties, &p)
			actions[strings.ToLower(d.ID)] = p.Actions
			return err
		})
		if err != nil {
			return err
		}
		type row struct {
			Name    string   `json:"name"`
			Status  string   `json:"status"`
			Actions []string `json:"actions"`
			Expires []string `json:"expires"` // one for each password; "" is never
		}
		rows := []row{}
		err = list(ctx, client, registry+"/tokens"+apiVersion, func(d document) error {
			var p struct {
				ScopeMapID, Status string
				Credentials        struct{ Passwords []struct{ Expiry string } }
			}
			if err := json.Unmarshal(d.Properties, &p); err != nil {
				return err
			}
			r := row{d.Name, p.Status, actions[strings.ToLower(p.ScopeMapID)], []string{}}
			for _, password := range p.Credentials.Passwords {
				r.Expires = append(r.Expires, password.Expiry)
			}
			rows = append(rows, r)
			return nil
		})
		if err != nil {
			return err
		}
		if output.is("json") {
			return json.NewEncoder(c.OutOrStdout()).Encode(rows)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tSTATUS\tEXPIRES\tACTIONS")
		for _, r := range rows {
			for i := range r.Expires {
				r.Expires[i] = toSecond(r.Expires[i])
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Status, strings.Join(r.Expires, " "), strings.Join(r.Actions, " "))
		}
		return w.Flush()
	}
	return c
}

func tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Remove a token; it is refused from the next request on", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !identity.ValidName(args[0]) {
				return usagef("%q is not the name of a token", args[0])
			}
			ctx := c.Context()
			client, registry, err := connectRegistry(c)
			if err != nil {
				return err
			}
			token := registry + "/tokens/" + args[0] + apiVersion
			err = client.call(ctx, http.MethodDelete, token, nil, nil, "If-Match", "*")
			if missing(err) {
				return fmt.Errorf("there is no token named %s", args[0])
			} else if err != nil {
				return err
			}
			err = client.call(ctx, http.MethodDelete, registry+"/scopeMaps/"+args[0]+mapSuffix+apiVersion, nil, nil)
			if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusConflict {
				return nil // another token uses it too
			}
			return err
		},
	}
}

// passwords is the server's answer to a request for one: it is shown this once.
type passwords struct {
	Username  string
	Passwords []struct{ Value, Expiry string }
}

func (m passwords) print(c *cobra.Command, o *output) error {
	if len(m.Passwords) != 1 {
		return errors.New("the server made no password")
	}
	p := m.Passwords[0]
	if o.is("json") {
		return json.NewEncoder(c.OutOrStdout()).Encode(struct {
			Username string `json:"username"`
			Password string `json:"password"`
			Expires  string `json:"expires"` // "" is never
		}{m.Username, p.Value, p.Expiry})
	}
	until := cmp.Or(toSecond(p.Expiry), "never")
	_, err := fmt.Fprintf(c.OutOrStdout(), "username  %s\npassword  %s\nexpires   %s\n", m.Username, p.Value, until)
	return err
}

// toSecond is a time as people read it.
func toSecond(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.Format(time.RFC3339)
	}
	return s
}

const apiVersion = "?api-version=2023-07-01"

type fields map[string]any

// A lifetime is a duration that may be counted in days.
type lifetime time.Duration

func (l *lifetime) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*l = lifetime(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return errors.New("write it as 90m, 24h or 30d")
	}
	*l = lifetime(d)
	return nil
}

func (l *lifetime) String() string {
	if d := time.Duration(*l); d%(24*time.Hour) == 0 && d != 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return time.Duration(*l).String()
}

func (*lifetime) Type() string { return "duration" }
