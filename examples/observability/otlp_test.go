package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A collector receives OTLP.
type collector struct {
	mu       sync.Mutex
	spans    []span
	metrics  map[string]bool
	services map[string]bool
}

func newCollector() *collector {
	return &collector{metrics: make(map[string]bool), services: make(map[string]bool)}
}

func (c *collector) takeSpans(request *tracepb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ofResource := range request.ResourceSpans {
		c.takeService(ofResource.Resource)
		for _, ofScope := range ofResource.ScopeSpans {
			for _, s := range ofScope.Spans {
				parent := hex.EncodeToString(s.ParentSpanId)
				if parent == "" {
					parent = none
				}
				c.spans = append(c.spans, span{s.Name, int(s.Kind), hex.EncodeToString(s.SpanId), parent})
			}
		}
	}
}

func (c *collector) takeMetrics(request *metricspb.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ofResource := range request.ResourceMetrics {
		c.takeService(ofResource.Resource)
		for _, ofScope := range ofResource.ScopeMetrics {
			for _, metric := range ofScope.Metrics {
				c.metrics[metric.Name] = true
			}
		}
	}
}

func (c *collector) takeService(resource *resourcepb.Resource) {
	for _, attribute := range resource.Attributes {
		if attribute.Key == "service.name" {
			c.services[attribute.Value.GetStringValue()] = true
		}
	}
}

// serveHTTP receives OTLP over HTTP until the end of the test.
func (c *collector) serveHTTP(t *testing.T) (endpoint string) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		request := new(tracepb.ExportTraceServiceRequest)
		if unmarshal(w, r, request) {
			c.takeSpans(request)
		}
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		request := new(metricspb.ExportMetricsServiceRequest)
		if unmarshal(w, r, request) {
			c.takeMetrics(request)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func unmarshal(w http.ResponseWriter, r *http.Request, request proto.Message) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // the response is empty
	return true
}

// serveGRPC receives OTLP over gRPC until the end of the test.
func (c *collector) serveGRPC(t *testing.T) (endpoint string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	tracepb.RegisterTraceServiceServer(server, traceService{collector: c})
	metricspb.RegisterMetricsServiceServer(server, metricsService{collector: c})
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-done)
	})
	return "http://" + ln.Addr().String()
}

type traceService struct {
	tracepb.UnimplementedTraceServiceServer
	collector *collector
}

func (s traceService) Export(_ context.Context, request *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	s.collector.takeSpans(request)
	return new(tracepb.ExportTraceServiceResponse), nil
}

type metricsService struct {
	metricspb.UnimplementedMetricsServiceServer
	collector *collector
}

func (s metricsService) Export(_ context.Context, request *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	s.collector.takeMetrics(request)
	return new(metricspb.ExportMetricsServiceResponse), nil
}

func TestOTLP(t *testing.T) {
	for _, test := range []struct {
		protocol string
		serve    func(*collector, *testing.T) (endpoint string)
	}{
		{"", (*collector).serveHTTP},
		{"http/protobuf", (*collector).serveHTTP},
		{"grpc", (*collector).serveGRPC},
	} {
		t.Run("protocol="+test.protocol, func(t *testing.T) {
			c := newCollector()
			setEnvironment(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": test.serve(c, t),
				"OTEL_EXPORTER_OTLP_PROTOCOL": test.protocol,
				"OTEL_SERVICE_NAME":           "mine",
			})
			cfg, err := parseFlags(nil)
			require.NoError(t, err)
			var out bytes.Buffer
			require.NoError(t, runAndExport(t.Context(), cfg, &out, io.Discard))

			require.Empty(t, out.String())
			require.Equal(t, wantSpans, outline(c.spans))
			require.Subset(t, c.metrics, wantMetrics)
			require.Equal(t, map[string]bool{"mine": true}, c.services)
		})
	}
}

func TestCollectorRefuses(t *testing.T) {
	collector := httptest.NewServer(http.NotFoundHandler())
	defer collector.Close()
	setEnvironment(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	cfg, err := parseFlags(nil)
	require.NoError(t, err)
	require.ErrorContains(t, runAndExport(t.Context(), cfg, io.Discard, io.Discard), "404")
}
