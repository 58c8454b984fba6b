"""What a service manager such as systemd is told: ready, how things stand, still alive, stopping (sd_notify's protocol).

One datagram each, to the socket that the environment names; nothing where it names none. A library would be larger than this.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from usbcast_schemas.printable import printable

log = logging.getLogger(__name__)


class ServiceManager:
    """Used by one thread. Nothing that it does fails: a manager that is gone is not the business of a stream.

    `alive` is to be called all the time by whoever *knows* that work goes on; silence is what a watchdog acts on.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_ns = 0
        usec = environment.get("WATCHDOG_USEC", "")
        if usec.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._watchdog_ns = int(usec) * 1000
        self._due_ns = 0
        self._status = ""
        self._failed = False

    @property
    def present(self) -> bool:
        """Whether there is one that listens."""
        return bool(self._address)

    @property
    def watchdog_s(self) -> float:
        """After so long a silence it acts; 0 if it never does."""
        return self._watchdog_ns / 1e9

    def ready(self) -> None:
        """What was to be started is there, and serves."""
        self._say("READY=1")

    def status(self, text: str) -> None:
        """How things stand, in one line for people; told if it is another than before."""
        if text != self._status:
            self._status = text
            self._say(f"STATUS={printable(text.replace(chr(10), chr(32)))}")

    def alive(self, monotonic_ns: int) -> None:
        """A sign of life, sent three times within the watchdog's interval."""
        if self._watchdog_ns and monotonic_ns >= self._due_ns:
            self._due_ns = monotonic_ns + self._watchdog_ns // 3
            self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """It was told to stop, and does."""
        self._say("STOPPING=1")

    def _say(self, what: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(what.encode(errors="replace"), self._address)
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("cannot notify the service manager at NOTIFY_SOCKET: %s", error.strerror or error)


__all__ = ["ServiceManager"]
