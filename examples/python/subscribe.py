"""A user's feed in Python, with stomp.py over TCP.

    pip install -r requirements.txt
    python subscribe.py alice demo-alice          (user, passcode)

Environment: STENTOR_TCP (default 127.0.0.1:61613), STOMP_LOGIN (default: the user).
"""

import os
import sys
import threading

import stomp

user = sys.argv[1] if len(sys.argv) > 1 else "alice"
passcode = sys.argv[2] if len(sys.argv) > 2 else f"demo-{user}"
login = os.environ.get("STOMP_LOGIN", user)
host, port = os.environ.get("STENTOR_TCP", "127.0.0.1:61613").rsplit(":", 1)
destination = f"/exchange/feed/user_{user}"

# vhost is the STOMP header `host`: RabbitMQ's virtual host.
connection = stomp.Connection12([(host, int(port))], vhost="/", heartbeats=(10_000, 10_000))
dropped = threading.Event()
subscribed = threading.Event()
refused = threading.Event()


class Feed(stomp.ConnectionListener):
    """stomp.py calls these from its own thread."""

    def on_receipt(self, frame):
        # From here on, nothing that is published to this user is missed.
        if frame.headers["receipt-id"] == "subscribed":
            subscribed.set()
            print(f"subscribed to {destination}", flush=True)

    def on_message(self, frame):
        # x-stomp-user: stamped by Stentor on what another client sent; absent on a backend's push.
        sender = frame.headers.get("x-stomp-user", "backend")
        print(f"{sender}: {frame.body}", flush=True)

    def on_error(self, frame):
        # The server closes after an ERROR. Before the receipt it means that the hook said no, and
        # asking again would only repeat it. Later (the server restarts, ...) we come back.
        print(f"ERROR {frame.headers.get('message')}: {frame.body.strip()}", file=sys.stderr)
        if not subscribed.is_set():
            refused.set()
            dropped.set()

    def on_disconnected(self):
        dropped.set()


connection.set_listener("feed", Feed())

try:
    while not refused.is_set():
        dropped.clear()
        subscribed.clear()
        try:
            connection.connect(login, passcode, wait=True)
            connection.subscribe(destination, id="feed", ack="auto", headers={"receipt": "subscribed"})
            dropped.wait()
        except stomp.exception.ConnectFailedException:
            pass
        if not refused.wait(timeout=1):  # also the pause before the next attempt
            print("not connected, trying again ...", file=sys.stderr)
except KeyboardInterrupt:
    connection.disconnect()

sys.exit(1 if refused.is_set() else 0)
