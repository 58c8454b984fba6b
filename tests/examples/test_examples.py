"""Every example runs against a simulated device, to its end, and says what it should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.nodes import eventually
from tests.support.programs import Program
from usbcast_broker.node import Node
from usbcast_broker.settings import NodeSettings
from usbcast_broker.sources import add_simulated
from usbcast_broker.sources.simulator import Fault, SimulatorConfig

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
DEADLINE_S = 60

FAULTS = (Fault(kind="drop", at_packet=700, count=7), Fault(kind="unplug", at_packet=1000, duration_s=0.1))


@pytest.fixture
def served() -> Iterator[None]:
    """The first case, ten times as fast; 1.5 s, in which something goes wrong twice; then its end."""
    config = SimulatorConfig(rate_hz=1000, packets=1500, faults=FAULTS)
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=4 << 20)) as node:
        pipeline, device = add_simulated(node, config, "first-case")
        node.start()
        left = threading.Event()

        def end() -> None:
            while not left.wait(0.01):
                if device.exhausted.is_set():
                    node.end(pipeline, "the device has sent all")
                    return

        ender = threading.Thread(target=end)
        ender.start()
        yield
        left.set()
        ender.join()


def run(*command: str | Path) -> str:
    """What a program prints; it must end well within the deadline."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return [int(figure) for figure in found.groups()]


def says_subscribe(output: str) -> None:
    received, delivered, lost = figures(r"(\d+) packets by ring; the ledger: (\d+) delivered, (\d+) lost", output)
    assert received == delivered
    assert received + lost == 1500
    assert lost >= 7
    assert "7 packets, at stage device: counter" in output


def says_subscribe_asyncio(output: str) -> None:
    received, _ = figures(r"deliver='all': (\d+) received, (\d+) skipped", output)
    some, skipped = figures(r"deliver='latest': (\d+) received, (\d+) skipped", output)
    assert 0 < some < received
    assert skipped > 0


def says_listen(output: str) -> None:
    lines = output.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("device")] == [
        "device attached",
        "device detached",
        "device attached",
    ]
    assert "gap: 7 packets lost at stage device: counter" in lines
    assert lines[-1].endswith(" packets: the device has sent all")


def says_numpy_fields(output: str) -> None:
    assert "counter u32, device_time u64 µs, ch0 f32" in output
    assert figures(r"ch0: (\d+) values, mean", output)[0] >= 200


def says_command_device(output: str) -> None:
    lines = output.splitlines()
    assert lines[0] == "the register says b'gain=4'"
    assert lines[1] == "the OUT endpoint took 64 bytes"
    assert lines[2].startswith("refused: ")
    assert lines[3] == "and packets still come: True"


SAYS: dict[str, Callable[[str], None]] = {
    "subscribe.py": says_subscribe,
    "subscribe_asyncio.py": says_subscribe_asyncio,
    "listen.py": says_listen,
    "numpy_fields.py": says_numpy_fields,
    "command_device.py": says_command_device,
}
OTHERS = {"own_profile.py", "test_with_a_simulated_device.py"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
@pytest.mark.usefixtures("served")
def test_example_runs_and_says_what_it_should(name: str) -> None:
    SAYS[name](run(EXAMPLES / name))


def test_the_profile_of_ones_own_device_is_served() -> None:
    output = run(EXAMPLES / "own_profile.py")
    assert re.search(r"device_time = \d+\.00  temperature0 = \d+\.\d\d  temperature1 = ", output)
    assert output.endswith("lost so far: 0\n")


@pytest.mark.slow
def test_the_example_of_a_test_passes() -> None:
    output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_with_a_simulated_device.py")
    assert "2 passed" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("subscribe.py", r"(\d+) packets by ring; the ledger: (\d+) delivered, (\d+) lost"),
        ("subscribe_asyncio.py", r"deliver='all': (\d+) received, (\d+) skipped"),
    ],
)
def test_a_live_stream_is_shown_and_ctrl_c_brings_the_summary(name: str, summary: str) -> None:
    with Node(NodeSettings(bind="tcp://127.0.0.1:0", ring_size=4 << 20)) as node:
        add_simulated(node, SimulatorConfig(rate_hz=1000), "first-case")
        node.start()
        with Program([sys.executable, "-X", "dev", str(EXAMPLES / name)]) as program:
            if name == "subscribe.py":
                eventually(lambda: "packets so far" in program.stdout)
            else:
                eventually(lambda: len(node.health()[0].subscriptions) == 2)
                eventually(lambda: all(one.ledger.left for one in node.health()[0].subscriptions))
            program.signal(signal.SIGINT)
            assert program.finish() == 0
        assert figures(summary, program.stdout)[0] > 0
        assert program.stderr == "", "no traceback, and no task that was destroyed while it was pending"


@pytest.mark.slow
def test_ctrl_c_ends_the_asyncio_example_where_no_node_is() -> None:
    """After some seconds the silence of the node waits to be taken, and the loop must still turn."""
    with Program([sys.executable, "-X", "dev", str(EXAMPLES / "subscribe_asyncio.py")]) as program:
        eventually(lambda: len(program.err) == 2, "both say that no node answers")
        program.signal(signal.SIGINT)
        assert program.finish() == 0
        assert all(line.startswith("no node with stream 'first-case' answered") for line in program.err)
        assert "deliver='all': 0 received" in program.stdout


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAYS, *OTHERS}
