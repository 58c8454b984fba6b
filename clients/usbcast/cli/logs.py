"""Log output: to stderr with the time; to a journal, which adds the time, with the priority."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from textwrap import indent
from typing import Any

from usbcast_schemas.printable import printable

_INDENT = "    "
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class SafeFormatter(logging.Formatter):
    """A formatter that escapes quoted text, so that it cannot look like another record or control a terminal (`printable`)."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return indent(printable(super().formatException(ei), keep="\n"), _INDENT)


class JournalFormatter(SafeFormatter):
    """Puts `<priority>` before every line, so that a traceback stays one severity (sd-daemon(3))."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{_PRIORITIES.get(record.levelno, 5)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def to_journal(environment: Mapping[str, str] = os.environ, fd: int = 2) -> bool:
    """Return True if `fd` is the journal's stream, which JOURNAL_STREAM names by device and inode."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_up(level: int) -> None:
    """Log to stderr from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JournalFormatter() if to_journal() else SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])


__all__ = ["JournalFormatter", "SafeFormatter", "set_up", "to_journal"]
