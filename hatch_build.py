"""Builds the native core along with the package, where there is a C compiler; where there is none, the package is pure Python."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
FOLDERS = (ROOT / "schemas/core", ROOT / "schemas/native")
SOURCES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.c"))
HEADERS = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.h"))
PLACE = ROOT / "schemas/usbcast_schemas"


class NativeCore(BuildHookInterface):  # type: ignore[type-arg]
    """Puts it beside the modules, so that it is found by an editable installation too. USBCAST_PURE=1 leaves it out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        if self.target_name != "wheel":
            return
        try:
            for former in PLACE.glob("_native*.so"):
                former.unlink()
            if os.environ.get("USBCAST_PURE"):
                return
            built = build()
        except Exception as error:  # noqa: BLE001 - there are as many reasons as compilers, and none is to stop anybody
            self.app.display_warning(f"the native core is left out, Python does its work: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(str(built.relative_to(ROOT)))
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"


def build() -> Path:
    """The path of the module; raises whatever the compiler or its absence raises."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension("_native", SOURCES, depends=HEADERS, py_limited_api=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = build_ext(Distribution({"ext_modules": [extension]}))
        command.build_temp, command.build_lib = scratch, scratch
        command.ensure_finalized()
        before = Path.cwd()
        os.chdir(ROOT)
        try:
            command.run()
        finally:
            os.chdir(before)
        made = Path(command.get_ext_fullpath("_native"))
        return Path(shutil.move(made, PLACE / made.name))
