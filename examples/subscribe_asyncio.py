"""The same in an event loop: two subscriptions to one stream, at once, one of which only wants the newest. Ctrl-C ends it.

usbcast serve --simulate &
python examples/subscribe_asyncio.py first-case
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from usbcast import aio


async def follow(name: str, deliver: str) -> None:
    """Count what comes until the stream ends."""
    received = 0
    async with aio.subscribe(name, deliver=deliver) as stream:
        try:
            async for batch in stream:
                received += len(batch)
                if deliver == "latest":
                    await asyncio.sleep(0.05)  # a display is slow; it gets what is newest then
        finally:  # Ctrl-C cancels this task, and the summary still comes
            print(f"deliver={deliver!r}: {received} received, {stream.ledger.lost_total} skipped or lost", flush=True)


async def main(name: str) -> None:
    await asyncio.gather(follow(name, "all"), follow(name, "latest"))


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "first-case"))
