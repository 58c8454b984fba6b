"""What a few bytes can claim to hold: refused before it takes memory, by both engines and for every kind of message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas import batch as batches
from usbcast_schemas import wire
from usbcast_schemas.batch import MAX_COUNT, MAX_HOLES, MAX_PACKETS, MAX_REMARKS, Arrivals, decode_batch, encode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import PeerError, WireError
from usbcast_schemas.parsing import MAX_FIELDS, parse
from usbcast_schemas.v1 import usbcast_pb2 as pb

OTHER_LAYOUT = b"\xf8\x01\x00"
"""An unknown field at the head, so that the library has to read what follows."""


@pytest.fixture(params=["native", "python", "library"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What to put before a batch, so that this engine reads it."""
    if request.param != "native":
        monkeypatch.setattr(batches, "_read_plain", batches.decode_plain)
    elif batches.engine.native is None:
        pytest.skip("the native core is not built")
    return OTHER_LAYOUT if request.param == "library" else b""


def made(**changes: object) -> bytes:
    arguments: dict = {
        "epoch": 1, "number": 2, "first_sequence": 3, "packet_count": 1, "packet_size": 4, "payload": [b"abcd"],
        "arrivals": Arrivals((1,), (5,), (6,)),
    }  # fmt: skip
    return encode_batch(**(arguments | changes))


def counted(packets: int, *, varying: bool = False, transfers: int | None = None) -> dict:
    transfers = packets if transfers is None else transfers
    last = packets - transfers + 1
    return {
        "packet_count": packets,
        "packet_size": 0 if varying else 1,
        "packet_ends": list(range(1, packets + 1)) if varying else (),
        "payload": [bytes(packets)],
        "arrivals": Arrivals([1] * (transfers - 1) + [last], [5] * transfers, [6] * transfers),
    }


AT_THE_BOUND = {
    "packets": counted(MAX_PACKETS, transfers=1),
    "packets and transfers": counted(MAX_PACKETS),
    "varying packets": counted(MAX_PACKETS, varying=True),
    "losses": {"losses": [pb.Loss()] * MAX_REMARKS},
    "losses and events": {"losses": [pb.Loss()] * 400, "events": [pb.DeviceEvent()] * (MAX_REMARKS - 400)},
    "holes": {"holes": [pb.LostRange()] * MAX_HOLES},
    "number": {"number": MAX_COUNT - 1},
    "sequence": {"first_sequence": MAX_COUNT - 1},
}

BEYOND = {
    "packets": (counted(MAX_PACKETS + 1, transfers=1), "more than 65536 packets"),
    "transfers": (counted(MAX_PACKETS, transfers=MAX_PACKETS + 1), "more than 65536 packets or arrivals"),
    "varying packets": (counted(MAX_PACKETS + 1, varying=True, transfers=1), "more than 65536 packets"),
    "losses": ({"losses": [pb.Loss()] * (MAX_REMARKS + 1)}, "more than 1000 losses and events"),
    "events": ({"events": [pb.DeviceEvent()] * (MAX_REMARKS + 1)}, "more than 1000 losses and events"),
    "losses and events": ({"losses": [pb.Loss()] * 600, "events": [pb.DeviceEvent()] * 401}, "more than 1000 losses"),
    "number": ({"number": MAX_COUNT}, "sequence would exceed 64 bits"),
    "sequence": ({"first_sequence": MAX_COUNT}, "sequence would exceed 64 bits"),
    "sequence, without a packet": (
        {"first_sequence": MAX_COUNT, "number": MAX_COUNT, "packet_count": 0, "payload": (), "arrivals": Arrivals()},
        "sequence would exceed 64 bits",
    ),
}


@pytest.mark.parametrize("name", AT_THE_BOUND)
def test_what_a_batch_may_hold(head: bytes, name: str) -> None:
    found = decode_batch(head + made(**AT_THE_BOUND[name]))
    assert max(found.end_sequence, found.number + 1) <= MAX_COUNT


@pytest.mark.parametrize("name", BEYOND)
def test_what_no_batch_may_hold(head: bytes, name: str) -> None:
    changes, says = BEYOND[name]
    with pytest.raises(WireError, match=says):
        decode_batch(head + made(**changes))


def test_more_holes_than_a_batch_may_hold(head: bytes) -> None:
    plain = made()
    begin = plain.index(b"\x7a\x04abcd")
    with pytest.raises(WireError, match="more than 1000 holes"):
        decode_batch(head + plain[:begin] + b"\x72\x00" * (MAX_HOLES + 1) + plain[begin:])


