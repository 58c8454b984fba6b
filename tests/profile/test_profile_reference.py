"""docs/profiles.md: its examples are valid, and it names every key, method, reason and shipped profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from usbcast_broker import profiles
from usbcast_schemas.profile import (
    CHECKSUM_WIDTHS,
    Checksum,
    CobsFraming,
    ControlRequest,
    Counter,
    DelimiterFraming,
    DeviceMatch,
    FieldSpec,
    FixedFraming,
    LengthFraming,
    Profile,
    SyncFraming,
    TransferSettings,
    parse_profile,
)

REFERENCE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", REFERENCE, re.DOTALL)
HEAD = '[stream]\nname = "t"\n[device]\nvendor_id = 1\nproduct_id = 1\n'
FRAMING = '[framing]\nmethod = "fixed"\nsize = 16\n'


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(example: str) -> None:
    whole = example if "[stream]" in example else HEAD + (example if "[framing]" in example else FRAMING + example)
    parse_profile(whole, "example")


@pytest.mark.parametrize("method", ["fixed", "sync", "length", "delimiter", "cobs"])
def test_each_framing_method_has_an_example(method: str) -> None:
    assert any(f'method = "{method}"' in example for example in EXAMPLES)


@pytest.mark.parametrize(
    "table",
    [
        Checksum,
        CobsFraming,
        ControlRequest,
        Counter,
        DelimiterFraming,
        DeviceMatch,
        FieldSpec,
        FixedFraming,
        LengthFraming,
        Profile,
        SyncFraming,
        TransferSettings,
    ],
)
def test_every_key_is_named(table: type[BaseModel]) -> None:
    keys = {info.alias or name for name, info in table.model_fields.items()}
    assert {key for key in keys if not re.search(rf"\b{key}\b", REFERENCE)} == set()


@pytest.mark.parametrize("name", [*CHECKSUM_WIDTHS, *profiles.names()])
def test_every_checksum_and_shipped_profile_is_named(name: str) -> None:
    assert f"`{name}`" in REFERENCE
