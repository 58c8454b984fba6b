"""Programs and lines of these tests."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_line import Start, Stream

from tests.support.programs import Program, usbcast
from usbcast_broker.access import binding
from usbcast_schemas.places import ring_directory, runtime_directory
from usbcast_schemas.registry import local_nodes
from usbcast_schemas.ring import sweep


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """A list of programs, none of which outlives the test."""
    started: list[Program] = []
    yield started
    for program in started:
        if program.running:
            program.signal(signal.SIGCONT)
            program.signal(signal.SIGINT)  # what is killed leaves its ring behind
    for program in started:
        with contextlib.suppress(AssertionError):
            program.finish(10)
        program.kill()
    local_nodes()  # and these sweep what was killed on purpose
    sweep(ring_directory())
    binding.sweep(runtime_directory())


@pytest.fixture
def start(programs: list[Program]) -> Start:
    """`usbcast` with these arguments and --json; and what it said when it began to serve."""

    def start(*arguments: str, **environment: str) -> tuple[Program, dict[str, Any]]:
        program = Program(usbcast(*arguments, "--json"), **environment)
        programs.append(program)
        return program, program.hear("serving")

    return start


@pytest.fixture
def start_far(start: Start, tmp_path: Path) -> Start:
    """The same, with a place for its local sockets that is too long for any: it is reached by TCP only."""

    def start_far(*arguments: str) -> tuple[Program, dict[str, Any]]:
        far = tmp_path / ("far" * 40)
        far.mkdir(mode=0o700, exist_ok=True)
        return start(*arguments, USBCAST_RUNTIME_DIR=str(far))

    return start_far


@pytest.fixture
def lines() -> Iterator[Callable[[dict[str, Any]], Stream]]:
    """Makes a line to a node that said so much of itself."""
    with contextlib.ExitStack() as stack:
        yield lambda serving: stack.enter_context(Stream(serving["endpoint"], *serving["data"]))
