"""Optional parts: the modules that each needs, and the one hint on how to install them, which works where this code stands."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Final

MODULES: Final = {
    "cli": ("typer", "rich"),
    "node": ("usb", "pydantic", "fastcrc", "cobs", "libusb_package"),
    "record": ("mcap", "zstandard", "lz4"),
    "discovery": ("zeroconf", "ifaddr"),
    "nats": ("nats",),
    "arrow": ("pyarrow",),
    "pandas": ("pandas",),
}
"""Modules of each extra of pyproject.toml."""

SOURCE_TREE = Path(__file__).parents[2]
"""The repository, if this code runs from one, and not from where a wheel was installed."""


def install(*extras: str) -> str:
    """A command that installs what `extras` need into the Python that runs now."""
    python = shlex.quote(sys.executable or "python3")
    installer = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return f"{installer} {_packages(extras)}"


def missing(module: str | None) -> str:
    """The sentence for an optional module that is not installed; empty if it belongs to no extra."""
    for extra, modules in MODULES.items():
        if module is not None and module.partition(".")[0] in modules:
            return f"{module} is not installed: {install(*(('cli', 'node') if extra == 'cli' else (extra,)))}"
    return ""


def _packages(extras: tuple[str, ...]) -> str:
    """Return what to install: the repository with its extras, if it is one; else the packages by name."""
    itself = f"[{','.join(extras)}]"
    if (SOURCE_TREE / "pyproject.toml").is_file():
        return f"--editable {shlex.quote(f'{SOURCE_TREE}{itself}')}"
    try:
        packages = needed(requires("usbcast") or (), extras)
    except PackageNotFoundError:
        packages = []
    return " ".join(map(shlex.quote, packages or [f"usbcast{itself}"]))


def needed(declared: Iterable[str], extras: Iterable[str]) -> list[str]:
    """The requirements of `extras` out of all that a package declares.

    >>> needed(["numpy>=1.26", 'mcap>=1.6; extra == "record"', "rich; extra == 'cli'"], ["record"])
    ['mcap>=1.6']
    """
    found = []
    for line in declared:
        requirement, _, marker = line.partition(";")
        of = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        if of and of[1] in extras:
            found.append(requirement.strip())
    return found


__all__ = ["MODULES", "SOURCE_TREE", "install", "missing", "needed"]
