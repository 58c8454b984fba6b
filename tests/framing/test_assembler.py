"""From transfers to the items of a stream: order, what is told of bytes thrown away, who lost what, and the books."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker import profiles
from usbcast_broker.flow import DeviceEvent, Lost, Packets, StreamItem, Transfer
from usbcast_broker.framing import Assembler
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.v1 import usbcast_pb2 as pb

MS = 1_000_000
EPOCH_NS = 10**18
KIND = pb.DeviceEvent


def packet(number: int) -> bytes:
    head = struct.pack("<IQ24f", number, number * 10_000, *range(24))
    return head + struct.pack("<I", zlib.crc32(head))


def transfer(data: bytes, at_ms: float = 0) -> Transfer:
    at_ns = int(at_ms * MS)
    return Transfer(data, EPOCH_NS + at_ns, at_ns)


def happened(kind: pb.DeviceEvent.Kind, at_ms: float = 0) -> DeviceEvent:
    return DeviceEvent(kind, EPOCH_NS + int(at_ms * MS), int(at_ms * MS))


def first_case() -> Assembler:
    return Assembler(profiles.load("first-case"))


def balanced(assembler: Assembler) -> None:
    assert assembler.framing.discrepancy() is None
    assert assembler.device.discrepancy() is None


def numbers_of(item: Packets) -> list[int]:
    return [struct.unpack_from("<I", item.payload, i * item.packet_size)[0] for i in range(item.count)]


UNKNOWN = ("device", "the device began to count anew", "at least 0", 0)


def told(items: Iterable[StreamItem]) -> list[object]:
    """Counters of packets; losses as (stage, reason, packets, bytes); events as kind and detail."""
    found: list[object] = []
    for item in items:
        if isinstance(item, Packets):
            found += numbers_of(item)
        elif isinstance(item, Lost):
            stage = pb.Stage.Name(item.stage).removeprefix("STAGE_").lower()
            packets = f"at least {item.packets}" if item.at_least else item.packets
            found.append((stage, item.reason, packets, item.size_bytes))
        else:
            found.append((KIND.Kind.Name(item.kind).removeprefix("KIND_").lower(), item.detail))
    return found


def run(assembler: Assembler, story: Sequence[Transfer | DeviceEvent | Lost]) -> list[object]:
    found: list[object] = []
    for event in story:
        if isinstance(event, Transfer):
            items = assembler.feed(event)
        elif isinstance(event, Lost):
            items = assembler.lost(event)
        else:
            items = assembler.device_event(event)
        found += told(items)
        balanced(assembler)
    found += told(assembler.finish(EPOCH_NS, 0))
    balanced(assembler)
    assert assembler.framing.held == 0
    return found


def resynchronised(size_bytes: int, *reasons: str) -> tuple[str, str]:
    return "resynchronised", f"{size_bytes} bytes thrown away: {', '.join(reasons)}"


P = [packet(i) for i in range(40)]
DAMAGED = P[3][:50] + b"!" + P[3][51:]
JOINED = "joined in mid-packet"


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        pytest.param([transfer(P[0]), transfer(P[1], 10)], [0, 1], id="one by one"),
        pytest.param([transfer(P[0] + P[1] + P[2][:50]), transfer(P[2][50:])], [0, 1, 2], id="cut anywhere"),
        pytest.param([transfer(b"")], [], id="a zero-length transfer"),
        pytest.param(
            [transfer(P[0][30:] + P[1])],
            [("framing", JOINED, 0, 82), resynchronised(82, JOINED), 1],
            id="joined in mid-packet",
        ),
        pytest.param(
            [transfer(P[0] + b"?" * 9), transfer(b"?" * 5 + P[1], 10)],
            [0, ("framing", "checksum", 0, 14), resynchronised(14, "checksum"), 1],
            id="garbage in two transfers is told of once",
        ),
        pytest.param(
            [transfer(P[2] + DAMAGED + P[4])],
            [2, ("framing", "checksum", 1, 112), resynchronised(112, "checksum"), 4],
            id="a damaged packet was lost in framing, not in the device",
        ),
        pytest.param(
            [transfer(P[2] + P[3][:-1] + P[4])],
            [2, ("framing", "checksum", 1, 111), resynchronised(111, "checksum"), 4],
            id="so was one that misses a byte",
        ),
        pytest.param([transfer(P[2] + P[5])], [2, ("device", "counter", 2, 0), 5], id="lost in the device"),
        pytest.param(
            [transfer(P[2] + DAMAGED + P[7])],
            [
                2,
                ("framing", "checksum", 1, 112),
                resynchronised(112, "checksum"),
                ("device", "counter", 3, 0),
                7,
            ],
            id="some damaged, some lost in the device",
        ),
        pytest.param(
            [transfer(P[2] + b"???" + P[5])],
            [2, ("framing", "checksum", 0, 3), resynchronised(3, "checksum"), ("device", "counter", 2, 0), 5],
            id="garbage in which no packet had room",
        ),
        pytest.param(
            [
                transfer(P[0] + P[1][:60]),
                Lost(pb.STAGE_HOST, "queue full", size_bytes=52 + 112 + 40),
                transfer(P[3][40:] + P[4], 10),
            ],
            [
                0,
                ("framing", "transfers before it were lost", 0, 60),
                resynchronised(60, "transfers before it were lost"),
                ("host", "queue full", 0, 204),
                ("framing", JOINED, 0, 72),
                resynchronised(72, JOINED),
                ("host", "queue full", 3, 0),
                4,
            ],
            id="lost in the host's queue",
        ),
        pytest.param(
            [transfer(P[0]), Lost(pb.STAGE_HOST, "queue full", size_bytes=112), transfer(P[5])],
            [0, ("host", "queue full", 0, 112), ("host", "queue full", 1, 0), ("device", "counter", 3, 0), 5],
            id="lost in the host's queue and in the device",
        ),
        pytest.param(
            [transfer(P[0] + P[1][:60]), Lost(pb.STAGE_HOST, "queue full", size_bytes=52 + 224 + 30)],
            [
                0,
                ("framing", "transfers before it were lost", 0, 60),
                resynchronised(60, "transfers before it were lost"),
                ("host", "queue full", 0, 306),
                ("host", "queue full", 3, 0),
            ],
            id="lost in the host's queue at the very end, where no counter comes any more",
        ),
        pytest.param(
            [Lost(pb.STAGE_HOST, "queue full", size_bytes=250), transfer(P[2][26:] + P[3])],
            [
                ("host", "queue full", 0, 250),
                ("framing", JOINED, 0, 86),
                resynchronised(86, JOINED),
                ("host", "queue full", 3, 0),
                3,
            ],
            id="lost in the host's queue before the first counter",
        ),
        pytest.param(
            [
                transfer(P[0]),
                Lost(pb.STAGE_HOST, "queue full", size_bytes=224),
                happened(KIND.KIND_DETACHED, 10),
                transfer(P[5], 60),
            ],
            [
                0,
                ("host", "queue full", 0, 224),
                ("host", "queue full", 2, 0),
                ("detached", ""),
                ("device", "counter", "at least 2", 0),
                5,
            ],
            id="lost in the host's queue before an unplug, counting on",
        ),
        pytest.param(
            [
                transfer(P[9]),
                Lost(pb.STAGE_HOST, "queue full", size_bytes=224),
                happened(KIND.KIND_DETACHED, 10),
                transfer(P[0], 60),
            ],
            [9, ("host", "queue full", 0, 224), ("host", "queue full", 2, 0), ("detached", ""), UNKNOWN, 0],
            id="lost in the host's queue before an unplug, counting anew",
        ),
        pytest.param(
            [transfer(P[0] + b"?" * 250)],
            [
                0,
                ("framing", "checksum", 0, 139),
                ("framing", "the stream ended in mid-packet", 0, 111),
                resynchronised(250, "checksum", "the stream ended in mid-packet"),
            ],
            id="garbage at the end is no packets",
        ),
        pytest.param(
            [
                transfer(P[0] + P[1][:100]),
                happened(KIND.KIND_DETACHED, 10),
                happened(KIND.KIND_ATTACHED, 20),
                transfer(P[5], 60),
            ],
            [
                0,
                ("framing", "detached", 0, 100),
                resynchronised(100, "detached"),
                ("detached", ""),
                ("attached", ""),
                ("device", "counter", "at least 4", 0),
                5,
            ],
            id="replugged, counting on or anew",
        ),
        pytest.param(
            [
                transfer(P[0] + P[1][:100]),
                happened(KIND.KIND_DETACHED, 10),
                happened(KIND.KIND_ATTACHED, 20),
                transfer(P[5], 30),
            ],
            [
                0,
                ("framing", "detached", 0, 100),
                resynchronised(100, "detached"),
                ("detached", ""),
                ("attached", ""),
                ("device", "counter", "at least 4", 0),
                5,
            ],
            id="replugged, further than in that time",
        ),
        pytest.param(
            [
                transfer(packet(100)),
                happened(KIND.KIND_DETACHED),
                happened(KIND.KIND_REPLACED),
                transfer(packet(150), 500),
            ],
            [100, ("detached", ""), ("replaced", ""), 150],
            id="another device's counter says nothing of this one's losses",
        ),
        pytest.param(
            [transfer(packet(1000)), happened(KIND.KIND_DETACHED, 10), transfer(packet(1005), 60)],
            [1000, ("detached", ""), ("device", "counter", 4, 0), 1005],
            id="replugged, counting on",
        ),
        pytest.param(
            [transfer(P[9]), happened(KIND.KIND_DETACHED), happened(KIND.KIND_ATTACHED), transfer(P[0] + P[2], 500)],
            [9, ("detached", ""), ("attached", ""), UNKNOWN, 0, ("device", "counter", 1, 0), 2],
            id="replugged, counting anew",
        ),
        pytest.param(
            [transfer(P[9]), happened(KIND.KIND_DETACHED), transfer(packet(5000), 500)],
            [9, ("detached", ""), ("device", "counter", "at least 4990", 0), 5000],
            id="replugged, counting from elsewhere",
        ),
        pytest.param(
            [transfer(P[0] + b"?" * 112 + P[1]), transfer(P[3])],
            [0, ("framing", "checksum", 0, 112), resynchronised(112, "checksum"), 1, ("device", "counter", 1, 0), 3],
            id="garbage before an earlier packet explains no later jump",
        ),
        pytest.param(
            [transfer(P[0] + P[1][:7]), happened(KIND.KIND_OVERFLOWED, 10), transfer(P[3], 20)],
            [
                0,
                ("framing", "overflowed", 0, 7),
                resynchronised(7, "overflowed"),
                ("overflowed", ""),
                ("device", "counter", 2, 0),
                3,
            ],
            id="overflowed",
        ),
        pytest.param(
            [transfer(P[0] + P[1][:7]), happened(KIND.KIND_STALLED), transfer(P[1][7:])],
            [0, ("stalled", ""), 1],
            id="a stall that lost nothing",
        ),
        pytest.param(
            [transfer(P[0] + P[1][:7])],
            [
                0,
                ("framing", "the stream ended in mid-packet", 0, 7),
                resynchronised(7, "the stream ended in mid-packet"),
            ],
            id="ends in mid-packet",
        ),
        pytest.param(
            [transfer(P[0]), transfer(b"?" * 200, 10), transfer(b"?" * 100, 500), transfer(b"?" * 100, 1010)],
            [
                0,
                ("framing", "checksum", 0, 289),
                resynchronised(289, "checksum"),
                ("framing", "the stream ended in mid-packet", 0, 111),
                resynchronised(111, "the stream ended in mid-packet"),
            ],
            id="endless garbage is told of after a second",
        ),
    ],
)
def test_stories(story: list[Transfer | DeviceEvent | Lost], expected: list[object]) -> None:
    assert run(first_case(), story) == expected


def test_the_event_bears_the_times_of_the_first_byte_thrown_away() -> None:
    assembler = first_case()
    assembler.feed(transfer(P[0], 5))
    assembler.feed(transfer(b"?" * 150, 10))
    items = assembler.feed(transfer(P[1], 20))
    (event,) = [item for item in items if isinstance(item, DeviceEvent)]
    assert (event.realtime_ns, event.monotonic_ns) == (EPOCH_NS + 10 * MS, 10 * MS)
    assert assembler.framing.counters == {"resynchronised": 1}


def test_books_name_each_stage() -> None:
    assembler = first_case()
    run(
        assembler,
        [
            transfer(P[2] + DAMAGED + P[4] + P[4]),
            Lost(pb.STAGE_HOST, "queue full", size_bytes=112),
            transfer(P[6] + P[9] + P[10][:5]),
            happened(KIND.KIND_DETACHED),
        ],
    )
    assert assembler.device.to_json() == {
        "stage": "device",
        "unit": "packets",
        "in": 5 + 4,
        "out": 5,
        "overhead": 0,
        "held": 0,
        "lost": {"counter": 2, "framing": 1, "host": 1},
        "counters": {"repeated": 1},
        "balanced": True,
    }
    assert assembler.framing.lost == {"checksum": 112, "detached": 5}
    assert assembler.framing.left == 5 * 112


def test_status_bytes_are_overhead() -> None:
    assembler = Assembler(profiles.load("ftdi-numbered"))

    def numbered(i: int) -> bytes:
        head = b"PKT1" + struct.pack("<IQ", i, 0) + bytes(92)
        return head + struct.pack("<I", zlib.crc32(head))

    wire = b"".join(map(numbered, range(20)))
    delivered = 0
    for start in range(0, len(wire), 310):
        part = wire[start : start + 310]
        usb = b"".join(b"\x01\x60" + part[i : i + 62] for i in range(0, len(part), 62))
        for item in assembler.feed(transfer(usb)):
            assert isinstance(item, Packets)
            delivered += item.count
    assert assembler.feed(transfer(b"\x01\x60")) == ()
    assert delivered == 20
    assert assembler.framing.overhead == assembler.framing.entered - len(wire) > 0
    balanced(assembler)


@pytest.mark.parametrize("strip_prefix", [0, 1])
def test_plain_packets_find_their_place_again_behind_lost_transfers(strip_prefix: int) -> None:
    assembler = Assembler(
        parse_profile(
            f"""
            stream = {{ name = "t" }}
            device = {{ vendor_id = 1, product_id = 1 }}
            transfer = {{ strip_prefix = {strip_prefix} }}
            framing = {{ method = "fixed", size = 4 }}
            """,
            "t",
        )
    )
    status = b"#" * strip_prefix
    assembler.feed(transfer(status + b"abcdef"))
    assembler.lost(Lost(pb.STAGE_HOST, "queue full", size_bytes=7 + strip_prefix))
    items = assembler.feed(transfer(status + b"nopqrst"))
    # With status bytes, seven bytes of the stream may be missing or more: packets begin with the transfer.
    expected = b"nopq" if strip_prefix else b"qrst"
    assert [bytes(item.payload) for item in items if isinstance(item, Packets)] == [expected]
    assert [item.packets for item in items if isinstance(item, Lost) and item.stage == pb.STAGE_HOST] == (
        [] if strip_prefix else [3]
    )
    balanced(assembler)


def test_packets_that_vary_in_size_put_a_jump_behind_missing_bytes_down_to_these() -> None:
    profile = parse_profile(
        """
        stream = { name = "t" }
        device = { vendor_id = 1, product_id = 1 }
        framing = { method = "delimiter", delimiter = "0a", checksum = { method = "sum8" } }
        counter = { width = 1 }
        """,
        "t",
    )
    assembler = Assembler(profile)

    def line(i: int) -> bytes:
        return bytes([i, 65]) + bytes([i + 65]) + b"\n"

    first = assembler.feed(transfer(line(20) + b"xyz\n" + line(23) + line(25)))
    kinds = [(item.stage, item.packets, item.size_bytes) for item in first if isinstance(item, Lost)]
    assert kinds == [(pb.STAGE_FRAMING, 2, 4), (pb.STAGE_DEVICE, 1, 0)]
    balanced(assembler)


@settings(max_examples=30)
@given(st.data())
def test_delivered_and_declared_lost_are_what_was_produced(data: st.DataObject) -> None:
    """Packets lost in the device, damaged on the way, dropped by the host's queue, cut anywhere: nothing is unaccounted."""
    assembler = first_case()
    wire = b""
    for number in range(1000, 1000 + data.draw(st.integers(3, 60))):
        fate = data.draw(st.sampled_from(["whole"] * 6 + ["dropped", "damaged", "short", "garbage"]))
        whole = packet(number)
        if fate == "damaged":
            wire += whole[:70] + bytes([whole[70] ^ 0xFF]) + whole[71:]
        elif fate == "short":
            wire += whole[: data.draw(st.integers(1, 111))]
        elif fate == "garbage":
            wire += b"\xee" * data.draw(st.integers(1, 300)) + whole
        elif fate == "whole":
            wire += whole
    items: list[StreamItem] = []
    at, at_ms = 0, 0
    while at < len(wire):
        size = data.draw(st.integers(1, 900))
        part = wire[at : at + size]
        if data.draw(st.integers(0, 7)) == 0:
            items += assembler.lost(Lost(pb.STAGE_HOST, "queue full", size_bytes=len(part)))
        else:
            items += assembler.feed(transfer(part, at_ms))
        balanced(assembler)
        at, at_ms = at + size, at_ms + 10
    items += assembler.finish(EPOCH_NS, 0)
    balanced(assembler)
    numbers = [number for item in items if isinstance(item, Packets) for number in numbers_of(item)]
    lost = sum(item.packets for item in items if isinstance(item, Lost))
    assert numbers == sorted(set(numbers))
    ends = [index for index, item in enumerate(items) if isinstance(item, Packets)] or [0]
    between = sum(item.packets for item in items[ends[0] : ends[-1]] if isinstance(item, Lost))
    assert between == (numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0)
    assert assembler.device.entered == assembler.device.left + lost
    thrown = sum(item.size_bytes for item in items if isinstance(item, Lost) and item.stage == pb.STAGE_FRAMING)
    assert thrown == sum(assembler.framing.lost.values())


