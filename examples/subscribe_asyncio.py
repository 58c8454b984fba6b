"""The same in an event loop: two subscriptions to one stream, at once, one of which only wants the newest.

usbcast serve --simulate &
python examples/subscribe_asyncio.py first-case
"""

from __future__ import annotations

import asyncio
import sys

from usbcast import aio


async def follow(name: str, deliver: str) -> None:
    """Count what comes until the stream ends."""
    received = 0
    async with aio.subscribe(name, deliver=deliver) as stream:
        async for batch in stream:
            received += len(batch)
            if deliver == "latest":
                await asyncio.sleep(0.05)  # a display is slow; it gets what is newest then
        print(f"deliver={deliver!r}: {received} received, {stream.ledger.lost_total} skipped or lost")


async def main(name: str) -> None:
    await asyncio.gather(follow(name, "all"), follow(name, "latest"))


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "first-case"))
