package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"breakwater/access"
	"breakwater/identity"
	"breakwater/ref"
)

// An application is three resources: the service principal is who it is, a role
// assignment what it may do, a secret what proves it. Commands make them together.
func principalCommand() *cobra.Command {
	return asClient(family("principal", "Applications that log in: with a role, and a secret that is shown once",
		principalCreate(), principalRotate(), principalList(), principalDelete()))
}

// A servicePrincipal is what the commands read of one.
type servicePrincipal struct {
	Name       string `json:"name"`
	Properties struct {
		DisplayName         string
		Status              string
		AppID               string
		PrincipalID         string
		PasswordCredentials []struct {
			KeyID       string
			EndDateTime time.Time
		}
	} `json:"properties"`
}

func principalPath(name string) string {
	return "/providers/" + identity.ServicePrincipalType + "/" + url.PathEscape(name)
}

// handing is how a new secret is handed over.
type handing struct {
	expires    lifetime
	secretFile string
	envFile    string
	output     *output
}

func handingFlags(c *cobra.Command) *handing {
	h := &handing{expires: lifetime(180 * 24 * time.Hour), output: outputFlag(c, "text", "json")}
	f := c.Flags()
	f.Var(&h.expires, "expires", "how long the secret holds: 24h, 180d")
	f.StringVar(&h.secretFile, "secret-file", "", "write the secret to this file, for you alone, and do not show it")
	f.StringVar(&h.envFile, "env-file", "", "write AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET to this file, and do not show the secret")
	c.MarkFlagsMutuallyExclusive("secret-file", "env-file")
	return h
}

func principalCreate() *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME [--role ROLE] [--in SCOPE]", Short: "Make a service principal with a role, and show its secret, this once", Args: cobra.ExactArgs(1),
		Example: `  breakwater principal create ci --role AcrPush
  breakwater principal create web --role AcrPull --in '{registry}/repositories/team/web' --env-file web.env`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	role := c.Flags().String("role", "", "what it may do; without one, nothing")
	in := c.Flags().String("in", "", "where: an id, the name of a registry, {registry}/repositories/NAME, or / for everywhere; the login's registry if it is not said")
	display := c.Flags().String("display-name", "", "what people are shown")
	h := handingFlags(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if *in != "" && *role == "" {
			return usagef("principal create: --in says where a --role counts")
		}
		if h.expires <= 0 {
			return usagef("principal create: a secret ends; --expires says when")
		}
		ctx := c.Context()
		client, err := connect(c)
		if err != nil {
			return err
		}
		where := ""
		if *role != "" {
			if where, err = (site{client, *in}).base(ctx); err != nil {
				return err
			}
		}
		path := principalPath(args[0])
		var sp servicePrincipal
		err = client.call(ctx, http.MethodPut, path+apiVersion, fields{"properties": fields{"displayName": cmp.Or(*display, args[0])}}, &sp, "If-None-Match", "*")
		if r, ok := errors.AsType[*refusal](err); ok && (r.status == http.StatusConflict || r.status == http.StatusPreconditionFailed) {
			return fmt.Errorf("a service principal named %s exists; breakwater principal rotate makes it another secret", args[0])
		} else if err != nil {
			return err
		}
		assigned := ""
		defer func() { // half an application is only in the way
			if err == nil {
				return
			}
			if assigned != "" {
				err = errors.Join(err, client.call(ctx, http.MethodDelete, assigned+apiVersion, nil, nil))
			}
			err = errors.Join(err, client.call(ctx, http.MethodDelete, path+apiVersion, nil, nil))
		}()
		if *role != "" {
			if assigned, err = client.assign(ctx, *role, sp.Properties.PrincipalID, "ServicePrincipal", where); err != nil {
				return err
			}
		}
		return h.secret(c, client, sp)
	}
	completeSites(c)
	_ = c.RegisterFlagCompletionFunc("role", completeRoles) // fails only for a flag that is not there
	return c
}

