package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func trustCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Show how docker, podman, skopeo, crane, oras and helm come to trust the server",
		Args:  cobra.NoArgs,
	}
	path := ownerFile(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := readLogin(*path)
		if err != nil {
			return fmt.Errorf("%w; name the file with --owner-file", err)
		}
		return explainTrust(c.OutOrStdout(), l, *path)
	}
	return c
}

func explainTrust(w io.Writer, l login, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if l.CAFile == "" {
		_, err = fmt.Fprintf(w, "%s has a certificate from elsewhere: whoever trusts its issuer trusts it.\n", l.Server)
		return err
	}
	lines := trustLines(l)
	// oras speaks plain HTTP to what is called localhost.
	address := strings.Replace(l.Registry, "localhost:", "127.0.0.1:", 1)
	_, err = fmt.Fprintf(w, `# docker, podman, buildah, skopeo, nerdctl
%s
# crane, oras, helm, regctl and every other program in Go, in this shell
%s
# az and other programs in Python, in this shell
export REQUESTS_CA_BUNDLE=%[3]s
# or for the whole machine (Debian, Ubuntu)
sudo cp %[3]s /usr/local/share/ca-certificates/breakwater.crt && sudo update-ca-certificates

# then log in, with the password from %[4]s
docker login %[5]s --username %[6]s
skopeo login %[5]s --username %[6]s
crane auth login %[5]s --username %[6]s --password-stdin
oras login %[7]s --username %[6]s --password-stdin
helm registry login %[5]s --username %[6]s
`, lines[0], lines[1], quote(l.CAFile), path, l.Registry, l.Username, address)
	return err
}

// trustLines are the two that make all clients trust the own authority.
func trustLines(l login) [2]string {
	dir := "/etc/containers/certs.d/" + l.Registry
	docker := "/etc/docker/certs.d/" + l.Registry
	return [2]string{
		fmt.Sprintf("sudo install -D -m 0644 %[1]s %[2]s/ca.crt && sudo install -D -m 0644 %[1]s %[3]s/ca.crt", quote(l.CAFile), dir, docker),
		"export SSL_CERT_FILE=" + quote(l.CAFile),
	}
}
