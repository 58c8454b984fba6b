"""usbcast: one process owns a USB device; every program receives every packet, or is told exactly which ones it did not.

>>> import usbcast
>>> with usbcast.subscribe("imu") as stream:   # doctest: +SKIP
...     for batch in stream:
...         print(batch.first_sequence, len(batch), batch.fields["ax"], batch.gap)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usbcast.batch import Batch
from usbcast.clock.offset import ClockOffset
from usbcast.events import DeviceEvent, End, Gap, Restart, Silence
from usbcast.node.credentials import Credentials, Keys
from usbcast.node.requests import NodeClient
from usbcast.receiving.event_builder import Event
from usbcast.receiving.open import receive
from usbcast.subscription import Listener, Listening, Subscription
from usbcast_schemas.errors import UsageError, UsbcastError
from usbcast_schemas.extras import missing
from usbcast_schemas.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usbcast.recording.reader import Recording


def subscribe(
    stream: str,
    endpoint: str | None = None,
    start: str | int = "now",
    deliver: str = "all",
    via: str = "auto",
    keys: Keys = None,
    *,
    copy: bool = True,
) -> Subscription:
    """Receive `stream`; returns at once and connects when used.

    endpoint: the node's request address, `tcp://HOST:PORT`; None for a node of this user on this machine; `lan:` for
        the one announced on the local network with this stream (`lan:eth0` on this interface; extra `discovery`);
        `nats://HOST:4222` reads what `usbcast bridge --to` stored on a server (extra `nats`).
    start: "now", "oldest" (all that the ring still holds), or the sequence to begin at.
    deliver: "all", or "latest": always the newest batch with packets; packets skipped for it are declared as gaps, and what
        happened to the device between them is told all the same (but for "now" and "oldest" nothing of before the first batch).
    via: "ring" (shared memory, this machine only), "push", "notify" (fetch at one's own pace), or "auto": the best that works.
    keys: the directory of keys by which to connect encrypted (`usbcast keys`); None: what USBCAST_KEYS names, else none.
    copy: False to read batches where they are in the shared memory (zero-copy), as far as they come by the ring. Such a batch
        is to be used before the next one is asked for. Nobody waits for you: `batch.intact` says whether it has been
        overwritten by now, and one that was, while it was yours, is lost and the next event a gap in its place.

    Raises UsageError for a wrong argument, KeysError for keys of no use.
    """
    return Subscription(receive(stream, endpoint, start, deliver, via, keys, copy=copy), endpoint)


def open_recording(path: str | Path | Sequence[str | Path]) -> Recording:
    """Read what `usbcast record` wrote: a file, several, a directory, or the base name of the segments. Cut files too.

    Needs the extra `record`. Raises RecordingError if there is no recording, or the files belong to different ones.
    """
    try:
        from usbcast.recording.reader import open_recording as open_files
    except ModuleNotFoundError as error:
        raise UsageError(missing(error.name)) from None
    return open_files(path)


__all__ = [
    "Batch",
    "ClockOffset",
    "Credentials",
    "DeviceEvent",
    "End",
    "Event",
    "Gap",
    "Ledger",
    "Listener",
    "Listening",
    "NodeClient",
    "Restart",
    "Silence",
    "Subscription",
    "UsageError",
    "UsbcastError",
    "open_recording",
    "subscribe",
]
