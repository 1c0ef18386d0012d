"""A backend pushes to a user, with pika. It knows AMQP and a routing key; no socket, no STOMP.

    pip install -r requirements.txt
    python publish.py user_alice "Your order has shipped"          (routing key, body)

Environment: AMQP_URL (default amqp://guest:guest@127.0.0.1:5672/%2F).
"""

import os
import sys

import pika

key = sys.argv[1] if len(sys.argv) > 1 else "user_alice"
body = sys.argv[2] if len(sys.argv) > 2 else "Hello from Python"
url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")

with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish then waits until RabbitMQ has taken the message
    channel.basic_publish(
        exchange="feed",
        routing_key=key,
        body=body.encode(),
        properties=pika.BasicProperties(content_type="text/plain;charset=utf-8"),
    )
    # Confirmed also if nobody is connected under this key: a push to an absent user goes nowhere.
    print(f"published to feed, key {key}")
