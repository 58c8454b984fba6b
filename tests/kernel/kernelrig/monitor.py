"""QEMU's own monitor (QMP, one JSON object a line): plugs devices in and pulls them out."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any


class MonitorError(Exception):
    """What QEMU answered when it would not."""


class Monitor:
    """A connection to the monitor of a running QEMU. For one thread."""

    def __init__(self, path: Path, timeout_s: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._deleted: set[str] = set()
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Have QEMU do something; return its answer. Raises MonitorError if it refuses, TimeoutError if it is silent."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise MonitorError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def unplug(self, name: str) -> None:
        """Pull a device out; return when QEMU has nothing of it any more."""
        self.execute("device_del", id=name)
        while name not in self._deleted:
            self._read()

    def plug(self, driver: str, name: str, **properties: Any) -> None:
        self.execute("device_add", driver=driver, id=name, **properties)

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise MonitorError("QEMU has hung up")
        message: dict[str, Any] = json.loads(line)
        if message.get("event") == "DEVICE_DELETED":
            self._deleted.add(message["data"].get("device", ""))
        return message
