"""`usbcast serve --probe`: raw transfers in hex, and at the end what they have in common, to find the framing."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from usbcast.cli.output import console, emit

if TYPE_CHECKING:
    from usbcast_broker.flow import Transfer
    from usbcast_broker.sources.usb.transport import UsbTransport

SHOWN_BYTES: Final = 64
MAX_SIZES: Final = 1000
_PER_LINE: Final = 16


@dataclass
class Probed:
    """The device that is looked at, and when there will be nothing more."""

    transport: UsbTransport
    exhausted: threading.Event = field(default_factory=threading.Event)


class Summary:
    """Properties that all transfers share."""

    def __init__(self) -> None:
        self.transfers = 0
        self.bytes = 0
        self.sizes: Counter[int] = Counter()
        self.head: bytes | None = None
        self.tail: bytes | None = None

    def add(self, data: bytes) -> None:
        self.transfers += 1
        self.bytes += len(data)
        if len(data) in self.sizes or len(self.sizes) < MAX_SIZES:
            self.sizes[len(data)] += 1
        if data:
            self.head = _common(data if self.head is None else self.head, data)
            self.tail = _common(data[::-1] if self.tail is None else self.tail[::-1], data[::-1])[::-1]

    def as_plain(self) -> dict[str, Any]:
        return {
            "transfers": self.transfers,
            "bytes": self.bytes,
            "sizes": {str(size): times for size, times in self.sizes.most_common(10)},
            "all_begin_with": (self.head or b"").hex(),
            "all_end_with": (self.tail or b"").hex(),
        }


def run(probed: Probed, stopped: threading.Event, as_json: bool) -> None:
    """Show transfers until stopped, or until the device has no more."""
    transport, summary = probed.transport, Summary()
    begin_ns = None
    identity = transport.open()
    try:
        if not as_json:
            console.print(f"{transport.name}: {identity.product or 'no product name'}  (Ctrl-C stops)")
        while not stopped.is_set():
            last = probed.exhausted.is_set()
            transfers = transport.read()
            for transfer in transfers:
                begin_ns = transfer.monotonic_ns if begin_ns is None else begin_ns
                summary.add(transfer.data)
                _show(transfer, (transfer.monotonic_ns - begin_ns) / 1e9, as_json)
            if last and not transfers:
                break
    finally:
        transport.close()
    if as_json:
        emit({"event": "summary", **summary.as_plain()})
    else:
        _tell(summary)


def _common(one: bytes, other: bytes) -> bytes:
    """Return the common prefix of both."""
    one, other = one[:SHOWN_BYTES], other[:SHOWN_BYTES]
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differing, min(len(one), len(other)))]


def _show(transfer: Transfer, seconds: float, as_json: bool) -> None:
    data = transfer.data
    if as_json:
        emit({"event": "transfer", "seconds": round(seconds, 6), "bytes": len(data), "hex": data.hex()})
        return
    console.print(f"{seconds:12.6f} s  {len(data)} bytes", soft_wrap=True)
    for at in range(0, min(len(data), SHOWN_BYTES), _PER_LINE):
        part = data[at : at + _PER_LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        console.print(f"    {at:04x}  {part.hex(' '):<{3 * _PER_LINE}} {text}", soft_wrap=True)
    if len(data) > SHOWN_BYTES:
        console.print(f"    ... and {len(data) - SHOWN_BYTES} bytes more", soft_wrap=True)


def _tell(summary: Summary) -> None:
    sizes = ", ".join(f"{size} bytes {times} times" for size, times in summary.sizes.most_common(5))
    console.print(
        f"{summary.transfers} transfers, {summary.bytes} bytes" + (f": {sizes}" if sizes else ""), soft_wrap=True
    )
    if summary.transfers > 1:
        for what, part in (("begin", summary.head), ("end", summary.tail)):
            console.print(
                f"all {what} with {part.hex(' ')}" if part else f"they do not all {what} alike", soft_wrap=True
            )
