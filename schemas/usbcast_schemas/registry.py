"""Registry of local nodes: each keeps a record in the runtime directory, locked for as long as the node lives."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usbcast_schemas.contract import check_stream_name
from usbcast_schemas.errors import UsageError, WireError
from usbcast_schemas.places import runtime_directory
from usbcast_schemas.sockets import split_tcp

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 1024 * 1024
MOST_NAMED = 1000
"""Number of files logged because they are not records of nodes."""

_named: set[str] = set()


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's description of itself for programs of the same user on the same machine."""

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


def _read_record(data: bytes) -> NodeRecord:
    """Parse a record. Raises WireError."""
    try:
        fields: Any = json.loads(data) if len(data) <= MAX_RECORD_BYTES else None
        endpoint, pid, streams, key = fields["endpoint"], fields["pid"], fields["streams"], fields.get("key", "")
        if not (isinstance(endpoint, str) and type(pid) is int and isinstance(streams, list) and isinstance(key, str)):
            raise ValueError("a field has the wrong type")
        split_tcp(endpoint)
        return NodeRecord(endpoint, pid, tuple(check_stream_name(name) for name in streams), key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise WireError(f"it is not the record of a node: {error}") from None


def _pass_over(path: Path, error: WireError) -> None:
    if path.name not in _named and len(_named) < MOST_NAMED:
        _named.add(path.name)
        log.warning("ignoring %s: %s", path, error)


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
            try:
                yield os.fstat(fd).st_mtime_ns, _read_record(os.read(fd, MAX_RECORD_BYTES + 1))
            except WireError as error:
                _pass_over(path, error)
        except OSError:
            continue  # not a file that can be locked
        else:
            path.unlink(missing_ok=True)
        finally:
            os.close(fd)
