"""The pages hold to the code: files that they name exist, bounds are those of the constants, and the index has every decision."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
DECISIONS = ROOT / "docs/decisions"

FILE = re.compile(r"`([\w./-]+\.(?:py|c|h|proto|pml))`")
MODULE = re.compile(r"`((?:usbcast_broker|usbcast_schemas|usbcast\.[a-z_0-9]+)(?:\.[a-z_0-9]+)+)`")
TO_BE_WRITTEN = ("/NAME.py", "/VERB.py")
"""How names of files end that whoever follows a recipe makes."""

BOUNDS = (
    ("transfers waiting in the host queue", "{} MiB", 20, "usbcast_broker.stream.host_queue.DEFAULT_MAX_BYTES"),
    ("transfers waiting in the host queue", "{} transfers", 0, "usbcast_broker.stream.host_queue.MAX_TRANSFERS"),
    (
        "transfers waiting in the host queue",
        "{} device events",
        0,
        "usbcast_broker.stream.host_queue.MAX_DEVICE_EVENTS",
    ),
    ("queued reads", "({} MiB)", 20, "usbcast_schemas.profile.model.MAX_QUEUED_BYTES"),
    ("queued reads", "in {} smaller", 0, "usbcast_broker.sources.usb.read_sizes.MAX_READS"),
    ("a partial packet", "{} MiB", 20, "usbcast_schemas.profile.model.MAX_PACKET_BYTES"),
    ("a batch", "{} KiB", 10, "usbcast_broker.stream.batcher.DEFAULT_MAX_BYTES"),
    ("a batch", "{} packets", 0, "usbcast_schemas.batch.MAX_PACKETS"),
    ("a batch", "{} losses and events", 0, "usbcast_schemas.batch.MAX_REMARKS"),
    ("a batch as it is received", "{} MiB", 20, "usbcast_schemas.batch.MAX_BATCH_BYTES"),
    ("a batch as it is received", "{} packets and arrivals", 0, "usbcast_schemas.batch.MAX_PACKETS"),
    ("a batch as it is received", "{} losses and events", 0, "usbcast_schemas.batch.MAX_REMARKS"),
    ("a batch as it is received", "{} holes", 0, "usbcast_schemas.batch.MAX_HOLES"),
    ("a chunk of a recording that is read", "{} MiB", 20, "usbcast.recording.unpacking.MAX_CHUNK_BYTES"),
    ("foreign messages at the end of a stream on a NATS server", "{}", 0, "usbcast.jetstream.store.MOST_FOREIGN"),
    ("fields of a message, at all its levels together", "{};", 0, "usbcast_schemas.parsing.MAX_FIELDS"),
    ("fields of a message, at all its levels together", "request {}", 0, "usbcast_schemas.wire.MAX_REQUEST_FIELDS"),
    ("ring", "{} MiB", 20, "usbcast_schemas.ring.writer.DEFAULT_DATA_BYTES"),
    ("ring", "{} batches", 0, "usbcast_schemas.ring.writer.DEFAULT_SLOTS"),
    ("a request", "{} MiB", 20, "usbcast_schemas.wire.MAX_REQUEST_BYTES"),
    ("answers not yet taken, of all connections", "{} MiB", 20, "usbcast_broker.serving.replies.MAX_OWED_BYTES"),
    ("answers that a socket has no room for", "{} and", 0, "usbcast_broker.serving.outbox.MAX_ANSWERS"),
    ("answers that a socket has no room for", "{} clients", 0, "usbcast_broker.serving.outbox.MAX_CLIENTS"),
    ("answers that a socket has no room for", "{} MiB in all", 20, "usbcast_broker.serving.outbox.MAX_TOTAL_BYTES"),
    ("ZeroMQ queues", "{} messages", 0, "usbcast_schemas.sockets.HIGH_WATER_MARK"),
    ("messages that wait for the thread of a data socket", "{}", 0, "usbcast_schemas.fanout.MOST_WAITING"),
    ("subscriptions", "of {} bytes", 0, "usbcast_broker.serving.data_socket.MAX_SUBSCRIPTION_BYTES"),
    ("subscriptions", "keys {};", 0, "usbcast_broker.serving.data_socket.MAX_KEYED_SUBSCRIPTION_BYTES"),
    ("subscriptions", "{} waiting", 0, "usbcast_broker.serving.data_socket.UNREAD_SUBSCRIPTIONS"),
    ("subscriptions", "{} of a connection", 0, "usbcast_broker.serving.interest.MAX_PREFIXES"),
    ("fetch reply", "{} MiB", 20, "usbcast_broker.serving.replay.DEFAULT_BUDGET_BYTES"),
    ("fetch reply", "{} batches", 0, "usbcast_broker.serving.replay.MAX_BATCHES"),
    ("fetch reply", "{} missing ranges", 0, "usbcast_broker.serving.replay.MAX_LOST"),
    ("requests waiting for their turn", "{} of one connection", 0, "usbcast_broker.serving.turns.MAX_OF_ONE"),
    ("requests waiting for their turn", "{} in all", 0, "usbcast_broker.serving.turns.MAX_WAITING"),
    ("commands waiting", "{};", 0, "usbcast_broker.serving.commands.MAX_COMMANDS"),
    ("commands waiting", "{} per device", 0, "usbcast_broker.sources.usb.commands.MAX_WAITING"),
    ("commands waiting", "{} MiB in all", 20, "usbcast_broker.serving.commands.MAX_COMMAND_BYTES"),
    ("reports", "{},", 0, "usbcast_broker.serving.reports.MAX_REPORTS"),
    ("reports", "{} MiB in all", 20, "usbcast_broker.serving.reports.MAX_BYTES"),
    ("peers named in the log", "{}", 0, "usbcast_broker.access.refusals.MAX_NAMED"),
    ("messages of a socket, replies, ", "{};", 0, "usbcast.receiving.channels.published.TURN_MESSAGES"),
    ("messages of a socket, replies, ", "{}", 0, "usbcast.receiving.receiver.TURN_REPLIES"),
    ("a client's hold buffer", "{} MiB", 20, "usbcast.receiving.continuity.HOLD_BYTES"),
    ("batches waiting for the application", "{}", 0, "usbcast.receiving.receiver.OUT_BATCHES"),
    ("questions about the clock", "{} answers kept", 0, "usbcast.clock.offset.WINDOW"),
    ("nodes known on the LAN", "{};", 0, "usbcast.node.discovery.MAX_NODES"),
    ("nodes known on the LAN", "{} bytes", 0, "usbcast_schemas.lan.MAX_STREAMS_BYTES"),
    ("a relay's queue", "{} MiB", 20, "usbcast_broker.stream.relay.DEFAULT_MAX_BYTES"),
    ("runs of a stream", "{}", 0, "usbcast.recording.contents.MAX_RUNS"),
    ("the copies of descriptions in a recording", "{} MiB", 20, "usbcast.recording.copies.MAX_BYTES"),
    ("streams of a bridge", "{};", 0, "usbcast.bridge.bridge.MAX_STREAMS"),
    ("streams of a bridge", "{} per stream", 0, "usbcast.bridge.commands.MAX_COMMANDS"),
    ("under way to a NATS server", "{} messages", 0, "usbcast.jetstream.window.MOST_MESSAGES"),
    ("under way to a NATS server", "{} MiB", 20, "usbcast.jetstream.window.MOST_BYTES"),
    ("stored on a NATS server", "{} GiB", 30, "usbcast.jetstream.store.DEFAULT_KEEP_BYTES"),
    ("descriptions on a NATS server", "{}", 0, "usbcast.jetstream.store.MOST_DESCRIPTIONS"),
    ("waiting to be read from a NATS server", "{} MiB,", 20, "usbcast.jetstream.store_reader.MOST_WAITING_BYTES"),
)
"""A row of the table of bounds by how it begins, a figure in it, its unit as a power of two, and the constant that it is."""


@pytest.fixture(scope="module")
def files() -> list[str]:
    """All files of the repository, with a slash before each."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone: nobody says which files there are")
    return [f"/{path}" for path in listed.stdout.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str, files: list[str]) -> None:
    found = FILE.findall((ROOT / page).read_text(encoding="utf-8"))
    named = {name for name in found if not name.endswith(TO_BE_WRITTEN)}
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in files)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in MODULE.findall(text) if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether it is a module, or a name in one."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and hasattr(import_module(module), attribute)
    return True


