# Varnish 6 or later in front of a PreflightListener. To be copied to /etc/varnish/.
#
# Varnish has no TLS: hitch, HAProxy or another proxy does it in front. The timer
# of tunnels is none of VCL's but one of the command line, which "systemctl edit
# varnish" takes (an empty ExecStart= first):
#
#   varnishd -a :80 -f /etc/varnish/preflight.vcl -p pipe_timeout=3600 -s malloc,64m
#
# pipe_timeout ends a tunnel that is silent for so many seconds, without it after
# 60. A message of the application that is answered, every 20 to 25 seconds, is
# better still: it works behind every proxy.
#
# Change the address of the listener (127.0.0.1, 9007) and the path that leads to
# it (/client/). The listener then wants:
#
#   RequireUpgrade:   true, // nothing but tunnels comes from Varnish
#   TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, // where Varnish connects from
#   ClientAddrHeader: "X-Forwarded-For",
#
# Each tunnel takes a worker thread: there are thread_pools times thread_pool_max
# of them, 10000. A reload (another VCL) leaves tunnels alone; a restart ends them.

vcl 4.1;

backend preflight {
    .host = "127.0.0.1";
    .port = "9007";
    # Varnish makes no health checks without a probe. If the listener has a
    # Handler, it can ask for a page of it:
    #.probe = { .url = "/healthz"; }
    # A listener without a Handler answers every page with 426:
    #.probe = { .url = "/"; .expected_response = 426; }
}

# Varnish itself has put the client's address behind X-Forwarded-For by now: the
# listener reads from the right.
sub vcl_recv {
    if (req.url !~ "^/client/") {
        return (synth(404));
    }
    # /client/amps/json arrives as /amps/json.
    set req.url = regsub(req.url, "^/client", "");
    if (req.http.Upgrade) {
        # Varnish looks at nothing that the client sends behind this request. It
        # is no second request either: the listener closes after a refusal.
        return (pipe);
    }
    return (pass);
}

# Else Varnish takes both out of the request.
sub vcl_pipe {
    set bereq.http.Upgrade = req.http.Upgrade;
    set bereq.http.Connection = req.http.Connection;
}
