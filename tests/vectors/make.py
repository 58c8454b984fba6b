"""Writes the golden vectors. Run it only when the contract grows; the bytes of vectors that exist must never change."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import Message

from usbcast_schemas.batch import Arrivals, decode_batch, encode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

HERE = Path(__file__).parent
T, M = 1_700_000_000_123_456_789, 987_654_321


def save(name: str, message: Message, packets: list[bytes] | None = None) -> None:
    raw = message.SerializeToString(deterministic=True)
    fields = {
        "message": type(message).__name__,
        "fields": json_format.MessageToDict(message, preserving_proto_field_name=True),
    }
    if packets is not None:
        fields["packets"] = [packet.hex() for packet in packets]
    for path, content in (
        (HERE / f"{name}.bin", raw),
        (HERE / f"{name}.json", (json.dumps(fields, indent=2) + "\n").encode()),
    ):
        if path.exists() and path.read_bytes() != content:
            raise SystemExit(f"{path.name} would change: a published vector never does")
        path.write_bytes(content)


def batch(name: str, packets: list[bytes], **more: object) -> None:
    varying = len({len(packet) for packet in packets}) > 1
    ends, at = [], 0
    for packet in packets:
        at += len(packet)
        ends.append(at)
    raw = encode_batch(
        epoch=0x0123456789ABCDEF,
        number=7,
        first_sequence=1000,
        packet_count=len(packets),
        packet_size=0 if varying or not packets else len(packets[0]),
        payload=packets,
        packet_ends=ends if varying else (),
        **{"arrivals": Arrivals([len(packets)], [T], [M]) if packets else Arrivals(), **more},  # type: ignore[arg-type]
    )
    decode_batch(raw)
    save(name, pb.PacketBatch.FromString(raw), packets)


def main() -> None:
    batch("batch-one-packet", [bytes(range(112))])
    batch(
        "batch-three-in-two-transfers",
        [bytes([n]) * 8 for n in range(3)],
        arrivals=Arrivals([2, 1], [T, T + 5], [M, M + 5]),
    )
    batch("batch-varying", [b"a", b"", b"long packet"])
    batch(
        "batch-after-loss-and-replug",
        [b"\x01\x02\x03\x04"],
        losses=[pb.Loss(stage=pb.STAGE_DEVICE, reason="counter", packets=12, bytes=0, at_least=True)],
        events=[
            pb.DeviceEvent(kind=pb.DeviceEvent.KIND_DETACHED, realtime_ns=T, monotonic_ns=M, detail="it went away"),
            pb.DeviceEvent(
                kind=pb.DeviceEvent.KIND_ATTACHED, realtime_ns=T + 9, monotonic_ns=M + 9, detail="it came back",
                device=pb.DeviceInfo(vendor_id=0x1209, product_id=1, serial="S1", product="p", bus_path="1-4.2"),
            ),
        ],
    )  # fmt: skip
    batch(
        "batch-hole",
        [],
        holes=[
            pb.LostRange(
                first_sequence=900, count=100, stage=pb.STAGE_BRIDGE, reason="upstream: overwritten in the ring",
                batches=4,
            )
        ],
    )  # fmt: skip
    batch("batch-end", [], end=pb.StreamEnd(reason="done", packets=1000, realtime_ns=T))
    save(
        "notification",
        pb.Notification(
            contract=CONTRACT, epoch=0x0123456789ABCDEF, oldest_sequence=10, next_sequence=1000, next_number=7,
            sent_realtime_ns=T, sent_monotonic_ns=M, ended=False,
        ),
    )  # fmt: skip
    save(
        "request-fetch",
        pb.Request(
            contract=CONTRACT,
            request_id=3,
            fetch=pb.FetchRequest(
                stream="imu", epoch=1, from_sequence=5, until_sequence=9, from_number=2, byte_budget=4194304
            ),
        ),
    )
    save(
        "reply-fetch",
        pb.Reply(
            contract=CONTRACT,
            request_id=3,
            fetched=pb.FetchReply(
                batch_count=2, epoch=1, oldest_sequence=7, next_sequence=100, next_number=50,
                lost=[pb.LostRange(first_sequence=5, count=2, stage=pb.STAGE_RING, reason="overwritten in the ring")],
                complete=True,
            ),
        ),
    )  # fmt: skip
    exchange()


def exchange() -> None:
    """What docs/wire.md shows byte by byte: somebody joins a stream of two packets with "oldest"."""
    epoch = 0x0123456789ABCDEF
    save(
        "exchange-1-describe",
        pb.Request(contract=CONTRACT, request_id=1, describe=pb.DescribeRequest(stream="imu")),
    )
    info = pb.StreamInfo(
        contract=CONTRACT, stream="imu", epoch=epoch, packet_size=4, oldest_sequence=0, next_sequence=2, next_number=1,
        data_endpoints=["tcp://127.0.0.1:5571"], has_tail=True,
    )  # fmt: skip
    save(
        "exchange-2-described",
        pb.Reply(contract=CONTRACT, request_id=1, described=pb.DescribeReply(streams=[info])),
    )
    report = pb.SubscriptionReport(name="host:4242:1", joining=True)
    save(
        "exchange-3-joining",
        pb.Request(contract=CONTRACT, request_id=2, report=pb.ReportRequest(stream="imu", report=report)),
    )
    save(
        "exchange-4-notification",
        pb.Notification(
            contract=CONTRACT, epoch=epoch, oldest_sequence=0, next_sequence=2, next_number=1,
            sent_realtime_ns=T, sent_monotonic_ns=M,
        ),
    )  # fmt: skip
    fetch = pb.FetchRequest(stream="imu", epoch=epoch, from_sequence=0, from_number=0, byte_budget=262144)
    save("exchange-5-fetch", pb.Request(contract=CONTRACT, request_id=3, fetch=fetch))
    fetched = pb.FetchReply(
        batch_count=1, epoch=epoch, oldest_sequence=0, next_sequence=2, next_number=1, complete=True
    )
    save("exchange-6-fetched", pb.Reply(contract=CONTRACT, request_id=3, fetched=fetched))
    packets = [b"\x01\x02\x03\x04", b"\x05\x06\x07\x08"]
    raw = encode_batch(
        epoch=epoch, number=0, first_sequence=0, packet_count=2, packet_size=4, payload=packets,
        arrivals=Arrivals([2], [T], [M]),
    )  # fmt: skip
    save("batch-exchange", pb.PacketBatch.FromString(raw), packets)


if __name__ == "__main__":
    main()
