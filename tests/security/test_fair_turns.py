"""Many clients that ask for much: one that asks for little is answered soon, and the node is alive all the while."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
import zmq
from parties import intruder

from tests.support.nodes import eventually, serving, small
from usbcast import NodeClient
from usbcast_broker.serving import replay
from usbcast_schemas.contract import CONTRACT
from usbcast_schemas.v1 import usbcast_pb2 as pb

HOSTILE, OF_ONE = 8, 16


def burn(work_s: float) -> None:
    until_s = time.thread_time() + work_s
    while time.thread_time() < until_s:
        pass


def test_one_that_asks_for_little_waits_for_one_answer_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fetch takes long here, so that what is answered between two requests can be counted."""
    fetched = 0

    def fetch(*_: Any, **__: Any) -> replay.Fetched:
        nonlocal fetched
        burn(0.02)
        fetched += 1
        return replay.Fetched([], [], complete=True)

    monkeypatch.setattr(replay, "fetch", fetch)
    request = pb.Request(contract=CONTRACT, request_id=1)
    request.fetch.stream, request.fetch.from_number = "sim", 2**63
    with serving(rate_hz=500) as served, contextlib.ExitStack() as stack, NodeClient(served.endpoint) as client:
        client.clock()
        for _ in range(HOSTILE):
            flood = stack.enter_context(intruder(zmq.DEALER, served.endpoint))
            for _ in range(OF_ONE):
                flood.send(request.SerializeToString())
        eventually(lambda: fetched >= HOSTILE, "they are being answered")
        before = fetched
        for _ in range(10):
            client.clock()
        assert fetched - before <= 40, "one or two fetches for each clock, not one of each connection"


@pytest.mark.slow
def test_a_connection_has_a_share_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fetches wait, and are all answered in the end."""

    def fetch(*_: Any, **__: Any) -> replay.Fetched:
        burn(0.06)
        return replay.Fetched([], [], complete=True)

    monkeypatch.setattr(replay, "fetch", fetch)
    request = pb.Request(contract=CONTRACT, request_id=1)
    request.fetch.stream = "sim"
    with serving(rate_hz=500) as served, intruder(zmq.DEALER, served.endpoint) as flood:
        flood.rcvtimeo = 20_000
        begun_s = time.monotonic()
        for _ in range(10):
            flood.send(request.SerializeToString())
        replies = [pb.Reply.FromString(flood.recv_multipart()[0]) for _ in range(10)]
        assert [reply.WhichOneof("body") for reply in replies] == ["fetched"] * 10
        assert time.monotonic() - begun_s > 1, "0.6 s of work, of which 0.18 s come at once"


@pytest.mark.slow
def test_more_requests_at_once_than_may_wait_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> replay.Fetched:
        burn(0.03)
        return replay.Fetched([], [], complete=True)

    monkeypatch.setattr(replay, "fetch", fetch)
    request = pb.Request(contract=CONTRACT, request_id=1)
    request.fetch.stream = "sim"
    with serving(rate_hz=500, settings=small()) as served, intruder(zmq.DEALER, served.endpoint) as flood:
        flood.rcvtimeo = 20_000
        for _ in range(40):
            flood.send(request.SerializeToString())
        kinds = [pb.Reply.FromString(flood.recv_multipart()[0]).WhichOneof("body") for _ in range(40)]
        assert 16 <= kinds.count("fetched") < 40
        assert kinds.count("error") == 40 - kinds.count("fetched")
