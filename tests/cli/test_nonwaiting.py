"""Nobody waits for whoever is to read the output: not the device's thread, not the end of a node."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import eventually
from tests.support.programs import usbcast
from usbcast import NodeClient
from usbcast.cli.nonwaiting import NonWaitingText
from usbcast_schemas.registry import local_nodes


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe into which nothing more fits: what to read it by, and what to write it by."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(writes, b"x" * size)
        except BlockingIOError:
            pass
    os.set_blocking(writes, True)
    yield reads, writes
    os.close(reads)
    os.close(writes)


def drain(fd: int, until: bytes) -> bytes:
    """What can be read, up to where `until` has been."""
    got = b""
    while until not in got:
        got += os.read(fd, 65536).replace(b"xxxx", b"")
    return got


def test_what_nobody_reads_is_dropped_beyond_the_bound_counted_and_logged_when_somebody_reads(
    full_pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reads, writes = full_pipe
    with os.fdopen(writes, "w", closefd=False) as stream:
        text = NonWaitingText(stream, "stderr", max_waiting_bytes=100)
        for n in range(15):
            text.write(f"line {n:4}\n")  # 10 bytes
        text.flush()
        assert drain(reads, b"line    9\n").count(b"line") == 10
        said = eventually(lambda: [record.getMessage() for record in caplog.records])
        assert said == ["5 lines were not written to stderr, because nobody read it"]
        text.write("µ, and again\n")
        assert drain(reads, b"again\n").decode() == "µ, and again\n"
        text.end(10)


def test_an_end_waits_no_longer_than_told(full_pipe: tuple[int, int]) -> None:
    reads, writes = full_pipe
    with os.fdopen(writes, "w", closefd=False) as stream:
        text = NonWaitingText(stream, "stdout")
        text.write("held\n")
        text.end(0.05)
        text.write("too late\n")
        assert b"held" in drain(reads, b"held\n")
        eventually(lambda: "usbcast-stdout" not in [thread.name for thread in threading.enumerate()])


def test_an_other_end_that_is_closed_is_no_failure() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        text = NonWaitingText(stream, "stdout")
        text.write("to nobody\n")
        text.end(10)
        text.write("nor this\n")


def test_a_descriptor_that_somebody_has_set_not_to_block_loses_nothing() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096) if hasattr(fcntl, "F_SETPIPE_SZ") else None
    with os.fdopen(writes, "w") as stream, os.fdopen(reads, "rb") as reading:
        text = NonWaitingText(stream, "stdout")
        text.write("a" * 300_000)
        assert reading.read(300_000) == b"a" * 300_000
        text.end(10)


def test_who_writes_for_a_reader_is_told_that_he_has_gone() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        text = NonWaitingText(stream, "stdout", raises=True)
        text.write("to nobody\n")
        text.wait_until_written(threading.Event())
        with pytest.raises(BrokenPipeError, match="nobody reads stdout any more"):
            text.write("nor this\n")
        text.end(10)


def test_a_normal_end_waits_for_its_reader_until_told_to_stop(full_pipe: tuple[int, int]) -> None:
    reads, writes = full_pipe
    stopped = threading.Event()
    with os.fdopen(writes, "w", closefd=False) as stream:
        text = NonWaitingText(stream, "stdout", raises=True)
        text.write("held\n")
        waiting = threading.Thread(target=text.wait_until_written, args=(stopped,))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        stopped.set()
        waiting.join(10)
        assert not waiting.is_alive()
        assert b"held" in drain(reads, b"held\n")
        text.end(10)


def test_all_is_written_before_the_end() -> None:
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as stream, os.fdopen(reads) as reading:
        text = NonWaitingText(stream, "stdout")
        for n in range(1000):
            print(n, file=text)
        text.end(10)
        stream.close()
        assert reading.read().split() == [str(n) for n in range(1000)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_whose_output_nobody_reads_finds_its_device_again_and_ends_when_told(
    full_pipe: tuple[int, int], tmp_path: Path, number: signal.Signals
) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "unplug"\nat_packet = 50\nduration_s = 0.5\n')
    command = usbcast("--verbose", "serve", "--simulate", "--faults", str(faults), "--bind", "tcp://127.0.0.1:0")
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full_pipe[1], stderr=full_pipe[1])
    try:
        (found,) = eventually(local_nodes)
        with NodeClient(found.endpoint) as client:
            eventually(lambda: client.describe()[0].next_sequence > 100, "packets behind the unplugging")
        node.send_signal(number)
        assert node.wait(10) == 0
    finally:
        node.kill()
        node.wait()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["record", "bridge", "play"])
def test_other_verbs_whose_output_nobody_reads_end_when_told(
    full_pipe: tuple[int, int], tmp_path: Path, verb: str
) -> None:
    serve = usbcast("serve", "--simulate", "--rate", "1000", "--json")
    node = subprocess.Popen(
        [*serve, "--bind", "tcp://127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    programs = [node]
    try:
        assert node.stdout is not None
        endpoint = json.loads(node.stdout.readline())["endpoint"]
        output = str(tmp_path / "run")
        if verb == "play":
            record = ("record", "first-case", "--endpoint", endpoint, "--output", output, "--packets", "200")
            subprocess.run(usbcast(*record), check=True, capture_output=True, timeout=60)
        arguments = {
            "record": ("record", "first-case", "--endpoint", endpoint, "--output", output),
            "bridge": ("bridge", endpoint, "--bind", "tcp://127.0.0.1:0"),
            "play": ("play", f"{output}-00000.mcap", "--loop", "--bind", "tcp://127.0.0.1:0"),
        }[verb]
        before = len(local_nodes())
        program = subprocess.Popen(
            usbcast("--verbose", *arguments), stdin=subprocess.DEVNULL, stdout=full_pipe[1], stderr=full_pipe[1]
        )
        programs.append(program)
        if verb == "record":
            eventually(lambda: list(tmp_path.rglob("*.mcap*")), "a file of the recording")
        else:
            eventually(lambda: len(local_nodes()) > before, "the node of the bridge or the player")
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    finally:
        for each in programs:
            each.send_signal(signal.SIGINT)
        try:
            node.communicate(timeout=20)
        finally:
            for each in programs:
                each.kill()
                each.wait()


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Return the endpoint of a node in a process of its own."""
    command = usbcast("serve", "--simulate", "--rate", "1000", "--json", "--bind", "tcp://127.0.0.1:0")
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        yield json.loads(node.stdout.readline())["endpoint"]
    finally:
        node.send_signal(signal.SIGINT)
        node.communicate(timeout=20)


