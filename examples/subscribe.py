"""Receive a stream until it ends, and say what was missing.

usbcast serve --simulate &
python examples/subscribe.py first-case
"""

from __future__ import annotations

import sys

import usbcast

name = sys.argv[1] if len(sys.argv) > 1 else "first-case"
endpoint = sys.argv[2] if len(sys.argv) > 2 else None  # "tcp://host:5570" for a node on another machine

received = 0
with usbcast.subscribe(name, endpoint, start="oldest") as stream:
    for batch in stream:  # stops when the stream ends
        for gap in batch.gaps:
            print(f"missing before {batch.first_sequence}: {gap.count} packets, at stage {gap.stage}: {gap.reason}")
        received += len(batch)
    print(
        f"{received} packets by {stream.via}; the books: {stream.ledger.left} delivered, {stream.ledger.lost_total} lost"
    )
