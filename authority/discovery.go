package authority

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
)

// public is the call of a document that anybody may read: it is the same for all,
// and its reading is no event.
func public(document func(a *API, r *http.Request, at place) (any, error)) func(*API, *http.Request, place, gate.Call) (gate.Call, error) {
	return func(a *API, r *http.Request, at place, call gate.Call) (gate.Call, error) {
		call.Read = false
		call.Handler = func(w http.ResponseWriter, r *http.Request, _ access.Grant) error {
			doc, err := document(a, r, at)
			if err != nil {
				return err
			}
			return writeJSON(w, http.StatusOK, doc)
		}
		return call, nil
	}
}

// writeJSON answers with what nobody keeps.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}

// configuration is OpenID Connect Discovery, and RFC 8414. Whoever asks for
// "common" or "organizations" learns the one tenant that there is.
func (a *API) configuration(_ *http.Request, at place) (any, error) {
	return map[string]any{
		"issuer":                                           at.issuer(),
		"authorization_endpoint":                           at.at("authorize"),
		"token_endpoint":                                   at.at("token"),
		"device_authorization_endpoint":                    at.at("devicecode"),
		"jwks_uri":                                         at.at("keys"),
		"response_types_supported":                         []string{"code"},
		"response_modes_supported":                         []string{"query"},
		"grant_types_supported":                            grants(),
		"scopes_supported":                                 []string{"openid", "profile", "offline_access"},
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{"RS256"},
		"code_challenge_methods_supported":                 []string{"S256"},
		"token_endpoint_auth_methods_supported":            []string{"client_secret_post", "client_secret_basic", "private_key_jwt", "none"},
		"token_endpoint_auth_signing_alg_values_supported": []string{"RS256", "PS256", "ES256"},
		"claims_supported":                                 []string{"sub", "oid", "tid", "iss", "aud", "exp", "iat", "nonce", "auth_time", "acr", "amr", "name", "preferred_username", "groups"},
		"authorization_response_iss_parameter_supported":   true,
	}, nil
}

func (a *API) keys(r *http.Request, _ place) (any, error) {
	set, err := a.o.Identity.Keys(r.Context())
	return set, err
}

// receiptKeys are what receipts of destruction are verified with.
func (a *API) receiptKeys(r *http.Request, _ place) (any, error) {
	set, err := a.o.Identity.ReceiptKeys(r.Context())
	return set, err
}

// instance tells clients that this host is an authority: the one that they ask, and
// no other.
func (a *API) instance(r *http.Request, at place) (any, error) {
	of, err := url.Parse(r.URL.Query().Get("authorization_endpoint"))
	if err != nil || of.Host != "" && !strings.EqualFold(of.Host, r.Host) {
		return nil, fault.New(fault.BadRequest, "this server knows no authority but itself").With(invalidInstance)
	}
	host := strings.ToLower(r.Host)
	return map[string]any{
		"tenant_discovery_endpoint": at.server + "/" + at.tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata":                  []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}}},
	}, nil
}

// realm says of every user, real or not, that it signs in here.
func (a *API) realm(r *http.Request, at place) (any, error) {
	_, domain, ok := strings.Cut(at.rest, "@")
	if !ok {
		domain = r.Host
	}
	return map[string]string{
		"ver": "1.0", "account_type": "Managed", "domain_name": domain,
		"cloud_instance_name": strings.ToLower(r.Host), "cloud_audience_urn": "urn:federation:MicrosoftOnline",
	}, nil
}
