// Command transit is HashiCorp Vault's real Transit engine behind as much HTTP as its
// clients need: for tests only, because Vault's licence (BUSL 1.1) is not ours. What
// surrounds the engine, tokens and logins, is not Vault's.
//
//	transit [--listen 127.0.0.1:0] TOKEN
//
// It prints its address. TOKEN may do everything; a PUT of /mode says how the server
// behaves from then on: well, sealed (503), throttled (429), slow, denied (403), or
// broken (no HTTP). Its state lies in memory.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	token := flag.Arg(0)
	ctx := context.Background()
	storage := &logical.InmemStorage{}
	engine, err := transit.Factory(ctx, &logical.BackendConfig{StorageView: storage, System: logical.TestSystemView(), BackendUUID: "transit"})
	check(err)
	check(engine.Initialize(ctx, &logical.InitializationRequest{Storage: storage}))
	l, err := net.Listen("tcp", *listen)
	check(err)
	fmt.Printf("http://%s\n", l.Addr())
	s := &server{engine: engine, storage: storage, token: token, mode: "well"}
	check(http.Serve(l, s))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type server struct {
	engine  logical.Backend
	storage logical.Storage
	token   string

	mu     sync.Mutex
	mode   string
	logins int
	calls  int
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	if r.URL.Path == "/mode" {
		if r.Method == http.MethodPut {
			s.mode = string(body)
		}
		fmt.Fprintf(w, "%s %d\n", s.mode, s.calls)
		s.mu.Unlock()
		return
	}
	s.calls++
	mode := s.mode
	s.mu.Unlock()
	switch mode {
	case "sealed":
		answer(w, 503, errorList("Vault is sealed"))
		return
	case "throttled":
		answer(w, 429, errorList("request path is over its quota"))
		return
	case "slow":
		select {
		case <-time.After(time.Minute):
		case <-r.Context().Done():
		}
		return
	case "broken":
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "\x00\x01\x02")
			c.Close()
		}
		return
	case "empty":
		return
	case "nothing":
		answer(w, 200, map[string]any{})
		return
	case "page":
		w.WriteHeader(200)
		_, _ = io.WriteString(w, "<html>"+strings.Repeat("a proxy's page ", 1<<17))
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		answer(w, 404, errorList())
		return
	}
	if login, ok := strings.CutPrefix(path, "auth/"); ok {
		s.login(w, login, body)
		return
	}
	if mode == "denied" || !s.knows(r.Header.Get("X-Vault-Token")) {
		answer(w, 403, errorList("permission denied"))
		return
	}
	path, ok = strings.CutPrefix(path, "transit/")
	if !ok {
		answer(w, 404, errorList("no handler for route"))
		return
	}
	req := &logical.Request{Path: path, Storage: s.storage, ClientToken: "x", Data: map[string]any{}}
	switch r.Method {
	case "GET":
		req.Operation = logical.ReadOperation
	case "POST", "PUT":
		req.Operation = logical.UpdateOperation
	case "DELETE":
		req.Operation = logical.DeleteOperation
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &req.Data); err != nil {
			answer(w, 400, errorList("failed to parse JSON input"))
			return
		}
	}
	if req.Operation == logical.UpdateOperation {
		if exists, ok, err := s.engine.HandleExistenceCheck(r.Context(), req); err == nil && ok && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	out, err := s.engine.HandleRequest(r.Context(), req)
	switch {
	case errors.Is(err, logical.ErrUnsupportedPath), errors.Is(err, logical.ErrUnsupportedOperation):
		answer(w, 404, errorList(err.Error()))
	case errors.Is(err, logical.ErrInvalidRequest) || out != nil && out.IsError():
		text := ""
		if out != nil && out.IsError() {
			text = out.Error().Error()
		} else {
			text = err.Error()
		}
		answer(w, 400, errorList(text))
	case err != nil:
		if c, ok := err.(logical.HTTPCodedError); ok {
			answer(w, c.Code(), errorList(err.Error()))
			return
		}
		answer(w, 500, errorList(err.Error()))
	case out == nil && req.Operation == logical.ReadOperation:
		answer(w, 404, errorList())
	case out == nil:
		w.WriteHeader(204)
	default:
		answer(w, 200, map[string]any{"data": out.Data})
	}
}

func errorList(all ...string) any {
	if all == nil {
		all = []string{}
	}
	return map[string]any{"errors": all}
}

// login gives a token of two seconds for the role and secret of the test.
func (s *server) login(w http.ResponseWriter, path string, body []byte) {
	var in map[string]string
	_ = json.Unmarshal(body, &in)
	good := path == "approle/login" && in["role_id"] == "role" && in["secret_id"] == "secret of "+s.token ||
		path == "jwt/login" && in["role"] == "registry" && in["jwt"] == "jwt of "+s.token
	if !good {
		answer(w, 400, errorList("invalid role or secret ID"))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
	answer(w, 200, map[string]any{"auth": map[string]any{"client_token": s.token, "lease_duration": 2}})
}

func (s *server) knows(token string) bool { return token != "" && token == s.token }

func answer(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what)
}
