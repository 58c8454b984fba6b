"""The streams that a node serves, by name, each with a reader of its ring."""

from __future__ import annotations

import time
from collections.abc import Iterator

from usbcast_broker.stream.outlet import Outlet
from usbcast_broker.stream.pipeline import Stream
from usbcast_schemas.errors import RingUnavailable, UsbcastError
from usbcast_schemas.ring import RingReader
from usbcast_schemas.v1 import usbcast_pb2 as pb


class Refused(UsbcastError):
    """A request that cannot be answered; carries the code of the error reply."""

    def __init__(self, code: pb.ErrorReply.Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServedStream:
    """One stream, and the ring of its current epoch as any other reader reads it."""

    def __init__(self, line: Stream) -> None:
        self.line = line
        self.asked_monotonic_ns: int | None = None
        """Time at which a client last asked for it by its name; None if none has."""
        self._of = line.outlet
        self.ring = RingReader(self._of.ring.path, self._of.ring.nonce)

    def current(self) -> tuple[Outlet, RingReader]:
        """Return the outlet and a reader of its ring. Raises Refused while a new epoch is just beginning."""
        outlet = self.line.outlet
        if outlet is not self._of:
            try:
                ring = RingReader(outlet.ring.path, outlet.ring.nonce)
            except RingUnavailable as error:
                raise Refused(
                    pb.ErrorReply.CODE_BUSY, f"stream {outlet.stream!r} is beginning a new epoch: {error}"
                ) from None
            self.ring.close()
            self.ring, self._of = ring, outlet
        return self._of, self.ring


class ServedStreams:
    """All streams of a node. One may be added from any thread at any time."""

    def __init__(self) -> None:
        self._streams: dict[str, ServedStream] = {}
        """Replaced as a whole, never changed: another thread may be iterating over it."""

    def add(self, line: Stream) -> None:
        self._streams = {**self._streams, line.outlet.stream: ServedStream(line)}

    def __iter__(self) -> Iterator[ServedStream]:
        return iter(self._streams.values())

    def asked(self, name: str) -> ServedStream:
        """Return the stream that a client asks for, and note the time. Raises Refused if there is none of this name."""
        try:
            served = self._streams[name]
        except KeyError:
            raise Refused(
                pb.ErrorReply.CODE_STREAM_UNKNOWN,
                f"this node has no stream {name[:200]!r}; it has {', '.join(sorted(self._streams)) or 'none'}",
            ) from None
        served.asked_monotonic_ns = time.monotonic_ns()
        return served

    def asked_monotonic_ns(self, name: str) -> int | None:
        """Return when a client last asked for this stream by its name; None if none has."""
        served = self._streams.get(name)
        return served.asked_monotonic_ns if served is not None else None

    def close(self) -> None:
        for served in self._streams.values():
            served.ring.close()
