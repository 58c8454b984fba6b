"""A hint on what to install is a command that works where the code stands: in a repository, or where a wheel was installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from usbcast_schemas import extras
from usbcast_schemas.extras import MODULES, SOURCE_TREE, install, missing, needed

ROOT = Path(__file__).parents[2]
DECLARED: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def test_in_a_repository_it_is_installed_again_as_it_is() -> None:
    assert SOURCE_TREE == ROOT
    assert shlex.split(install("record", "nats")) == [
        *(sys.executable, "-m", "pip", "install", "--editable"),
        f"{ROOT}[record,nats]",
    ]


@pytest.mark.parametrize("extra", MODULES)
def test_where_a_wheel_was_installed_the_packages_are_named(extra: str, tmp_path: Path) -> None:
    shutil.copytree(Path(extras.__file__).parent, tmp_path / "site" / "x" / "usbcast_schemas")
    code = f"from usbcast_schemas.extras import install; print(install({extra!r}))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site" / "x")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    python, _, pip, verb, *packages = shlex.split(ran.stdout)
    assert (python, pip, verb) == (sys.executable, "pip", "install")
    assert sorted(packages) == sorted(DECLARED[extra])


def test_a_python_without_pip_is_one_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert install("cli").startswith(f"uv pip install --python {sys.executable} --editable ")


@pytest.mark.parametrize("extra", MODULES)
def test_the_table_has_all_that_the_extra_brings(extra: str) -> None:
    """By the names that are imported, which the environment of the tests knows for each package."""
    packages = {package.lower() for module in MODULES[extra] for package in packages_distributions()[module]}
    assert packages == {line.split(">")[0].split("[")[0].lower() for line in DECLARED[extra]}


def test_a_module_of_nobody() -> None:
    assert missing("antigravity") == missing(None) == ""
    assert missing("mcap.reader").startswith("mcap.reader is not installed: ")


def test_requirements_of_an_extra() -> None:
    declared = ["numpy>=1.26", 'mcap>=1.6; extra == "record"', "rich ; extra == 'cli'", 'x; python_version < "3"']
    assert needed(declared, ["record", "cli"]) == ["mcap>=1.6", "rich"]
