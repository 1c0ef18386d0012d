"""A backend: publishes by AMQP, with pika, and knows nothing of sockets and STOMP.
Order: publish, with a message that counts up from `first`."""

import pika

from remote import obey, tell


def publish(url, exchange, key, count=1, first=0, body="{}", headers=None, content_type=None):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, headers=headers, content_type=content_type)
    for number in range(first, first + count):
        text = body.replace("{}", str(number))
        channel.basic_publish(exchange, key, text.encode(), properties)
    connection.close()
    tell("published", count=count)


obey({"publish": publish})
