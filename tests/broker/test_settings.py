"""Settings: file, then environment, then flags; every bad value is named, with where it came from and what is allowed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from usbcast_broker.settings import NodeSettings, load_settings, parse_size
from usbcast_schemas.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_each_source_overrides_the_one_before(file: Path) -> None:
    file.write_text('bind = "tcp://127.0.0.1:1"\nring_size = 2097152\nbatch_age_ms = 3\nlinger_s = 4.5\n')
    environment = {"USBCAST_RING_SIZE": "3 MiB", "USBCAST_LINGER_S": "7", "USBCAST_OTHER": "x", "RING_SLOTS": "1"}
    found, sourced = load_settings(file, {"linger_s": 9.0, "publish": None}, environment)
    assert found == NodeSettings(bind="tcp://127.0.0.1:1", ring_size=3 << 20, batch_age_ms=3.0, linger_s=9.0)
    sources = {item.name: item.source for item in sourced}
    assert sources == dict.fromkeys(dataclasses.asdict(found), "default") | {
        "bind": str(file),
        "ring_size": "USBCAST_RING_SIZE",
        "batch_age_ms": str(file),
        "linger_s": "--linger-s",
    }
    assert {item.name: item.value for item in sourced} == dataclasses.asdict(found)
    assert all(item.says for item in sourced)


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings(None, {}, {})[0] == NodeSettings()


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("YES", True), ("0", False), ("False", False), ("no", False)]
)
def test_yes_and_no_from_the_environment(text: str, value: bool) -> None:
    assert load_settings(None, {}, {"USBCAST_INSECURE": text})[0].insecure is value


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1 GB", 10**9),
        ("1.5k", 1500),
        ("1.5KiB", 1536),
        ("2G", 2 * 10**9),
        ("3Gi", 3 << 30),
        (" 7 B ", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "1e6", "64TiB", "MiB", "6 4", "0x10", "1..5k", "64MiBs", "5.5", "1" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"USBCAST_RING_SIZE": "huge"}, "ring_size is 'huge' (from USBCAST_RING_SIZE): a whole number, or a size like"),
        ({"USBCAST_LINGER_S": "soon"}, "linger_s is 'soon' (from USBCAST_LINGER_S): a number is allowed"),
        ({"USBCAST_INSECURE": "maybe"}, "insecure is 'maybe' (from USBCAST_INSECURE): true or false is allowed"),
        ({"USBCAST_RING_SIZE": "1MB"}, "ring_size is 1000000: from 1048576 to"),
        ({"USBCAST_LINGER_S": "nan"}, "linger_s is nan: from 0 to 3600 is allowed"),
    ],
)
def test_a_bad_value_in_the_environment(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {}, environment)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ring = 5", "{file}: ring is not a setting; the settings are bind, "),
        ("ring_slots = true", "ring_slots is True (from {file}): a whole number, or a size like 64MiB, is allowed"),
        ("ring_slots = 5.5", "ring_slots is 5.5 (from {file}): a whole number"),
        ("insecure = 2", "insecure is 2 (from {file}): true or false"),
        ("batch_age_ms = [1]", "batch_age_ms is [1] (from {file}): a number is allowed"),
        ("batch_age_ms = true", "batch_age_ms is True (from {file}): a number is allowed"),
        ("bind = 5570", "bind is 5570 (from {file}): a text is allowed"),
        ("bind = ", "{file} is not TOML: "),
        ("ring_size = " + "1" * 5000, "{file} is not TOML: it contains a number of thousands of digits"),
        ("ring_size = 0x" + "f" * 5000, "{file} is not TOML: ring_size is a number of 20000 bits"),
    ],
)
def test_a_bad_value_in_the_file(file: Path, text: str, sentence: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {}, {})
    assert str(caught.value).startswith(sentence.format(file=file))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings .*absent.toml: No such file or directory"):
        load_settings(tmp_path / "absent.toml", {}, {})
    (tmp_path / "latin.toml").write_bytes(b'bind = "\xff"')
    with pytest.raises(ConfigError, match=r"latin.toml is not TOML: byte 8 is not UTF-8; save it as UTF-8"):
        load_settings(tmp_path / "latin.toml", {}, {})


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("ring_size", 1 << 20, 64 << 30),
        ("ring_slots", 16, 1 << 26),
        ("batch_size", 64, 8 << 20),
        ("batch_age_ms", 0, 10_000),
        ("host_queue_size", 64 << 10, 64 << 30),
        ("linger_s", 0, 3600),
    ],
)
def test_every_bound(name: str, least: int, most: int) -> None:
    roomy: dict[str, Any] = {"ring_size": 64 << 20} if name == "batch_size" else {}
    if name == "ring_size":
        roomy = {"batch_size": 64}
    for value in (least, most):
        assert getattr(NodeSettings(**{**roomy, name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"{name} is {value}: from {least} to {most} is allowed"):
            NodeSettings(**{**roomy, name: value})


def test_a_ring_holds_at_least_four_batches() -> None:
    with pytest.raises(ConfigError, match="batch_size is 300000 and ring_size 1048576: a ring must hold at least four"):
        NodeSettings(ring_size=1 << 20, batch_size=300_000)
