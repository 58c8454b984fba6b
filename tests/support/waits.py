"""Every wait for somebody else, where nobody is there: does it end at its deadline, and at a signal?

`python -m tests.support.waits` prints the table wait × peer × deadline × signal. A wait runs in a process of its own
(`… --one WAIT …`), which says when it has begun, and how it ended. Three peers are nobody: a port where none listens, one that
takes connections and says nothing, and one that closes them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = ("nobody", "silent", "closing")
DEADLINES_S = (0.2, 4.0, 12.0)
SIGNALS = ("SIGINT", "SIGTERM")
LATE_S = 5.0
"""So much later than its deadline, or than the signal, a wait may end on a busy machine."""

STREAM = os.environ.get("USBCAST_WAITS_STREAM", "sim")
"""By lan: each wait looks for another one, as many of them go on side by side on one interface."""

FOR_EVER_S = 300.0
OWN_S = -1.0
"""Stands for the deadline of what knows its own."""


# Each takes the endpoint and the deadline, and says how it ended.


def ready(endpoint: str, deadline_s: float) -> object:
    import usbcast

    with usbcast.subscribe(STREAM, endpoint) as stream:
        return stream.ready(deadline_s)


def receive(endpoint: str, deadline_s: float) -> object:
    """An event, Silence, comes first; then nothing."""
    import usbcast

    with usbcast.subscribe(STREAM, endpoint) as stream:
        until_s = time.monotonic() + deadline_s
        while time.monotonic() < until_s:
            stream.receive(until_s - time.monotonic())
    return None


def events(endpoint: str, deadline_s: float) -> object:
    import usbcast

    with usbcast.subscribe(STREAM, endpoint) as stream:
        return [type(event).__name__ for event in stream.events(deadline_s)]


def info(endpoint: str, deadline_s: float) -> object:
    import usbcast.subscription

    usbcast.subscription.CONNECT_TIMEOUT_S = deadline_s
    with usbcast.subscribe(STREAM, endpoint) as stream:
        return stream.info


def listen(endpoint: str, deadline_s: float) -> object:
    import usbcast

    with usbcast.subscribe(STREAM, endpoint) as stream:
        return stream.listen(print_nothing).join(deadline_s)


def command(endpoint: str, deadline_s: float) -> object:
    import usbcast

    with usbcast.subscribe(STREAM, endpoint) as stream:
        return stream.command(0xC0, 1, length=1, timeout_s=deadline_s)


def node_client(endpoint: str, deadline_s: float) -> object:
    import usbcast

    with usbcast.NodeClient(endpoint, timeout_s=deadline_s) as client:
        return client.describe()


def aio_ready(endpoint: str, deadline_s: float) -> object:
    import usbcast.aio

    async def main() -> object:
        async with usbcast.aio.subscribe(STREAM, endpoint) as stream:
            return await stream.ready(deadline_s)

    return in_a_loop(main())


def aio_events(endpoint: str, deadline_s: float) -> object:
    import usbcast.aio

    async def main() -> object:
        async with usbcast.aio.subscribe(STREAM, endpoint) as stream:
            return [type(event).__name__ async for event in stream.events(deadline_s)]

    return in_a_loop(main())


def aio_listen(endpoint: str, deadline_s: float) -> object:
    import usbcast.aio

    async def main() -> object:
        async with usbcast.aio.subscribe(STREAM, endpoint) as stream:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stream.listen(print_nothing), deadline_s)

    return in_a_loop(main())


def bridge_connect(endpoint: str, deadline_s: float) -> object:
    import usbcast.bridge.bridge as module
    from tests.support.nodes import small
    from usbcast.bridge.options import BridgeOptions, parse_upstream
    from usbcast_broker.node import Node

    module.LOOK_TIMEOUT_S = deadline_s
    with Node(small()) as node:
        return module.Bridge(node, BridgeOptions((parse_upstream(endpoint),))).connect()


def recorder_connect(endpoint: str, deadline_s: float) -> object:
    import usbcast.recording.recorder as module
    from usbcast.recording.store import StoreOptions

    module.CONNECT_S = deadline_s
    with tempfile.TemporaryDirectory() as directory:
        options = module.RecordOptions((STREAM,), StoreOptions(Path(directory) / "run"), endpoint)
        recorder = module.Recorder(options, module.Start(), lambda *_: None)
        return recorder.run()


def cli(*arguments: str) -> Callable[[str, float], object]:
    def run(endpoint: str, _deadline_s: float) -> object:
        from usbcast.cli import main

        directory = tempfile.mkdtemp()
        os.chdir(directory)
        sys.argv = ["usbcast", *(argument.format(endpoint=endpoint) for argument in arguments)]
        main()

    return run


def print_nothing(_event: object) -> None:
    return


def in_a_loop(main: Any) -> object:
    """How it ended, and for how long the loop stood still meanwhile."""
    worst_s = 0.0

    async def watch() -> None:
        nonlocal worst_s
        while True:
            begun_s = time.monotonic()
            await asyncio.sleep(0.01)
            worst_s = max(worst_s, time.monotonic() - begun_s - 0.01)

    async def both() -> object:
        watching = asyncio.create_task(watch())
        try:
            return await main
        finally:
            watching.cancel()
            say(loop_stood_still_s=round(worst_s, 2))

    return asyncio.run(both())


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that waits, and what it is given to wait."""

    call: Callable[[str, float], object]
    allowed_s: Callable[[float], float] = float
    """How long it may take, where that is not the deadline."""
    deadlines_s: tuple[float, ...] = DEADLINES_S
    scheme: str = "tcp"
    signal_after_s: float = 4.0
    """Where it can be, later than a node's silence is noticed: then something waits that nobody takes."""


