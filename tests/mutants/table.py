"""The modules to change, each with the tests that must notice a change in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Subject:
    """A module, and its own tests: files or folders."""

    module: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        package, *rest = self.module.split(".")
        folder = {"usbcast_schemas": "schemas", "usbcast_broker": "broker", "usbcast": "clients"}[package]
        return ROOT.joinpath(folder, package, *rest).with_suffix(".py")


SUBJECTS = {
    "continuity": Subject(
        "usbcast.receiving.continuity", ("tests/clients/test_continuity_steps.py", "tests/clients/test_continuity.py")
    ),
    "event_builder": Subject(
        "usbcast.receiving.event_builder",
        ("tests/clients/test_continuity.py", "tests/clients/test_batch_views.py", "tests/clients/test_fast_path.py"),
    ),
    "pace": Subject("usbcast.receiving.pace", ("tests/clients/test_pace.py", "tests/clients/test_fetching.py")),
    "life_cycle": Subject("usbcast.receiving.life_cycle", ("tests/clients/test_life_cycle.py",)),
    "expectation": Subject("usbcast.receiving.expectation", ("tests/clients/test_expectation.py",)),
    "fetching": Subject("usbcast.receiving.fetching", ("tests/clients/test_fetching.py",)),
    "housekeeping": Subject("usbcast.receiving.housekeeping", ("tests/clients/test_subscription.py",)),
    "framer": Subject("usbcast_broker.framing.framer", ("tests/framing",)),
    "delimited": Subject("usbcast_broker.framing.delimited", ("tests/framing",)),
    "fixed": Subject("usbcast_broker.framing.fixed", ("tests/framing",)),
    "length": Subject("usbcast_broker.framing.length", ("tests/framing",)),
    "stripper": Subject("usbcast_broker.framing.stripper", ("tests/framing",)),
    "checks": Subject("usbcast_broker.framing.checks", ("tests/framing",)),
    "counter": Subject("usbcast_broker.framing.counter", ("tests/framing",)),
    "assembler": Subject("usbcast_broker.framing.assembler", ("tests/framing",)),
    "batcher": Subject("usbcast_broker.stream.batcher", ("tests/broker/test_batcher.py",)),
    "schedule": Subject("usbcast_broker.serving.schedule", ("tests/broker/test_schedule.py",)),
    "coalescing": Subject(
        "usbcast_broker.stream.coalescing", ("tests/broker/test_moderation.py", "tests/usb/test_host_queue.py")
    ),
    "notification_schedule": Subject(
        "usbcast_broker.stream.notification_schedule", ("tests/broker/test_pacer.py", "tests/broker/test_publisher.py")
    ),
    "interest": Subject("usbcast_broker.serving.interest", ("tests/broker/test_audience.py",)),
    "turns": Subject("usbcast_broker.serving.turns", ("tests/broker/test_turns.py",)),
    "batch": Subject("usbcast_schemas.batch", ("tests/schemas/test_batch.py",)),
    "ledger": Subject("usbcast_schemas.ledger", ("tests/schemas/test_ledger.py",)),
    "ring_reader": Subject(
        "usbcast_schemas.ring.reader", ("tests/schemas/test_ring.py", "tests/schemas/test_ring_steps.py")
    ),
    "ring_writer": Subject("usbcast_schemas.ring.writer", ("tests/schemas/test_ring.py",)),
    "recording_ledgers": Subject("usbcast.recording.ledgers", ("tests/recording/test_recording_books.py",)),
    "recording_holes": Subject("usbcast.recording.holes", ("tests/recording/test_recording_holes.py",)),
    "recording_policy": Subject("usbcast.recording.policy", ("tests/recording/test_policy.py",)),
}
