"""Under a service manager: a real socket in its place, and real programs that tell it how they fare, or fall silent."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import usbcast as client
from tests.support.nodes import Served, eventually, serving
from tests.support.programs import Program, run, usbcast
from usbcast import End
from usbcast.cli import storing, watchdog
from usbcast.cli.logs import JournalFormatter, to_journal
from usbcast.cli.watchdog import WatchdogReporter
from usbcast.service_manager import ServiceManager

pytestmark = pytest.mark.slow

WATCHDOG_S = 0.6


class Manager:
    """What systemd is to a unit of Type=notify: a datagram socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def hear(self, timeout_s: float) -> str | None:
        """The next thing it is told; None if it is told nothing."""
        self._socket.settimeout(timeout_s)
        try:
            self.heard.append(self._socket.recv(4096).decode())
        except (TimeoutError, BlockingIOError):
            return None
        return self.heard[-1]

    def hear_until(self, what: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while (self.hear(max(0.0, deadline - time.monotonic())) or "") != what:
            assert time.monotonic() < deadline, f"it was not told {what} within {timeout_s} s, but {self.heard}"

    def drain(self) -> None:
        while self.hear(0.0) is not None:
            pass

    def close(self) -> None:
        self._socket.close()
        self.path.unlink()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as made:
        yield made


def test_a_node_is_ready_alive_and_stopping_and_its_streams_end(manager: Manager) -> None:
    command = usbcast("serve", "--simulate", "--rate", "200", "--ring-size", "4MiB", "--bind", "tcp://127.0.0.1:0")
    with Program([*command, "--json"], **manager.environment) as node:
        endpoint = node.hear("serving")["endpoint"]
        manager.hear_until("READY=1")
        with client.subscribe("first-case", endpoint) as subscription:
            assert subscription.ready(), "what is said to be ready is"
            for _ in range(3):
                manager.hear_until("WATCHDOG=1", WATCHDOG_S)
            assert any(said.startswith("STATUS=first-case: ") for said in manager.heard)
            node.signal(signal.SIGTERM)
            manager.hear_until("STOPPING=1")
            ends = [event for event in subscription.events(10) if isinstance(event, End)]
            assert [end.reason for end in ends] == ["the node was stopped"]
        assert node.finish(15) == 0


def test_a_node_that_is_stopped_falls_silent_and_one_that_goes_on_speaks_again(manager: Manager) -> None:
    command = usbcast("serve", "--simulate", "--ring-size", "4MiB", "--bind", "tcp://127.0.0.1:0", "--json")
    with Program(command, **manager.environment) as node:
        manager.hear_until("WATCHDOG=1")
        node.signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{node.pid}/stat").read_text().split(") ")[1][0] == "T")
        manager.drain()
        assert manager.hear(2 * WATCHDOG_S) is None, "no blind timer speaks for it"
        node.signal(signal.SIGCONT)
        manager.hear_until("WATCHDOG=1", 5)
        node.signal(signal.SIGTERM)
        assert node.finish(15) == 0


def test_a_bridge_is_ready_alive_and_stopping(manager: Manager) -> None:
    with serving(rate_hz=100) as served:
        command = usbcast("bridge", served.endpoint, "--bind", "tcp://127.0.0.1:0", "--ring-size", "4MiB", "--json")
        with Program(command, **manager.environment) as bridge:
            manager.hear_until("READY=1")
            manager.hear_until("WATCHDOG=1")
            manager.hear_until("WATCHDOG=1")
            bridge.signal(signal.SIGTERM)
            manager.hear_until("STOPPING=1")
            assert bridge.finish(15) == 0


