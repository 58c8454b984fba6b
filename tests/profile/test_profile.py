"""Profiles: what a text becomes, and that every mistake is one sentence with the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas.errors import ProfileError
from usbcast_schemas.profile import MAX_PROFILE_BYTES, load_profile, parse_profile
from usbcast_schemas.v1 import usbcast_pb2 as pb

SMALLEST = """
[stream]
name = "small"
[device]
vendor_id = 0x1209
product_id = 1
[framing]
method = "fixed"
size = 16
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "x.toml")
    lines = str(caught.value).split("\n")
    assert all(line.startswith("x.toml: ") for line in lines)
    return [line.removeprefix("x.toml: ") for line in lines]


def test_the_smallest_profile_and_its_defaults() -> None:
    profile = parse_profile(SMALLEST, "x.toml")
    assert (profile.name, profile.stream.rate_hz, profile.packet_size) == ("small", 0.0, 16)
    assert (profile.device.interface, profile.device.alternate, profile.device.endpoint) == (0, 0, 0x81)
    assert (profile.transfer.size, profile.transfer.timeout_ms) == (16384, 500)
    assert (profile.startup, profile.shutdown, profile.counter, profile.fields) == ((), (), None, ())
    assert profile.toml == SMALLEST


def test_everything_that_a_profile_can_say() -> None:
    profile = parse_profile(
        """
        shutdown = [{ request_type = 0xc0, request = 2, length = 4 }]
        stream = { name = "all_of-it", rate_hz = 12.5 }
        transfer = { size = 512, timeout_ms = 5000, strip_prefix = 2, strip_every = 64 }
        counter = { offset = 2, width = 2, byte_order = "big", wrap = 1000 }
        [device]
        vendor_id = 1
        product_id = 2
        serial = "A1"
        bus_path = "1-4.2"
        product = "Thing"
        configuration = 2
        interface = 1
        alternate = 3
        endpoint = 0x8f
        [[startup]]
        request_type = 0x40
        request = 9
        value = 1
        index = 2
        data = "00fF"
        [framing]
        method = "sync"
        sync = "aa 55"
        size = 32
        checksum = { method = "crc16-modbus", from = 2, offset = -2, byte_order = "big" }
        [[fields]]
        name = "x"
        type = "i16"
        offset = 4
        count = 3
        byte_order = "big"
        unit = "g"
        scale = 0.5
        zero = -1
        [[fields]]
        name = "t"
        type = "f64"
        offset = 10
        """,
        "x.toml",
    )
    assert profile.startup[0].data == b"\x00\xff"
    assert profile.shutdown[0].length == 4
    assert profile.counter is not None
    assert profile.counter.modulus == 1000
    assert [(field.name, field.offset) for field in profile.expanded_fields()] == [
        ("x0", 4),
        ("x1", 6),
        ("x2", 8),
        ("t", 10),
    ]
    assert profile.to_field_protos()[1] == pb.Field(
        name="x1", type="i16", offset=6, big_endian=True, unit="g", scale=0.5, zero=-1
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size = 16", "size = 0", "framing.size is 0: a whole number from 1 to 1048576 is allowed"),
        ("size = 16", "size = 1.0", "framing.size is 1.0: a whole number from 1 to 1048576 is allowed"),
        ("size = 16", 'size = "16"', 'framing.size is "16": a whole number from 1 to 1048576 is allowed'),
        ("size = 16", "size = true", "framing.size is true: a whole number from 1 to 1048576 is allowed"),
        ("size = 16", "", "framing.size is missing: a whole number from 1 to 1048576 is needed"),
        ("size = 16", "size = 16\nsice = 1", "framing.sice is not a key of a profile: did you mean size?"),
        (
            "size = 16",
            "size = 16\nxyz = 1",
            "framing.xyz is not a key of a profile: the keys here are method, size, checksum",
        ),
        (
            '"fixed"',
            '"fixt"',
            'framing.method is "fixt": one of "fixed", "length", "delimiter", "cobs", "sync" is allowed',
        ),
        (
            'method = "fixed"',
            "",
            'framing.method is missing: one of "fixed", "length", "delimiter", "cobs", "sync" is needed',
        ),
        (
            '"small"',
            '"Small"',
            'stream.name is "Small": a name of 1 to 64 of a-z, 0-9, _ and -, that begins with a letter or a digit '
            "is allowed",
        ),
        (
            '"small"',
            '"small\\n"',
            'stream.name is "small\\n": a name of 1 to 64 of a-z, 0-9, _ and -, that begins with a letter or a digit '
            "is allowed",
        ),
        (
            "product_id = 1",
            "product_id = 65536",
            "device.product_id is 65536: a number from 0x0000 to 0xffff is allowed",
        ),
        (
            "product_id = 1",
            "product_id = 1\nendpoint = 0x01",
            "device.endpoint is 1: an IN endpoint, from 0x81 to 0x8f, is allowed",
        ),
        (
            "product_id = 1",
            'product_id = 1\nbus_path = "4"',
            'device.bus_path is "4": a bus and its ports, such as "1-4.2", is allowed',
        ),
        ("[stream]", "field = 1\n[stream]", "field is not a key of a profile: did you mean fields?"),
        ("[stream]", "fields = [1]\n[stream]", "fields[0] is 1: a table is allowed"),
        ("[stream]", "fields = 1\n[stream]", "fields is 1: an array of up to 4096 tables is allowed"),
        ("[stream]", "transfer = 2024-01-01\n[stream]", 'transfer is "2024-01-01": a table is allowed'),
        (
            "[stream]",
            "transfer = { timeout_ms = 0 }\n[stream]",
            "transfer.timeout_ms is 0: a whole number from 10 to 5000 is allowed",
        ),
        ("[stream]", "counter = { width = 3 }\n[stream]", "counter.width is 3: one of 1, 2, 4, 8 is allowed"),
        (
            "[stream]",
            'startup = [{ request_type = 0x40, request = 1, data = "0" }]\n[stream]',
            'startup[0].data is "0": up to 4096 bytes in hex, such as "00ff", is allowed',
        ),
        (
            'method = "fixed"\nsize = 16',
            'method = "delimiter"\ndelimiter = "0a"\nkeep = 1',
            "framing.keep is 1: true or false is allowed",
        ),
        (
            'name = "small"',
            'name = "small"\nrate_hz = -1',
            "stream.rate_hz is -1: a number from 0 to 1000000000 is allowed",
        ),
        (
            "[stream]",
            'fields = [{ name = "a", type = "u8", offset = 0, scale = nan }]\n[stream]',
            "fields[0].scale is NaN: a number is allowed",
        ),
    ],
)
def test_a_wrong_key(old: str, new: str, said: str) -> None:
    assert old in SMALLEST
    assert problems(SMALLEST.replace(old, new, 1)) == [said]


