package gate

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   prometheus.Counter
}

// newMetrics makes the door's metrics. Their labels are operations and statuses,
// which are few; never what a caller can choose.
func newMetrics(to prometheus.Registerer) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "breakwater_requests_total", Help: "Requests by operation and HTTP status; 0 is an answer that nobody waited for.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "breakwater_request_seconds", Help: "Time from the header of a request to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30, 300},
		}, []string{"operation"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "breakwater_panics_total", Help: "Requests that ended in a panic. Each is a defect.",
		}),
	}
	if to != nil {
		to.MustRegister(m.requests, m.seconds, m.panics)
	}
	return m
}

func (m *metrics) count(operation string, status int, took time.Duration) {
	if operation == "" {
		operation = "none"
	}
	m.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}
