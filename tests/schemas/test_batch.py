"""The bytes of a batch: the fast way and the protobuf library must agree, and nothing may make the decoder fall over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas.batch import (
    MAX_BATCH_BYTES,
    MAX_COUNT,
    MAX_HOLES,
    MAX_REMARKS,
    Arrivals,
    EncodedBatch,
    _by_library,
    _in_place,
    bears_remarks,
    decode_batch,
    encode_batch,
)
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.errors import PeerError, VersionMismatch, WireError
from usbcast_schemas.v1 import usbcast_pb2 as pb
from usbcast_schemas.wire import decode_reply

VECTORS = Path(__file__).parent.parent / "vectors"

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
text = st.text(max_size=20)
losses = st.builds(
    pb.Loss, stage=st.sampled_from(pb.Stage.values()), reason=text, packets=u64, bytes=u64, at_least=st.booleans()
)
events = st.builds(pb.DeviceEvent, kind=st.sampled_from(pb.DeviceEvent.Kind.values()), realtime_ns=i64, detail=text)
ends = st.builds(pb.StreamEnd, reason=text, packets=u64)


@st.composite
def batches(draw: st.DrawFn) -> dict:
    """Arguments of encode_batch that agree with each other."""
    size = draw(st.integers(0, 40))
    count = draw(st.integers(0, 30))
    if size:
        packet_ends: list[int] = []
        total = count * size
    else:
        packet_ends = sorted(draw(st.lists(st.integers(0, 500), min_size=count, max_size=count)))
        total = packet_ends[-1] if packet_ends else 0
    payload = draw(st.binary(min_size=total, max_size=total))
    cuts = sorted(draw(st.lists(st.integers(0, count), max_size=4))) if count else []
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, count], strict=True)] if count else []
    n = len(counts)
    arrivals = Arrivals(
        counts,
        draw(st.lists(i64, min_size=n, max_size=n)),
        draw(st.lists(i64, min_size=n, max_size=n)),
    )
    split = draw(st.integers(0, total))
    edges = sorted(draw(st.lists(st.integers(0, 2**63), max_size=6)))
    number = draw(st.integers(0, MAX_COUNT - 1))
    holes = [
        pb.LostRange(
            first_sequence=begin, count=until - begin, stage=pb.STAGE_BRIDGE, reason=draw(text),
            batches=number // 4, on_purpose=draw(st.booleans()),
        )
        for begin, until in zip(edges[::2], edges[1::2], strict=False)
    ]  # fmt: skip
    return {
        "epoch": draw(u64),
        "number": number,
        "first_sequence": draw(st.integers(edges[-1] if edges else 0, 2**63)),
        "holes": holes,
        "packet_count": count,
        "packet_size": size,
        "payload": [payload[:split], payload[split:]],
        "packet_ends": packet_ends,
        "arrivals": arrivals,
        "losses": draw(st.lists(losses, max_size=3)),
        "events": draw(st.lists(events, max_size=3)),
        "end": draw(st.none() | ends),
    }


def figures(batch: EncodedBatch) -> tuple:
    return (
        batch.epoch, batch.number, batch.first_sequence, batch.packet_count, batch.packet_size, list(batch.packet_ends),
        *(list(c) for c in (batch.arrivals.packets, batch.arrivals.realtime_ns, batch.arrivals.monotonic_ns)),
        list(batch.losses), list(batch.events), batch.end, list(batch.holes), bytes(batch.payload),
    )  # fmt: skip


@given(batches())
def test_the_library_writes_and_reads_the_same_bytes(arguments: dict) -> None:
    raw = encode_batch(**arguments)
    assert pb.PacketBatch.FromString(raw).SerializeToString(deterministic=True) == raw
    fast = _in_place(raw)
    assert fast is not None, "the fast way must take what the encoder writes"
    assert figures(fast) == figures(_by_library(raw))
    assert bytes(fast.payload) == b"".join(arguments["payload"])


@given(batches(), st.randoms())
def test_another_order_of_fields_is_read_by_the_library(arguments: dict, random) -> None:
    raw = encode_batch(**arguments)
    fields = []
    for descriptor, value in pb.PacketBatch.FromString(raw).ListFields():
        part = pb.PacketBatch()
        if descriptor.is_repeated:
            getattr(part, descriptor.name).extend(value)
        elif descriptor.message_type:
            getattr(part, descriptor.name).CopyFrom(value)
        else:
            setattr(part, descriptor.name, value)
        fields.append(part.SerializeToString())
    random.shuffle(fields)
    assert figures(decode_batch(b"".join(fields))) == figures(decode_batch(raw))


@given(batches(), st.data())
def test_cut_or_damaged_bytes_decode_or_raise_a_peer_error(arguments: dict, data: st.DataObject) -> None:
    raw = bytearray(encode_batch(**arguments))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        batch = decode_batch(bytes(raw))
    except PeerError:
        return
    assert batch.packet_count == sum(batch.arrivals.packets)
    assert len(batch.payload) == (
        batch.packet_count * batch.packet_size if batch.packet_size else (batch.packet_ends or [0])[-1]
    )


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_peer_errors(raw: bytes) -> None:
    with pytest.raises(PeerError):
        decode_batch(raw)


def good(**changes: object) -> pb.PacketBatch:
    message = pb.PacketBatch(
        contract=CONTRACT, packet_count=2, epoch=1, number=2, first_sequence=3, packet_size=4,
        arrival_packets=[2], arrival_realtime_ns=[5], arrival_monotonic_ns=[6], payload=b"abcdefgh",
    )  # fmt: skip
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"payload": b"abcdefg"}, "payload of 7 bytes"),
        ({"packet_count": 3}, "3 packets of 4 bytes"),
        ({"packet_ends": [4, 8]}, "2 packets of 4 bytes"),
        ({"packet_size": 0}, "0 end offsets"),
        ({"packet_size": 0, "packet_ends": [4, 7]}, "the last of them 7"),
        ({"packet_size": 0, "packet_ends": [9, 8]}, "do not increase"),
        ({"arrival_packets": [1]}, "count 1 packets and it holds 2"),
        ({"arrival_realtime_ns": []}, "differ in length: 1, 0 and 1"),
    ],
)
def test_figures_that_disagree_are_named(changes: dict, says: str) -> None:
    raw = good(**changes).SerializeToString()
    with pytest.raises(WireError, match=says):
        decode_batch(raw)


def test_another_major_version_names_both() -> None:
    with pytest.raises(VersionMismatch, match=r"a batch is of contract version 2\.7 and this side speaks 1\.0"):
        decode_batch(good(contract=2 << 16 | 7).SerializeToString())
    with pytest.raises(WireError, match="has no contract version"):
        decode_batch(b"")


@pytest.mark.parametrize("name", [path.stem for path in sorted(VECTORS.glob("*.json"))])
def test_golden_vector(name: str) -> None:
    """The bytes on disk decode to the figures on disk, and are written again from them, byte for byte."""
    raw = (VECTORS / f"{name}.bin").read_bytes()
    expected = json.loads((VECTORS / f"{name}.json").read_text())
    message = getattr(pb, expected["message"]).FromString(raw)
    assert json_format.MessageToDict(message, preserving_proto_field_name=True) == expected["fields"]
    assert json_format.ParseDict(expected["fields"], type(message)()).SerializeToString(deterministic=True) == raw
    if expected["message"] == "PacketBatch":
        batch = decode_batch(raw)
        assert [bytes(p).hex() for p in packets_of(batch)] == expected["packets"]
        again = encode_batch(
            epoch=batch.epoch, number=batch.number, first_sequence=batch.first_sequence,
            packet_count=batch.packet_count, packet_size=batch.packet_size, payload=[batch.payload],
            packet_ends=batch.packet_ends, arrivals=batch.arrivals, losses=batch.losses, events=batch.events,
            end=batch.end, holes=batch.holes,
        )  # fmt: skip
        assert again == raw


def packets_of(batch: EncodedBatch) -> list[bytes]:
    if batch.packet_size:
        return [
            bytes(batch.payload[i : i + batch.packet_size]) for i in range(0, len(batch.payload), batch.packet_size)
        ]
    starts = [0, *batch.packet_ends]
    return [bytes(batch.payload[a:b]) for a, b in zip(starts, batch.packet_ends, strict=False)]


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("transfers", [0, 1, 2])
@pytest.mark.parametrize("said", ["nothing", "losses", "events", "end"])
def test_its_first_fields_tell_whether_it_says_something(varying: bool, transfers: int, said: str) -> None:
    raw = encode_batch(
        epoch=1,
        number=2,
        first_sequence=3,
        packet_count=transfers,
        packet_size=0 if varying else 4,
        payload=[b"abcd"] * transfers,
        packet_ends=[4 * (n + 1) for n in range(transfers)] if varying else (),
        arrivals=Arrivals([1] * transfers, [5] * transfers, [6] * transfers),
        losses=[pb.Loss(packets=1)] if said == "losses" else (),
        events=[pb.DeviceEvent(detail="x")] if said == "events" else (),
        end=pb.StreamEnd() if said == "end" else None,
    )
    assert bears_remarks(raw) == (said != "nothing")
    assert bears_remarks(raw[:-1]) in (True, said != "nothing")
    assert bears_remarks(b"\x99" + raw[1:]), "what is not understood may say anything"
    assert bears_remarks(b"")


@pytest.mark.parametrize(
    ("holes", "complaint"),
    [
        ([(5, 3, 0), (7, 1, 0)], "the holes of batch 4 overlap at sequence 7"),
        ([(5, 6, 0)], "the holes of batch 4 reach up to sequence 11 and down to batch 4, and it begins at 10"),
        ([(5, 5, 5)], "the holes of batch 4 reach up to sequence 10 and down to batch -1"),
    ],
)
def test_holes_that_cannot_be(holes: list[tuple[int, int, int]], complaint: str) -> None:
    raw = encode_batch(
        epoch=1, number=4, first_sequence=10, packet_count=0, packet_size=0, payload=(),
        holes=[pb.LostRange(first_sequence=first, count=count, batches=batches) for first, count, batches in holes],
    )  # fmt: skip
    for read in (decode_batch, _by_library):
        with pytest.raises(WireError, match=complaint):
            read(raw)


@pytest.mark.parametrize("by_library", [False, True])
def test_a_batch_beyond_the_bound_is_refused_whatever_it_is(by_library: bool) -> None:
    def batch(payload_bytes: int) -> bytes:
        count = 1 if payload_bytes else 0
        return encode_batch(
            epoch=1, number=2, first_sequence=3, packet_count=count, packet_size=payload_bytes,
            payload=[bytes(payload_bytes)], arrivals=Arrivals([count], [5], [6]),
        )  # fmt: skip

    overhead = len(batch(MAX_BATCH_BYTES // 2)) - MAX_BATCH_BYTES // 2
    largest = batch(MAX_BATCH_BYTES - overhead)
    assert len(largest) == MAX_BATCH_BYTES
    assert decode_batch(largest).packet_count == 1
    unknown_field = b"\xf8\x01\x00" * by_library  # at the head, so that the library has to read it
    with pytest.raises(WireError, match=rf"a batch has \d+ bytes: at most {MAX_BATCH_BYTES} are allowed"):
        decode_batch(unknown_field + largest + b"\x00")


def test_of_a_fetch_reply_a_batch_beyond_the_bound_is_left_out() -> None:
    reply = pb.Reply(contract=CONTRACT, fetched=pb.FetchReply(batch_count=1)).SerializeToString()
    received = decode_reply([reply, bytes(MAX_BATCH_BYTES + 1)])
    assert received.batches == []
    assert f"at most {MAX_BATCH_BYTES} are allowed" in str(received.unreadable[0])


@pytest.mark.parametrize("read", [decode_batch, _by_library])
@pytest.mark.parametrize(
    ("losses", "events", "holes", "complaint"),
    [
        (MAX_REMARKS, 0, 0, None),
        (0, MAX_REMARKS, 0, None),
        (MAX_REMARKS - 1, 1, MAX_HOLES, None),
        (MAX_REMARKS + 1, 0, 0, f"a batch has more than {MAX_REMARKS} losses and events"),
        (0, MAX_REMARKS + 1, 0, f"a batch has more than {MAX_REMARKS} losses and events"),
        (MAX_REMARKS, 1, 0, f"a batch has more than {MAX_REMARKS} losses and events"),
        (0, 0, MAX_HOLES + 1, f"a batch has more than {MAX_HOLES} holes"),
    ],
)
def test_exactly_as_many_remarks_and_holes_as_are_allowed(read, losses, events, holes, complaint: str | None) -> None:
    message = good(first_sequence=10**6, number=10**6)
    message.lost_before.extend([pb.Loss(packets=1)] * losses)
    message.events.extend([pb.DeviceEvent(detail="x")] * events)
    message.holes.extend(pb.LostRange(first_sequence=2 * n, count=1) for n in range(holes))
    raw = message.SerializeToString(deterministic=True)
    if complaint is None:
        batch = read(raw)
        assert (len(batch.losses), len(batch.events), len(batch.holes)) == (losses, events, holes)
        assert batch.intact
    else:
        with pytest.raises(WireError, match=complaint):
            read(raw)


def test_end_offsets_that_do_not_fit_are_named() -> None:
    raw = good(packet_size=0, packet_ends=[4, 5, 8], packet_count=2).SerializeToString()
    with pytest.raises(
        WireError, match=r"2 packets of varying size has 3 end offsets, the last of them 8, and .* 8 bytes"
    ):
        decode_batch(raw)
    raw = good(packet_size=0, packet_ends=[1, 2, 7], packet_count=3).SerializeToString()
    with pytest.raises(WireError, match="3 end offsets, the last of them 7, and a payload of 8 bytes"):
        decode_batch(raw)
