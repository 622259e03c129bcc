# Subscribes to orders, publishes one and prints it.
#
#   pip install amps-python-client
#   python orders.py [URL]
import sys
import threading

import AMPS

url = sys.argv[1] if len(sys.argv) > 1 else "tcp://localhost:8080/client/amps/json?http_preflight=true"

# region tls
if url.startswith("tcps:"):
    AMPS.ssl_init()
    AMPS.ssl_load_verify_locations("cert.pem", None)
    AMPS.ssl_set_verify(True)  # and write &sni=HOST into the URL, or the name is not checked
# endregion

# region connect
client = AMPS.Client("orders-python")
client.add_http_preflight_header("Authorization: Bearer s3cret")
client.set_heartbeat(20)
client.connect(url)
client.logon()
# endregion

received = threading.Event()


def on_message(message):
    print(message.get_topic(), message.get_data(), flush=True)
    received.set()


client.subscribe(on_message, "orders")
client.publish("orders", '{"id": 1, "client": "python"}')
client.publish_flush()
if not received.wait(10):
    sys.exit("nothing came")
client.disconnect()
