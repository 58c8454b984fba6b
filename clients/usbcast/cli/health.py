"""`usbcast health`: the ledgers of all stages of all streams, and whether they balance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from usbcast.cli.options import AsJson, Endpoint, Keys
from usbcast.cli.output import console, emit, ledger_table, styled, table
from usbcast.node.locate import endpoints
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import AccessRefused, NodeUnreachable, RemoteError
from usbcast_schemas.ledger import Ledger
from usbcast_schemas.v1 import usbcast_pb2 as pb

FAULTS: Final = (
    *("stalls", "overflows", "io_errors", "resets", "detaches", "reopens", "replaced", "clock_steps"),
    *("failed_together", "queue_refused", "read_ahead_discarded"),
)
"""Counters of the stage at the device that are 0 while all is well."""


def health(
    stream: Annotated[str | None, typer.Argument(help="Show only this stream.")] = None,
    endpoint: Endpoint = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Show the ledgers, stage by stage; exit with 1 if ledgers do not balance, or a device sends and no packet comes of it."""
    nodes: dict[str, pb.HealthReply] = {}
    silent: list[RemoteError] = []
    for address in endpoints(endpoint):
        try:
            with NodeClient(address, keys=keys) as node:
                nodes[address] = node.health()
        except (NodeUnreachable, AccessRefused) as error:
            silent.append(error)
    if not nodes:
        raise silent[0]
    if as_json:
        emit(as_plain(nodes, stream))
    else:
        for address, reply in nodes.items():
            _show(address, reply, stream)
    if not all(is_well(found) for reply in nodes.values() for found in reply.streams if stream in (None, found.stream)):
        raise typer.Exit(1)


def is_well(found: pb.StreamHealth) -> bool:
    """Return True if the ledger balances and packets pass through. A device that is unplugged is not a fault of the node."""
    return not found.discrepancies and not (found.attached and not found.ended and found.problem)


def as_plain(nodes: dict[str, pb.HealthReply], only: str | None = None) -> dict[str, Any]:
    """The JSON form: streams by name, ledgers by stage, losses by reason."""
    return {
        "streams": {
            found.stream: {**stream_as_plain(found), "endpoint": address}
            for address, reply in nodes.items()
            for found in reply.streams
            if only in (None, found.stream)
        },
        "nodes": {
            address: {
                "pid": reply.node_pid,
                "version": reply.node_version,
                "memory_bytes": reply.node_memory_bytes,
                "refused": dict(reply.refused),
            }
            for address, reply in nodes.items()
        },
    }


def stream_as_plain(found: pb.StreamHealth) -> dict[str, Any]:
    return {
        "epoch": f"{found.epoch:016x}",
        "attached": found.attached,
        "ended": found.ended,
        "problem": found.problem,
        **({"read_held_ms": found.read_held_ns / 1e6} if found.HasField("read_held_ns") else {}),
        **({"source": found.source, "source_silent_s": found.source_silent_ns / 1e9} if found.source else {}),
        "ledgers": {ledger.stage: Ledger.from_proto(ledger).to_json() for ledger in found.ledgers},
        "subscriptions": [
            {
                "name": report.name,
                "via": report.via,
                "lag_us": report.lag_ns / 1000,
                "age_s": report.age_ns / 1e9,
                **Ledger.from_proto(report.ledger).to_json(),
            }
            for report in found.subscriptions
        ],
        "balanced": not found.discrepancies,
        "well": is_well(found),
        "discrepancies": list(found.discrepancies),
    }


def _show(address: str, reply: pb.HealthReply, only: str | None) -> None:
    refused = f"; refused: {', '.join(f'{n} {why}' for why, n in reply.refused.items())}" if reply.refused else ""
    console.print(
        styled(
            (f"node {address}", "bold"),
            f"  process {reply.node_pid}, {reply.node_memory_bytes / 1e6:.0f} MB{refused}",
        )
    )
    for found in reply.streams:
        if only in (None, found.stream):
            show_stream(found)


def show_stream(found: pb.StreamHealth) -> None:
    """The tables of one stream."""
    ledgers = [Ledger.from_proto(ledger) for ledger in found.ledgers]
    state = "ended" if found.ended else "attached" if found.attached else "detached"
    source = f", from {found.source}" if found.source else ""
    console.print(ledger_table(f"{found.stream} ({state}{source})", ledgers))
    for books in ledgers:
        if figures := device_figures(books.counters, found.read_held_ns):
            console.print(f"  at the device: {figures}")
    if found.problem:
        console.print(f"  {found.problem}")
    if found.subscriptions:
        console.print(
            table(
                f"{found.stream}: subscriptions",
                ("subscription", "via", "in", "out", "lost", "held", "lag ms", "heard s ago"),
                [
                    (
                        report.name,
                        report.via,
                        report.ledger.entered,
                        report.ledger.left,
                        ", ".join(f"{n:,} {why}" for why, n in report.ledger.lost.items() if n) or "0",
                        report.ledger.held,
                        report.lag_ns / 1e6,
                        report.age_ns / 1e9,
                    )
                    for report in found.subscriptions
                ],
            )
        )
    if found.discrepancies:
        for sentence in found.discrepancies:
            console.print(f"  NOT BALANCED: {sentence}", style="red")
    else:
        console.print("  the ledgers balance", style="green")


def device_figures(counters: Mapping[str, int], read_held_ns: int = 0) -> str:
    """Describe the queued reads and every fault of a device's stage; return an empty string for any other stage.

    >>> device_figures({"in_flight": 8, "starved": 2, "starved_us": 1500, "stalls": 1, "detaches": 0, "bytes": 112})
    '8 reads in flight, starved 2 times for 1.5 ms in all, stalls 1'
    >>> device_figures({"in_flight": 8}, read_held_ns=4_250_000)
    '8 reads in flight, the oldest may hold data for 4.2 ms'
    """
    if "in_flight" not in counters:
        return ""
    told = [f"{counters['in_flight']} reads in flight"]
    if read_held_ns:
        told.append(f"the oldest may hold data for {read_held_ns / 1e6:,.1f} ms")
    if counters.get("starved"):
        told.append(f"starved {counters['starved']:,} times for {counters.get('starved_us', 0) / 1000:,.1f} ms in all")
    told += [f"{name.replace('_', ' ')} {counters[name]:,}" for name in FAULTS if counters.get(name)]
    return ", ".join(told)