def framing(text: str) -> str:
    return SMALLEST[: SMALLEST.index("method")] + text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "transfer = { size = 1048576, queue = 9 }" + SMALLEST,
            "transfer.queue is 9: with transfer.size 1048576, up to 8 is allowed, so that no more than 8 MiB are queued",
        ),
        (
            "transfer = { strip_every = 64 }" + SMALLEST,
            "transfer.strip_every is 64: it needs transfer.strip_prefix, the bytes to take off",
        ),
        (
            "transfer = { strip_prefix = 8, strip_every = 8 }" + SMALLEST,
            "transfer.strip_prefix is 8: fewer than the 8 bytes of transfer.strip_every are allowed",
        ),
        (
            'startup = [{ request_type = 0xc0, request = 1, data = "00" }]' + SMALLEST,
            'startup[0].data is "00": request_type 0xc0 reads (bit 7 is set), so only length is allowed',
        ),
        (
            "shutdown = [{ request_type = 0x40, request = 1, length = 1 }]" + SMALLEST,
            "shutdown[0].length is 1: request_type 0x40 writes (bit 7 is clear), so only data is allowed",
        ),
        (
            framing('method = "fixed"\nsize = 20000\nchecksum = { method = "crc32" }'),
            "framing.size is 20000: with a checksum and nothing that marks the start, up to 16384 is allowed; "
            'use method "sync" for larger packets',
        ),
        (
            framing('method = "cobs"\nsize = 65\nmax_size = 64'),
            "framing.size is 65: up to framing.max_size, 64, is allowed",
        ),
        (
            framing('method = "delimiter"\ndelimiter = "0d0a"\nkeep = true\nmax_size = 2'),
            "framing.max_size is 2: more than the 2 bytes of framing.delimiter, which are kept, is allowed",
        ),
        (
            framing('method = "sync"\nsync = "aa55"\nsize = 2'),
            "framing.size is 2: more than the 2 bytes of framing.sync is allowed",
        ),
        (
            framing('method = "sync"\nsync = "aa55"\nsize = 8\nlength_offset = 2'),
            "framing.length_offset is given beside framing.size: one of them is allowed, the size or a length field",
        ),
        (
            framing('method = "sync"\nsync = "aa55"\nlength_width = 1'),
            'framing.size is missing: a size, or length_offset and length_width, is needed with method "sync"',
        ),
        (
            framing('method = "sync"\nsync = "aa55"\nlength_offset = 1\nlength_width = 1'),
            "framing.length_offset is 1: from 2 on, behind framing.sync, is allowed",
        ),
        (
            framing('method = "length"\nlength_offset = 4\nlength_width = 2\nmax_size = 5'),
            "framing.max_size is 5: at least 6, up to the length field's end, is allowed",
        ),
        (
            framing('method = "length"\nlength_offset = 0\nlength_width = 1\nlength_adjust = -255'),
            "framing.length_adjust is -255: no length then gives a size from 1 to 65536",
        ),
        (
            framing('method = "length"\nlength_offset = 0\nlength_width = 1\nlength_adjust = 65537'),
            "framing.length_adjust is 65537: no length then gives a size from 1 to 65536",
        ),
        (
            SMALLEST + 'checksum = { method = "crc32", offset = -3 }',
            "framing.checksum.offset is -3: at most -4, so that the 4 bytes of crc32 fit, is allowed",
        ),
        (
            SMALLEST + 'checksum = { method = "crc32", offset = 4, from = 6 }',
            "framing.checksum.from is 6: before framing.checksum.offset, 4, or from 8 on is allowed",
        ),
        (
            SMALLEST + 'checksum = { method = "crc32", from = 12 }',
            "framing.size is 16: at least 17, so that the checksum fits, is allowed",
        ),
        (
            SMALLEST + 'checksum = { method = "crc32", offset = 13 }',
            "framing.size is 16: at least 17, so that the checksum fits, is allowed",
        ),
        (
            SMALLEST + "[counter]\noffset = 13",
            "counter.offset is 13: with width 4, 0 to 12 is allowed",
        ),
        (
            SMALLEST + "[counter]\nwidth = 1\nwrap = 257",
            "counter.wrap is 257: from 2 to 256, for width 1, is allowed",
        ),
        (
            SMALLEST + '[counter]\n[[fields]]\nname = "n"\ntype = "f32"\noffset = 0',
            'fields[0].type is "f32": "u32", as the counter there, is allowed',
        ),
        (
            SMALLEST + '[counter]\n[[fields]]\nname = "n"\ntype = "u32"\noffset = 0\nbyte_order = "big"',
            'fields[0].byte_order is "big": "little", as the counter there, is allowed',
        ),
        (
            framing('method = "cobs"\n[[fields]]\nname = "n"\ntype = "u8"\noffset = 0'),
            'fields are given, but packets with framing.method "cobs" vary in size: fields need a framing.size',
        ),
        (
            SMALLEST + '[[fields]]\nname = "n"\ntype = "u64"\noffset = 4\ncount = 2',
            "fields[0].offset is 4: n would end at byte 20 of 16",
        ),
        (
            SMALLEST + '[[fields]]\nname = "n1"\ntype = "u8"\noffset = 0\n[[fields]]\nname = "n"\ntype = "u8"\n'
            "offset = 0\ncount = 2",
            'fields contain the name "n1" twice: each name is allowed once',
        ),
        (
            SMALLEST.replace("16", "8192")
            + "".join(f'\n[[fields]]\nname = "{name}"\ntype = "u8"\noffset = 0\ncount = 4096' for name in "ab"),
            "fields come to 8192 values in all: up to 4096 is allowed",
        ),
    ],
)
def test_contradictions(text: str, said: str) -> None:
    assert problems(text) == [said]


