"""Run tests against the changed source of a module, in a forked process, without touching a file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from enum import Enum
from pathlib import Path
from types import CodeType, FrameType

import hypothesis
import pytest

from tests.mutants.table import ROOT, Subject

for _library in ("google.protobuf.message", "numpy", "zmq"):  # loaded once here, not in each fork
    importlib.import_module(_library)

FORK = multiprocessing.get_context("fork")
HANG_S = 300
"""A test that waits longer than this for something fails."""
TRIAL_S = 1200
MEMORY_BYTES = 4 << 30
TOO_LONG = 99


class Verdict(Enum):
    """What came of a trial."""

    SURVIVED = "survived"
    KILLED = "killed"
    TIMEOUT = "timeout"


def run(subject: Subject, source: str | None, cpu_s: int) -> tuple[Verdict, str]:
    """Run the tests of `subject` with `source` in place of its module; return also what the tests printed."""
    with tempfile.TemporaryDirectory(prefix="usbcast-mutants-") as place:
        log = Path(place, "log")
        process = FORK.Process(target=_child, args=(subject, source, cpu_s, log))
        process.start()
        process.join(TRIAL_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the process, if it still runs, and what it has started
        process.join()
        said = log.read_text(errors="replace") if log.exists() else ""
    if process.exitcode in (TOO_LONG, -signal.SIGKILL, -signal.SIGXCPU):
        return Verdict.TIMEOUT, said
    return (Verdict.KILLED if process.exitcode else Verdict.SURVIVED), said


def _child(subject: Subject, source: str | None, cpu_s: int, log: Path) -> None:
    os.setsid()
    os.chdir(ROOT)
    os.environ |= {"USBCAST_PURE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(log.parent / "hypothesis")}
    sys.dont_write_bytecode = True
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if source is not None:
        sys.meta_path.insert(0, _Finder(subject, source))
    _fail_early()
    _limit(cpu_s)
    options = ["-x", "-q", "--no-header", f"--timeout={HANG_S}", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    code = pytest.main([*options, "-m", "not slow and not kernel", *subject.tests])
    sys.stdout.flush()
    os._exit(TOO_LONG if _Limit.reached else int(code))


def _fail_early() -> None:
    """Make hypothesis report the first failure that it finds, not the smallest."""
    phases = [phase for phase in hypothesis.Phase if phase not in (hypothesis.Phase.shrink, hypothesis.Phase.explain)]
    hypothesis.settings.register_profile("fail early", phases=phases)
    hypothesis.settings.load_profile("fail early")


class _Limit:
    reached = False


def _limit(cpu_s: int) -> None:
    """End the run when it has used `cpu_s` of processor time, so that a busy machine is no reason; and bound its memory."""

    def stop(number: int, frame: FrameType | None) -> None:
        _Limit.reached = True
        raise KeyboardInterrupt  # pytest then takes down its fixtures, which remove their files

    signal.signal(signal.SIGXCPU, stop)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, and loads it from changed source."""

    def __init__(self, subject: Subject, source: str) -> None:
        self._subject = subject
        self._source = source

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._subject.module:
            return None
        loader = _Loader(fullname, str(self._subject.path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._subject.path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, _: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)
