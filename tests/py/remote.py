"""A program that a test drives: one JSON object a line comes in, an order with its name as `do`;
one a line goes out for each thing that happens, with its name as `event`."""

import json
import sys
import threading
import traceback

_writing = threading.Lock()


def tell(event, **details):
    """Tells the test that something happened. Any thread may call it."""
    line = json.dumps({"event": event, **details})
    with _writing:
        print(line, flush=True)


def obey(orders):
    """Carries out the test's orders until the test closes the pipe."""
    try:
        for line in sys.stdin:
            order = json.loads(line)
            orders[order.pop("do")](**order)
    except Exception:  # noqa: BLE001 - whatever it is, the test must hear of it
        tell("failed", why=traceback.format_exc())
        sys.exit(1)
