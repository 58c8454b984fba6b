"""docs/simulator.md says what there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from usbcast_broker.sources.simulator import Fault, SimulatorConfig, parse_faults
from usbcast_broker.sources.simulator.faults import _KEYS

TEXT = (Path(__file__).parents[2] / "docs/simulator.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| `")]


def names(cell: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", cell)


def test_every_option_is_there() -> None:
    options = [field.name for field in dataclasses.fields(SimulatorConfig)]
    documented = [name for row in ROWS for name in names(row[0]) if name not in (*_KEYS, "kind")]
    assert sorted(documented) == sorted(options)


@pytest.mark.parametrize("kind", sorted(_KEYS))
def test_every_fault_with_its_keys_and_defaults(kind: Any) -> None:
    [row] = [row for row in ROWS if names(row[0]) == [kind]]
    assert names(row[1]) == list(_KEYS[kind])
    fault = Fault(kind=kind, at_packet=0)
    if "duration_s" in _KEYS[kind]:
        assert f"`duration_s` {fault.duration_s:g}" in row[1]
    if "count" in _KEYS[kind]:
        assert f"`count` {fault.count}" in row[1]


def test_its_examples_are_faults() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert [fault.kind for block in blocks for fault in parse_faults(block, "docs")] == ["unplug", "garbage"]
