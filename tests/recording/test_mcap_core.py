"""The files as the MCAP project's own TypeScript library reads them; needs node and npm's registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made import BATCHES_PER_CHUNK, make, total
from recordings import cli

SCRIPT = Path(__file__).with_name("read_mcap.mjs")


@pytest.fixture(scope="module")
def node_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("node")
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "@mcap/core@2", "fzstd"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install @mcap/core: {done.stderr.strip()[-200:]}")
    shutil.copy(SCRIPT, directory)
    return directory


def read(directory: Path, path: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["node", SCRIPT.name, str(path)], cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_recordings_and_what_they_are_converted_to(tmp_path: Path, node_directory: Path) -> None:
    (tmp_path / "in").mkdir()
    files = make(tmp_path / "in")
    for path in files:
        found = read(node_directory, path)
        assert found["done"]
        assert found["profile"] == "usbcast"
        assert found["topics"]["s/batches"] == 3 * BATCHES_PER_CHUNK
        assert sum(found["topics"].values()) == found["records"]["Message"]
    cli("convert", tmp_path / "in", "--to", "mcap", "-o", tmp_path / "out")
    decoded = read(node_directory, tmp_path / "out-s.decoded.mcap")
    assert (decoded["done"], decoded["topics"]) == (True, {"s": total()})
