package transit

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"sync/atomic"
)

// maxLearned is how many certificates a Learned keeps.
const maxLearned = 256

// Learned shows what the server shows otherwise, and to who asks for a name that the
// server learns only from its database, a certificate of the own authority that has it:
// a wildcard for whatever is called alike, so that there are few of them. A stranger
// who invents names gets nothing signed.
type Learned struct {
	authority *Authority
	otherwise Certificate
	known     atomic.Pointer[func(context.Context, string) bool]

	mu    sync.Mutex
	shown map[string]Certificate // by what stands behind the first dot of a name
}

// Learning shows what otherwise shows until it is opened.
func (a *Authority) Learning(otherwise Certificate) *Learned {
	return &Learned{authority: a, otherwise: otherwise, shown: map[string]Certificate{}}
}

// Open begins to show certificates for the names that are known, which come in lower
// case without a dot at their end.
func (l *Learned) Open(known func(context.Context, string) bool) { l.known.Store(&known) }

// Certificate is what is shown at this moment.
func (l *Learned) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	ctx := hello.Context()
	if ctx == nil { // asked for by Names, outside any handshake
		ctx = context.Background()
	}
	_, parent, ok := strings.Cut(name, ".")
	if known := l.known.Load(); !ok || known == nil || !(*known)(ctx, name) {
		return l.otherwise(hello)
	}
	return l.of(parent)(hello)
}

func (l *Learned) of(parent string) Certificate {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.shown[parent]
	if !ok {
		if len(l.shown) >= maxLearned {
			clear(l.shown)
		}
		c = l.authority.Certificate("*." + parent)
		l.shown[parent] = c
	}
	return c
}
