"""stomp.py, over TCP and over WebSocket. Orders: connect, subscribe, unsubscribe, send, disconnect."""

import uuid

import stomp
from stomp.adapter.ws import WSStompConnection

from remote import obey, tell

VERSIONS = {
    "1.0": stomp.Connection10,
    "1.1": stomp.Connection11,
    "1.2": stomp.Connection12,
}
connection = None
acknowledged = set()


class Listener(stomp.ConnectionListener):
    def on_connected(self, frame):
        tell("connected", version=frame.headers.get("version"), headers=frame.headers)

    def on_message(self, frame):
        headers, body = frame.headers, frame.body
        tell("message", destination=headers["destination"], headers=headers, body=body)
        if headers["subscription"] in acknowledged:
            if isinstance(connection, stomp.Connection11):
                connection.ack(headers["message-id"], headers["subscription"])
            else:
                connection.ack(headers["ack"])

    def on_receipt(self, frame):
        tell("receipt", id=frame.headers["receipt-id"])

    def on_error(self, frame):
        tell("error", headers=frame.headers, body=frame.body)

    def on_heartbeat(self):
        tell("heartbeat")

    def on_disconnected(self):
        tell("closed")


def connect(address, login, passcode, host, version="1.2", path=None, heartBeat=0, ca=None):
    global connection
    name, port = address.rsplit(":", 1)
    common = {
        "host_and_ports": [(name, int(port))],
        "vhost": host,
        "heartbeats": (heartBeat, heartBeat),
        "reconnect_attempts_max": 1,
    }
    if path:
        connection = WSStompConnection(ws_path=path, **common)
    else:
        common.pop("heartbeats") if version == "1.0" else None
        common.pop("vhost") if version == "1.0" else None
        connection = VERSIONS[version](**common)
    if ca:
        connection.set_ssl(for_hosts=common["host_and_ports"], ca_certs=ca)
    connection.set_listener("test", Listener())
    connection.connect(login, passcode, wait=True, headers={"host": host})


def subscribe(destination, headers=None):
    headers = dict(headers or {})
    name, ack = headers.pop("id", destination), headers.pop("ack", "auto")
    if ack != "auto":
        acknowledged.add(name)
    connection.subscribe(destination, id=name, ack=ack, headers=headers)


def unsubscribe(destination, headers=None):
    connection.unsubscribe(id=destination, headers=headers)


def send(destination, body="", headers=None):
    connection.send(destination, body, headers=headers)


def disconnect():
    connection.disconnect(receipt=f"bye-{uuid.uuid4()}")


obey(
    {
        "connect": connect,
        "subscribe": subscribe,
        "unsubscribe": unsubscribe,
        "send": send,
        "disconnect": disconnect,
    }
)