func principalRotate() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Make another secret and show it, this once; the ones before end", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completePrincipals,
	}
	keep := c.Flags().Bool("keep-old", false, "let the secrets before live on, until they end by themselves")
	h := handingFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if h.expires <= 0 {
			return usagef("principal rotate: a secret ends; --expires says when")
		}
		ctx := c.Context()
		client, err := connect(c)
		if err != nil {
			return err
		}
		path := principalPath(args[0])
		var sp servicePrincipal
		if err := client.call(ctx, http.MethodGet, path+apiVersion, nil, &sp); missing(err) {
			return fmt.Errorf("there is no service principal named %s", args[0])
		} else if err != nil {
			return err
		}
		// The new one is in safe hands before the old ones end.
		if err := h.secret(c, client, sp); err != nil || *keep {
			return err
		}
		for _, old := range sp.Properties.PasswordCredentials {
			err := client.call(ctx, http.MethodPost, path+"/removePassword"+apiVersion, fields{"keyId": old.KeyID}, nil)
			if err != nil && !missing(err) {
				return fmt.Errorf("the new secret is made, but the old one %s still holds: %w", old.KeyID, err)
			}
		}
		return nil
	}
	return c
}

// secret makes a secret and hands it over.
func (h *handing) secret(c *cobra.Command, client *client, sp servicePrincipal) error {
	ctx := c.Context()
	var tenants struct{ Value []struct{ TenantID string } }
	if err := client.call(ctx, http.MethodGet, "/tenants"+apiVersion, nil, &tenants); err != nil {
		return err
	}
	tenant := ""
	if len(tenants.Value) > 0 {
		tenant = tenants.Value[0].TenantID
	}
	var made struct {
		SecretText  string
		EndDateTime time.Time
	}
	err := client.call(ctx, http.MethodPost, principalPath(sp.Name)+"/addPassword"+apiVersion, fields{"passwordCredential": fields{
		"displayName": "breakwater principal", "endDateTime": time.Now().Add(time.Duration(h.expires)).UTC().Format(time.RFC3339),
	}}, &made)
	if err != nil {
		return err
	}
	path, text := h.secretFile, made.SecretText+"\n"
	if h.envFile != "" {
		path = h.envFile
		text = fmt.Sprintf("AZURE_TENANT_ID=%s\nAZURE_CLIENT_ID=%s\nAZURE_CLIENT_SECRET=%s\n", tenant, sp.Properties.AppID, made.SecretText)
	}
	if path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		if err := replaceFile(path, []byte(text)); err != nil {
			return err
		}
		made.SecretText = ""
	}
	if h.output.is("json") {
		return json.NewEncoder(c.OutOrStdout()).Encode(struct { // as az ad sp create-for-rbac says it
			AppID       string `json:"appId"`
			DisplayName string `json:"displayName"`
			Password    string `json:"password,omitempty"`
			Tenant      string `json:"tenant"`
			PrincipalID string `json:"principalId"`
			Expires     string `json:"expires"`
		}{sp.Properties.AppID, sp.Properties.DisplayName, made.SecretText, tenant, sp.Properties.PrincipalID, made.EndDateTime.Format(time.RFC3339)})
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"appId", sp.Properties.AppID}, {"secret", made.SecretText}, {"written to", path},
		{"expires", made.EndDateTime.Format(time.RFC3339)}, {"principalId", sp.Properties.PrincipalID}, {"tenant", tenant},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	return w.Flush()
}

func principalList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the service principals, and when their secrets end", Args: cobra.NoArgs}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		type row struct {
			Name    string   `json:"name"`
			AppID   string   `json:"appId"`
			Status  string   `json:"status"`
			Expires []string `json:"expires"` // one for each secret
		}
		rows := []row{}
		err = list(c.Context(), client, "/providers/"+identity.ServicePrincipalType+apiVersion, func(sp servicePrincipal) error {
			r := row{sp.Name, sp.Properties.AppID, sp.Properties.Status, []string{}}
			for _, secret := range sp.Properties.PasswordCredentials {
				r.Expires = append(r.Expires, secret.EndDateTime.Format(time.RFC3339))
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
		fmt.Fprintln(w, "NAME\tAPPID\tSTATUS\tEXPIRES")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.AppID, r.Status, orDash(strings.Join(r.Expires, " ")))
		}
		return w.Flush()
	}
	return c
}

func principalDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a service principal; it is refused from the next request on", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completePrincipals,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := connect(c)
			if err != nil {
				return err
			}
			return client.remove(c.Context(), principalPath(args[0]))
		},
	}
}

