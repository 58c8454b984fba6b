"""How local nodes are found: each one keeps a record in the runtime directory, locked for as long as it lives."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from usbcast_schemas.places import runtime_directory


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What a node says of itself to others of the same user on the same machine."""

    endpoint: str
    pid: int
    streams: tuple[str, ...]
    key: str = ""
    """Its public key in hex; empty for a node without keys."""


class Registration:
    """This node's record; gone when closed, and ignored by others when its process is dead."""

    def __init__(self, record: NodeRecord) -> None:
        self._path = runtime_directory() / f"node-{record.pid}-{os.urandom(4).hex()}.json"
        unfinished = self._path.with_suffix(".new")  # not yet locked and whole, so under a name nobody looks at
        self._fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, json.dumps(asdict(record)).encode())
        unfinished.rename(self._path)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def local_nodes() -> list[NodeRecord]:
    """The nodes of this user that are alive on this machine, the latest first. Sweeps the records of dead ones."""
    return [record for _, record in sorted(_alive(runtime_directory()), key=lambda found: found[0], reverse=True)]


def _alive(directory: Path) -> Iterator[tuple[int, NodeRecord]]:
    """The records whose lock is held, each with the time it was made. A node may end and take its record away meanwhile."""
    for path in directory.glob("node-*.json"):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            status = os.fstat(fd)
            fields = json.loads(os.read(fd, status.st_size))
            yield (
                status.st_mtime_ns,
                NodeRecord(fields["endpoint"], fields["pid"], tuple(fields["streams"]), fields.get("key", "")),
            )
        else:
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