@pytest.mark.parametrize(
    "text",
    [
        'method = "fixed"\nsize = 16384\nchecksum = { method = "crc32" }',
        'method = "fixed"\nsize = 1048576',
        'method = "fixed"\nsize = 5\nchecksum = { method = "crc32" }',
        'method = "fixed"\nsize = 5\nchecksum = { method = "crc32", offset = 0, from = 4 }',
        'method = "sync"\nsync = "aa"\nlength_offset = 1\nlength_width = 2\nbyte_order = "big"\nlength_adjust = 3',
        'method = "length"\nlength_offset = 0\nlength_width = 4\nlength_adjust = -4',
        'method = "delimiter"\ndelimiter = "00112233445566778899aabbccddeeff"\nsize = 4',
        'method = "cobs"\nsize = 4\n[[fields]]\nname = "n"\ntype = "u32"\noffset = 0\n[counter]',
    ],
)
def test_what_is_allowed_to_its_edge(text: str) -> None:
    parse_profile(framing(text), "x.toml")


def test_all_problems_in_one_message() -> None:
    text = SMALLEST.replace("size = 16", "size = 0").replace("0x1209", "-1").replace('name = "small"', "")
    assert [line.split(" ")[0] for line in problems(text)] == ["stream.name", "device.vendor_id", "framing.size"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stream\nname = 1", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"),
        ("a = " + "[" * 5000, "not valid TOML: its arrays are nested too deeply"),
        ("a = " + "1" * 5000, "not valid TOML: it contains a number of thousands of digits"),
        (
            "[[b]]\na = [1, 0x" + "f" * 5000 + "]",
            "not valid TOML: b[0].a[1] is a number of 20000 bits, and at most 128 are allowed",
        ),
        ("#" * 65537, f"the profile is 65537 bytes long: up to {MAX_PROFILE_BYTES} is allowed"),
    ],
)
def test_what_is_no_profile_at_all(text: str, said: str) -> None:
    assert problems(text) == [said]


