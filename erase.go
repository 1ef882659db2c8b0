package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"breakwater/receipt"
)

// An erasure is a receipt, as the API gives it.
type erasure struct {
	ID string `json:"id"`
	receipt.Issued
}

func registryErase() *cobra.Command {
	c := &cobra.Command{
		Use: "erase NAME", Short: "Destroy all content of the registry for certain: its keys end, and new ones begin", Args: cobra.ExactArgs(1),
		Long: `Destroy all content of the registry for certain. Its data keys end, a new one begins,
and all repositories, manifests, tags, blobs and uploads go, those in the trash too, in
one transaction; copies of the object store are noise from then on. The registry, its
settings and who may use it stay. NAME is that of the registry, to be sure that it is
this one. The receipt is signed and kept; breakwater receipt verify checks it.`,
		Example: "  breakwater registry erase breakwater --out receipt.jws",
	}
	output := outputFlag(c, "table", "json")
	out := receiptFile(c)
	platform := c.Flags().Bool("platform", false, "put the new data key under the platform's key alone, because the customer's key cannot be had")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		if name := id[strings.LastIndexByte(id, '/')+1:]; !strings.EqualFold(name, args[0]) {
			return usagef("this login's registry is %s, not %s; nothing was erased", name, args[0])
		}
		body := fields{}
		if *platform {
			body["newKey"] = "platform"
		}
		return erase(c, client, id+"/erase", body, output, *out)
	}
	return c
}

func repositoryCommand() *cobra.Command {
	c := family("repository", "Repositories of the registry", repositoryErase())
	asClient(c)
	return c
}

func repositoryErase() *cobra.Command {
	c := &cobra.Command{
		Use: "erase NAME", Short: "Destroy a repository for certain, with its trash and what is being pushed there", Args: cobra.ExactArgs(1),
		Long: `Destroy a repository for certain, with its trash and what is being pushed there. What no
other repository of the registry has can be opened by nobody from then on, whatever keys
and copies of the object store he has. What others have too stays; the receipt says so.
The receipt is signed and kept; breakwater receipt verify checks it.`,
		Example: "  breakwater repository erase team/api --out receipt.jws",
	}
	output := outputFlag(c, "table", "json")
	out := receiptFile(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, id, err := connectRegistry(c)
		if err != nil {
			return err
		}
		return erase(c, client, id+"/eraseRepository", fields{"repository": args[0]}, output, *out)
	}
	return c
}

func receiptFile(c *cobra.Command) *string {
	return c.Flags().String("out", "", "write the receipt to this file, which must not exist")
}

// erase asks for an erase and shows its receipt. The file is made first: what is
// destroyed has a receipt in the caller's hands, or is not destroyed.
func erase(c *cobra.Command, client *client, path string, body fields, output *output, out string) (err error) {
	var file *os.File
	if out != "" {
		if file, err = os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer file.Close()
	}
	client.http.Timeout = eraseTime
	var i erasure
	if err := client.call(c.Context(), http.MethodPost, path+apiVersion, body, &i); err != nil {
		if file != nil {
			os.Remove(out)
		}
		return err
	}
	if file != nil {
		if _, err := io.WriteString(file, i.Receipt+"\n"); err != nil {
			return fmt.Errorf("it was erased, and the server has the receipt %s, but it cannot be written here: %w", i.ID, err)
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return printReceipt(c, output, i)
}

const eraseTime = 5 * time.Minute // the server deletes bytes for half a minute of it

func receiptCommand() *cobra.Command {
	c := family("receipt", "Receipts of what was erased", receiptList(), receiptShow(), receiptKeys(), receiptVerify())
	asClient(c)
	return c
}

const receipts = "/providers/" + receipt.Type

// receiptScope is the flag that says about what there shall be receipts.
func receiptScope(c *cobra.Command) *string {
	return c.Flags().String("scope", "", "a subscription, resource group or registry by its id: receipts about registries there, those that are gone too; / is the whole server, and the registry of the login is the usual")
}

// under is the path of the receipts below a scope.
func under(c *cobra.Command, scope string) (*client, string, error) {
	if scope != "" {
		client, err := connect(c)
		return client, strings.TrimSuffix(scope, "/") + receipts, err
	}
	client, id, err := connectRegistry(c)
	return client, id + receipts, err
}

func receiptList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the receipts about the registry, or about what lies at or below a scope", Args: cobra.NoArgs}
	output := outputFlag(c, "table", "json")
	scope := receiptScope(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, path, err := under(c, *scope)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		if !output.is("json") {
			fmt.Fprintln(w, "RECEIPT\tTIME\tWHAT\tREGISTRY\tREPOSITORY")
		}
		err = list(c.Context(), client, path+apiVersion, func(d document) error {
			if output.is("json") {
				return json.NewEncoder(w).Encode(d)
			}
			var i receipt.Issued
			if err := json.Unmarshal(d.Properties, &i); err != nil {
				return err
			}
			_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Name, i.Time.Format(time.RFC3339), i.Kind, i.Registry.Name, orDash(string(i.Repository)))
			return err
		})
		return errors.Join(err, w.Flush())
	}
	return c
}