def delivered(endpoint: str) -> int:
    """Return how many packets the subscription of the stream says it has delivered."""
    with NodeClient(endpoint) as client:
        (stream,) = client.health().streams
        return sum(one.ledger.left for one in stream.subscriptions)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_a_watch_whose_output_nobody_reads_goes_on_receiving_and_ends_when_told(
    full_pipe: tuple[int, int], endpoint: str, number: signal.Signals, form: tuple[str, ...]
) -> None:
    command = usbcast("watch", "first-case", "--endpoint", endpoint, *form)
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full_pipe[1], stderr=full_pipe[1])
    try:
        eventually(lambda: delivered(endpoint) > 4000, "packets behind the first line")
        program.send_signal(number)
        assert program.wait(10) == 0
    finally:
        program.kill()
        program.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", [("serve", "--simulate", "--probe"), ("demo", "--seconds", "300")], ids=["probe", "demo"]
)
def test_what_is_shown_on_a_terminal_that_is_stopped_holds_up_no_signal(verb: tuple[str, ...]) -> None:
    terminal, program_side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    program = subprocess.Popen(
        usbcast(*verb), stdin=subprocess.DEVNULL, stdout=program_side, stderr=program_side, env=environment
    )
    os.close(program_side)
    try:
        seen: deque[int] = deque(maxlen=1000)

        def is_full() -> bool:
            seen.append(waiting_bytes(terminal))
            return seen[-1] > 2000 and len(seen) == seen.maxlen and len(set(seen)) == 1

        eventually(is_full, "a terminal that takes no more", 60)
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) in (0, 1)
    finally:
        program.kill()
        program.wait()
        os.close(terminal)


def waiting_bytes(fd: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["watch", "probe"])
def test_verbs_that_show_something_end_when_their_reader_has_gone(endpoint: str, verb: str) -> None:
    arguments = (
        ("watch", "first-case", "--endpoint", endpoint) if verb == "watch" else ("serve", "--simulate", "--probe")
    )
    program = subprocess.Popen(usbcast(*arguments, "--json"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["event"]
        program.stdout.close()
        assert program.wait(20) == 1
    finally:
        program.kill()
        program.wait()


def test_what_has_been_put_in_the_place_of_stdout_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from usbcast.cli.nonwaiting import nonwaiting

    with nonwaiting("stdout"):
        print("seen")
    assert capsys.readouterr().out == "seen\n"


def test_a_log_line_goes_through_it(full_pipe: tuple[int, int]) -> None:
    reads, writes = full_pipe
    with os.fdopen(writes, "w", closefd=False) as stream:
        text = NonWaitingText(stream, "stderr")
        handler = logging.StreamHandler(text)
        handler.emit(logging.LogRecord("usbcast", logging.ERROR, "", 0, "it failed", (), None))
        assert b"it failed" in drain(reads, b"failed\n")
        text.end(10)