@settings(max_examples=30)
@given(st.data())
def test_whatever_the_host_drops_produced_is_delivered_and_declared_lost(data: st.DataObject) -> None:
    """Transfers cut anywhere and dropped anywhere, the first and the last ones too."""
    assembler = first_case()
    produced = data.draw(st.integers(1, 40))
    wire = b"".join(map(packet, range(7, 7 + produced)))
    items: list[StreamItem] = []
    at, at_ms = 0, 0
    while at < len(wire):
        part = wire[at : at + data.draw(st.integers(1, 900))]
        if data.draw(st.booleans()):
            items += assembler.lost(Lost(pb.STAGE_HOST, "queue full", size_bytes=len(part)))
        else:
            items += assembler.feed(transfer(part, at_ms))
        at, at_ms = at + len(part), at_ms + 10
    items += assembler.finish(EPOCH_NS, 0)
    delivered = sum(item.count for item in items if isinstance(item, Packets))
    lost = sum(item.packets for item in items if isinstance(item, Lost))
    assert delivered + lost == produced
    assert (assembler.device.left, assembler.device.lost_total) == (delivered, lost)
    balanced(assembler)


LINES = """
[stream]
name = "lines"
[device]
vendor_id = 1
product_id = 2
[framing]
method = "delimiter"
delimiter = "0a"
"""


