"""Pushed batches that are under way are waited for and not fetched; what does not come is fetched."""

from __future__ import annotations

import time

import usbcast
from tests.support.fake_node import STREAM, FakeNode
from tests.support.nodes import DEADLINE_S, eventually
from usbcast import Batch
from usbcast_schemas.v1 import usbcast_pb2 as pb

AHEAD = 200


def test_what_a_reply_tells_of_and_is_being_pushed_is_not_fetched_again() -> None:
    """A node under load answers a fetch when much of what it tells of still waits in the queues of its sockets."""

    def far_ahead(request: pb.Request) -> list[list[bytes]]:
        messages = node.honest(request)
        if request.WhichOneof("body") == "fetch" and node.asked.count("fetch") == 1:
            reply = pb.Reply.FromString(messages[0][0])
            reply.fetched.next_sequence += AHEAD
            reply.fetched.next_number += AHEAD
            messages[0][0] = reply.SerializeToString()
        return messages

    node = FakeNode(far_ahead)
    with node, usbcast.subscribe(STREAM, node.endpoint, start="oldest", via="push") as stream:
        for _ in range(3):
            node.batch(publish=False)
        seen: list[int] = []

        def take() -> None:
            while (event := stream.receive(0.0)) is not None:
                assert isinstance(event, Batch)
                seen.extend(range(event.first_sequence, event.last_sequence + 1))

        def joined() -> bool:
            node.notify()
            take()
            return len(seen) == 3

        eventually(joined, "the three that were there")
        for _ in range(AHEAD - 1):
            node.batch()
            until = time.monotonic() + 0.0005
            while time.monotonic() < until:
                take()
        eventually(lambda: take() is None and len(seen) == 3 + AHEAD - 1, "what was pushed")
        # Some may be: on a busy machine the pushed ones stand still for longer than it waits.
        assert node.asked.count("fetch") < 6

        node.batch(publish=False)
        asked_before = node.asked.count("fetch")
        eventually(lambda: take() is None and len(seen) == 3 + AHEAD, "the last one, which is not pushed", DEADLINE_S)
        assert node.asked.count("fetch") > asked_before
        assert seen == list(range(3 + AHEAD))
        assert stream.ledger.discrepancy() is None
