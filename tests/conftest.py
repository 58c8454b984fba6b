"""What every test gets: directories of its own, so that it meets no other node, and a check that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import pytest
import zmq

from usbcast_broker.sources.usb.libusb import load_backend
from usbcast_schemas.errors import LibusbMissing

SETTLE_S = 3.0
"""ZeroMQ closes descriptors in threads of its own, so what is on its way out gets so much time."""


hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    # A socket that the garbage collector had to close was leaked, whoever notices it.
    config.addinivalue_line("filterwarnings", "error::ResourceWarning")
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnraisableExceptionWarning")
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="session", autouse=True)
def _started_once() -> None:
    """What libraries start once per process and keep is started before the first test looks around."""
    zmq.Context.instance().socket(zmq.DEALER).close()
    resource_tracker.ensure_running()
    with contextlib.suppress(LibusbMissing):  # pyusb keeps one context for good
        load_backend().finalize()


@pytest.fixture(scope="session")
def _two_directories() -> Iterator[tuple[Path, Path]]:
    """Short paths, as that of a local socket is limited. They are used again for every test that left them empty."""
    shared_memory = Path("/dev/shm")
    rings = Path(tempfile.mkdtemp(prefix="usbcast-test-", dir=shared_memory if shared_memory.is_dir() else None))
    runtime = Path(tempfile.mkdtemp(prefix="usbcast-test-"))
    yield rings, runtime
    for directory in (rings, runtime):
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def private_directories(
    _two_directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """The ring and the runtime directory of this test alone."""
    for name in os.environ:
        if name.startswith("USBCAST_") and name != "USBCAST_PURE":  # which says what is tested
            monkeypatch.delenv(name)
    rings, runtime = _two_directories
    monkeypatch.setenv("USBCAST_RING_DIR", str(rings))
    monkeypatch.setenv("USBCAST_RUNTIME_DIR", str(runtime))
    yield rings, runtime
    for directory in _two_directories:
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(autouse=True)
def _nothing_left_behind(private_directories: tuple[Path, Path]) -> Iterator[None]:
    """A thread, descriptor, child process, or file of a node that outlives its test fails it."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), _children()
    yield

    def left() -> list[str]:
        return [
            *(f"thread {thread.name}" for thread in threading.enumerate() if thread not in threads),
            *(
                f"descriptor {fd}: {what}"
                for fd, what in _descriptors().items()
                if descriptors.get(fd) != what and "/pytest-of-" not in what
            ),
            *(f"child process {pid}: {what}" for pid, what in _children().items() if pid not in children),
            *(f"file {path}" for directory in private_directories for path in sorted(directory.rglob("*"))),
        ]

    deadline = time.monotonic() + SETTLE_S
    while (found := left()) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    if not found:
        return
    for pid in _children().keys() - children.keys():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pytest.fail("this test left behind:\n  " + "\n  ".join(found), pytrace=False)


def _descriptors() -> dict[int, str]:
    found = {}
    links = Path("/proc/self/fd")
    for entry in list((links if links.is_dir() else Path("/dev/fd")).iterdir()):
        with contextlib.suppress(OSError):  # that of the listing itself is gone by now
            found[int(entry.name)] = str(entry.readlink()) if links.is_dir() else "open"
    return found


def _children() -> dict[int, str]:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return {process.pid or 0: process.name for process in multiprocessing.active_children()}
    found = {}
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):
            for pid in map(int, (task / "children").read_text().split()):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found