def fixed(*arguments: str, seconds: float, scheme: str = "tcp") -> Wait:
    """A verb of the command line, which knows for itself how long to wait."""
    return Wait(cli(*arguments), lambda _: seconds, (OWN_S,), scheme, min(4.0, seconds / 3))


WAITS = {
    "ready": Wait(ready),
    "receive": Wait(receive),
    # Silence is an event: behind it, as long is waited again.
    "events": Wait(events, lambda s: s if s < 3 else s + 3),
    "info": Wait(info),
    "listen, join": Wait(listen),
    "command": Wait(command, lambda s: max(3.0, s + 2)),
    "NodeClient": Wait(node_client),
    "aio ready": Wait(aio_ready),
    "aio events": Wait(aio_events, lambda s: s if s < 3 else s + 3),
    "aio listen": Wait(aio_listen),
    "NATS ready": Wait(ready, scheme="nats"),
    "NATS receive": Wait(receive, scheme="nats"),
    "NATS info": Wait(info, scheme="nats"),
    "NATS aio ready": Wait(aio_ready, scheme="nats"),
    "lan ready": Wait(ready, scheme="lan"),
    "lan receive": Wait(receive, scheme="lan"),
    "lan info": Wait(info, scheme="lan"),
    "lan listen, join": Wait(listen, scheme="lan"),
    "lan aio ready": Wait(aio_ready, scheme="lan"),
    "bridge connect": Wait(bridge_connect),
    "recorder connect": Wait(recorder_connect),
    "usbcast list": fixed("list", "--endpoint", "{endpoint}", seconds=3),
    "usbcast info": fixed("info", STREAM, "--endpoint", "{endpoint}", seconds=3),
    "usbcast watch": fixed("watch", STREAM, "--endpoint", "{endpoint}", seconds=10),
    "usbcast health": fixed("health", "--endpoint", "{endpoint}", seconds=3),
    "usbcast command": fixed("command", STREAM, "--type", "0xc0", "--endpoint", "{endpoint}", seconds=3),
    "usbcast doctor": fixed("doctor", "{endpoint}", seconds=15),
    "usbcast record": fixed("record", STREAM, "--endpoint", "{endpoint}", "--output", "run", seconds=10),
    "usbcast bridge": fixed("bridge", "{endpoint}", "--bind", "tcp://127.0.0.1:0", seconds=6),
    "usbcast list, lan": fixed("list", "--endpoint", "{endpoint}", seconds=8, scheme="lan"),
    "usbcast watch, lan": fixed("watch", STREAM, "--endpoint", "{endpoint}", seconds=10, scheme="lan"),
    "usbcast record, lan": fixed(
        "record", STREAM, "--endpoint", "{endpoint}", "--output", "run", seconds=10, scheme="lan"
    ),
    "usbcast list, NATS": fixed("list", "--endpoint", "{endpoint}", seconds=10, scheme="nats"),
    "usbcast watch, NATS": fixed("watch", STREAM, "--endpoint", "{endpoint}", seconds=10, scheme="nats"),
    "usbcast bridge --to": fixed("bridge", "--streams", STREAM, "--to", "{endpoint}", seconds=3, scheme="nats"),
    "… --wait": fixed("bridge", "--streams", STREAM, "--wait", "--to", "{endpoint}", seconds=FOR_EVER_S, scheme="nats"),
    "usbcast record --wait": fixed(
        "record", STREAM, "--wait", "--endpoint", "{endpoint}", "--output", "run", seconds=FOR_EVER_S
    ),
    "usbcast bridge --wait": fixed("bridge", "{endpoint}", "--wait", "--bind", "tcp://127.0.0.1:0", seconds=FOR_EVER_S),
}


