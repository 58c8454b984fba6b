"""A node that does not have a stream now may have it later: who waits for it, or has had it, goes on asking."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recordings import record_here, running, verified

import usbcast
from tests.support.nodes import eventually, serving, small
from usbcast.recording.recorder import Recorder
from usbcast_broker.node import Node
from usbcast_broker.serving.replies import ReplayService
from usbcast_schemas.v1 import usbcast_pb2 as pb


@contextlib.contextmanager
def without_streams(endpoint: str = "tcp://127.0.0.1:0") -> Iterator[Node]:
    """A node as a bridge is whose upstream is off."""
    with Node(small(bind=endpoint)) as node:
        node.start()
        yield node


@pytest.mark.slow
def test_a_recorder_that_waits_is_not_ended_by_a_node_without_the_stream(tmp_path: Path) -> None:
    with contextlib.ExitStack() as now:
        endpoint = now.enter_context(without_streams()).endpoint
        begun_s = time.monotonic()
        later: list[Any] = []

        class Here:
            stream = "sim"

        Here.endpoint = endpoint  # type: ignore[attr-defined]

        def look(recorder: Recorder) -> None:
            if not later and time.monotonic() - begun_s > 3:  # it has been told several times that there is none
                now.close()
                later.append(now.enter_context(serving(rate_hz=1000, settings=small(bind=endpoint))))
            if recorder.packets > 200:
                recorder.stop("enough")

        record_here(Here, tmp_path / "r", look=look, wait=True)
    found = verified(tmp_path / "r")
    assert found.balanced, found.ledger.problems
    assert sum(books.recorded for books in found.ledger.epochs.values()) > 200


@pytest.mark.slow
@pytest.mark.usefixtures("dead_may_leave_files")
def test_a_subscription_outlives_a_node_that_comes_back_without_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str | None] = []
    refuse = ReplayService._refuse

    def note(service: ReplayService, client: Any, request: pb.Request, error: Any) -> None:
        refuse(service, client, request, error)
        refused.append(request.WhichOneof("body"))

    monkeypatch.setattr(ReplayService, "_refuse", note)
    serve = ["serve", "--simulate", "--rate", "1000", "--stream", "sim", "--bind", "tcp://127.0.0.1:0"]
    with running(tmp_path / "node", *serve) as node, contextlib.ExitStack() as stack:
        endpoint = node.wait_said("serving")["endpoint"]
        subscription = stack.enter_context(usbcast.subscribe("sim", endpoint, via="push"))
        assert subscription.receive(10) is not None
        node.kill()
        while not isinstance(subscription.receive(20), usbcast.Silence):
            pass
        with without_streams(endpoint):
            eventually(lambda: _all_taken(subscription) and refused.count("describe") > 1, "it is told twice")
        with serving(rate_hz=1000, settings=small(bind=endpoint)):
            kinds: list[str] = []
            while "Restart" not in kinds or kinds[-1] != "Batch":
                kinds.append(type(subscription.receive(20)).__name__)


def _all_taken(subscription: usbcast.Subscription) -> bool:
    """Take what comes within a moment; raises what ends the subscription."""
    while subscription.receive(0.05) is not None:
        pass
    return True
