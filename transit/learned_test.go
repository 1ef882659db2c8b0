package transit

import (
	"context"
	"crypto/tls"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestANameThatIsLearnedHasACertificateAndAnInventedOneHasNone(t *testing.T) {
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := a.Learning(a.Certificate("localhost"))
	s := open(t, http.HandlerFunc(greet), func(o *Options) { o.TLS = Config(l.Certificate, false) })
	shown := func(name string) (parent string) {
		t.Helper()
		c, err := tls.Dial("tcp", s.address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		leaf := c.ConnectionState().PeerCertificates[0]
		if err := leaf.CheckSignatureFrom(a.cert); err != nil {
			t.Error(err)
		}
		return strings.Join(leaf.DNSNames, " ")
	}
	const name, sibling, stranger = "shop1.west.data.example", "shop2.west.data.example", "shop3.west.data.example"
	if got := shown(name); got != "localhost" {
		t.Errorf("before anything is known: %s", got)
	}
	known := map[string]bool{name: true, sibling: true, strings.Repeat("a", 60) + ".b.example": true}
	l.Open(func(_ context.Context, n string) bool { return known[n] })
	for asked, want := range map[string]string{
		name: "*.west.data.example", sibling: "*.west.data.example", "SHOP1.west.Data.example": "*.west.data.example",
		strings.Repeat("a", 60) + ".b.example": "*.b.example",
		stranger:                               "localhost", "west.data.example": "localhost", "localhost": "localhost", "nobody.example": "localhost",
	} {
		if got := shown(asked); got != want {
			t.Errorf("%s is shown %s", asked, got)
		}
	}
	for asked, want := range map[string]bool{name: true, stranger: false, "localhost": true} {
		if Certificate(l.Certificate).Names(asked) != want {
			t.Errorf("the certificate is for %s: %t", asked, !want)
		}
	}
	delete(known, name)
	if got := shown(name); got != "localhost" {
		t.Errorf("when it is forgotten: %s", got)
	}
	// However many there are, few are kept.
	l.Open(func(context.Context, string) bool { return true })
	for i := range maxLearned + 10 {
		l.of(strconv.Itoa(i) + ".example")
	}
	if len(l.shown) > maxLearned {
		t.Errorf("%d certificates are kept", len(l.shown))
	}
	// A name that is too long for a common name is an alternative one.
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".example"
	if got := shown("x." + long); got != "*."+long {
		t.Errorf("shown %s", got)
	}
}
