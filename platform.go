package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
)

// platformCommand is about the key of the server itself (DP-6). Unlike the other commands it
// asks no server: who may change the key is who has it and the files of the server.
func platformCommand() *cobra.Command {
	return family("platform", "The key that opens everything on this server's disks: change it, here, beside the server",
		platformShowCommand(), platformRotateCommand(), platformRetireCommand())
}

// atPlatform is a command on the files of a server, which may run meanwhile.
func atPlatform(c *cobra.Command, do func(ctx context.Context, c *config, out io.Writer) error) *cobra.Command {
	settings := defaults()
	c.Args = cobra.NoArgs
	c.Flags().StringVar(&settings.Data, "data", settings.Data, "the server's directory")
	c.Flags().StringVar(&settings.Platform.Key, "platform-key", "", "file of the platform key (default DATA/platform.key)")
	file := c.Flags().String("config", "", "the server's YAML file; a flag wins over it")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *file != "" {
			if err := settings.read(*file, c.Flags()); err != nil {
				return usage{err}
			}
		}
		if err := settings.check(); err != nil {
			return usage{err}
		}
		held, err := settings.besideServer(c.Context())
		if err != nil {
			return err
		}
		defer held.Close()
		return do(c.Context(), settings, c.OutOrStdout())
	}
	return c
}

// besideServer makes sure that the files of a server are here and are this user's, so that the
// server can read what is written, and that nobody starts or does the same meanwhile.
func (c *config) besideServer(ctx context.Context) (*lock, error) {
	unix.Umask(0o077)
	info, err := os.Stat(c.rootFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: start a server of this version on %s first, or put the file back if it is lost", c.rootFile(), c.Data)
	} else if err != nil {
		return nil, err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to user %d, as whom the server runs: run this command as that user", c.rootFile(), owner)
	}
	return begin(ctx, c)
}

func platformShowCommand() *cobra.Command {
	return atPlatform(&cobra.Command{
		Use:   "show",
		Short: "Show which platform keys open what the server stores",
	}, func(ctx context.Context, c *config, out io.Writer) error {
		root, err := c.openRoot(ctx)
		if err != nil {
			return err
		}
		return showRoot(out, root)
	})
}

func showRoot(out io.Writer, root *keys.Root) error {
	for i, key := range root.Keys() {
		what := "opens it"
		if key == root.Key() {
			what += ", and is the one of this configuration"
		}
		if i < len(root.Keys())-1 {
			what += "; another one takes its place, until breakwater platform retire"
		}
		if _, err := fmt.Fprintf(out, "%s  %s\n", key, what); err != nil {
			return err
		}
	}
	changes, _, err := root.Changes()
	if err != nil {
		return err
	}
	for _, change := range changes {
		if _, err := fmt.Fprintf(out, "%s  %s %s by %s\n", change.At.Local().Format("2006-01-02 15:04:05"), change.Key, change.What, change.By); err != nil {
			return err
		}
	}
	return nil
}

func platformRotateCommand() *cobra.Command {
	var next platformConfig
	var keep bool
	c := atPlatform(&cobra.Command{
		Use:   "rotate",
		Short: "Replace the platform key by another, in a file or wrapped by a device",
		Long: `Replace the platform key. The server may run meanwhile, and goes on; the next start
needs the new key. Run it as the user of the server.

Alone it makes a new key of the same kind and puts it in the place of the file that
there is. With --new-key the new key is another file: what is in it, or one that is
made; with --new-socket and --new-label it is wrapped by a key of that
device, and without them it is not. Then give the server that file.

The old key opens nothing afterwards, unless --keep-old says that it still does until
breakwater platform retire: for several servers that get their key one after the other.`,
	}, func(ctx context.Context, c *config, out io.Writer) error {
		if err := next.check(); err != nil {
			return usagef("--new-socket and --new-label: %w", err)
		}
		if next.Key == "" && next.PKCS11.Socket != "" {
			return usagef("name another file for the wrapped key with --new-key; the server starts with the one or the other")
		}
		return rotatePlatform(ctx, c, next, keep, out)
	})
	c.Flags().StringVar(&next.Key, "new-key", "", "file of the new platform key, made if it is not there (default: the file that there is, replaced)")
	c.Flags().StringVar(&next.PKCS11.Socket, "new-socket", "", "socket of breakwater-pkcs11, for a new key that a device wraps")
	c.Flags().StringVar(&next.PKCS11.Label, "new-label", "", "label of the device's key that wraps it")
	c.Flags().BoolVar(&keep, "keep-old", false, "the old key opens the root as well, until breakwater platform retire")
	return c
}

