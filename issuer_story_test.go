package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"breakwater/identity/identitytest"
)

// A storyIssuer vouches for people or workloads in a story.
type storyIssuer struct {
	url, ca  string
	close    func()
	provider *identitytest.Provider // one of the two
	issuer   *identitytest.Issuer
}

// issuer says what issuers of tokens do:
//
//	issuer open NAME provider|kubernetes|github JSON   begins; NAME.json is its document, with what JSON adds
//	issuer person NAME                                 a person signs in: TOKEN
//	issuer machine NAME AUDIENCE                       an application signs in: TOKEN
//	issuer workload NAME NAMESPACE ACCOUNT AUDIENCE    what a pod of Kubernetes finds: TOKEN
//	issuer job NAME REPOSITORY REF AUDIENCE            what a job of GitHub finds: TOKEN
//	issuer claims NAME JSON                            a token that says this, and more that a workload's says: TOKEN
//	issuer redirect NAME URL                           it answers each question with another place to ask
//	issuer roll|swap NAME                              a new key signs; the one before is still believed, or not
//	issuer close NAME                                  it answers no more
func issuer(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: issuer VERB NAME ...")
	}
	verb, name, more := args[0], args[1], append(args[2:], "", "", "")
	if verb == "open" {
		ts.Check(openIssuer(ts, name, more[0], more[1]))
		return
	}
	i := ts.Value(theIssuers).(map[string]*storyIssuer)[name]
	if i == nil {
		ts.Fatalf("there is no issuer %s", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var token string
	var err error
	switch verb {
	case "person":
		token, err = i.provider.SignIn(ctx)
	case "machine":
		token, err = i.provider.Machine(ctx, more[0])
	case "workload":
		token = i.issuer.Workload(more[0], more[1], more[2])
	case "job":
		token = i.issuer.Job(more[0], more[1], more[2])
	case "claims":
		var claims map[string]any
		ts.Check(json.Unmarshal([]byte(more[0]), &claims))
		token = i.issuer.Token(i.issuer.Claims(claims))
	case "redirect":
		i.issuer.Answer(func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, more[0], http.StatusFound)
			return true
		})
	case "roll":
		i.provider.Roll()
	case "swap":
		i.provider.Swap()
	case "close":
		i.close()
	default:
		ts.Fatalf("issuer: what is %q?", verb)
	}
	ts.Check(err)
	if token != "" {
		ts.Setenv("TOKEN", token)
	}
}

func openIssuer(ts *testscript.TestScript, name, shape, more string) error {
	i := new(storyIssuer)
	switch shape {
	case "provider":
		p, err := identitytest.OpenProvider()
		if err != nil {
			return err
		}
		i.provider, i.url, i.ca, i.close = p, p.URL, p.CA, p.Close
	case "kubernetes":
		i.issuer = identitytest.OpenIssuer("", identitytest.KubernetesKeys()...)
	case "github":
		i.issuer = identitytest.OpenIssuer("", identitytest.GitHubKeys()...)
	default:
		ts.Fatalf("issuer: what is %q?", shape)
	}
	if i.issuer != nil {
		i.url, i.ca, i.close = i.issuer.URL, i.issuer.CA, i.issuer.Close
	}
	ts.Defer(i.close)
	properties := map[string]any{"issuer": i.url, "caCertificates": i.ca}
	if err := json.Unmarshal([]byte(more), &properties); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"properties": properties})
	if err != nil {
		return err
	}
	ts.Setenv("ISSUER", i.url)
	ts.Value(theIssuers).(map[string]*storyIssuer)[name] = i
	return os.WriteFile(ts.MkAbs(name+".json"), body, 0o600)
}

// assign PRINCIPAL TYPE ROLE NAME gives a role at the registry.
func assign(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: assign PRINCIPAL TYPE ROLE NAME")
	}
	ts.Check(ts.Exec("breakwater", "rest", "--method", "put", "{registry}/providers/Microsoft.Authorization/roleAssignments/"+args[3], "--body",
		`{"properties":{"principalId":"`+args[0]+`","principalType":"`+args[1]+`","roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/`+args[2]+`"}}`))
}

// form FILE TEXT writes a file without a line's end.
func form(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: form FILE TEXT")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(args[1]), 0o600))
}
