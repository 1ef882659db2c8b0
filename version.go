package main

import (
	"crypto/fips140"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show which build this is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fips := "off; GODEBUG=fips140=on selects the validated module"
			if fips140.Enabled() {
				fips = "on"
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "breakwater %s\n%s %s/%s\nFIPS 140-3 %s\n",
				version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, fips)
			return err
		},
	}
}

// version is what the linker knows of the source: a module version or a commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	if v == "" {
		return "(devel)"
	}
	return v
}
