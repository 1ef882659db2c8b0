package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"breakwater/network/link"
	"breakwater/transit"
)

// ops is what the operator's tools ask, without a login: keep its listener on the
// loopback, where it speaks clear text, or behind a firewall, with TLS.
type ops struct {
	metrics *prometheus.Registry
	house   atomic.Pointer[house] // nil while the server starts and stops

	listeners []*transit.Listener
}

// newOps counts the connections of the listeners together.
func newOps(listeners []*transit.Listener) *ops {
	o := &ops{metrics: prometheus.NewRegistry(), listeners: listeners}
	o.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "breakwater_connections", Help: "Connections that are open.",
		}, func() (n float64) {
			for _, l := range o.listeners {
				n += float64(l.Held())
			}
			return n
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "breakwater_connections_refused_total", Help: "Connections that were turned away because there were too many.",
		}, func() (n float64) {
			for _, l := range o.listeners {
				n += float64(l.Refused())
			}
			return n
		}),
	)
	return o
}

// links counts links, and what they carry with the other connections. It is called
// before anybody asks.
func (o *ops) links(s *link.Server, carried *transit.Listener) {
	o.listeners = append(o.listeners, carried)
	o.metrics.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "breakwater_links", Help: "Links that are up.",
		}, func() float64 { return float64(s.Held()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "breakwater_links_refused_total", Help: "Times that the agent of a link was told that it is not let in.",
		}, func() float64 { return float64(s.Refused()) }),
	)
}

func (o *ops) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("GET /readyz", o.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.metrics, promhttp.HandlerOpts{}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rebound(r) {
			http.Error(w, "this address is called by its number or as localhost", http.StatusMisdirectedRequest)
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second)) // no question has a body
		mux.ServeHTTP(w, r)
	})
}

// rebound reports a request that reached the loopback under a name from
// elsewhere: a page in a browser of this machine whose name was made to mean it.
func rebound(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !local.IP.IsLoopback() {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err != nil && !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// healthy says that the process answers, and nothing more.
func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// ready says whether requests should be sent here now.
func (o *ops) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if h := o.house.Load(); h == nil {
		http.Error(w, "starting or stopping", http.StatusServiceUnavailable)
	} else if _, err := h.documents.Generation(ctx); err != nil {
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
	} else {
		healthy(w, r)
	}
}