func receiptShow() *cobra.Command {
	c := &cobra.Command{Use: "show RECEIPT", Short: "Show a receipt, or write it to a file", Args: cobra.ExactArgs(1)}
	output := outputFlag(c, "table", "json", "jws")
	scope := receiptScope(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, path, err := under(c, *scope)
		if err != nil {
			return err
		}
		var d document
		if err := client.call(c.Context(), http.MethodGet, path+"/"+args[0]+apiVersion, nil, &d); err != nil {
			return err
		}
		var i erasure
		if err := json.Unmarshal(d.Properties, &i); err != nil {
			return err
		}
		return printReceipt(c, output, i)
	}
	return c
}

// receiptKeys writes the public keys that receipts are verified with.
func receiptKeys() *cobra.Command {
	c := &cobra.Command{
		Use: "keys", Short: "Show the public keys of the server's receipts, for breakwater receipt verify", Args: cobra.NoArgs,
		Example: "  breakwater receipt keys > receipt-keys.json",
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(c)
		if err != nil {
			return err
		}
		var set json.RawMessage
		if err := client.call(c.Context(), http.MethodGet, "/common/receipts/keys", nil, &set); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), string(set))
		return err
	}
	return c
}

func receiptVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify FILE", Short: "Tell whether a receipt is what the server signed", Args: cobra.ExactArgs(1),
		Long: `Tell whether a receipt is what the server signed, and show it. With --keys no server is
asked: the file has the public keys, as breakwater receipt keys wrote them. Whose keys
they are is for who keeps the file to know.`,
		Example: "  breakwater receipt verify receipt.jws --keys receipt-keys.json",
	}
	output := outputFlag(c, "table", "json")
	keys := c.Flags().String("keys", "", "file of the public keys; without it the server of the login is asked")
	c.RunE = func(c *cobra.Command, args []string) error {
		text, err := readSome(args[0])
		if err != nil {
			return err
		}
		var set jose.JSONWebKeySet
		if *keys != "" {
			known, err := readSome(*keys)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(known, &set); err != nil {
				return fmt.Errorf("%s holds no public keys: %w", *keys, err)
			}
		} else {
			client, err := connect(c)
			if err != nil {
				return err
			}
			if err := client.call(c.Context(), http.MethodGet, "/common/receipts/keys", nil, &set); err != nil {
				return err
			}
		}
		r, err := receipt.Verify(string(text), set)
		if err != nil {
			return err
		}
		return printClaims(c, output, r)
	}
	return c
}

// readSome reads a file that is not large.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// printReceipt shows a receipt that the server has just given, unverified.
func printReceipt(c *cobra.Command, output *output, i erasure) error {
	if output.is("jws") {
		_, err := fmt.Fprintln(c.OutOrStdout(), i.Receipt)
		return err
	}
	signature, err := jose.ParseSignedCompact(i.Receipt, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	var r receipt.Receipt
	if err := json.Unmarshal(signature.UnsafePayloadWithoutVerification(), &r); err != nil {
		return err
	}
	return printClaims(c, output, r)
}

func printClaims(c *cobra.Command, output *output, r receipt.Receipt) error {
	if output.is("json") {
		return json.NewEncoder(c.OutOrStdout()).Encode(r)
	}
	t := r.Destroyed
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("receipt", "%s", r.ID)
	line("what", "%s", r.Kind)
	line("registry", "%s (%s)", r.Registry.Name, r.Registry.UID)
	if r.Repository != "" {
		line("repository", "%s", r.Repository)
	}
	line("by", "%s (%s %s)", r.By.Name, r.By.Kind, r.By.ID)
	line("time", "%s", r.Time.Format(time.RFC3339))
	line("event", "%d of the ledger %s", r.Event.Seq, orDash(r.Event.Ledger))
	for _, k := range r.Keys {
		line("key destroyed", "version %d, %s", k.Version, orDash(k.Fingerprint))
	}
	if held := r.CustomerKey; held != nil {
		line("customer's key", "%s/%s/%s", held.Provider.Name(), held.Key, held.Version)
	} else {
		line("customer's key", "-")
	}
	if next := r.NextKey; next != nil {
		line("new key", "version %d, under %s", next.Version, map[bool]string{true: "the customer's key as well", false: "the platform's key alone"}[next.CustomerKey])
	}
	line("destroyed", "%d repositories, %d manifests, %d tags, %d blobs, %d uploads", t.Repositories, t.Manifests, t.Tags, t.Blobs, t.Uploads)
	line("", "%d objects of %d bytes", t.Objects, t.Bytes)
	line("", "%d digests, sha256 of their list %s", t.Digests, t.SHA256)
	if s := r.Remains.Shared; s != nil {
		line("remains", "%d blobs of %d bytes: %s", s.Blobs, s.Bytes, s.Why)
		for _, repo := range s.With {
			line("", "shared with %s", repo)
		}
		if s.Others > 0 {
			line("", "shared with %d more", s.Others)
		}
	}
	if old := r.Remains.OldFormat; old != nil {
		line("remains", "%d objects of %d bytes: %s", old.Objects, old.Bytes, old.Why)
	}
	for _, copies := range r.NotReached {
		line("not reached", "%s", copies)
	}
	return w.Flush()
}