func roleCommand() *cobra.Command {
	assign := &cobra.Command{
		Use: "assign ROLE PRINCIPAL [--in SCOPE]", Short: "Let somebody do what a role says, in one place and below", Args: cobra.ExactArgs(2),
		Long: `Let somebody do what a role says, in one place and below. PRINCIPAL is a principal's
id, or the name of a user or service principal. breakwater list roleAssignments
shows who may do what, breakwater delete takes it away.`,
		Example: `  breakwater role assign AcrPull ci
  breakwater role assign Reader alice --in /`,
	}
	in := assign.Flags().String("in", "", "where: an id, the name of a registry, {registry}/repositories/NAME, or / for everywhere; the login's registry if it is not said")
	completeSites(assign)
	assign.RunE = func(c *cobra.Command, args []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		where, err := site{client, *in}.base(c.Context())
		if err != nil {
			return err
		}
		principal, kind, err := client.principal(c.Context(), args[1])
		if err != nil {
			return err
		}
		made, err := client.assign(c.Context(), args[0], principal, kind, where)
		if err == nil {
			_, err = fmt.Fprintln(c.OutOrStdout(), made)
		}
		return err
	}
	assign.ValidArgsFunction = func(c *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeRoles(c, args, toComplete)
		}
		return completePrincipals(c, args[1:], toComplete)
	}
	return asClient(family("role", "Who may do what", assign))
}

// principal finds the id of whom somebody means by a name; an id is one already,
// and the server knows what it is the id of.
func (c *client) principal(ctx context.Context, name string) (id, kind string, err error) {
	if ref.IsGUID(strings.ToLower(name)) {
		return name, "", nil
	}
	for _, of := range [...]struct{ path, kind string }{
		{principalPath(name), "ServicePrincipal"},
		{"/providers/" + identity.UserType + "/" + url.PathEscape(name), "User"},
	} {
		var d struct{ Properties struct{ PrincipalID string } }
		err := c.call(ctx, http.MethodGet, of.path+apiVersion, nil, &d)
		switch {
		case err != nil && !missing(err):
			return "", "", err
		case err == nil && id != "":
			return "", "", fmt.Errorf("%s is a user and a service principal; give the principal's id", name)
		case err == nil:
			id, kind = d.Properties.PrincipalID, of.kind
		}
	}
	if id == "" {
		err = fmt.Errorf("there is no user and no service principal named %s", name)
	}
	return id, kind, err
}

// assign gives a role: one of Azure's by its name, or one made here by its name or
// id.
func (c *client) assign(ctx context.Context, role, principal, kind, where string) (id string, err error) {
	definition := role
	filter := url.Values{"$filter": {"roleName eq '" + strings.ReplaceAll(role, "'", "''") + "'"}}.Encode()
	if !strings.Contains(role, "/") && !ref.IsGUID(strings.ToLower(role)) {
		err := list(ctx, c, where+"/providers/"+access.DefinitionType+apiVersion+"&"+filter, func(d document) error {
			definition = d.ID
			return nil
		})
		if r, ok := errors.AsType[*refusal](err); err != nil && (!ok || r.status != http.StatusForbidden) {
			return "", err // who may not read roles may still assign one by its name
		}
	}
	properties := fields{"roleDefinitionId": definition, "principalId": principal}
	if kind != "" {
		properties["principalType"] = kind
	}
	id = where + "/providers/" + access.AssignmentType + "/" + ref.NewGUID()
	return id, c.call(ctx, http.MethodPut, id+apiVersion, fields{"properties": properties}, nil)
}

func completeRoles(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completed(c, "/providers/"+access.DefinitionType, func(d document) string {
		var p struct{ RoleName string }
		_ = json.Unmarshal(d.Properties, &p) // then it has no name to complete
		return p.RoleName
	})
}

func completePrincipals(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completed(c, "/providers/"+identity.ServicePrincipalType, func(d document) string { return d.Name })
}

// completed are the words of what a list has, as far as it comes in time.
func completed(c *cobra.Command, path string, word func(document) string) (found []string, _ cobra.ShellCompDirective) {
	client, err := connect(c)
	if err != nil || c.Context() == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
	defer cancel()
	_ = list(ctx, client, path+apiVersion, func(d document) error { // what came in time
		found = append(found, word(d))
		return nil
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}