@given(st.text())
def test_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        parse_profile(text, "x.toml")


_VALUES = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=4,
)


@given(
    st.sampled_from(["stream", "device", "transfer", "framing", "counter", "fields", "startup", "shutdown"]),
    st.sampled_from(["", ".method", ".checksum", ".size", ".name", ".data", ".from", ".wrap"]),
    _VALUES,
)
def test_any_value_anywhere_is_told_in_sentences(table: str, key: str, value: object) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(f"{table}{key} = {_toml(value)}", "x.toml")
    assert all(line.startswith("x.toml: ") for line in str(caught.value).split("\n"))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


class TestFiles:
    def test_a_file_by_its_path(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(SMALLEST)
        assert load_profile(path) == load_profile(str(path)) == load_profile("mine", [tmp_path])

    def test_problems_name_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(SMALLEST.replace("16", "0"))
        with pytest.raises(ProfileError, match=r"^mine\.toml: framing\.size is 0: "):
            load_profile(path)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "b.toml").write_text("")
        (tmp_path / "a.toml").write_text("")
        with pytest.raises(
            ProfileError, match="there is no profile named c; shipped profiles are a, b, or give the path"
        ):
            load_profile("c", [tmp_path])
        with pytest.raises(ProfileError, match=r"there is no file c\.toml; shipped profiles are a, b"):
            load_profile("c.toml", [tmp_path])
        with pytest.raises(ProfileError, match="no profiles are shipped here"):
            load_profile(Path("c"))

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "d.toml").mkdir()
        with pytest.raises(
            ProfileError, match=r"cannot read the profile .*: Is a directory; give the path of a readable"
        ):
            load_profile(tmp_path / "d.toml")
        (tmp_path / "e.toml").write_bytes(b"# \xff")
        with pytest.raises(ProfileError, match=r"e\.toml: byte 2 is not UTF-8; save the file as UTF-8"):
            load_profile(tmp_path / "e.toml")
        (tmp_path / "f.toml").write_bytes(b"#" * 70_000)
        with pytest.raises(ProfileError, match="bytes long: up to 65536 is allowed"):
            load_profile(tmp_path / "f.toml")
