"""Takes off the status bytes that some devices put before their data, once per transfer or at fixed distances in it.

Pure: no socket, thread or clock.
"""

from __future__ import annotations


class StatusStripper:
    """`prefix` bytes at the head of each `every` bytes of a transfer, or of the whole transfer where `every` is 0.

    >>> StatusStripper(1, 4).strip(b"#abc#de")
    (b'abcde', 2)
    """

    __slots__ = ("_every", "_prefix")

    def __init__(self, prefix: int, every: int = 0) -> None:
        self._prefix = prefix
        self._every = every

    def strip(self, transfer: bytes) -> tuple[bytes, int]:
        """The data of one transfer, and how many status bytes were taken off."""
        if not self._prefix:
            return transfer, 0
        if not self._every or len(transfer) <= self._every:
            data = transfer[self._prefix :]
        else:
            kept = bytearray(transfer)
            for taken in range(self._prefix):
                # Deleting the first byte of every group at once: the groups are one byte shorter each time.
                del kept[:: self._every - taken]
            data = bytes(kept)
        return data, len(transfer) - len(data)
