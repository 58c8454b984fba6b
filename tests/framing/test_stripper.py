"""Status bytes: what is left, and that each one is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_broker.framing import StatusStripper


@pytest.mark.parametrize(
    ("prefix", "every", "transfer", "data"),
    [
        (0, 0, b"abc", b"abc"),
        (2, 0, b"##abcdef", b"abcdef"),
        (2, 0, b"#", b""),
        (2, 4, b"##ab##cd##e", b"abcde"),
        (2, 4, b"##ab##", b"ab"),
        (2, 4, b"##ab#", b"ab"),
        (1, 2, b"#a#b#", b"ab"),
        (2, 64, b"", b""),
    ],
)
def test_tables(prefix: int, every: int, transfer: bytes, data: bytes) -> None:
    assert StatusStripper(prefix, every).strip(transfer) == (data, len(transfer) - len(data))


@given(st.binary(max_size=300), st.integers(1, 8), st.integers(1, 70))
def test_every_group_loses_its_head(transfer: bytes, prefix: int, more: int) -> None:
    every = prefix + more
    expected = b"".join(transfer[i + prefix : i + every] for i in range(0, len(transfer), every))
    assert StatusStripper(prefix, every).strip(transfer) == (expected, len(transfer) - len(expected))
