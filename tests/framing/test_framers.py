"""Every framing method: tables of streams, and that neither cuts nor garbage change what is found or how bytes are counted."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest
from cobs import cobs
from fastcrc import crc16
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.flow import Discarded, Framed, Packets
from usbcast_broker.framing import Framer, make_framer
from usbcast_broker.framing.framer import JOINED
from usbcast_schemas.profile import Framing, parse_profile


@functools.cache
def framing_of(table: str) -> Framing:
    head = '[stream]\nname = "t"\n[device]\nvendor_id = 1\nproduct_id = 1\n[framing]\n'
    return parse_profile(head + table, "test").framing


def packets_in(framed: Iterable[Framed]) -> Iterator[bytes]:
    for one in framed:
        for item in one.items:
            if isinstance(item, Packets):
                start = 0
                for i in range(item.count):
                    end = item.ends[i] if item.ends else start + item.packet_size
                    yield bytes(item.payload[start:end])
                    start = end
                assert start == len(item.payload)


def discarded_in(framed: Iterable[Framed]) -> list[Discarded]:
    return [item for one in framed for item in one.items if isinstance(item, Discarded)]


class Books:
    """Feeds a framer and checks at every moment that each byte is somewhere, once."""

    def __init__(self, framing: Framing) -> None:
        self.framer: Framer = make_framer(framing)
        self.fed = 0
        self.results: list[Framed] = []

    def feed(self, data: bytes | memoryview) -> Framed:
        self.fed += len(data)
        return self._note(self.framer.feed(data))

    def reset(self, reason: str, missing_bytes: int = 0) -> Framed:
        return self._note(self.framer.reset(reason, missing_bytes))

    def _note(self, framed: Framed) -> Framed:
        self.results.append(framed)
        for item in framed.items:
            assert item.size_bytes > 0 if isinstance(item, Discarded) else item.count > 0
        delivered = sum(one.packet_bytes for one in self.results)
        overhead = sum(one.overhead_bytes for one in self.results)
        thrown = sum(one.size_bytes for one in discarded_in(self.results))
        assert delivered == sum(map(len, packets_in(self.results)))
        assert self.fed == delivered + overhead + thrown + self.framer.held_bytes
        return framed


@dataclass(frozen=True)
class Method:
    """A framing, how a device would send a packet with some content by it, and what is then delivered."""

    table: str
    send: Callable[[bytes], tuple[bytes, bytes]]  # content -> (on the wire, delivered)
    longest: int = 40
    fixed: int = 0  # every content has this many bytes

    @property
    def framing(self) -> Framing:
        return framing_of(self.table)


def _same(wire: bytes) -> tuple[bytes, bytes]:
    return wire, wire


def _crc32(head: bytes) -> bytes:
    return head + struct.pack("<I", zlib.crc32(head))


def _modbus(head: bytes) -> bytes:
    return head + struct.pack(">H", crc16.modbus(head))


CRC32 = 'checksum = { method = "crc32" }'
LENGTH = "length_offset = 2\nlength_width = 2\nmax_size = 64\n"

METHODS = {
    "fixed": Method('method = "fixed"\nsize = 12', _same, fixed=12),
    "fixed crc": Method('method = "fixed"\nsize = 16\n' + CRC32, lambda c: _same(_crc32(c)), fixed=12),
    "sync": Method('method = "sync"\nsync = "aa55"\nsize = 14', lambda c: _same(b"\xaa\x55" + c), fixed=12),
    "sync crc": Method(
        'method = "sync"\nsync = "aaaa55"\nsize = 19\n' + CRC32,
        lambda c: _same(_crc32(b"\xaa\xaa\x55" + c)),
        fixed=12,
    ),
    "sync modbus, big-endian": Method(
        'method = "sync"\nsync = "7e"\nsize = 15\nchecksum = { method = "crc16-modbus", byte_order = "big" }',
        lambda c: _same(_modbus(b"\x7e" + c)),
        fixed=12,
    ),
    "sync length crc": Method(
        'method = "sync"\nsync = "aa55"\nlength_adjust = 8\n' + LENGTH + CRC32,
        lambda c: _same(_crc32(b"\xaa\x55" + struct.pack("<H", len(c)) + c)),
    ),
    "length": Method(
        'method = "length"\nlength_offset = 0\nlength_width = 1\nlength_adjust = 1\nmax_size = 64',
        lambda c: _same(bytes([len(c)]) + c),
    ),
    "length crc": Method(
        'method = "length"\nlength_adjust = 0\nbyte_order = "big"\n' + LENGTH + CRC32,
        lambda c: _same(_crc32(b"id" + struct.pack(">H", len(c) + 8) + c)),
    ),
    "delimiter": Method(
        'method = "delimiter"\ndelimiter = "0d0a"\nmax_size = 64',
        lambda c: (c.replace(b"\r", b"r") + b".\r\n", c.replace(b"\r", b"r") + b"."),
    ),
    "delimiter kept": Method(
        'method = "delimiter"\ndelimiter = "0a"\nkeep = true\nmax_size = 64',
        lambda c: _same(c.replace(b"\n", b"n") + b".\n"),
    ),
    "cobs": Method('method = "cobs"\nmax_size = 64', lambda c: (cobs.encode(c + b".") + b"\0", c + b".")),
    "cobs of one size": Method(
        'method = "cobs"\nsize = 12\nmax_size = 64', lambda c: (cobs.encode(c) + b"\0", c), fixed=12
    ),
    "cobs crc": Method(
        'method = "cobs"\nmax_size = 64\n' + CRC32, lambda c: (cobs.encode(_crc32(c + b".")) + b"\0", _crc32(c + b"."))
    ),
}
VERIFIED = [name for name, method in METHODS.items() if "crc" in name]
TOLD_FIRST = ("delimiter", "delimiter kept", "cobs")
"""Methods that cannot tell whether the first packet of an attachment is a whole one."""


def content(data: st.DataObject, method: Method) -> bytes:
    size = method.fixed or data.draw(st.integers(1, method.longest))
    return data.draw(st.binary(min_size=size, max_size=size))


def cut(data: st.DataObject, wire: bytes) -> list[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    return [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True)]


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30)
@given(data=st.data())
def test_the_same_packets_however_the_bytes_are_cut(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    wire, expected = b"", []
    for _ in range(data.draw(st.integers(0, 8))):
        sent, delivered = method.send(content(data, method))
        wire += sent
        expected.append(delivered)
    if name in TOLD_FIRST:
        expected = expected[1:]
    for cuts in ([wire], [wire[i : i + 1] for i in range(len(wire))], cut(data, wire)):
        books = Books(method.framing)
        for part in cuts:
            books.feed(part)
        assert list(packets_in(books.results)) == expected
        assert books.framer.held_bytes == 0


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30)
@given(data=st.data())
def test_any_bytes_balance_and_are_found_alike_however_cut(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    wire = b""
    for _ in range(data.draw(st.integers(1, 6))):
        sent, _ = method.send(content(data, method))
        wire += data.draw(st.sampled_from([sent, sent[1:], sent[:-1], b""])) + data.draw(st.binary(max_size=30))
    outcomes = []
    for cuts in ([wire], [wire[i : i + 1] for i in range(len(wire))], cut(data, wire)):
        books = Books(method.framing)
        for part in cuts:
            books.feed(memoryview(part))
        thrown: dict[str, int] = {}
        for one in discarded_in(books.results):
            thrown[one.reason] = thrown.get(one.reason, 0) + one.size_bytes
        outcomes.append((list(packets_in(books.results)), thrown, books.framer.held_bytes))
        books.reset("end")
        assert books.framer.held_bytes == 0
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("name", VERIFIED)
@settings(max_examples=30)
@given(data=st.data())
def test_no_whole_packet_behind_garbage_is_missed(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    ended = b"\0" if "cobs" in name else b""
    wire, expected = b"", []
    for _ in range(data.draw(st.integers(1, 6))):
        sent, delivered = method.send(content(data, method))
        damaged = data.draw(st.sampled_from([b"", sent[:-2], sent[1:], bytes([sent[0] ^ 1]) + sent[1:]]))
        wire += damaged + data.draw(st.binary(max_size=40)) + ended + sent
        expected.append(delivered)
    books = Books(method.framing)
    for part in cut(data, wire):
        books.feed(part)
    found = list(packets_in(books.results))
    assert found == expected[: len(found)]
    # What a wrong length keeps waiting is held, not lost: further packets bring it out.
    assert sum(map(len, expected[len(found) :])) <= books.framer.held_bytes
    for _ in range(64):
        sent, delivered = method.send(b"\x01" * (method.fixed or 4))
        books.feed(sent)
    assert list(packets_in(books.results))[: len(expected)] == expected


@pytest.mark.parametrize(
    ("table", "wire", "packets", "discarded", "overhead", "held"),
    [
        ('method = "fixed"\nsize = 3', b"abcdefg", [b"abc", b"def"], [], 0, 1),
        ('method = "fixed"\nsize = 3', b"", [], [], 0, 0),
        ('method = "sync"\nsync = "4142"\nsize = 4', b"ABxyAB", [b"ABxy"], [], 0, 2),
        ('method = "sync"\nsync = "4142"\nsize = 4', b"..A.ABxy", [b"ABxy"], [(4, JOINED)], 0, 0),
        (
            'method = "sync"\nsync = "4142"\nsize = 4',
            b"ABxy...ABxyzA",
            [b"ABxy", b"ABxy"],
            [(3, "resynchronise"), (1, "resynchronise")],
            0,
            1,
        ),
        (
            'method = "sync"\nsync = "41"\nsize = 4\nchecksum = { method = "sum8" }',
            b"A\x01\x01C" + b"A\x01\x01D" + b"A\x01\x02D",
            [b"A\x01\x01C", b"A\x01\x02D"],
            [(4, "checksum")],
            0,
            0,
        ),
        (
            'method = "fixed"\nsize = 4\nchecksum = { method = "xor8", offset = 0, from = 1 }',
            b"?" + bytes([1 ^ 2 ^ 4, 1, 2, 4]),
            [bytes([7, 1, 2, 4])],
            [(1, JOINED)],
            0,
            0,
        ),
        (
            'method = "length"\nlength_offset = 0\nlength_width = 1\nlength_adjust = 1\nmax_size = 4',
            b"\x02ab\x09\x01c\x03d",
            [b"\x02ab", b"\x01c"],
            [(1, "length")],
            0,
            2,
        ),
        (
            'method = "delimiter"\ndelimiter = "0a"\nmax_size = 4',
            b"il\nabcd\n\nabcde\nxy\nzz",
            [b"abcd", b"xy"],
            [(3, JOINED), (6, "oversized")],
            3,
            2,
        ),
        ('method = "delimiter"\ndelimiter = "0a"\nkeep = true', b"\nabc\n\n", [b"abc\n"], [], 2, 0),
        (
            'method = "delimiter"\ndelimiter = "3b"\nsize = 2',
            b"ab;abc;cd;",
            [b"ab", b"cd"],
            [(4, "wrong size")],
            2,
            0,
        ),
        (
            'method = "cobs"\nmax_size = 4',
            b"\0" + b"\x03ab\0" + b"\x05ab\0" + b"\x01\x02c\0" + b"\x01\0" + b"\x07abcdef\0",
            [b"ab", b"\0c"],
            [(4, "encoding"), (8, "oversized")],
            1 + 2 + 2 + 2,
            0,
        ),
    ],
)
def test_tables(
    table: str, wire: bytes, packets: list[bytes], discarded: list[tuple[int, str]], overhead: int, held: int
) -> None:
    books = Books(framing_of(table))
    framed = books.feed(wire)
    assert list(packets_in([framed])) == packets
    assert [(one.size_bytes, one.reason) for one in discarded_in([framed])] == discarded
    assert framed.overhead_bytes == overhead
    assert books.framer.held_bytes == held


@pytest.mark.parametrize("name", ["fixed", "fixed crc", "sync crc"])
def test_one_packet_alone_is_not_copied(name: str) -> None:
    wire, _ = METHODS[name].send(bytes(12))
    (item,) = make_framer(METHODS[name].framing).feed(wire).items
    assert isinstance(item, Packets)
    assert item.payload is wire


@pytest.mark.parametrize("name", ["fixed", "fixed crc", "sync crc", "sync length crc"])
def test_packets_in_a_row_are_one_item_on_the_bytes_of_the_transfer(name: str) -> None:
    wire = b"".join(METHODS[name].send(bytes([i] * 12))[0] for i in range(50))
    (item,) = make_framer(METHODS[name].framing).feed(wire).items
    assert isinstance(item, Packets)
    assert (item.payload is wire, item.count) == (True, 50)
    part, rest = make_framer(METHODS[name].framing).feed(wire + b"?").items, wire
    assert isinstance(part[0], Packets)
    assert isinstance(part[0].payload, memoryview)
    assert part[0].payload == rest


def test_a_view_that_changes_later_does_not_change_what_was_framed() -> None:
    memory = bytearray(b"abcdef")
    (item,) = make_framer(framing_of('method = "fixed"\nsize = 3')).feed(memoryview(memory)).items
    memory[:] = b"......"
    assert isinstance(item, Packets)
    assert bytes(item.payload) == b"abcdef"


def test_reset_throws_the_partial_packet_away_and_the_next_attachment_joins_anew() -> None:
    books = Books(METHODS["sync crc"].framing)
    wire, packet = METHODS["sync crc"].send(b"0123456789ab")
    books.feed(wire + wire[:7])
    assert books.reset("detached").items == (Discarded(7, "detached"),)
    assert books.reset("detached").items == ()
    framed = books.feed(wire[5:] + wire)
    assert discarded_in([framed]) == [Discarded(len(wire) - 5, JOINED)]
    assert list(packets_in([framed])) == [packet]


@pytest.mark.parametrize(
    ("table", "before", "after"),
    [
        ('method = "length"\nlength_offset = 0\nlength_width = 1', b"\x50abc", b"\x03ab"),
        ('method = "delimiter"\ndelimiter = "3b"\nsize = 3\nmax_size = 4', b"x" * 50, b"abc;"),
        ('method = "cobs"\nsize = 3\nmax_size = 4', b"x" * 50, b"\x04abc\0"),
    ],
)
def test_nothing_of_a_packet_before_a_reset_weighs_on_the_next_one(table: str, before: bytes, after: bytes) -> None:
    books = Books(framing_of(table))
    books.feed(before)
    books.reset("detached")
    assert len(list(packets_in([books.feed(after)]))) == 1


@pytest.mark.parametrize("size", [253, 254, 255, 508, 600])
def test_the_largest_cobs_packet_is_not_oversized_for_its_encoding(size: int) -> None:
    books = Books(framing_of(f'method = "cobs"\nsize = {size}\nmax_size = {size}'))
    for byte in cobs.encode(b"x" * size) + b"\0":
        books.feed(bytes([byte]))
    assert list(packets_in(books.results)) == [b"x" * size]


@given(before=st.integers(0, 40), missing=st.integers(1, 40), after=st.integers(0, 40), twice=st.integers(0, 20))
def test_plain_packets_are_counted_on_over_a_hole_of_known_size(
    before: int, missing: int, after: int, twice: int
) -> None:
    stream = bytes(range(160))
    books = Books(METHODS["fixed"].framing)
    at = 0
    for fed, hole in ((before, missing), (after, twice)):
        books.feed(stream[at : at + fed])
        books.reset("hole", hole)
        at += fed + hole
    if not twice:  # a reset without a known size begins where the next bytes begin
        at = 0
    books.feed(stream[at:])
    whole = {stream[i : i + 12] for i in range(0, 160 - 11, 12)}
    assert set(packets_in(books.results)) <= whole


@pytest.mark.parametrize(
    ("table", "garbage"),
    [
        ('method = "delimiter"\ndelimiter = "0d0a"\nmax_size = 100', b"\r"),
        ('method = "cobs"\nmax_size = 100', b"x"),
        ('method = "length"\nlength_offset = 0\nlength_width = 4\nmax_size = 100', b"\0"),
        ('method = "sync"\nsync = "0001"\nsize = 100', b"\0"),
        ('method = "fixed"\nsize = 100\nchecksum = { method = "crc32" }', b"x"),
    ],
)
def test_no_more_is_held_than_one_packet(table: str, garbage: bytes) -> None:
    books = Books(framing_of(table))
    for _ in range(200):
        books.feed(garbage * 7)
        assert books.framer.held_bytes <= 110
