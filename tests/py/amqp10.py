"""A backend that publishes by AMQP 1.0, which RabbitMQ 4 has in its core. A test drives it."""

from proton import Message
from proton.utils import BlockingConnection
from remote import obey, tell

# AMQP 1.0 knows three kinds of bodies: bytes, a value of any type, and a list of lists.
BODIES = {
    "data": Message(body=b"plain bytes", inferred=True, content_type="text/plain"),
    "value": Message(body="a value", properties={"color": "red"}),
    "sequence": Message(body=["a", "list"], inferred=True),
}


def publish(url, vhost, exchange, key, kinds):
    connection = BlockingConnection(
        url, allowed_mechs="PLAIN", timeout=10, virtual_host=f"vhost:{vhost}"
    )
    sender = connection.create_sender(f"/exchanges/{exchange}/{key}")
    for kind in kinds:
        sender.send(BODIES[kind])
    tell("published")
    connection.close()


obey({"publish": publish})
