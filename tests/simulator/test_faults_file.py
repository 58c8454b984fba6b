"""The file of scripted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usbcast_broker.sources.simulator import Fault, SimulatorConfig, load_faults, parse_faults
from usbcast_schemas.errors import ConfigError


def test_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(
        """
        [[fault]]
        kind = "unplug"
        at_packet = 500
        duration_s = 2
        counter = "restarts"
        [[fault]]
        kind = "stall"
        at_s = 1.5
        count = 3
        [[fault]]
        kind = "overflow"
        at_packet = 0
        [[fault]]
        kind = "short_read"
        at_packet = 9
        bytes = 10
        [[fault]]
        kind = "zero_length"
        at_packet = 10
        [[fault]]
        kind = "garbage"
        at_packet = 10
        bytes = 77
        [[fault]]
        kind = "drop"
        at_packet = 11
        count = 4
        [[fault]]
        kind = "burst"
        at_packet = 12
        count = 5
        [[fault]]
        kind = "silence"
        at_s = 0
        duration_s = 0.25
        """
    )
    assert load_faults(path) == (
        Fault(kind="unplug", at_packet=500, duration_s=2, counter="restarts"),
        Fault(kind="stall", at_s=1.5, count=3),
        Fault(kind="overflow", at_packet=0),
        Fault(kind="short_read", at_packet=9, bytes=10),
        Fault(kind="zero_length", at_packet=10),
        Fault(kind="garbage", at_packet=10, bytes=77),
        Fault(kind="drop", at_packet=11, count=4),
        Fault(kind="burst", at_packet=12, count=5),
        Fault(kind="silence", at_s=0, duration_s=0.25),
    )


def test_an_empty_file_has_none() -> None:
    assert parse_faults("", "f") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fault = 1", "f: fault is 1: an array of tables, [[fault]], is allowed"),
        ("[[fault]]", 'f: fault[0].kind is missing: one of "unplug", "stall"'),
        ('[[fault]]\nkind="explode"', 'f: fault[0].kind is "explode": one of "unplug"'),
        ("[[fault]]\nkind=[1]", "f: fault[0].kind is [1]: one of"),
        ('[[fault]]\nkind="stall"', "f: fault[0] has no time: one of at_packet and at_s is needed"),
        ('[[fault]]\nkind="stall"\nat_s=1\nat_packet=1', "f: fault[0] has at_packet and at_s: one of"),
        ('[[fault]]\nkind="stall"\nat_s=-1', "f: fault[0].at_s is -1: a number from 0 to 86400 is allowed"),
        ('[[fault]]\nkind="stall"\nat_s=nan', "f: fault[0].at_s is NaN"),
        ('[[fault]]\nkind="stall"\nat_packet=1.0', "f: fault[0].at_packet is 1.0: a whole number"),
        ('[[fault]]\nkind="stall"\nat_packet=true', "f: fault[0].at_packet is true"),
        ('[[fault]]\nkind="stall"\nat_s="1"', 'f: fault[0].at_s is "1"'),
        ('[[fault]]\nkind="stall"\nat_s=1\ncount=0', "f: fault[0].count is 0: a whole number from 1"),
        ('[[fault]]\nkind="silence"\nat_s=1\nduration_s=0', "f: fault[0].duration_s is 0: a number above 0"),
        ('[[fault]]\nkind="garbage"\nat_s=1\nbytes=1048577', "f: fault[0].bytes is 1048577: a whole number from 1"),
        ('[[fault]]\nkind="unplug"\nat_s=1\ncounter="stops"', 'fault[0].counter is "stops": "continues" or "restarts"'),
        ('[[fault]]\nkind="unplug"\nat_s=1\ncount=2', 'fault[0].count is not a key of a fault of kind "unplug": those'),
        ("[simulator]\nrate=1", "f: simulator is not a key of a faults file"),
        ("fault = [", "f: not valid TOML"),
        ("fault = " + "1" * 5000, "f: not valid TOML: it contains a number of thousands of digits"),
        ("fault = " + "[" * 5000 + "]" * 5000, "its arrays are nested too deeply"),
    ],
)
def test_what_a_file_may_not_say(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_faults(text, "f")
    assert said in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60)
    | st.builds(
        "[[fault]]\nkind={}\n{}={}\n{}={}".format,
        st.sampled_from(['"stall"', '"unplug"', '"drop"', "1", "[]"]),
        keys := st.sampled_from(["at_s", "at_packet", "count", "duration_s", "bytes", "counter", "x"]),
        values := st.sampled_from(
            ["1", "0", "-1", "1e9", "inf", "nan", '"a"', "true", "{}", "1979-05-27", "9" * 400, "9" * 5000]
        ),
        keys,
        values,
    )
)
def test_a_file_is_read_or_refused(text: str) -> None:
    said = ""
    try:
        SimulatorConfig(faults=parse_faults(text, "f"))
    except ConfigError as error:
        said = str(error)
    assert not said or said.startswith("f: ")


@pytest.mark.parametrize("times", [{}, {"at_packet": 1, "at_s": 1.0}])
def test_a_fault_has_one_time(times: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a fault of kind stall needs a time"):
        Fault(kind="stall", **times)


def test_every_problem_has_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_faults('[[fault]]\nkind="stall"\nat_s=-1\n[[fault]]\nkind="stall"\nat_s=1\ncount=0', "f")
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "f: fault[0].at_s",
        "f: fault[1].count",
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no faults file"):
        load_faults(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot read the faults file"):
        load_faults(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    with pytest.raises(ConfigError, match="byte 2 is not UTF-8"):
        load_faults(tmp_path / "latin.toml")