@pytest.mark.parametrize(
    ("toml", "transfers", "expected"),
    [
        pytest.param("", [(t, b"?" * 112) for t in range(0, 2500, 500)], "560 bytes", id="no packet among them"),
        pytest.param("", [(t, b"?" * 112) for t in range(0, 1500, 500)], "", id="not for long"),
        pytest.param("", [(0, b"?" * 20), (5000, P[0][:100])], "", id="too few for a packet"),
        pytest.param(
            "", [*((t, b"?" * 112) for t in range(0, 2500, 500)), (2600, P[0] + P[1])], "", id="a packet at last"
        ),
        pytest.param(
            "", [(0, P[0]), *((t, b"?" * 112) for t in range(0, 2500, 500))], "560 bytes", id="packets at first only"
        ),
        pytest.param("", [(0, P[0]), (9000, b"?" * 300)], "", id="a burst of garbage"),
        pytest.param(LINES, [(t, b"a") for t in range(0, 20_000, 1000)], "20 bytes", id="a line that does not end"),
        pytest.param(LINES, [(t, b"a") for t in range(0, 9_000, 1000)], "", id="a line that takes its time"),
        pytest.param(LINES, [(0, b"login: "), (60_000, b"")], "", id="a prompt"),
        pytest.param(LINES, [(t, b"\n") for t in range(0, 20_000, 1000)], "", id="empty lines"),
    ],
)
def test_bytes_of_which_no_packet_comes_are_a_problem(
    toml: str, transfers: list[tuple[int, bytes]], expected: str
) -> None:
    assembler = Assembler(parse_profile(toml, "lines")) if toml else first_case()
    for at_ms, data in transfers:
        assembler.feed(transfer(data, at_ms))
    if expected:
        assert assembler.problem.startswith(f"{expected} came from the device in ")
        assert "and not one packet: compare [framing]" in assembler.problem
        assembler.device_event(happened(KIND.KIND_DETACHED, 30_000))
    assert assembler.problem == ""