// rotatePlatform has another platform key open the root, and then no other. Whenever it is
// cut off, the key that the configuration names opens the root, and so does the new one
// once its file is in place; the same command goes on from there.
func rotatePlatform(ctx context.Context, c *config, next platformConfig, keep bool, out io.Writer) error {
	root, err := c.openRoot(ctx)
	if err != nil {
		return err
	}
	inPlace := next.Key == ""
	if inPlace {
		next = c.Platform
		next.Key += ".new"
	}
	if len(root.Keys()) > 1 && absent(next.Key) {
		return fmt.Errorf("another change is not finished: %s open the root; end it with breakwater platform retire", strings.Join(root.Keys(), " and "))
	}
	key, err := next.open(ctx)
	if err != nil {
		return fmt.Errorf("the new key: %w", err)
	}
	if key.Name() == root.Key() {
		return fmt.Errorf("%s is the platform key that there is; give another one", next.Key)
	}
	for _, other := range root.Keys() {
		if other != root.Key() && other != key.Name() {
			return fmt.Errorf("another change is not finished: %s opens the root, too; end it with breakwater platform retire", other)
		}
	}
	if err := root.Admit(key, operator()); err != nil {
		return err
	}
	now := *c
	if now.Platform = next; inPlace {
		now.Platform = c.Platform
		if err := os.Rename(next.Key, c.Platform.Key); err != nil {
			return fmt.Errorf("both keys open the root now; breakwater platform retire --back gives the new one up: %w", err)
		}
		if err := syncDir(filepath.Dir(c.Platform.Key)); err != nil {
			return err
		}
	}
	// What the next start reads must open the root before nothing else does.
	after, err := now.openRoot(ctx)
	if err != nil {
		return fmt.Errorf("the new key, read again: %w", err)
	}
	before := root.Key() + " still does, until breakwater platform retire"
	if !keep {
		retired, err := after.Retire(operator())
		if err != nil {
			return err
		}
		before = gone(after, retired)
	}
	_, err = fmt.Fprintf(out, "The platform key %s in %s opens what the server stores; %s.\n", after.Key(), now.Platform.Key, before)
	if err == nil && !inPlace {
		_, err = fmt.Fprintln(out, "Configure the server with it before its next start.")
	}
	if err == nil {
		_, err = fmt.Fprintf(out, "Keep a copy of the key, apart from the data, and of %s, with the data: the next start needs both.\n", c.rootFile())
	}
	return err
}

func platformRetireCommand() *cobra.Command {
	var back bool
	c := atPlatform(&cobra.Command{
		Use:   "retire",
		Short: "End a change: nothing opens what the server stores but the key that is configured",
	}, func(ctx context.Context, c *config, out io.Writer) error {
		root, err := c.openRoot(ctx)
		if err != nil {
			return err
		}
		if newest := root.Keys()[len(root.Keys())-1]; newest != root.Key() && !back {
			return fmt.Errorf("the key %s of this configuration is the old one: name the new one, %s, with --platform-key or --config, or go back to the old one with --back", root.Key(), newest)
		}
		retired, err := root.Retire(operator())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "The platform key %s opens what the server stores; %s.\n", root.Key(), gone(root, retired))
		return err
	})
	c.Flags().BoolVar(&back, "back", false, "keep the old key, and give the new one up")
	return c
}

// gone says what became of keys that were retired. The key of a server from before there
// were roots is its root, and nothing takes that from who has it.
func gone(root *keys.Root, retired []string) string {
	switch {
	case len(retired) == 0:
		return "nothing else did"
	case slices.Contains(retired, root.Name()):
		return root.Name() + " opens nothing here any more, but is the root of this server itself: keep it as secret as before"
	}
	return strings.Join(retired, " and ") + " opens nothing any more"
}

