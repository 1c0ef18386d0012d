"""A backend hears who comes and goes, with pika: what it takes to write "last seen" into a
database, or to send an e-mail to those who are away.

    pip install -r requirements.txt
    python watch_presence.py                     (everybody)
    python watch_presence.py group.project-7     (who is in this group; any routing keys)

Stentor publishes to the topic exchange `presence` where [presence] events are on.
Environment: AMQP_URL (default amqp://guest:guest@127.0.0.1:5672/%2F).
"""

import json
import os
import sys

import pika

keys = sys.argv[1:] or ["user.#"]
url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")


def heard(channel, delivery, properties, body):
    event = json.loads(body)
    print(event["at"], event["user"], event["previous"], "->", event["status"], flush=True)
    # Not before it is done: what is not acknowledged comes again.
    channel.basic_ack(delivery.delivery_tag)


with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    # The same as Stentor declares: whichever of the two comes first makes it.
    channel.exchange_declare("presence", "topic", durable=True)
    # Gone with this program. A backend that must not miss an event while it restarts names its
    # queue, and declares it durable.
    queue = channel.queue_declare("", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(queue, "presence", key)
    channel.basic_qos(prefetch_count=100)
    channel.basic_consume(queue, heard)
    print(f"watching {', '.join(keys)}", flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        pass
