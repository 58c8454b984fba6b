"""First profiles from descriptors: each can be loaded, and reads the endpoint that carries the data."""

from __future__ import annotations

import pytest

from usbcast_broker.flow import DeviceIdentity
from usbcast_broker.sources.simulator import SimulatedDevice, SimulatorBackend, SimulatorConfig
from usbcast_broker.sources.usb.discovery import FoundDevice, FoundEndpoint, list_devices
from usbcast_broker.sources.usb.drafting import draft_profile
from usbcast_schemas.errors import UsageError
from usbcast_schemas.profile import Profile, parse_profile

CDC = (
    FoundEndpoint(0, 0, 0x81, "interrupt", 8, 0x02),
    FoundEndpoint(1, 0, 0x02, "bulk", 64, 0x0A),
    FoundEndpoint(1, 0, 0x82, "bulk", 64, 0x0A),
)
HID = (FoundEndpoint(0, 0, 0x81, "interrupt", 8, 0x03),)
FTDI = (FoundEndpoint(0, 0, 0x81, "bulk", 64, 0xFF), FoundEndpoint(0, 0, 0x02, "bulk", 64, 0xFF))
FTDI_2 = (*FTDI, FoundEndpoint(1, 0, 0x83, "bulk", 512, 0xFF))
ALTERNATE = (FoundEndpoint(2, 1, 0x85, "bulk", 512, 0xFF), FoundEndpoint(2, 1, 0x86, "isochronous", 1024, 0xFF))


def device(endpoints: tuple[FoundEndpoint, ...], vendor: int = 0x1234, **names: str) -> FoundDevice:
    identity = DeviceIdentity(vendor, 0xABCD, **names)
    return FoundDevice(identity, 1, 2, "full", False, endpoints, (), (), True)


def drafted(found: FoundDevice) -> Profile:
    return parse_profile(draft_profile(found), "draft.toml")


@pytest.mark.parametrize(
    ("endpoints", "vendor", "read", "framing", "requests"),
    [
        (CDC, 0x2E8A, (1, 0, 0x82), "delimiter", [(0x21, 0x20, 0, 0), (0x21, 0x22, 3, 0)]),
        (HID, 0x0627, (0, 0, 0x81), "fixed", []),
        (
            FTDI,
            0x0403,
            (0, 0, 0x81),
            "delimiter",
            [(0x40, 0, 0, 0), (0x40, 9, 2, 0), (0x40, 3, 26, 0), (0x40, 4, 8, 0)],
        ),
        (
            FTDI_2,
            0x0403,
            (0, 0, 0x81),
            "delimiter",
            [(0x40, 0, 0, 1), (0x40, 9, 2, 1), (0x40, 3, 26, 1), (0x40, 4, 8, 1)],
        ),
        (ALTERNATE, 0x1209, (2, 1, 0x85), "fixed", []),
    ],
)
def test_by_class(
    endpoints: tuple[FoundEndpoint, ...],
    vendor: int,
    read: tuple[int, int, int],
    framing: str,
    requests: list[tuple[int, int, int, int]],
) -> None:
    profile = drafted(device(endpoints, vendor))
    assert (profile.device.interface, profile.device.alternate, profile.device.endpoint) == read
    assert (profile.device.vendor_id, profile.device.product_id) == (vendor, 0xABCD)
    assert profile.framing.method == framing
    assert [(one.request_type, one.request, one.value, one.index) for one in profile.startup] == requests
    assert profile.transfer.strip_every == (64 if vendor == 0x0403 else 0)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("FT232R USB UART", "ft232r-usb-uart"),
        ("", "usb-1234-abcd"),
        ("\u6e29\u5ea6", "usb-1234-abcd"),
        ("x" * 126, "x" * 64),
        ('evil"\n[device]', "evil-device"),
    ],
)
def test_any_product_makes_a_name(product: str, name: str) -> None:
    profile = drafted(device(HID, product=product, manufacturer="A\r\nB", serial='S"1'))
    assert profile.name == name
    assert "serial" not in profile.toml


def test_the_serial_number_is_offered() -> None:
    assert '# serial = "SIM0001"' in draft_profile(device(HID, serial="SIM0001"))


def test_other_endpoints_are_named() -> None:
    assert "elsewhere, too: interface 0: 0x81 interrupt." in draft_profile(device(CDC))


def test_nothing_to_read() -> None:
    with pytest.raises(UsageError, match="device 1234:abcd has no bulk or interrupt IN endpoint"):
        draft_profile(device((FoundEndpoint(0, 0, 0x01, "bulk", 64, 0xFF),)))


def test_a_device_as_it_is_found() -> None:
    (found,) = list_devices(SimulatorBackend([SimulatedDevice(SimulatorConfig())]))
    profile = drafted(found)
    assert (profile.device.vendor_id, profile.device.product_id, profile.device.endpoint) == (0x1209, 0x0001, 0x81)


@pytest.mark.parametrize(
    ("descriptor", "size", "transfer", "words"),
    [
        ("7508 9506 8102", 6, 8, "input reports of one size, as the report descriptor says\n"),
        ("8501 7508 9508 8102", 9, 16, "as the report descriptor says, each after its id"),
        ("8501 7508 9503 8102 8502 9506 8102", 4, 8, "differ in size (1: 4 bytes, 2: 7 bytes)"),
        ("", 8, 16384, "a guess, the endpoint's largest packet"),
    ],
)
def test_the_size_of_reports_is_that_of_the_report_descriptor(
    descriptor: str, size: int, transfer: int, words: str
) -> None:
    text = draft_profile(device(HID), bytes.fromhex(descriptor))
    profile = parse_profile(text, "draft.toml")
    assert (profile.packet_size, profile.transfer.size) == (size, transfer)
    assert words in text
