"""Writes a first profile for a device from its descriptors. What they do not say is marked, and to be found by probing."""

from __future__ import annotations

import re
from typing import Final

from usbcast_broker.sources.usb.discovery import HID_CLASS, FoundDevice, FoundEndpoint
from usbcast_broker.sources.usb.hid import input_report_sizes
from usbcast_schemas.errors import UsageError

_CDC_CONTROL: Final = 0x02
_CDC_DATA: Final = 0x0A
_FTDI: Final = 0x0403

_FTDI_TRANSFER: Final = """
[transfer]
size = 512
strip_prefix = 2        # the chip's status bytes, before the data of every USB packet
strip_every = {packet}

[[startup]]             # reset the chip
request_type = 0x40
request = 0
index = {index}

[[startup]]             # hand over incomplete USB packets after 2 ms
request_type = 0x40
request = 9
value = 2
index = {index}

[[startup]]             # 115,200 baud: 3 MHz / 26
request_type = 0x40
request = 3
value = 26
index = {index}

[[startup]]             # 8 data bits, no parity, 1 stop bit
request_type = 0x40
request = 4
value = 8
index = {index}
"""

_CDC_STARTUP: Final = """
[[startup]]             # SET_LINE_CODING: 115,200 baud, 1 stop bit, no parity, 8 data bits
request_type = 0x21
request = 0x20
index = {index}
data = "00c20100000008"

[[startup]]             # SET_CONTROL_LINE_STATE: DTR and RTS on
request_type = 0x21
request = 0x22
value = 3
index = {index}
"""

_LINES: Final = """
[framing]               # lines of text, as long as nothing else is known
method = "delimiter"
delimiter = "0a"
max_size = 4096
"""

_FIXED: Final = """
[framing]               # a guess, the endpoint's largest packet: see what comes with `usbcast serve --probe THIS-FILE`
method = "fixed"
size = {size}
"""


_REPORTS: Final = """
[transfer]
size = {transfer}               # one report a read

[framing]               # {why}
method = "fixed"
size = {size}
"""


def chosen_endpoint(device: FoundDevice) -> FoundEndpoint:
    """The endpoint that carries the data, most likely; UsageError if the device has none that could be read."""
    readable = _readable(device)
    if not readable:
        name = f"{device.identity.vendor_id:04x}:{device.identity.product_id:04x}"
        raise UsageError(f"device {name} has no bulk or interrupt IN endpoint: there is nothing to read from it")
    return min(readable, key=_rank)


def draft_profile(device: FoundDevice, report_descriptor: bytes = b"") -> str:
    """TOML that can be loaded; UsageError if the device has no endpoint that could be read.

    `report_descriptor` is that of the chosen endpoint's interface, where this is one of HID and it is known.
    """
    identity = device.identity
    name = f"{identity.vendor_id:04x}:{identity.product_id:04x}"
    chosen = chosen_endpoint(device)
    lines = [
        f"# {_comment(f'{identity.manufacturer} {identity.product}'.strip() or 'a device')}, {name}, {device.speed} speed.",
        *_others(_readable(device), chosen),
        "",
        "[stream]",
        f'name = "{_stream_name(identity.product, name)}"',
        "",
        "[device]",
        f"vendor_id = {identity.vendor_id:#06x}",
        f"product_id = {identity.product_id:#06x}",
    ]
    if re.fullmatch(r"[\w.:-]{1,126}", identity.serial, re.ASCII):
        lines.append(f'# serial = "{identity.serial}"     # this one and no other of its kind')
    if chosen.interface:
        lines.append(f"interface = {chosen.interface}")
    if chosen.alternate:
        lines.append(f"alternate = {chosen.alternate}")
    lines.append(
        f"endpoint = {chosen.address:#04x}          # {chosen.kind}, up to {chosen.max_packet_size} bytes a packet"
    )
    return "\n".join(lines) + "\n" + _rest(device, chosen, report_descriptor)


def _rest(device: FoundDevice, chosen: FoundEndpoint, report_descriptor: bytes) -> str:
    if device.identity.vendor_id == _FTDI:
        transfer = _FTDI_TRANSFER.format(
            packet=chosen.max_packet_size, index=chosen.interface + 1 if _ports(device) > 1 else 0
        )
        return transfer + _LINES
    if chosen.interface_class == _CDC_DATA:
        controls = sorted({one.interface for one in device.endpoints if one.interface_class == _CDC_CONTROL})
        before = [number for number in controls if number < chosen.interface]
        return _CDC_STARTUP.format(index=before[-1] if before else max(0, chosen.interface - 1)) + _LINES
    packet = max(1, chosen.max_packet_size)
    reports = input_report_sizes(report_descriptor) if chosen.interface_class == HID_CLASS else {}
    if not reports:
        return _FIXED.format(size=packet)
    size = min(reports.values())
    if len(set(reports.values())) == 1:
        why = "input reports of one size, as the report descriptor says" + (
            ", each after its id" if 0 not in reports else ""
        )
    else:
        told = ", ".join(f"{report}: {n} bytes" for report, n in sorted(reports.items()))
        why = f"its input reports differ in size ({told}), and packets of one size fit the smallest alone"
    return _REPORTS.format(transfer=-(-max(reports.values()) // packet) * packet, size=size, why=why)


def _readable(device: FoundDevice) -> list[FoundEndpoint]:
    return [one for one in device.endpoints if one.direction == "in" and one.kind in ("bulk", "interrupt")]


def _rank(endpoint: FoundEndpoint) -> tuple[bool, bool, int, int]:
    """Data before notifications, bulk before interrupt, and the first of equals."""
    return (
        endpoint.interface_class == _CDC_CONTROL,
        endpoint.kind != "bulk",
        endpoint.alternate,
        endpoint.interface * 256 + endpoint.address,
    )


def _ports(device: FoundDevice) -> int:
    return len({one.interface for one in device.endpoints})


def _others(readable: list[FoundEndpoint], chosen: FoundEndpoint) -> list[str]:
    others = [
        f"interface {one.interface}"
        + f", alternate {one.alternate}" * bool(one.alternate)
        + f": {one.address:#04x} {one.kind}"
        for one in readable
        if one is not chosen
    ]
    return [f"# It could be read elsewhere, too: {'; '.join(others)}."] if others else []


def _stream_name(product: str, name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")[:64].strip("-")
    return words or f"usb-{name.replace(':', '-')}"


def _comment(text: str) -> str:
    """Without what would end a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
