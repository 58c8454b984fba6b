"""Where a recording is written is where it is found, whatever was said with --output."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import make, total
from recordings import cli

from tests.support.nodes import serving


@pytest.mark.slow
def test_into_a_directory_and_by_the_name_of_a_file(tmp_path: Path) -> None:
    directory = tmp_path / "dir"
    directory.mkdir()
    with serving(rate_hz=500) as served:
        command = ["record", served.stream, "--endpoint", served.endpoint, "--start", "oldest", "--packets", "50", "-o"]
        cli(*command, directory)
        assert [path.parent for path in tmp_path.rglob("*.mcap")] == [directory]
        cli(*command, directory, "--resume")
        assert len(list(directory.glob("*.mcap"))) == 2
        cli(*command, tmp_path / "x.mcap")
    assert cli("verify", directory)["balanced"]
    assert cli("verify", tmp_path / "x.mcap")["balanced"]
    assert cli("info", tmp_path / "x.mcap")["balanced"]


def test_info_of_the_base_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert sum(epoch["recorded"] for epoch in cli("info", "r")["epochs"]) == total()
