package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func registryCommand() *cobra.Command {
	c := family("registry", "The registry's settings: admin user, anonymous pull, networks, policies, keys", registryShow(), registryUpdate(), registryPassword(), registryEncrypt(), registryRotate(), registryErase())
	asClient(c)
	return c
}

func registryShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show the registry's settings", Args: cobra.NoArgs}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodGet, id+apiVersion, nil, &whole); err != nil {
			return err
		}
		return printRegistry(c, output, whole)
	}
	return c
}

func registryUpdate() *cobra.Command {
	c := &cobra.Command{
		Use: "update", Short: "Change settings; they count from the next request", Args: cobra.NoArgs,
		Example: `  breakwater registry update --default-action Deny --allow-ip 192.0.2.0/24
  breakwater registry update --anonymous-pull off`,
	}
	output := outputFlag(c, "table", "json")
	f := c.Flags()
	admin := f.String("admin-user", "", "on or off: the account that may do everything with content")
	anonymous := f.String("anonymous-pull", "", "on or off: anybody may pull everything")
	public := f.String("public-network-access", "", "Enabled or Disabled: whether any network may reach the registry's content")
	action := f.String("default-action", "", "Allow or Deny: networks without a rule")
	allow := f.StringArray("allow-ip", nil, "let an address or network in")
	remove := f.StringArray("remove-ip", nil, "remove such a rule")
	soft := f.String("soft-delete", "", "on or off: what is deleted can be restored for a while")
	dual := f.String("dual-control", "", "on or off: somebody else has to approve what cannot be undone; with --soft-delete on")
	approvers := f.StringArray("approver", nil, "principal id of a person, application or group that approves; all of them, in place of those before")
	sparse := f.String("sparse-manifests", "", "on or off: an index may name manifests that are not here")
	c.RunE = func(c *cobra.Command, _ []string) error {
		properties, policies, control := fields{}, fields{}, fields{}
		status := func(on bool) string { return map[bool]string{true: "enabled", false: "disabled"}[on] }
		for _, s := range []struct {
			flag, value string
			set         func(on bool)
		}{
			{"admin-user", *admin, func(on bool) { properties["adminUserEnabled"] = on }},
			{"anonymous-pull", *anonymous, func(on bool) { properties["anonymousPullEnabled"] = on }},
			{"sparse-manifests", *sparse, func(on bool) { policies["sparseManifests"] = fields{"status": status(on)} }},
			{"soft-delete", *soft, func(on bool) { policies["softDeletePolicy"] = fields{"status": status(on)} }},
			{"dual-control", *dual, func(on bool) { control["status"] = status(on) }},
		} {
			if !f.Changed(s.flag) {
				continue
			}
			if s.value != "on" && s.value != "off" {
				return usagef("--%s is on or off, not %q", s.flag, s.value)
			}
			s.set(s.value == "on")
		}
		if f.Changed("public-network-access") {
			properties["publicNetworkAccess"] = *public
		}
		if f.Changed("approver") {
			control["approvers"] = *approvers
		}
		for name, set := range map[string]fields{"policies": policies, "dualControl": control} {
			if len(set) > 0 {
				properties[name] = set
			}
		}
		rules := f.Changed("allow-ip") || f.Changed("remove-ip")
		if len(properties) == 0 && !rules && *action == "" {
			return usagef("registry update: nothing to change")
		}
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		// Rules are a list, and a list is changed by sending all of it: If-Match sees
		// to it that nobody else changed it in between.
		var now struct {
			Etag       string
			Properties struct {
				NetworkRuleSet struct{ IPRules []ipRule }
			}
		}
		if err := client.call(c.Context(), http.MethodGet, id+apiVersion, nil, &now); err != nil {
			return err
		}
		set := fields{}
		if *action != "" {
			set["defaultAction"] = *action
		}
		if rules {
			set["ipRules"] = edited(now.Properties.NetworkRuleSet.IPRules, *allow, *remove)
		}
		if len(set) > 0 {
			properties["networkRuleSet"] = set
		}
		var whole json.RawMessage
		err = client.call(c.Context(), http.MethodPatch, id+apiVersion, fields{"properties": properties}, &whole, "If-Match", now.Etag)
		if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusPreconditionFailed {
			return errors.New("somebody else changed the registry at the same time; look at it and try again")
		} else if err != nil {
			return err
		}
		return printRegistry(c, output, whole)
	}
	return c
}

func registryPassword() *cobra.Command {
	c := &cobra.Command{
		Use: "admin-password", Short: "Make a new password of the admin user and show it, this once", Args: cobra.NoArgs,
		Long: `Make a new password of the admin user and show it, this once. It opens something
while the admin user is on: breakwater registry update --admin-user on`,
	}
	output := outputFlag(c, "text", "json")
	name := c.Flags().String("name", "password1", "password1 or password2: one can be replaced while the other is in use")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *name != "password1" && *name != "password2" {
			return usagef("--name is password1 or password2, not %q", *name)
		}
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		var made passwords
		if err := client.call(c.Context(), http.MethodPost, id+"/regenerateCredential"+apiVersion, fields{"name": *name}, &made); err != nil {
			return err
		}
		return made.print(c, output)
	}
	return c
}

