"""A forwarder as a program, to be killed: says how it fares, one JSON object a line."""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time

from usbcast.jetstream.forwarding import Forwarding, ForwardOptions, forward
from usbcast.jetstream.store import Retention
from usbcast.node.endpoints import parse


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("upstream")
    parser.add_argument("--stream", default="sim")
    parser.add_argument("--replicas", type=int, default=1)
    given = parser.parse_args()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    said_s = 0.0

    def look(seen: Forwarding) -> None:
        nonlocal said_s
        if time.monotonic() - said_s > 0.1:
            said_s = time.monotonic()
            print(json.dumps({"event": "figures", **seen.figures()[given.stream]}), flush=True)

    options = ForwardOptions(parse(given.url), given.upstream, retention=Retention(replicas=given.replicas), wait=True)
    warn = lambda sentence: print(json.dumps({"event": "warning", "message": sentence}), flush=True)  # noqa: E731
    forward((given.stream,), options, stopped, warn=warn, look=look, until_end=True)
    print(json.dumps({"event": "done"}), flush=True)


if __name__ == "__main__":
    main()
