"""A node that takes itself for one on another host: in a mount namespace with a /dev/shm of its own, under a shifted clock."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import Program, usbcast

APART = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
"""Another /dev/shm is another host_id: what a container has."""

SLEEPS_BY_SELECT = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
from usbcast.cli import main
main()
"""
"""libfaketime 0.9.10 shifts the deadline by which Python sleeps, even where it leaves that clock alone: EINVAL."""


def need_apart() -> None:
    """Skip where no namespace can be made."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed here (util-linux)")
    tried = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")


def faketime_library() -> str:
    """Skip where there is no libfaketime."""
    found = sorted(Path("/usr").glob("lib/*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed here: apt install faketime")
    return str(found[0])


@contextlib.contextmanager
def distant_program(*arguments: str, clock: str = "") -> Iterator[tuple[Program, str]]:
    """`usbcast` apart from this process, and where it serves; `clock` as libfaketime has it: "+3.5" is so many seconds ahead."""
    need_apart()
    program = usbcast()
    environment = {"USBCAST_RING_DIR": "/dev/shm/rings", "USBCAST_RUNTIME_DIR": "/dev/shm/run"}
    preload = []
    if clock:
        faked = {"LD_PRELOAD": faketime_library(), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        preload = ["env", *(f"{name}={value}" for name, value in faked.items())]
        program = [sys.executable, "-c", SLEEPS_BY_SELECT]
    with Program([*APART, *preload, *program, *arguments], **environment) as running:
        yield running, running.hear("serving")["endpoint"]


@contextlib.contextmanager
def distant_node(*arguments: str, clock: str = "") -> Iterator[tuple[Program, str]]:
    """A node with a simulated device, apart from this process."""
    serve = ("serve", "--simulate", "--ring-size", "4MiB", "--json", "--bind", "tcp://127.0.0.1:0")
    with distant_program(*serve, *arguments, clock=clock) as found:
        yield found
