"""What the README shows works: every command runs, in order, as it is written; the code runs, the profile is one."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.support.nodes import eventually
from tests.support.programs import Program
from usbcast.cli.app import app
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_schemas.profile import parse_profile

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
DEADLINE_S = 60
PATIENCE_S = 120
"""The longest command takes 20 s on a machine that does nothing else."""


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
    assert {words[0] for words in commands()} == {"make", "usbcast", "."}
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


STAYING = {"serve", "watch", "bridge", "play"}
"""Verbs that go on until Ctrl-C."""

WITHOUT_HARDWARE = {
    "usbcast devices": "cannot reach the USB of this machine|^$",
    "usbcast devices --profile 1209:0001": "no USB device 1209:0001 is plugged in|cannot reach the USB of this machine",
    "usbcast serve ./imu.toml": "no USB device 1209:0001 is plugged in|cannot reach the USB of this machine",
}
"""What these say on stderr where nothing is plugged in."""

NEVER_RUN = {"make test", "usbcast watch imu"}
"""The one runs this, and of the other's device there is none: that the command line accepts it is another test."""

MAY_FAIL = {"usbcast doctor"}
"""It finds faults of the machine on which the tests run."""


class Terminals:
    """Runs commands one after the other as somebody would who follows the README, with what stays in terminals of its own."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._activation: list[str] = []
        self._staying: list[Program] = []

    def open(self) -> None:
        """A new one knows nothing of what was activated in another."""
        self._activation = []

    def type(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] == ".":
            self._activation.append(line)
            return
        command = f"cd {shlex.quote(str(ROOT if words[0] == 'make' else self._directory))}\n"
        # exec, so that Ctrl-C comes to the program alone.
        command += "\n".join([*self._activation, f"exec {shlex.join(words)}"])
        path = ":".join(part for part in os.environ["PATH"].split(":") if part != str(Path(sys.executable).parent))
        # What a make above this test was told is not for a make below it.
        bare = dict.fromkeys(("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV"), "")
        program = self._stack.enter_context(Program(["bash", "-c", command], PATH=path, **bare))
        written = shlex.join(words)
        if len(words) > 1 and words[1] in STAYING and written not in WITHOUT_HARDWARE:
            eventually(lambda: program.out or not program.running, f"{written} says something")
            assert program.running, f"{written}: {program.stderr}"
            self._staying.append(program)
            return
        eventually(lambda: not program.running, f"the end of {written}", PATIENCE_S)
        code = program.finish()
        if written in WITHOUT_HARDWARE:
            assert re.search(WITHOUT_HARDWARE[written], program.stderr.removeprefix("usbcast: ")), program.stderr
        else:
            assert code == 0 or written in MAY_FAIL, f"{written}: {program.stdout}{program.stderr}"
            assert program.stdout or words[0] == "make"
        assert "Traceback" not in program.stderr

    def stop(self) -> None:
        """Ctrl-C in each; all end well, the last one that was started first."""
        while self._staying:
            program = self._staying.pop()
            program.signal(signal.SIGINT)
            assert program.finish(DEADLINE_S) == 0, program.stderr
            assert "Traceback" not in program.stderr


def is_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_every_command_runs_in_order_as_it_is_written(tmp_path: Path) -> None:
    if is_in_use(5570):
        pytest.skip("another node has the usual port of this machine, tcp://127.0.0.1:5570")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (profile,) = blocks("toml")
    (tmp_path / "imu.toml").write_text(profile)
    with contextlib.ExitStack() as stack:
        terminals = Terminals(tmp_path, stack)
        for block in blocks("sh"):
            if block.startswith("# in another terminal"):
                terminals.open()
            if "serve ./imu.toml" in block:
                terminals.stop()
            for line in block.splitlines():
                if shlex.join(shlex.split(line, comments=True)) not in {"", *NEVER_RUN}:
                    terminals.type(line)
        terminals.stop()


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
