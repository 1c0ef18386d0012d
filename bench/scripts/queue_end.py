#!/usr/bin/env python3
"""Measures what the end of a queue with many bindings costs others at RabbitMQ.

A feed's queue has a binding for each key that its clients are subscribed to. When a node ends, the
queue goes with all of them: it is deleted, it expires, or (an exclusive one) its connection closes.
Meanwhile others publish with confirms, and declare and bind queues of their own, one after the
other; the longest of their waits is what the end cost them. Each row has a RabbitMQ that only this
script uses; the rows of a version share it.

  python3 bench/scripts/queue_end.py                      3.10, 4.0 and 4.3; 3,000 and 100,000 bindings
  python3 bench/scripts/queue_end.py --version 4.3 --bindings 3000 --way delete --runs 3

It needs pika (examples/python/requirements.txt). Servers are laid out by scripts/rabbitmq.sh.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import pika
from pika import spec

EXCHANGE = "feed"
WAYS = ["nothing", "delete", "delete-transient", "expiry", "exclusive", "portions", "portions-paced"]
BINDERS = 4
# Sent ahead of answers when bindings are taken away one portion after the other.
PORTION = 100
# Portions a second, at most, where they are paced.
PACE = 5
SETTLE = 2.0
# A queue that is there so long after its end was asked for stays.
GIVE_UP = 300.0
FEED_ARGUMENTS = {
    "x-queue-type": "classic",
    "x-max-length-bytes": 256 << 20,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "overflow",
}


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """A RabbitMQ of its own, in a folder of its own."""

    def __init__(self, version):
        script = pathlib.Path(__file__).parents[2] / "scripts" / "rabbitmq.sh"
        self.bin = pathlib.Path(subprocess.check_output([script, version], text=True).strip())
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="queue-end-"))
        self.port = free_port()
        self.epmd = free_port()
        home = self.folder / "home"
        home.mkdir()
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = false\n"
            "disk_free_limit.absolute = 200MB\nvm_memory_high_watermark.relative = 0.6\n"
        )
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "env").write_text("")
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"end{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self.process = subprocess.Popen(
            [self.bin / "rabbitmq-server"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                connection = self.connect()
                break
            except pika.exceptions.AMQPError as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"RabbitMQ did not start; see {self.folder}/log") from error
                time.sleep(0.2)
        self.version = connection._impl.server_properties["version"]
        if isinstance(self.version, bytes):
            self.version = self.version.decode()
        connection.close()
        return self

    def connect(self):
        return connect(self.port)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        for epmd in [shutil.which("epmd"), *self.bin.glob("epmd")]:
            if epmd:
                subprocess.run(
                    [epmd, "-port", str(self.epmd), "-kill"], check=False, capture_output=True
                )
                break
        shutil.rmtree(self.folder, ignore_errors=True)


def connect(port):
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", port, heartbeat=0, socket_timeout=30)
    )


# ---- others -------------------------------------------------------------------------------------


def publisher(port, exchange, key):
    """Publishes a message, and awaits its confirm."""
    channel = connect(port).channel()
    channel.confirm_delivery()
    return lambda: channel.basic_publish(exchange, key, b"probe", mandatory=False)


def declarer(port):
    """Declares a queue and binds it by a new key; it goes with its connection."""
    channel = connect(port).channel()
    numbers, own = itertools.count(), os.urandom(4).hex()

    def act():
        name = f"other.{own}.{next(numbers)}"
        channel.queue_declare(name, exclusive=True, arguments={"x-queue-type": "classic"})
        channel.queue_bind(name, EXCHANGE, f"other_{name}")

    return act


def probe(kind, port, begin, end, waits):
    """Until `end` is set: the longest wait after `begin` was set, and how many calls failed."""
    probes = {
        "publish": lambda: publisher(port, EXCHANGE, "probe"),
        "publish elsewhere": lambda: publisher(port, "", "probe"),
        "declare and bind": lambda: declarer(port),
    }
    act, longest, failed = probes[kind](), 0.0, 0
    while not end.is_set():
        measured = begin.is_set()
        started = time.monotonic()
        try:
            act()
        except pika.exceptions.AMQPError:
            failed += 1
            act = probes[kind]()
        waited = time.monotonic() - started
        # One that began before counts, if it was still waiting.
        if measured or begin.is_set():
            longest = max(longest, waited)
        time.sleep(0.002 if kind != "declare and bind" else 0.02)
    waits.put((kind, longest, failed))


PROBES = ["publish", "publish elsewhere", "declare and bind"]


# ---- the queue ----------------------------------------------------------------------------------


def declare(channel, way):
    arguments = dict(FEED_ARGUMENTS, **{"x-expires": 3_000 if way == "expiry" else 600_000})
    channel.queue_declare(
        "doomed",
        durable=way != "delete-transient",
        exclusive=way == "exclusive",
        arguments=arguments,
    )


def bind_all(connection, numbers):
    """Pika's own call waits for each answer; a binding without one is faster."""
    channel = connection.channel()
    for number in numbers:
        method = spec.Queue.Bind(0, "doomed", EXCHANGE, f"user_{number}", True, {})
        channel._impl._send_method(method)
        if number % 500 == 0:
            connection.process_data_events(0)
    channel.queue_bind("doomed", EXCHANGE, "last")


def bind_part(port, numbers):
    connection = connect(port)
    bind_all(connection, numbers)
    connection.close()


