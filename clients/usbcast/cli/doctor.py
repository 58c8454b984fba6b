"""`usbcast doctor`: which hop on the way to a node fails, and what to do about it; without a node, this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from usbcast.cli.machine import examine_machine
from usbcast.cli.options import AsJson, Keys
from usbcast.cli.output import console, emit, styled
from usbcast.doctor.findings import Finding, failed, skipped
from usbcast.doctor.hops import examine
from usbcast.node.discovery import is_lan, lan_nodes
from usbcast_schemas.registry import local_nodes
from usbcast_schemas.sockets import connectable

STYLES = {"ok": "green", "failed": "bold red", "skipped": "dim"}


def doctor(
    endpoint: Annotated[
        str | None,
        typer.Argument(metavar="ENDPOINT", help="Address of the node, or lan:; default: this machine and its nodes."),
    ] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="Name of the stream; default: the first.")] = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Test each hop on the way to a node, and say which fails and what to do. Exit code 1 if one does."""
    well = True
    for subject, findings in _subjects(endpoint, stream, keys):
        if not as_json:
            console.print(styled((subject, "bold")))
        for finding in findings:
            well = well and finding.outcome != "failed"
            _show(subject, finding, as_json)
    if as_json:
        emit({"event": "verdict", "well": well})
    if not well:
        raise typer.Exit(1)


def _subjects(endpoint: str | None, stream: str | None, keys: str | None) -> Iterator[tuple[str, Iterable[Finding]]]:
    if endpoint is None:
        yield "this machine", examine_machine()
        found = [node.endpoint for node in local_nodes() if stream is None or stream in node.streams]
        if not found:
            what = f"a stream {stream!r}" if stream else "any stream"
            says = f"no node of this user with {what} runs on this machine: usbcast serve starts one"
            yield "nodes", [failed("node", says) if stream else skipped("node", says)]
    elif is_lan(endpoint):
        found = [n.endpoint for n in lan_nodes(endpoint) if stream is None or stream in n.announced.streams]
        if not found:
            says = "no such node is announced on the LAN: is it started with --announce, and does the network pass on multicast?"
            yield endpoint, [failed("announcement", says)]
    else:
        connectable(endpoint)
        found = [endpoint]
    for address in found:
        yield address, examine(address, stream, keys)


def _show(subject: str, finding: Finding, as_json: bool) -> None:
    if as_json:
        emit({"event": "finding", "of": subject, "hop": finding.hop, "outcome": finding.outcome, "says": finding.says})
        return
    outcome = f"{finding.outcome:<8}", STYLES[finding.outcome]
    console.print(styled("  ", outcome, f"{finding.hop:<14} {finding.says}"), soft_wrap=True)