// operator is who is at the keyboard, as far as the machine knows: who logged in, if it
// kept that, and otherwise as whom this runs.
func operator() string {
	id := strconv.Itoa(os.Getuid())
	if text, err := os.ReadFile("/proc/self/loginuid"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil && n != 1<<32-1 {
			id = strconv.FormatUint(n, 10)
		}
	}
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

// rootFile is where the root lies, sealed. With the data, because it is of no use without,
// and all who share the data share it.
func (c *config) rootFile() string { return filepath.Join(c.Data, "root.sealed") }

// open opens a platform key, with the device that wraps it if there is one. Where there is
// no file, it makes a key.
func (p platformConfig) open(ctx context.Context) (*keys.Platform, error) {
	if p.PKCS11.Socket == "" {
		return keys.OpenPlatform(p.Key)
	}
	socket, err := filepath.Abs(p.PKCS11.Socket)
	if err != nil {
		return nil, err
	}
	device, err := keys.NewPKCS11(keys.Reach{Directory: filepath.Dir(socket)}, filepath.Base(socket))
	if err != nil {
		return nil, fmt.Errorf("platform.pkcs11: %w", err)
	}
	return keys.OpenWrappedPlatform(ctx, p.Key, device, p.PKCS11.Label)
}

// openRoot opens the root with the platform key, neither of which it makes.
func (c *config) openRoot(ctx context.Context) (*keys.Root, error) {
	if absent(c.Platform.Key) {
		return nil, fmt.Errorf("the platform key %s is missing, and nothing else opens what lies in %s: put it back, or name it with --platform-key", c.Platform.Key, c.Data)
	}
	key, err := c.Platform.open(ctx)
	if err != nil {
		return nil, err
	}
	return keys.OpenRoot(c.rootFile(), key)
}

// openRoot opens the root. Only where nothing is stored yet, one is made, and a platform key
// if there is none.
func (h *house) openRoot(ctx context.Context, c *config, fresh bool) (err error) {
	if fresh && absent(c.rootFile()) {
		var key *keys.Platform
		if key, err = c.Platform.open(ctx); err != nil {
			return err
		}
		h.root, err = keys.MakeRoot(c.rootFile(), key, byServer)
	} else {
		h.root, err = c.openRoot(ctx)
	}
	if err == nil {
		h.platform = h.root.Platform
	}
	return err
}

// rootless says more of an error about what a root does not open, if the root has no file:
// then the file may be what is missing.
func (h *house) rootless(c *config, err error) error {
	if h.root.Kept() {
		return err
	}
	return fmt.Errorf("%w; %s is not there: if the platform key was changed, or the first start was of a version that makes this file, put it back from a copy of the data", err, c.rootFile())
}

// settle is the last of a start about the platform key: it opens what is stored, so the
// root has its file from now on, and what was done with it since is on record.
func (h *house) settle(ctx context.Context, log *slog.Logger) error {
	if err := h.root.Keep(byServer); err != nil {
		return err
	}
	if all := h.root.Keys(); len(all) > 1 {
		log.Warn("more than one platform key opens what is stored, until breakwater platform retire", "keys", all, "this", h.root.Key())
	}
	return h.recordRoot(ctx)
}

// byServer is who made a root or its file without being asked; no user of a machine is called so.
const byServer = "the server itself"

// rootChanges is the place in the changes of the root up to which they are on record.
const rootChanges = "root-changes"

// recordRoot puts on record which platform keys came and went: they change beside the
// server, which may not even run. What was done to the file in another way is damage.
func (h *house) recordRoot(ctx context.Context) error {
	changes, n, err := h.root.Changes()
	if err != nil {
		h.ledger.Alarm(ctx, ledger.Damage(ledger.Event{Who: identity.ThisServer().Who()}, "key", "root"), err, nil)
		return err
	}
	at, err := h.ledger.Place(ctx, rootChanges)
	if err != nil || n == at {
		return err
	}
	if n < at { // and which keys open it is as it was then
		err := fmt.Errorf("%s has %d changes of platform keys, and %d are on record: an older file was put in its place", h.root.Path(), n, at)
		h.ledger.Alarm(ctx, ledger.Damage(ledger.Event{Who: identity.ThisServer().Who()}, "key", "root"), err, nil)
	}
	var events []ledger.Event
	for _, change := range changes {
		if change.Number <= at {
			continue
		}
		who := ledger.Who{Kind: "operator", Name: change.By}
		if change.By == byServer {
			who = identity.ThisServer().Who()
		}
		events = append(events, ledger.Event{
			Category: ledger.Security, Time: change.At, Operation: "Breakwater.Server/platformKeys/" + change.What, Scope: ref.Everything,
			Who: who, Outcome: ledger.Success, Detail: ledger.Detail{More: map[string]string{"key": change.Key}},
		})
	}
	err = h.ledger.Move(ctx, rootChanges, at, n, events...)
	if fault.Of(err) == fault.Conflict {
		return nil // another process was first
	}
	return err
}