def test_a_bridge_that_stores_is_ready_though_no_stream_is_there_yet(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in manager.environment.items():
        monkeypatch.setenv(name, value)
    view = storing._Progress("nats://nowhere", as_json=True)
    none_yet = SimpleNamespace(forwarders={}, figures=dict)
    for _ in range(3):
        view.look(none_yet)  # type: ignore[arg-type]
    manager.drain()
    assert manager.heard == ["READY=1", "WATCHDOG=1"]


def hang_publishing(served: Served, until: threading.Event) -> None:
    threading.Thread(target=_hold, args=(served.node._publisher._turning, until)).start()


def _hold(lock: threading.Lock, until: threading.Event) -> None:
    with lock:
        until.wait()


def hang_answering(served: Served, until: threading.Event) -> None:
    service = served.node._service
    service._handle = lambda _: until.wait()  # type: ignore[method-assign, assignment]

    def ask() -> None:
        with client.NodeClient(served.endpoint, timeout_s=0.1) as node, contextlib.suppress(Exception):
            node.describe()

    threading.Thread(target=ask).start()


def hang_the_feed(served: Served, until: threading.Event) -> None:
    transport = served.pipeline.feed._transport  # type: ignore[attr-defined]

    def read(_timeout_ms: int | None) -> None:
        until.wait()

    transport.read = read


@pytest.mark.parametrize(
    ("hang", "named"),
    [
        (hang_publishing, "publishing has stood still for"),
        (hang_answering, "answering has stood still for"),
        (hang_the_feed, "the feed of sim has stood still for"),
    ],
    ids=["publisher", "service", "feed"],
)
def test_the_watchdog_hears_nothing_once_a_part_of_the_node_stands_still(
    hang, named: str, manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "LEAST_STILL_S", 2.0)
    until = threading.Event()
    with serving(rate_hz=100) as served:
        told = WatchdogReporter(served.node, ServiceManager(manager.environment))
        assert manager.hear(1) == "READY=1"
        end = time.monotonic() + 2.5
        while time.monotonic() < end:  # longer than the limit: an idle part is not taken for one that stands still
            told.look()
            manager.drain()
            time.sleep(0.05)
        manager.drain()
        assert manager.heard.count("WATCHDOG=1") >= 4
        hang(served, until)

        def stalled() -> str:
            told.look()
            manager.drain()
            return told._stalled

        eventually(stalled)
        assert told._stalled.startswith(named)
        manager.drain()
        assert manager.heard[-1].startswith(f"STATUS={named}")
        manager.heard.clear()
        until_s = time.monotonic() + 2 * WATCHDOG_S
        while time.monotonic() < until_s:
            told.look()
            manager.drain()
            time.sleep(0.05)
        manager.drain()
        assert manager.heard == []
        assert f"{named}" in caplog.text
        until.set()
        eventually(lambda: not stalled())
        assert "WATCHDOG=1" in manager.heard


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_whose_watchdog_it_is(environment: dict[str, str], watchdog_s: float) -> None:
    assert ServiceManager(environment).watchdog_s == watchdog_s


def test_an_abstract_socket_and_one_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    name = f"usbcast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        told = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        told.status("all\nwell")
        told.status("all\nwell")
        told.ready()
        assert [listening.recv(100), listening.recv(100)] == [b"STATUS=all well", b"READY=1"]
    told.stopping()
    told.stopping()
    assert caplog.text.count("cannot notify the service manager") == 1, "said once, and no failure of the stream's"


def test_without_a_manager_nothing_is_said_and_nothing_looked_at() -> None:
    told = ServiceManager({})
    told.ready()
    told.alive(0)
    assert not told.present


def test_lines_for_the_journal_bear_their_priority_each() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("usbcast", logging.ERROR, "", 0, "it failed", (), (ValueError, error, None))
    lines = JournalFormatter().format(record).splitlines()
    assert lines[0] == "<3>usbcast: it failed"
    assert all(line.startswith("<3>") for line in lines)
    assert len(lines) == 3


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as file:
        status = os.fstat(file.fileno())
        assert to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, file.fileno())
        assert not to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, file.fileno())
        assert not to_journal({}, file.fileno())
    assert not to_journal({"JOURNAL_STREAM": "1:2"}, 987)


def test_a_sentence_for_a_user_stays_one_line_whoever_reads_it() -> None:
    failed = run("serve", "no-such-profile", COLUMNS="40")
    assert failed._process.returncode == 1
    assert len(failed.err) == 1
