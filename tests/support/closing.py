"""Subscriptions that are closed while somebody else reads them, many times over: `python -m tests.support.closing --runs 1000`.

By each way and each form of reading a run subscribes, lets a reader begin, closes from elsewhere after a moment, and looks
whether the reader's loop ends, without an exception, and nothing stays open. Meanwhile a thread opens and closes files all the
time, so that the number of a descriptor that was closed too early is another file's at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import usbcast
import usbcast.aio
from usbcast_schemas.errors import SubscriptionClosed

WAYS: dict[str, dict[str, Any]] = {
    "ring": {"via": "ring"},
    "ring, in place": {"via": "ring", "copy": False},
    "push": {"via": "push"},
    "notify": {"via": "notify"},
    "latest": {"via": "ring", "deliver": "latest"},
}
RATE_HZ = 20_000
MOST_DELAY_S = 0.04
"""A subscription is closed at a random moment up to so late: before it has connected, while it joins, and in full flow."""

END_S = 10.0
"""It takes some milliseconds; what takes so long hangs."""


@dataclass
class Runs:
    """What came of them."""

    ended: int = 0
    wrong: list[str] = field(default_factory=list)
    worst_s: float = 0.0
    flowed: int = 0
    """In how many of them something had come before."""


def read_batches(stream: usbcast.Subscription) -> None:
    for batch in stream:
        assert len(batch)


def read_one_by_one(stream: usbcast.Subscription) -> None:
    with contextlib.suppress(SubscriptionClosed):
        while True:
            stream.receive(1)


def wait_until_ready(stream: usbcast.Subscription) -> None:
    with contextlib.suppress(SubscriptionClosed):
        while True:
            stream.ready()
            time.sleep(0.0001)


def in_a_thread(read: Callable[[usbcast.Subscription], None]) -> Callable[..., None]:
    def run(endpoint: str, options: dict[str, Any], delay_s: float, tell: Runs) -> None:
        stream = usbcast.subscribe("sim", endpoint, **options)

        def work() -> None:
            try:
                read(stream)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
                tell.wrong.append(f"the reader: {type(error).__name__}: {error}")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(delay_s)
        begun_s = time.monotonic()
        stream.close()
        thread.join(END_S)
        tell.worst_s = max(tell.worst_s, time.monotonic() - begun_s)
        if thread.is_alive():
            tell.wrong.append("the reader did not end")
        elif not stream._life.freed:
            tell.wrong.append("nobody freed it")
        tell.flowed += stream.ledger.entered > 0

    return run


def by_a_listener(endpoint: str, options: dict[str, Any], delay_s: float, tell: Runs) -> None:
    stream = usbcast.subscribe("sim", endpoint, **options)
    listening = stream.listen(lambda _: None)
    time.sleep(delay_s)
    begun_s = time.monotonic()
    stream.close()
    tell.worst_s = max(tell.worst_s, time.monotonic() - begun_s)
    tell.flowed += stream.ledger.entered > 0
    if listening.error is not None:
        tell.wrong.append(f"the listener: {listening.error}")


def in_an_event_loop(endpoint: str, options: dict[str, Any], delay_s: float, tell: Runs) -> None:
    """Closed by another task, and by another thread by turns."""

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: tell.wrong.append(f"the loop: {what}"))
        stream = usbcast.aio.subscribe("sim", endpoint, **options)

        async def read() -> None:
            async for batch in stream:
                assert len(batch)

        reading = asyncio.create_task(read())
        await asyncio.sleep(delay_s)
        begun_s = time.monotonic()
        if random.random() < 0.5:
            await stream.aclose()
        else:
            await asyncio.to_thread(asyncio.run, stream.aclose())
        await asyncio.wait_for(reading, END_S)
        tell.worst_s = max(tell.worst_s, time.monotonic() - begun_s)
        tell.flowed += stream.ledger.entered > 0

    asyncio.run(work())


FORMS: dict[str, Callable[[str, dict[str, Any], float, Runs], None]] = {
    "for batch": in_a_thread(read_batches),
    "receive": in_a_thread(read_one_by_one),
    "ready": in_a_thread(wait_until_ready),
    "listener": by_a_listener,
    "aio": in_an_event_loop,
}


def close_often(endpoint: str, way: str, form: str, runs: int) -> Runs:
    """So many subscriptions, closed while they are read."""
    tell = Runs()
    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda what: tell.wrong.append(f"unraisable: {what.exc_value!r} in {what.object!r}")
    threading.excepthook = lambda what: tell.wrong.append(f"thread {what.thread}: {what.exc_value!r}")
    try:
        with _files_come_and_go(tell):
            for _ in range(runs):
                try:
                    FORMS[form](endpoint, WAYS.get(way, {}), random.uniform(0, MOST_DELAY_S), tell)
                    tell.ended += 1
                except Exception as error:  # noqa: BLE001 - as above
                    tell.wrong.append(f"{type(error).__name__}: {error}")
        gc.collect()  # says what was left open
    finally:
        sys.unraisablehook, threading.excepthook = hooks
    return tell


@contextlib.contextmanager
def _files_come_and_go(tell: Runs) -> Iterator[None]:
    """Files whose numbers were others' a moment ago: nobody may close them, or read from them."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                pipes = [os.pipe() for _ in range(4)]
                for _, write_fd in pipes:
                    os.write(write_fd, b"mine")
                stop.wait(0.0005)
                for read_fd, write_fd in pipes:
                    if os.read(read_fd, 16) != b"mine":
                        tell.wrong.append("somebody read from another's file")
                    os.close(read_fd)
                    os.close(write_fd)
            except OSError as error:
                tell.wrong.append(f"another's file: {error}")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main() -> int:
    from tests.support.nodes import serving, small

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--forms", nargs="*", default=list(FORMS))
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    wrong = 0
    with serving(rate_hz=RATE_HZ, settings=small(max_connections=60_000)) as served:
        close_often(served.endpoint, "push", "receive", 1)  # what libraries open once and keep
        before = len(list(Path("/proc/self/fd").iterdir()))
        print(f"{'way':16}{'form':12}{'runs':>6}{'flowed':>8}{'wrong':>7}{'worst ms':>10}", flush=True)
        for way in given.ways:
            for form in given.forms:
                told = close_often(served.endpoint, way, form, given.runs)
                wrong += len(told.wrong)
                print(
                    f"{way:16}{form:12}{told.ended:>6}{told.flowed:>8}{len(told.wrong):>7}{told.worst_s * 1000:>10.0f}",
                    flush=True,
                )
                for sentence in sorted(set(told.wrong))[:5]:
                    print("    ", sentence, flush=True)
        time.sleep(1)  # libzmq closes in threads of its own
        print("descriptors left open:", len(list(Path("/proc/self/fd").iterdir())) - before)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
