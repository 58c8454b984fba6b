"""Text from outside, made safe to show: what a terminal, a spreadsheet or a file system would obey is escaped.

So is what would hide or reorder text on a screen.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re
import zlib

_HARMLESS_SPACES = frozenset(
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
"""Not printable for Python, but no more than blank for a terminal; units are written with some of them."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return `text` with control, bidirectional, invisible and unassigned characters escaped as Python writes them.

    What is in `keep` stays as it is. Applied twice it changes nothing more; a backslash stays one, so the result is for
    reading and not for reading back.

    >>> printable("\x1b[31mred\u202e 5 µm\n")
    '\\x1b[31mred\\u202e 5 µm\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep or letter in _HARMLESS_SPACES else _escaped(letter)
        for letter in text
    )


def file_name_part(text: str) -> str:
    """Return `text` if it can stand in a file's name anywhere; else what can, and a checksum of all that keeps it apart.

    >>> file_name_part("imu-2"), file_name_part("../a b")
    ('imu-2', 'a-b-75e96e29')
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:64]
    return (
        text
        if text and text == cleaned
        else f"{cleaned}-{zlib.crc32(text.encode(errors='surrogatepass')):08x}".lstrip("-")
    )


def spreadsheet_head(text: str) -> str:
    """Return `text` as the head of a column that no spreadsheet takes for a formula: those begin with one of =+-@.

    >>> spreadsheet_head("=cmd|' /C calc'!A0"), spreadsheet_head("acc0 [m/s²]")
    ("'=cmd|' /C calc'!A0", 'acc0 [m/s²]')
    """
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


__all__ = ["file_name_part", "printable", "spreadsheet_head"]