@contextlib.contextmanager
def peer(kind: str) -> Iterator[int]:
    """A port, as long as the context lasts."""
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        if kind != "nobody":
            listening.listen(256)
        stop, held = threading.Event(), []
        listening.settimeout(0.1)

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError, OSError):
                    taken, _ = listening.accept()
                    if kind == "silent":
                        held.append(taken)
                    else:
                        taken.close()

        thread = threading.Thread(target=serve if kind != "nobody" else stop.wait)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for taken in held:
                taken.close()


@contextlib.contextmanager
def found_at(scheme: str, kind: str, port: int, stream: str) -> Iterator[str]:
    """The endpoint of that peer; by `lan:` it is announced on the loopback interface, or nobody is."""
    if scheme != "lan":
        yield f"{scheme}://127.0.0.1:{port}"
        return
    from usbcast_broker.announcing import Announcement
    from usbcast_schemas.lan import Announced

    with contextlib.ExitStack() as stack:
        if kind != "nobody":
            announced = Announced(node=f"{port:016x}", streams=(stream,), version="0.1.0")
            stack.callback(Announcement(["127.0.0.1"], port, announced).close)
        yield "lan:127.0.0.1"


@dataclass
class Ended:
    """How one of them ended."""

    took_s: float
    cpu_s: float
    how: str
    stood_still_s: float
    allowed_s: float

    @property
    def wrong(self) -> str:
        """What is to be said against it."""
        if self.how == "hung":
            return "it hung"
        if self.took_s > self.allowed_s + LATE_S:
            return f"it took {self.took_s:.1f} s"
        if self.cpu_s > 0.5 + 0.1 * max(self.took_s, 1.0):
            return f"it took {self.cpu_s:.1f} s of the processor in {self.took_s:.1f} s"
        return f"the loop stood still for {self.stood_still_s:.1f} s" if self.stood_still_s > 1.5 else ""


