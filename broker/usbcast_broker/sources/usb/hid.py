"""Sizes of input reports, from the report descriptor of a HID interface (Device Class Definition for HID 1.11, 6.2.2).

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from typing import Final

MAX_REPORT_BITS: Final = 8 * 65536
"""More fits into no report: what claims it is no report descriptor."""

_LONG_ITEM: Final = 0xFE


def input_report_sizes(descriptor: bytes) -> dict[int, int]:
    """Bytes of each input report as it is sent, with its id before it where it has one (0: it has none).

    Empty for what is no report descriptor, or has no input report.
    """
    bits: dict[int, int] = {}
    now = (0, 0, 0)  # report size, count and id: those of the global items that matter here
    pushed: list[tuple[int, int, int]] = []
    at = 0
    while at < len(descriptor):
        prefix = descriptor[at]
        if prefix == _LONG_ITEM:
            at += 3 + (descriptor[at + 1] if at + 1 < len(descriptor) else 0)
            continue
        length = (0, 1, 2, 4)[prefix & 3]
        value = int.from_bytes(descriptor[at + 1 : at + 1 + length], "little")
        at += 1 + length
        match prefix & 0xFC:
            case 0x74:  # report size
                now = (value, now[1], now[2])
            case 0x94:  # report count
                now = (now[0], value, now[2])
            case 0x84:  # report id
                now = (now[0], now[1], value)
            case 0xA4:  # push
                pushed.append(now)
            case 0xB4 if pushed:  # pop
                now = pushed.pop()
            case 0x80:  # input
                size, count, report = now
                bits[report] = bits.get(report, 0) + size * count
                if bits[report] > MAX_REPORT_BITS:
                    return {}
    return {report: (n + 7) // 8 + bool(report) for report, n in bits.items() if n}


__all__ = ["input_report_sizes"]
