"""A user's feed in Python, with stomp.py over TCP.

    pip install -r requirements.txt
    python subscribe.py alice demo-alice          (user, passcode)

Environment: STENTOR_TCP (default 127.0.0.1:61613), STOMP_LOGIN (default: the user).
"""

import os
import random
import sys
import threading
import time

import stomp

user = sys.argv[1] if len(sys.argv) > 1 else "alice"
passcode = sys.argv[2] if len(sys.argv) > 2 else f"demo-{user}"
login = os.environ.get("STOMP_LOGIN", user)
host, port = os.environ.get("STENTOR_TCP", "127.0.0.1:61613").rsplit(":", 1)
destination = f"/exchange/feed/user_{user}"

# vhost is the STOMP header `host`: RabbitMQ's virtual host. This program makes lost connections anew
# by itself, so the library tries once.
connection = stomp.Connection12(
    [(host, int(port))], vhost="/", heartbeats=(10_000, 10_000), reconnect_attempts_max=1
)


class Feed(stomp.ConnectionListener):
    """stomp.py calls these from its own thread."""

    def __init__(self):
        self.answered = threading.Event()
        self.over = threading.Event()
        self.subscribed = False
        self.failures = 0
        # What the last ERROR said about coming back: "no"; "renew", which is: only with other
        # credentials; or a time such as "5s".
        self.wish = ""

    def on_connected(self, frame):
        self.answered.set()
        connection.subscribe(destination, id="feed", ack="auto", headers={"receipt": "subscribed"})

    def on_receipt(self, frame):
        # From here on, nothing that is published to this user is missed.
        if frame.headers["receipt-id"] == "subscribed":
            self.subscribed = True
            self.failures = 0
            print(f"subscribed to {destination}", flush=True)

    def on_message(self, frame):
        # x-stomp-user: stamped by Stentor on what another client sent; absent on a backend's push.
        sender = frame.headers.get("x-stomp-user", "backend")
        print(f"{sender}: {frame.body}", flush=True)

    def on_error(self, frame):
        # After an ERROR that ends the session the server closes; then on_disconnected is called.
        print(f"ERROR {frame.headers.get('message')}: {frame.body.strip()}", file=sys.stderr)
        # Only that subscription has ended; others, if there are any, go on.
        if "subscription" in frame.headers:
            return
        # A server that gives no advice: before the receipt it was a refusal, which would be repeated.
        self.wish = frame.headers.get("reconnect", "" if self.subscribed else "no")

    def on_disconnected(self):
        self.answered.set()
        self.over.set()

    def pause(self):
        """Seconds until the next attempt: the server's wish, and a random part that grows from 1 s to
        30 s, which keeps the clients of a server that was restarted from all coming back at once."""
        wished = int(self.wish[:-1]) if self.wish[:-1].isdigit() else 0
        return wished + random.uniform(0, min(30, 2**self.failures))


feed = Feed()
connection.set_listener("feed", feed)

try:
    while True:
        feed.answered.clear()
        feed.over.clear()
        feed.subscribed = False
        feed.wish = ""
        try:
            connection.connect(login, passcode)
            # Heart-beats begin with the answer to a login, so a silent network is noticed here.
            if not feed.answered.wait(20):
                connection.transport.disconnect_socket()
            feed.over.wait()
        except stomp.exception.StompException:
            pass  # nobody listens there
        # An application fetches a new token if it says "renew", and comes back. There is none here.
        if feed.wish in ("no", "renew"):
            sys.exit(1)
        print("not connected, trying again ...", file=sys.stderr)
        time.sleep(feed.pause())
        feed.failures += 1
except KeyboardInterrupt:
    connection.disconnect()
