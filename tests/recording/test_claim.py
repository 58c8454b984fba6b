"""One recording has one writer; and a directory that is removed is a disk that is not there for a while."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import cli, recorded_packets, running, verified

from tests.support.nodes import eventually, serving
from usbcast.recording.claim import Claim
from usbcast_schemas.errors import RecordingError


@pytest.mark.slow
def test_a_recording_is_not_taken_away_from_a_live_recorder(tmp_path: Path) -> None:
    base = tmp_path / "r"
    with serving(rate_hz=500) as served:
        arguments = ["record", served.stream, "--endpoint", served.endpoint, "-o", base, "--start", "oldest"]
        with running(tmp_path / "log", *arguments) as child:
            eventually(lambda: recorded_packets(base) > 200)
            (part,) = tmp_path.glob("*.part")
            for command in ([*arguments, "--resume"], arguments, ["recover", part]):
                said = cli(*command, check=1)["error"].replace("\n", "")
                assert f"process {child.process.pid} of host" in said
                assert "is at work on the recording" in said
            before = recorded_packets(base)
            eventually(lambda: recorded_packets(base) > before, "the first goes on")
            child.kill()
        cli(*arguments, "--resume", "--packets", "100")  # who was killed holds no claim any more
    found = verified(base)
    (books,) = found.ledger.epochs.values()
    assert found.balanced, found.ledger.problems
    assert (books.first, books.lost, books.recorded) == (0, {}, books.span)
    assert not list(tmp_path.glob("*.lock"))


def test_a_claim_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with Claim(tmp_path / "r") as claim:
        (tmp_path / "r.lock").unlink()
        with Claim(tmp_path / "r"), pytest.raises(RecordingError, match="is at work"):
            claim.renew()
        claim.renew()
        with pytest.raises(RecordingError, match="is at work"):
            Claim(tmp_path / "r")
    Claim(tmp_path / "r").close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere flock is all there is")
def test_a_lock_that_a_server_holds_for_its_client_counts(tmp_path: Path) -> None:
    """The kernel's NFS server holds the locks of clients as POSIX locks of its own."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, 2); print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "locked\n"
        with pytest.raises(RecordingError, match="another process is at work on the recording"):
            Claim(tmp_path / "r")
        server.communicate("\n")
    Claim(tmp_path / "r").close()


@pytest.mark.slow
@pytest.mark.parametrize("min_free", ["0", "1KiB"])
def test_a_recorder_whose_directory_is_removed_pauses_until_it_is_back(tmp_path: Path, min_free: str) -> None:
    directory = tmp_path / "gone"
    with serving(rate_hz=500) as served:
        arguments = ["record", served.stream, "--endpoint", served.endpoint, "-o", directory / "r"]
        with running(tmp_path / "log", *arguments, "--sync", "0.1", "--min-free", min_free) as child:
            eventually(lambda: recorded_packets(directory / "r") > 50)
            shutil.rmtree(directory)
            warning = child.wait_said("warning")
            assert str(directory) in warning["message"]
            directory.mkdir()
            eventually(lambda: recorded_packets(directory / "r") > 50, "it goes on")
            assert child.stop() == 0, child.log.read_text()
            assert child.said("ended")[-1]["files"] == [str(directory / "r-00001.mcap")]
    found = verified(directory / "r")
    assert found.ledger.problems == ["segment 0 is missing: its file has been removed, or was not named"]
