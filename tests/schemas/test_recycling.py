"""Buffers that are used again: never while anybody can see what is in them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from usbcast_schemas.recycling import KEPT, WORTH_BYTES, RecycledBuffers

LARGE = WORTH_BYTES + 5


def filled(value: int, size: int = LARGE) -> memoryview:
    return memoryview(bytes([value]) * size)


def address(view: bytes | memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_a_buffer_that_nobody_looks_at_is_used_again() -> None:
    buffers = RecycledBuffers()
    copy = buffers.copy(filled(1))
    assert (bytes(copy), memoryview(copy).readonly) == (bytes(filled(1)), True)
    first = address(copy)
    del copy
    again = buffers.copy(filled(2, LARGE - 3))
    assert (address(again), bytes(again)) == (first, bytes(filled(2, LARGE - 3)))


@pytest.mark.parametrize(
    "keep",
    [
        lambda copy: copy,
        lambda copy: memoryview(copy)[3:9],
        lambda copy: np.frombuffer(copy, np.uint8)[::2],
        lambda copy: np.frombuffer(copy, np.uint8)[3:].view("u1").reshape(2, -1)[1],
        lambda copy: iter(memoryview(copy)),
    ],
    ids=["itself", "a slice", "an array", "an array of an array", "an iterator"],
)
def test_what_anybody_looks_at_stays_as_it_is(keep: Callable[[bytes | memoryview], object]) -> None:
    buffers = RecycledBuffers()
    kept = keep(buffers.copy(filled(1)))
    for value in range(2, 3 * KEPT):
        assert bytes(buffers.copy(filled(value))) == bytes(filled(value))
    gc.collect()
    assert set(bytes(kept) if not isinstance(kept, np.ndarray) else kept.tobytes()) == {1}  # type: ignore[call-overload]


def test_there_are_so_many_and_no_more() -> None:
    buffers = RecycledBuffers()
    copies = [buffers.copy(filled(value)) for value in range(KEPT + 3)]
    assert [type(copy) for copy in copies] == [memoryview] * KEPT + [bytes] * 3
    assert [copy[7] for copy in copies] == list(range(KEPT + 3))


def test_a_larger_copy_gets_a_larger_buffer() -> None:
    buffers = RecycledBuffers()
    for size in (LARGE, 10 * LARGE, LARGE):
        copy = buffers.copy(filled(9, size))
        assert (len(copy), set(copy)) == (size, {9})
        del copy


def test_a_small_copy_is_an_ordinary_one() -> None:
    assert RecycledBuffers().copy(filled(1, 10)) == b"\1" * 10
