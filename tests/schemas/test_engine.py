"""The choice of the engine, and that what stands in C and in Python is the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from usbcast_schemas import engine

needs_core = pytest.mark.skipif(engine.native is None, reason=f"there is no native core: {engine.why_not}")


def compared() -> set[str]:
    """The names of all constants that `agree` was called with, of all modules that call it."""
    modules = (
        "usbcast_schemas.batch",
        "usbcast_schemas.ring.layout",
        "usbcast_schemas.fanout",
        "usbcast_schemas.messages",
    )
    code = (
        "from usbcast_schemas import engine\n"
        "seen = set()\n"
        "engine.agree = lambda **constants: seen.update(constants)\n"
        f"import {', '.join(modules)}\n"
        "print(*seen)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


@needs_core
def test_every_constant_of_the_core_is_compared_at_import() -> None:
    assert engine.native is not None
    assert compared() == engine.native.constants.keys()


@needs_core
def test_a_core_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.native is not None
    engine.agree(HEAD=16)
    with pytest.raises(
        ImportError, match=r"HEAD is 16 there and 17 here; install usbcast again, or set USBCAST_PURE=1"
    ):
        engine.agree(HEAD=17)
    with pytest.raises(ImportError, match="NEW is None there"):
        engine.agree(NEW=1)
    monkeypatch.delattr(engine.native, "constants")
    with pytest.raises(ImportError, match="HEAD is None there"):
        engine.agree(HEAD=16)


def test_without_a_core_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "native", None)
    engine.agree(HEAD=17)


@pytest.mark.parametrize(("pure", "name"), [("", engine.ENGINE), ("1", "pure")])
def test_the_environment_chooses(pure: str, name: str) -> None:
    code = "from usbcast_schemas import engine; print(engine.ENGINE, engine.why_not)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, engine.PURE: pure or os.environ.get(engine.PURE, "")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.split()[0] == name
    assert not pure or ran.stdout == "pure USBCAST_PURE is set\n"
