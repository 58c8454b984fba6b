"""The resuming receiver keeps over a store the contract that it keeps over ring and push (tests/clients/test_resuming.py)."""

from __future__ import annotations

import contextlib

import pytest
from forwarded import forwarding
from servers import Server

from tests.support.nodes import eventually, serving
from tests.support.resumed import check_resumes, take_to_end
from usbcast.receiving import resume_point
from usbcast.receiving.continuity import Delivery
from usbcast.receiving.open import receive
from usbcast.receiving.resuming import ResumingReceiver


def test_no_record_is_missing_or_comes_twice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_point, "AGAIN_NS", 1_000_000)
    with serving(rate_hz=2000, packets=600, ends=True) as served, forwarding(server.url, served.endpoint):
        eventually(lambda: served.published == 600)
        check_resumes(lambda at: receive("sim", server.url, at, "all", "auto"), 600)


def test_a_server_that_has_the_stream_later(server: Server) -> None:
    resuming = ResumingReceiver(lambda at: receive("sim", server.url, at, "all", "auto"), "oldest")
    with contextlib.closing(resuming):
        eventually(lambda: resuming.pump() or resuming.trouble, "it is told that there is none")
        with (
            serving(rate_hz=2000, packets=200, ends=True) as served,
            forwarding(server.url, served.endpoint, until_end=True),
        ):
            taken = take_to_end(resuming)
    assert sum(record.batch.packet_count for record in taken if isinstance(record, Delivery)) == 200
