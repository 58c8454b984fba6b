"""Receive a stream until it ends or Ctrl-C comes: how much came each second, and what was missing.

usbcast serve --simulate &
python examples/subscribe.py first-case
"""

from __future__ import annotations

import contextlib
import sys
import time

import usbcast

name = sys.argv[1] if len(sys.argv) > 1 else "first-case"
endpoint = sys.argv[2] if len(sys.argv) > 2 else None  # "tcp://host:5570" for a node on another machine

received, said_s = 0, 0.0
with usbcast.subscribe(name, endpoint, start="oldest") as stream:
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends the loop, and the summary still comes
        for batch in stream:  # stops when the stream ends
            for gap in batch.gaps:
                print(f"missing before {batch.first_sequence}: {gap.count} packets, at stage {gap.stage}: {gap.reason}")
            received += len(batch)
            if time.monotonic() - said_s >= 1:
                said_s = time.monotonic()
                print(f"{received} packets so far, the newest is {batch.last_sequence}", flush=True)
    print(
        f"{received} packets by {stream.via}; the ledger: {stream.ledger.left} delivered, {stream.ledger.lost_total} lost"
    )