def bounds() -> dict[str, str]:
    """The table of bounds: the second cell of each row by the first."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("\n## Bounds\n")[2]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): row[1] for row in rows}


@pytest.mark.parametrize(("row", "figure", "unit", "constant"), BOUNDS)
def test_a_bound_is_that_of_the_code(row: str, figure: str, unit: int, constant: str) -> None:
    module, _, name = constant.rpartition(".")
    value = getattr(import_module(module), name)
    table = bounds()
    said = table.get(row) or next((cell for what, cell in table.items() if what.startswith(row)), None)
    assert said is not None, f"there is no row {row!r}"
    wanted = figure.format(f"{value >> unit:,}")
    assert value == value >> unit << unit, f"{constant} is not a whole number of the unit"
    assert re.search(rf"(?<![\d,.]){re.escape(wanted)}(?![\d.]|,\d)", said), f"{constant} is {wanted!r}"


def test_the_index_lists_every_decision_with_its_title() -> None:
    wanted = {}
    for path in sorted(DECISIONS.glob("0*.md")):
        number, _, title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
        wanted[path.name] = (int(number), title)
        assert int(path.name[:4]) == int(number), f"{path.name} is headed {number}"
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    listed = {
        file: (int(number), title) for number, file, title in re.findall(r"\| \[(\d+)\]\((.+?)\) \| (.+?) \|", index)
    }
    assert listed == wanted
