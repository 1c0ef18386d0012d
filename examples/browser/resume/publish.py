"""Publishes numbers to a user, with pika, until Ctrl-C: 1, 2, 3 … Each waits for RabbitMQ's confirm.

    python3 -m pip install "pika>=1.3"
    python3 publish.py user_alice          (routing key; then how many a second, 5 by default)

Environment: AMQP_URL (default amqp://guest:guest@127.0.0.1:5672/%2F).
"""

import itertools
import json
import os
import secrets
import sys

import pika

key = sys.argv[1] if len(sys.argv) > 1 else "user_alice"
rate = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
run = secrets.token_hex(4)  # so that a page knows a new publisher, which begins with 1 again

# A journal's messages are written to the disk either way; an exchange that is not there is an error here.
with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        for n in itertools.count(1):
            channel.basic_publish("feed", key, json.dumps({"run": run, "n": n}).encode())
            print(f"\r{n}", end="", flush=True)
            connection.sleep(1 / rate)
    except KeyboardInterrupt:
        print(f"\rpublished 1 to {n} to feed, key {key}")
