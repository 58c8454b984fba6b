"""What the README shows works: every command is accepted, the quick ones run, the code runs, the profile is one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from usbcast.cli.app import app
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.simulator import SimulatorConfig
from usbcast_broker.sources import add_simulated
from usbcast_schemas.profile import parse_profile

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
DEADLINE_S = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command in a sh block, without what stands behind a #."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of(program: str) -> list[list[str]]:
    return [words[1:] for words in commands() if words[0] == program]


def verbs() -> dict[str, Any]:
    """The parsers of the command line, by verb."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def idents(words: list[str]) -> str:
    return " ".join(words)


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert {words[0] for words in commands()} == {"make", "usbcast"}
    assert len(of("usbcast")) >= 13


@pytest.mark.parametrize("words", of("make"), ids=idents)
def test_make_knows_the_target(words: list[str]) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", of("usbcast"), ids=idents)
def test_the_command_line_accepts_it(words: list[str]) -> None:
    verb = verbs()[words[0]]
    with verb.make_context(words[0], list(words[1:])):
        pass


def test_the_readme_shows_every_verb() -> None:
    shown = {words[0] for words in of("usbcast")}
    assert set(verbs()) - shown <= {"recover"}, "add the verb to the README"


@pytest.fixture
def first_case() -> Iterator[Callable[[], None]]:
    """A node with the stream of the README, which ends when the result is called."""
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=4 << 20)) as node:
        pipeline, _ = add_simulated(node, SimulatorConfig(), "first-case")
        node.start()
        yield lambda: node.end(pipeline, "the test has seen enough")


QUICK: dict[str, list[str]] = {
    "demo": ["--seconds", "1"],
    "devices": [],
    "list": [],
    "info": [],
    "watch": ["--seconds", "1"],
    "health": [],
    "command": [],
}
"""Verbs that are run as shown, with what makes them end."""


@pytest.mark.usefixtures("first_case")
@pytest.mark.parametrize(
    "words",
    [words for words in of("usbcast") if words[0] in QUICK and not {"imu", "--profile"} & set(words)],
    ids=idents,
)
def test_quick_commands_run(words: list[str]) -> None:
    program = Path(sys.executable).with_name("usbcast")
    done = subprocess.run(
        [program, *words, *QUICK[words[0]]], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if words[0] == "devices" and "cannot reach the USB of this machine" in done.stderr:
        pytest.skip("this machine has no USB")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_ten_lines_run(first_case: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    printed: list[tuple[Any, ...]] = []

    def show(*values: Any) -> None:
        printed.append(values)
        if len(printed) == 20:
            first_case()

    exec(compile(code, "README.md", "exec"), {"print": show})
    assert len(printed) >= 20
    (first, count, time_ns), (channel,) = printed[:2]
    assert first == 0
    assert count == len(channel) > 0
    assert time_ns > 1_700_000_000 * 10**9


def test_the_profile_is_one() -> None:
    (text,) = blocks("toml")
    profile = parse_profile(text, "README.md")
    assert profile.packet_size == 20
    assert [field.name for field in profile.expanded_fields()] == ["acc0", "acc1", "acc2"]


def test_the_extras_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"node", "cli", "record", "all"} <= set(extras)


def targets(path: Path) -> list[str]:
    return re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", path.read_text())


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    missing = [target for target in targets(path) if not (path.parent / target).exists()]
    assert not missing
