"""A node that is not one of ours: it answers every question with texts that would do harm on a terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import zmq

from usbcast_schemas.batch import Arrivals, encode_batch
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\r\nfaked line\u202egpj.exe\u2028\x9b5m [/end] [bold] :smile: \x7f"
"""A window's title, an emptied screen, colours, a second line, a reversed end, another two kinds of line end, markup."""

EPOCH = 7


class Stranger:
    """Serves the stream `evil`, and lists it more than once; with `refusing`, answers with errors alone."""

    def __init__(self, refusing: bool) -> None:
        self._refusing = refusing
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._data = self._context.socket(zmq.XPUB)
        self.endpoint, self._data_endpoint = (
            f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}" for socket in (self._router, self._data)
        )
        self._number = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._router.poll(10):
                identity, asked, *_ = self._router.recv_multipart()
                reply = self._reply(pb.Request.FromString(asked))
                self._router.send_multipart([identity, reply.SerializeToString()])
            while self._data.poll(0):
                self._data.recv()
            self._data.send_multipart([b"data/evil/", self._batch()])
            self._number += 1

    def _reply(self, request: pb.Request) -> pb.Reply:
        reply = pb.Reply(contract=CONTRACT, request_id=request.request_id)
        if self._refusing:
            reply.error.code = pb.ErrorReply.CODE_DEVICE
            reply.error.message = HOSTILE
            return reply
        match request.WhichOneof("body"):
            case "describe":
                for name in ("evil", "evil") if request.describe.stream else ("evil", "evil", HOSTILE):
                    reply.described.streams.append(self._info(name))
            case "fetch":
                reply.fetched.epoch = EPOCH
                reply.fetched.complete = True
                reply.fetched.next_sequence = reply.fetched.next_number = self._number
            case "clock":
                reply.clock.sent_monotonic_ns = request.clock.sent_monotonic_ns
                reply.clock.received_realtime_ns = reply.clock.replied_realtime_ns = time.time_ns()
            case "health":
                reply.health.refused[HOSTILE] = 3
                stream = reply.health.streams.add(stream="evil", problem=HOSTILE, source=HOSTILE)
                stream.discrepancies.append(HOSTILE)
                stream.subscriptions.add(name=HOSTILE, via=HOSTILE)
                stream.ledgers.add(stage=HOSTILE, unit=HOSTILE).lost[HOSTILE] = 3
            case "command":
                reply.error.code = pb.ErrorReply.CODE_DEVICE
                reply.error.message = HOSTILE
        return reply

    def _info(self, name: str) -> pb.StreamInfo:
        return pb.StreamInfo(
            contract=CONTRACT,
            stream=name,
            epoch=EPOCH,
            packet_size=16,
            nominal_rate_hz=100,
            next_sequence=self._number,
            next_number=self._number,
            data_endpoints=[self._data_endpoint],
            host_id="elsewhere",
            profile_name=HOSTILE,
            node_version=HOSTILE,
            attached=True,
            device=pb.DeviceInfo(manufacturer=HOSTILE, product=HOSTILE, serial=HOSTILE, bus_path=HOSTILE),
            fields=[pb.Field(name=HOSTILE, type="u32", offset=0, unit=HOSTILE)],
        )

    def _batch(self) -> bytes:
        event = pb.DeviceEvent(kind=pb.DeviceEvent.KIND_ATTACHED, realtime_ns=time.time_ns(), detail=HOSTILE)
        return encode_batch(
            epoch=EPOCH,
            number=self._number,
            first_sequence=self._number,
            packet_count=1,
            packet_size=16,
            payload=[bytes(16)],
            arrivals=Arrivals((1,), (time.time_ns(),), (time.monotonic_ns(),)),
            events=[event],
            losses=[pb.Loss(stage=pb.STAGE_FRAMING, packets=3, reason=HOSTILE)],
        )


@contextlib.contextmanager
def stranger(*, refusing: bool = False) -> Iterator[str]:
    """The endpoint of a hostile node."""
    with contextlib.closing(Stranger(refusing)) as made:
        yield made.endpoint
