"""Runs the AMPS client for Python once: see ../README.md."""

import json
import sys
import threading

import AMPS


class Printer:
    """Prints events. Any thread may call it: the client calls back from its own threads."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, event, **fields):
        with self.lock:
            print(json.dumps({"event": event, **fields}), flush=True)


tell = Printer()


def connect(args):
    """Connects and logs on."""
    if "ca" in args:
        # By default the client verifies no certificate. If the first call of ssl_init
        # in a process has a context as its argument, it crashes.
        AMPS.ssl_init()
        AMPS.ssl_load_verify_locations(args["ca"], None)
        AMPS.ssl_set_verify(1)
    ha = args.get("ha") == "true"
    client = (AMPS.HAClient if ha else AMPS.Client)(args["name"])
    if "field" in args:
        client.add_http_preflight_header(args["field"])
    if "key" in args:
        client.add_http_preflight_header_key_value(args["key"], args["value"])
    if "batch" in args:
        # In ms. publish_flush sends the batch earlier. Over TLS, the client disconnects if the
        # time passes while it sends.
        client.set_publish_batching(int(args["batch"]), 60000)
    if ha:
        chooser = AMPS.DefaultServerChooser()
        chooser.add(args["url"])
        client.set_server_chooser(chooser)
        client.connect_and_logon()
    else:
        client.set_disconnect_handler(lambda _: tell("disconnected"))
        client.connect(args["url"])
        client.logon()
    if "heartbeat" in args:
        client.set_heartbeat(int(args["heartbeat"]))
    tell("connected")
    return client


def subscribe(client, args, on_message):
    if args.get("ha") != "true":
        client.subscribe(on_message, args["from"])
    else:

        def discard(message):
            on_message(message)
            client.discard(message)

        client.bookmark_subscribe(discard, args["from"], AMPS.Client.Bookmarks.EPOCH)
    tell("subscribed")


def exchange(args):
    """Publishes the lines of a file, and meanwhile writes what comes to another."""
    client = connect(args)
    count, received = int(args["count"]), []
    complete = threading.Event()

    def on_message(message):
        received.append(message.get_data())
        if len(received) == count:
            complete.set()

    subscribe(client, args, on_message)
    with open(args["publish"], encoding="utf-8", newline="\n") as lines:
        for line in lines:
            client.publish(args["to"], line.removesuffix("\n"))
    client.publish_flush()
    tell("published", unpersisted=client.get_unpersisted_count())
    complete.wait()
    client.close()
    with open(args["receive"], "w", encoding="utf-8", newline="\n") as out:
        out.writelines(data + "\n" for data in received)
    tell("received")


def sow(args):
    """Writes the records that a query finds to a file."""
    client = connect(args)
    seen = {"group_begin": 0, "sow": 0, "group_end": 0}
    with open(args["receive"], "w", encoding="utf-8", newline="\n") as out:
        for message in client.sow(args["from"], filter=args["filter"]):
            seen[message.get_command()] += 1
            if message.get_command() == "sow":
                out.write(message.get_data() + "\n")
    client.close()
    tell("answered", **seen)


def wait(args):
    """Says nothing, and waits for one message or the end of the connection."""
    client = connect(args)
    over = threading.Event()
    client.set_disconnect_handler(lambda _: (tell("disconnected"), over.set()))

    def on_message(message):
        tell("message", data=message.get_data())
        over.set()

    subscribe(client, args, on_message)
    over.wait()
    client.close()


args = dict(arg.split("=", 1) for arg in sys.argv[1:])
try:
    {"exchange": exchange, "sow": sow, "wait": wait, "connect": lambda args: connect(args).close()}[args["mode"]](args)
except AMPS.AMPSException as e:
    tell("failed", error=type(e).__name__, message=str(e))
    sys.exit(1)
