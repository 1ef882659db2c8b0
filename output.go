package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// An output is the form in which a command prints its result: a flag that takes
// no other than its forms, the first of which is usual.
type output struct {
	chosen string
	forms  []string
}

func outputFlag(c *cobra.Command, forms ...string) *output {
	o := &output{forms[0], forms}
	c.Flags().VarP(o, "output", "o", strings.Join(forms, " or "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that is not there
	return o
}

func (o *output) is(form string) bool { return o.chosen == form }

func (o *output) Set(s string) error {
	if !slices.Contains(o.forms, s) {
		return errors.New("it is " + strings.Join(o.forms, " or "))
	}
	o.chosen = s
	return nil
}

func (o *output) String() string { return o.chosen }
func (*output) Type() string     { return "form" }

// A screen is where a command writes. Most of what it writes is somebody else's words,
// and a terminal shows them and does not obey: what is no letter, mark or space is
// written as JSON escapes it. In JSON it can only stand in a text, which is the same.
type screen struct{ to io.Writer }

func (s screen) Write(p []byte) (int, error) {
	shown := make([]byte, 0, len(p))
	for rest := p; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch text := rest[:size]; {
		case r == '\n' || r == '\t' || unicode.IsGraphic(r) && !(r == utf8.RuneError && size == 1):
			shown = append(shown, text...)
		case r < 0x10000:
			shown = fmt.Appendf(shown, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			shown = fmt.Appendf(shown, `\u%04x\u%04x`, high, low)
		}
		rest = rest[size:]
	}
	if _, err := s.to.Write(shown); err != nil {
		return 0, err
	}
	return len(p), nil
}

// quote makes a shell take s as one word.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