def test_the_holes_beyond_those_that_a_batch_may_hold_are_told_as_one() -> None:
    holes = [
        pb.LostRange(first_sequence=10 * n, count=2, batches=1, reason=f"{n}", on_purpose=n < MAX_HOLES)
        for n in range(MAX_HOLES + 2)
    ]
    told = decode_batch(made(first_sequence=20_000, number=5000, holes=holes)).holes
    assert list(told[:-1]) == holes[: MAX_HOLES - 1]
    last = holes[-1].first_sequence + 2
    assert (told[-1].first_sequence, told[-1].first_sequence + told[-1].count) == (10 * (MAX_HOLES - 1), last)
    assert (told[-1].batches, told[-1].on_purpose) == (3, False)


def bomb(kind: str) -> bytes:
    """Some megabytes that are millions of something."""
    plain = made()
    begin = plain.index(b"\x7a\x04abcd")
    empty = {
        "losses": b"\x5a\x00", "events": b"\x62\x00", "holes": b"\x72\x00", "ends": b"\x3d\0\0\0\0", "unknown": b"\xf8\x07\x00"
    }  # fmt: skip
    return plain[:begin] + empty[kind] * 2_000_000 + plain[begin:]


REPLY = pb.Reply(contract=CONTRACT, request_id=1).SerializeToString()


def nested(tags: bytes, inside: bytes) -> bytes:
    """`inside` as what stands in fields of these tags, one in the other."""
    for tag in reversed(tags):
        inside = bytes((tag,)) + varint(len(inside)) + inside
    return inside


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


BOMBS = {
    "losses": lambda: decode_batch(bomb("losses")),
    "losses in another layout": lambda: decode_batch(OTHER_LAYOUT + bomb("losses")),
    "events": lambda: decode_batch(bomb("events")),
    "holes": lambda: decode_batch(OTHER_LAYOUT + bomb("holes")),
    "end offsets": lambda: decode_batch(bomb("ends")),
    "unknown fields": lambda: decode_batch(bomb("unknown")),
    "streams of a description": lambda: wire.decode_reply([REPLY + nested(b"\x1a", b"\x0a\0" * 2_000_000)]),
    "fields of a stream": lambda: wire.decode_reply([REPLY + nested(b"\x1a\x0a", b"\x3a\0" * 2_000_000)]),
    "addresses of a stream": lambda: wire.decode_reply([REPLY + nested(b"\x1a\x0a", b"\x52\0" * 2_000_000)]),
    "lost ranges": lambda: wire.decode_reply([REPLY + nested(b"\x22", b"\x32\0" * 2_000_000)]),
    "subscriptions": lambda: wire.decode_reply([REPLY + nested(b"\x3a\x0a", b"\x22\0" * 2_000_000)]),
    "reasons": lambda: wire.decode_reply([REPLY + nested(b"\x3a\x0a\x1a", b"\x3a\0" * 2_000_000)]),
    "a request": lambda: wire.decode_request(
        [pb.Request(contract=CONTRACT).SerializeToString() + nested(b"\x42\x12\x1a", b"\x3a\0" * 900_000)]
    ),
    "a notification": lambda: wire.decode_notification(b"\x0d\0\0\1\0" + b"\x41\0\0\0\0\0\0\0\0" * 500_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_millions_of_little_things_are_refused(name: str) -> None:
    with pytest.raises(WireError, match=r"more than \d+ (fields|losses|holes|packets)|at most 4096"):
        BOMBS[name]()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory was taken at most in KiB")
def test_to_refuse_them_takes_no_memory() -> None:
    code = (
        "import resource, test_parsing as t\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = used()\n"
        "for name, decode in t.BOMBS.items():\n"
        "    try:\n"
        "        decode()\n"
        "    except t.WireError:\n"
        "        print(used() - before, name)\n"
    )
    here = Path(__file__).parent
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here, timeout=60)
    taken = [(int(line.split()[0]), line) for line in ran.stdout.splitlines()]
    assert len(taken) == len(BOMBS)
    assert max(taken)[0] < 200, ran.stdout


def test_as_many_fields_as_are_allowed_are_read() -> None:
    entry = pb.DescribeReply(streams=[pb.StreamInfo()]).SerializeToString()
    assert len(parse(pb.DescribeReply, entry * MAX_FIELDS, "a reply").streams) == MAX_FIELDS
    with pytest.raises(WireError, match=f"a reply of 600002 bytes has more than {MAX_FIELDS} fields"):
        parse(pb.DescribeReply, entry * (MAX_FIELDS + 1), "a reply")


@given(st.binary(max_size=200), st.integers(0, 20))
def test_any_bytes_parse_or_raise_the_one_error(body: bytes, most: int) -> None:
    for kind in (pb.PacketBatch, pb.Reply, pb.Request, pb.StreamInfo, pb.Notification, pb.Gap):
        try:
            parse(kind, body, "a message", most)
        except WireError:
            continue


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_frames_decode_or_raise_a_peer_error(frames: list[bytes]) -> None:
    for decode in (wire.decode_request, wire.decode_reply):
        for given_frames in (frames, [REPLY, *frames], [REPLY + b"".join(frames)]):
            try:
                decode(given_frames)
            except PeerError:
                continue
