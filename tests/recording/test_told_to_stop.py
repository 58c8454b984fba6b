"""A signal ends each verb within a moment, also while it decodes something monstrous."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made import make

MONSTROUS = """
import sys, time
import usbcast.recording.files as files
def spin(*_):
    print("busy", flush=True)
    while True:
        pass
files.decode_entry = spin
sys.argv = ["usbcast", *sys.argv[1:]]
from usbcast.cli import main
main()
"""
"""The program, with a decoder that does not come back."""


@pytest.mark.slow
@pytest.mark.load_sensitive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "verb",
    [
        ["verify"],
        ["info"],
        ["convert", "--to", "csv"],
        ["recover", "--output", "other.mcap"],
        ["play", "--bind", "tcp://127.0.0.1:0"],
    ],
    ids=lambda verb: verb[0],
)
def test_a_verb_that_reads_a_recording_ends(tmp_path: Path, verb: list[str], number: signal.Signals) -> None:
    (path,) = make(tmp_path, segments=1)
    path.write_bytes(path.read_bytes()[:-20])  # so that recover reads it
    command = [sys.executable, "-c", MONSTROUS, verb[0], str(path), *verb[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            while "busy" not in (line := process.stdout.readline()):
                assert line, process.communicate()
            begun_s = time.monotonic()
            process.send_signal(number)
            process.wait(60)
            assert time.monotonic() - begun_s < 40, "it used to go on for ever"
            assert process.returncode != 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