def run(name: str, kind: str, deadline_s: float, number: str = "") -> Ended:
    """One wait; with `number`, it has for ever, and that signal comes after a while."""
    wait = WAITS[name]
    allowed_s = wait.allowed_s(deadline_s)
    with (
        peer(kind) as port,
        found_at(wait.scheme, kind, port, f"sim-{port}") as endpoint,
        tempfile.TemporaryDirectory(prefix="usbcast-waits-") as directory,
    ):
        root = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "USBCAST_RUNTIME_DIR": directory,
            "USBCAST_RING_DIR": directory,
            "USBCAST_WAITS_STREAM": f"sim-{port}",
            "PYTHONPATH": root,
        }
        command = [sys.executable, "-m", "tests.support.waits", "--one", name, endpoint]
        command.append(str(FOR_EVER_S if number else deadline_s))
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        begun = json.loads(process.stdout.readline())
        begun_s = time.monotonic()
        if number:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait.signal_after_s)
            begun_s, allowed_s = time.monotonic(), 0.0
            process.send_signal(signal.Signals[number])
        how = "hung"
        try:
            process.wait(allowed_s + 4 * LATE_S)
            how = str(process.returncode)
        except subprocess.TimeoutExpired:
            pass
        took_s = time.monotonic() - begun_s
        cpu_s = _cpu_s(process.pid) - begun["cpu_s"] if how == "hung" else 0.0
        process.kill()
        said = [json.loads(line) for line in process.communicate()[0].splitlines() if line.startswith('{"wait"')]
    told: dict[str, Any] = {key: value for one in said for key, value in one.items()}
    cpu_s = told["cpu_s"] - begun["cpu_s"] if "cpu_s" in told else cpu_s
    return Ended(took_s, cpu_s, how, told.get("loop_stood_still_s", 0.0), allowed_s)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(**what: object) -> None:
    # Past what buffers and redirects there are: it is said while the program ends.
    os.write(1, (json.dumps({"wait": True, **what}) + "\n").encode())


def one(name: str, endpoint: str, deadline_s: float) -> None:
    """In a process of its own."""

    def terminate(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, terminate)
    import usbcast.aio  # so that the time it takes to import does not count
    import usbcast.bridge.bridge
    import usbcast.cli.app
    import usbcast.jetstream.receiver
    import usbcast.recording.recorder  # noqa: F401

    say(cpu_s=time.process_time())
    leave = os._exit

    def last(code: int) -> None:
        say(cpu_s=time.process_time())
        leave(code)

    os._exit = last  # type: ignore[assignment]
    try:
        how = WAITS[name].call(endpoint, deadline_s)
        print(how, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - however it ends is told
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        say(cpu_s=time.process_time())


def cases(names: list[str]) -> Iterator[tuple[str, str, float, str]]:
    for name in names:
        for kind in PEERS:
            for deadline_s in WAITS[name].deadlines_s if WAITS[name].allowed_s(OWN_S) < FOR_EVER_S else ():
                yield name, kind, deadline_s, ""
            for number in SIGNALS:
                yield name, kind, 0.0, number


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=3, metavar=("WAIT", "ENDPOINT", "DEADLINE"))
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--waits", nargs="*", default=list(WAITS))
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.one[1], float(given.one[2]))
        return 0
    columns = [f"{deadline_s:g} s" for deadline_s in DEADLINES_S] + ["own", *SIGNALS]
    print(f"{'wait':22}{'peer':9}" + "".join(f"{column:>12}" for column in columns))
    wrong: list[str] = []
    wanted = list(cases(given.waits))
    row: dict[tuple[float, str], Ended] = {}
    with ThreadPoolExecutor(given.at_once) as pool:
        for (name, kind, deadline_s, number), ended in zip(
            wanted, pool.map(lambda case: run(*case), wanted), strict=True
        ):
            row[deadline_s, number] = ended
            wrong += [f"{name}, {kind}, {number or f'{deadline_s:g} s'}: {ended.wrong}"] if ended.wrong else []
            if number == SIGNALS[-1]:  # it is the last of its row
                keys = [
                    *((deadline_s, "") for deadline_s in (*DEADLINES_S, OWN_S)),
                    *((0.0, number) for number in SIGNALS),
                ]
                print(f"{name:22}{kind:9}" + "".join(f"{_cell(row.get(key)):>12}" for key in keys), flush=True)
                row.clear()
    print("seconds until it ended, from its begin or from the signal; and of the processor")
    print("\n".join(wrong) or "all ended in time")
    return int(bool(wrong))


def _cell(ended: Ended | None) -> str:
    if ended is None:
        return "-"
    return f"{'HUNG ' if ended.how == 'hung' else ''}{ended.took_s:.1f}, {ended.cpu_s:.1f}"


if __name__ == "__main__":
    sys.exit(main())
