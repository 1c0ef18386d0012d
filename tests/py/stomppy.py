"""stomp.py, over TCP and over WebSocket. Orders: connect, subscribe, unsubscribe, send,
begin, commit, abort, refuse, disconnect."""

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
refused = 0


class Listener(stomp.ConnectionListener):
    def on_connected(self, frame):
        tell("connected", version=frame.headers.get("version"), headers=frame.headers)

    def on_message(self, frame):
        headers, body = frame.headers, frame.body
        tell("message", destination=headers["destination"], headers=headers, body=body)
        if headers["subscription"] in acknowledged:
            global refused
            settle = connection.nack if refused else connection.ack
            refused = max(refused - 1, 0)
            if isinstance(connection, stomp.Connection11):
                settle(headers["message-id"], headers["subscription"])
            else:
                settle(headers["ack"])

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


def begin(transaction):
    connection.begin(transaction=transaction)


def commit(transaction):
    connection.commit(transaction=transaction)


def abort(transaction):
    connection.abort(transaction=transaction)


def refuse():
    """The next message that wants an ACK gets a NACK."""
    global refused
    refused += 1


def disconnect():
    connection.disconnect(receipt=f"bye-{uuid.uuid4()}")


obey(
    {
        "connect": connect,
        "subscribe": subscribe,
        "unsubscribe": unsubscribe,
        "send": send,
        "begin": begin,
        "commit": commit,
        "abort": abort,
        "refuse": refuse,
        "disconnect": disconnect,
    }
)
