"""Kernel drivers that a killed node has detached come back: by the next node's end, or by `usbcast devices --release`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from usb_rig import Backend, transport

from tests.support.programs import run
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.usb.drivers import Released, release_all

QUICK = SimulatorConfig(rate_hz=1000)

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_drivers import with_driver
from usb_rig import transport
backend, bound = with_driver(True)
transport(backend).open()
assert not bound
os.kill(os.getpid(), signal.SIGKILL)
"""


def with_driver(is_bound: bool) -> tuple[Backend, set[int]]:
    """A device with a kernel driver at its interface, as far as it has not been detached."""
    backend = Backend(QUICK)
    bound = {0} if is_bound else set[int]()
    backend.rules |= {
        "is_kernel_driver_active": lambda interface: interface in bound,
        "detach_kernel_driver": bound.remove,
        "attach_kernel_driver": bound.add,
    }
    return backend, bound


@pytest.fixture
def killed_node(private_directories: tuple[Path, Path]) -> Path:
    """The runtime directory after a process that had detached the driver was killed."""
    code = KILLED.format(tests=str(Path(__file__).parent))
    search = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": search}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return private_directories[1]


def test_the_next_node_gives_back_what_a_killed_one_has_detached(killed_node: Path) -> None:
    assert list(killed_node.glob("driver-*"))
    backend, bound = with_driver(False)
    way = transport(backend)
    way.open()
    assert not bound
    way.close()
    assert bound == {0}
    assert list(killed_node.iterdir()) == []


def test_what_the_driver_had_besides_is_claimed_and_let_go_before_it_is_given_back(killed_node: Path) -> None:
    """Else a request to that interface would have the kernel take it, and keep it from the driver."""
    (path,) = killed_node.glob("driver-*")
    path.write_text(json.dumps({**json.loads(path.read_text()), "interfaces": [0, 1]}))
    backend, _ = with_driver(False)
    backend.rules |= {"claim_interface": lambda _: None, "release_interface": lambda _: None}
    way = transport(backend)
    way.open()
    way.close()
    assert "claim_interface 1" in backend.log
    assert backend.log.index("release_interface 1") < backend.log.index("attach_kernel_driver 0")


def test_a_driver_is_given_back_without_a_node(killed_node: Path) -> None:
    backend, bound = with_driver(False)
    assert release_all(backend) == [Released("device 1209:0001 (at 99-1)", (0,), "")]
    assert bound == {0}
    assert list(killed_node.iterdir()) == []
    assert release_all(backend) == []


def test_one_that_a_program_uses_stays_noted(killed_node: Path) -> None:
    backend, bound = with_driver(False)
    backend.refuse("attach_kernel_driver", -6, 16, times=1)
    (released,) = release_all(backend)
    assert released.interfaces == ()
    assert released.problem == "a program uses interface 0 of device 1209:0001 (at 99-1): end that program first"
    assert not bound
    backend.rules["attach_kernel_driver"] = bound.add
    assert release_all(backend)[0].interfaces == (0,)
    assert list(killed_node.iterdir()) == []


def test_a_note_of_another_stay_on_the_bus_is_nothing(killed_node: Path) -> None:
    (path,) = killed_node.glob("driver-*")
    path.write_text(json.dumps({**json.loads(path.read_text()), "product_id": 2}))
    backend, bound = with_driver(False)
    way = transport(backend)
    way.open()
    way.close()
    assert not bound


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00", '{"host": 1, "bus": "x"}', '{"interfaces": 3}', "[" * 5000])
def test_a_note_that_is_none_is_swept(killed_node: Path, text: str) -> None:
    (path,) = killed_node.glob("driver-*")
    path.write_text(text)
    backend, bound = with_driver(False)
    assert release_all(backend) == []
    assert not bound
    assert list(killed_node.iterdir()) == []


def test_a_clean_end_leaves_no_note(private_directories: tuple[Path, Path]) -> None:
    backend, bound = with_driver(True)
    way = transport(backend)
    way.open()
    assert [path.name for path in private_directories[1].iterdir()] == [
        f"driver-{way._device.bus:03d}-{way._device.address:03d}-000.json"
    ]
    way.close()
    assert bound == {0}
    assert list(private_directories[1].iterdir()) == []


def test_the_verb_says_that_there_is_nothing_to_release() -> None:
    done = run("devices", "--release")
    assert done.finish() == 0, done.stderr
    assert "No killed node has left a device of this machine without its kernel driver." in done.stdout