func registryEncrypt() *cobra.Command {
	c := &cobra.Command{
		Use: "encrypt", Short: "Choose who holds the key to the registry's content: a customer, or the platform alone", Args: cobra.NoArgs,
		Long: `Choose who holds the key to the registry's content. With --key, a customer does, in a
device or service that a document of the type Breakwater.Keys/providers leads to; a
key without a version follows its newest one. With --platform, nobody but the server.
The registry serves all the time; no content is rewritten.`,
		Example: `  breakwater registry encrypt --key https://hsm/keys/root
  breakwater registry encrypt --platform`,
	}
	output := outputFlag(c, "table", "json")
	key := c.Flags().String("key", "", "https://PROVIDER/keys/KEY or https://PROVIDER/keys/KEY/VERSION")
	identity := c.Flags().String("identity", "", "client id of a managed identity that is assigned to the registry, or system; Azure's clients name one")
	platform := c.Flags().Bool("platform", false, "give the customer's key up")
	days := c.Flags().Int("data-key-days", 0, "make a new data key after so many days; 0 is never")
	c.RunE = func(c *cobra.Command, _ []string) error {
		encryption := fields{}
		switch {
		case *key != "" && *platform:
			return usagef("--key or --platform, not both")
		case *key != "":
			encryption = fields{"status": "enabled", "keyVaultProperties": fields{"keyIdentifier": *key, "identity": *identity}}
		case *platform:
			encryption = fields{"status": "disabled", "keyVaultProperties": nil}
		case !c.Flags().Changed("data-key-days"):
			return usagef("registry encrypt: --key, --platform or --data-key-days")
		}
		if c.Flags().Changed("data-key-days") {
			encryption["dataKeys"] = fields{"rotationDays": *days}
		}
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodPatch, id+apiVersion, fields{"properties": fields{"encryption": encryption}}, &whole); err != nil {
			return err
		}
		return printRegistry(c, output, whole)
	}
	return c
}

func registryRotate() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate", Short: "Give the registry a new data key, for what is pushed from now on; those before stay to open what they sealed", Args: cobra.NoArgs,
	}
	output := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		if err := client.call(c.Context(), http.MethodPost, id+"/rotateDataKey"+apiVersion, fields{}, nil); err != nil {
			return err
		}
		var whole json.RawMessage
		if err := client.call(c.Context(), http.MethodGet, id+apiVersion, nil, &whole); err != nil {
			return err
		}
		return printRegistry(c, output, whole)
	}
	return c
}

type ipRule struct {
	Action string `json:"action"`
	Value  string `json:"value"`
}

// edited is never nil: an empty list clears the rules, a missing one keeps them.
func edited(rules []ipRule, allow, remove []string) []ipRule {
	after := slices.DeleteFunc(append([]ipRule{}, rules...), func(r ipRule) bool {
		return slices.Contains(remove, r.Value) || slices.Contains(allow, r.Value)
	})
	for _, value := range allow {
		after = append(after, ipRule{"Allow", value})
	}
	return after
}

func printRegistry(c *cobra.Command, o *output, whole json.RawMessage) error {
	if o.is("json") {
		var line bytes.Buffer
		if err := json.Compact(&line, whole); err != nil {
			return err
		}
		line.WriteByte('\n')
		_, err := line.WriteTo(c.OutOrStdout())
		return err
	}
	var r struct {
		Name       string
		Properties struct {
			LoginServer          string
			AdminUserEnabled     bool
			AnonymousPullEnabled bool
			PublicNetworkAccess  string
			NetworkRuleSet       struct {
				DefaultAction string
				IPRules       []ipRule
			}
			Policies    struct{ SparseManifests, SoftDeletePolicy struct{ Status string } }
			DualControl struct {
				Status    string
				Approvers []string
			}
			Encryption struct {
				KeyVaultProperties struct{ VersionedKeyIdentifier string }
				DataKeys           struct{ Version uint32 }
			}
			Status struct{ Message string }
		}
	}
	if err := json.Unmarshal(whole, &r); err != nil {
		return err
	}
	p := r.Properties
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"name", r.Name},
		{"login server", p.LoginServer},
		{"admin user", onOff(p.AdminUserEnabled)},
		{"anonymous pull", onOff(p.AnonymousPullEnabled)},
		{"public network access", p.PublicNetworkAccess},
		{"networks without a rule", p.NetworkRuleSet.DefaultAction},
		{"networks with a rule", strconv.Itoa(len(p.NetworkRuleSet.IPRules))},
		{"sparse manifests", p.Policies.SparseManifests.Status},
		{"soft delete", p.Policies.SoftDeletePolicy.Status},
		{"dual control", p.DualControl.Status},
		{"approvers", strings.Join(p.DualControl.Approvers, " ")},
		{"customer's key", p.Encryption.KeyVaultProperties.VersionedKeyIdentifier},
		{"data key", strconv.Itoa(int(p.Encryption.DataKeys.Version))},
		{"remark", p.Status.Message},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], orDash(line[1]))
	}
	for _, rule := range p.NetworkRuleSet.IPRules {
		fmt.Fprintf(w, "  %s\t%s\n", rule.Value, rule.Action)
	}
	return w.Flush()
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
