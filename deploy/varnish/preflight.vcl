# Varnish 6 or later in front of a PreflightListener. Copy it to /etc/varnish/.
#
# Varnish has no TLS. For TLS, put hitch, HAProxy or another proxy in front of it. The
# timer of tunnels is not in VCL, but on the command line. Change the command line with
# "systemctl edit varnish" (first an empty ExecStart=):
#
#   varnishd -a :80 -f /etc/varnish/preflight.vcl -p pipe_timeout=3600 -s malloc,64m
#
# Varnish ends a tunnel that is silent for pipe_timeout seconds. The default is 60.
# Better: let the application send a message that is answered every 20 to 25 seconds.
# That works behind every proxy.
#
# "preflight config varnish" prints this file for your path, server and certificate. Set
# these fields of the listener:
#
#   RequireUpgrade:   true, // only tunnels come from Varnish
#   TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, // where Varnish connects from
#   ClientAddrHeader: "X-Forwarded-For",
#
# For "preflight serve" these are --require-upgrade and --trusted-proxy 127.0.0.1.
#
# Each tunnel uses a worker thread: there are thread_pools times thread_pool_max of
# them, 10000. A reload (another VCL) keeps tunnels open. A restart ends them.

vcl 4.1;

backend preflight {
    .host = "127.0.0.1";
    .port = "9007";
    # Varnish makes no health checks without a probe. If the listener has a
    # Handler, Varnish can ask it for a page:
    #.probe = { .url = "/healthz"; }
    # A listener without a Handler answers every page with 426:
    #.probe = { .url = "/"; .expected_response = 426; }
}

# Varnish has already appended the client's address to X-Forwarded-For. The listener
# reads from the right.
sub vcl_recv {
    if (req.url !~ "^/client/") {
        return (synth(404));
    }
    # /client/amps/json arrives as /amps/json.
    set req.url = regsub(req.url, "^/client", "");
    # Without this, Varnish forwards any bytes as a method, and "http/1.1" as a version.
    if (req.method !~ "^[A-Z]+$" || req.proto !~ "^HTTP/1[.][01]$") {
        return (synth(400));
    }
    # Only this is an upgrade request. Varnish does not read what the client sends after
    # it. These bytes cannot become a second request, because the listener closes the
    # connection after a refusal.
    if (req.method == "GET" && req.proto == "HTTP/1.1" && req.http.Upgrade) {
        return (pipe);
    }
    return (pass);
}

# Without these lines Varnish removes both fields from the request.
sub vcl_pipe {
    set bereq.http.Upgrade = req.http.Upgrade;
    set bereq.http.Connection = req.http.Connection;
}