def unbind_all(connection, count, pace):
    channel = connection.channel()
    due = time.monotonic()
    for first in range(0, count, PORTION):
        last = min(first + PORTION, count) - 1
        # An unbinding has no form without an answer, and pika awaits each: so the channel's own
        # frames are sent, and the answer of the last is awaited.
        for number in range(first, last):
            method = spec.Queue.Unbind(0, "doomed", EXCHANGE, f"user_{number}", {})
            channel._impl._send_method(method)
        channel.queue_unbind("doomed", EXCHANGE, f"user_{last}")
        if pace:
            due += 1 / pace
            time.sleep(max(0.0, due - time.monotonic()))


def end_queue(connection, owner, way, count):
    """Ends it. What RabbitMQ said instead, if it did not."""
    try:
        if way == "nothing":
            time.sleep(5)
        elif way in ("delete", "delete-transient"):
            connection.channel().queue_delete("doomed")
        elif way in ("exclusive", "expiry"):
            owner.close()
        else:
            unbind_all(connection, count, PACE if way == "portions-paced" else None)
            connection.channel().queue_delete("doomed")
    except pika.exceptions.AMQPError as error:
        return repr(error)
    return None


def until_gone(connection, deadline):
    """Whether it is gone by then."""
    channel = connection.channel()
    channel.confirm_delivery()
    while time.monotonic() < deadline:
        try:
            channel.basic_publish("", "doomed", b"", mandatory=True)
        except pika.exceptions.UnroutableError:
            return True
        except pika.exceptions.NackError:
            # It is there, and takes nothing any more.
            pass
        time.sleep(0.02)
    return False


def measure(node, way, count):
    control = node.connect()
    channel = control.channel()
    channel.exchange_declare(EXCHANGE, "direct", durable=True)
    channel.queue_declare("probe", durable=True, arguments={"x-max-length": 10})
    channel.queue_bind("probe", EXCHANGE, "probe")
    owner = node.connect()
    owned = owner.channel()
    declare(owned, way)
    if way == "expiry":
        owned.basic_consume("doomed", lambda *_: None)
    if way == "exclusive":
        bind_all(owner, range(count))
    else:
        parts = [
            multiprocessing.Process(target=bind_part, args=(node.port, range(part, count, BINDERS)))
            for part in range(BINDERS)
        ]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
            if part.exitcode:
                raise SystemExit("a binder failed")
    begin, end, waits = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    probes = [
        multiprocessing.Process(target=probe, args=(kind, node.port, begin, end, waits))
        for kind in PROBES
    ]
    for process in probes:
        process.start()
    time.sleep(SETTLE)
    begin.set()
    started = time.monotonic()
    refusal = end_queue(control, owner, way, count)
    answered = time.monotonic() - started
    with contextlib.closing(node.connect()) as fresh:
        is_gone = way == "nothing" or until_gone(fresh, started + GIVE_UP)
    total = time.monotonic() - started
    # What the broker does behind its answer is part of the end.
    time.sleep(SETTLE)
    end.set()
    longest, failed = {}, 0
    for _ in probes:
        kind, longest[kind], failures = waits.get(timeout=600)
        failed += failures
    for process in probes:
        process.join()
    for connection in [control, owner]:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()
    if way == "nothing":
        with contextlib.closing(node.connect()) as connection:
            connection.channel().queue_delete("doomed")
        time.sleep(SETTLE)
    result = {"answered": answered, "total": total, "gone": is_gone, "refusal": refusal, "failed": failed, **longest}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--version", action="append", choices=["3.10", "4.0", "4.3"])
    parser.add_argument("--bindings", action="append", type=int)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--runs", type=int, default=1, help="the table has the worst wait of them")
    parser.add_argument("--json", type=pathlib.Path, help="append each run to this file, too")
    options = parser.parse_args()
    print("| RabbitMQ | bindings | end | until it is gone | confirm, same exchange | confirm, elsewhere | declare and bind | failed calls |")
    print("|---|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for version in options.version or ["3.10", "4.0", "4.3"]:
        node = None
        is_stuck = False
        try:
            for count in options.bindings or [3_000, 100_000]:
                for way in options.way or WAYS:
                    if is_stuck:
                        node.stop()
                    if node is None or is_stuck:
                        node = Node(version).wait()
                        is_stuck = False
                    runs = [measure(node, way, count) for _ in range(options.runs)]
                    row = {"total": statistics.median(run["total"] for run in runs)}
                    row |= {kind: max(run[kind] for run in runs) for kind in PROBES}
                    gone = f"{row['total']:.2f} s" if all(run["gone"] for run in runs) else "never"
                    cells = [gone, *(f"{row[kind] * 1000:.0f} ms" for kind in PROBES)]
                    cells.append(str(sum(run["failed"] for run in runs)))
                    for run in runs:
                        if run["refusal"]:
                            print(f"{way}: {run['refusal']} after {run['answered']:.1f} s", file=sys.stderr)
                    is_stuck |= not all(run["gone"] for run in runs)
                    print(f"| {node.version} | {count:,} | {way} | {' | '.join(cells)} |", flush=True)
                    if options.json:
                        with options.json.open("a") as file:
                            for run in runs:
                                print(json.dumps({"version": node.version, "bindings": count, "way": way, **run}), file=file)
        finally:
            if node:
                node.stop()


if __name__ == "__main__":
    sys.exit(main())
