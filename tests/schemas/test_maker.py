"""Makers: the native core makes objects of classes whose attributes it does not know by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from usbcast_schemas import engine
from usbcast_schemas.batch import (
    GIVEN,
    MAKER,
    Arrivals,
    Encoded,
    EncodedBatch,
    decode_batch,
    encode_batch,
    native_maker,
)
from usbcast_schemas.contract import MAJOR
from usbcast_schemas.recycling import WORTH_BYTES
from usbcast_schemas.ring import STORES_ARE_ORDERED, RingReader, RingWriter

pytestmark = pytest.mark.skipif(engine.native is None, reason=f"there is no native core: {engine.why_not}")

RAW = encode_batch(
    epoch=7, number=3, first_sequence=6, packet_count=2, packet_size=4, payload=[bytes(8)], arrivals=Arrivals((2,), (1,), (2,))
)  # fmt: skip


@dataclass(slots=True)
class WithOneMore(EncodedBatch):
    """As `EncodedBatch` would be with another field."""

    added: str = "as by default"


def test_a_new_field_with_a_default_needs_no_change_of_the_core() -> None:
    assert engine.native is not None
    made = engine.native.decode(RAW, MAJOR, native_maker(WithOneMore), Arrivals)
    assert isinstance(made, WithOneMore)
    assert made.added == "as by default"
    for name in EncodedBatch.__dataclass_fields__:
        assert getattr(made, name) == getattr(decode_batch(RAW), name), name


@pytest.mark.skipif(not STORES_ARE_ORDERED, reason="rings have checksums here, which is Python's work")
def test_so_it_is_for_what_comes_out_of_a_ring(tmp_path: Path) -> None:
    ring = RingWriter(tmp_path, "s", 7, data_bytes=4096, slots=2)
    reader = RingReader(ring.path, ring.nonce)
    try:
        ring.stream_writer.append(Encoded(RAW, 3, 6, 2))
        made = reader.memory.native.take(WORTH_BYTES, MAJOR, native_maker(WithOneMore), Arrivals, 0)  # type: ignore[union-attr]
        assert made == WithOneMore(*(getattr(decode_batch(RAW), name) for name in EncodedBatch.__dataclass_fields__))
    finally:
        reader.close()
        ring.close()


def test_a_field_that_no_two_batches_can_share_is_refused() -> None:
    @dataclass(slots=True)
    class WithAList(EncodedBatch):
        added: list[int] = field(default_factory=list)

    with pytest.raises(TypeError, match=r"WithAList\.added needs a default"):
        native_maker(WithAList)


def test_a_maker_sets_slots_and_other_attributes_alike() -> None:
    class Slotted:
        __slots__ = ("one", "two")

    class Open:
        two = "of the class"

    class Guarded:
        one = 1

        @property
        def two(self) -> int:
            return 2

    assert engine.native is not None
    for kind in (Slotted, Open):
        made = engine.native.Maker(kind, ("one",), {"two": 2})(1)
        assert (type(made), made.one, made.two) == (kind, 1, 2)
    with pytest.raises(AttributeError):
        engine.native.Maker(Guarded, ("one",), {"two": 2})(1)
    with pytest.raises(AttributeError):
        engine.native.Maker(Slotted, ("one",), {"three": 3})(1)


def test_wrong_arguments_are_type_errors() -> None:
    assert engine.native is not None
    assert MAKER is not None
    for call, arguments in (
        (engine.native.Maker, ("no type", (), {})),
        (engine.native.Maker, (EncodedBatch, ["raw"], {})),
        (engine.native.Maker, (EncodedBatch, (1,), {})),
        (engine.native.Maker, (EncodedBatch, (), {1: 1})),
        (MAKER.__init__, (EncodedBatch, (), {})),
        (MAKER, (1, 2)),
        (engine.native.Maker.__new__(engine.native.Maker), ()),
        (engine.native.decode, (RAW, MAJOR, EncodedBatch, Arrivals)),
        (engine.native.decode, (RAW, MAJOR, engine.native.Maker(EncodedBatch, GIVEN[:-1], {}), Arrivals)),
        (engine.native.decode, (RAW, MAJOR, engine.native.Maker(EncodedBatch, (*GIVEN, "holes", "end"), {}), Arrivals)),
        (engine.native.decode, (RAW, MAJOR, engine.native.Maker.__new__(engine.native.Maker), Arrivals)),
    ):
        with pytest.raises(TypeError):
            call(*arguments)
