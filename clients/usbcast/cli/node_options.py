"""Options of the verbs that run a node: serve, bridge and play.

A parameter that has the name of a field of `NodeSettings` sets that field. A verb declares it with one of the types below, and
passes all its parameters to `node_flags`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

Bind = Annotated[str | None, typer.Option("--bind", metavar="ENDPOINT", help="Address for requests.")]
Publish = Annotated[str | None, typer.Option("--publish", metavar="ENDPOINT", help="Address for the data.")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Let anybody connect, from other machines too.")]
NodeKeys = Annotated[
    str | None, typer.Option("--keys", metavar="DIR", help="Let in only clients with a key that DIR allows.")
]
MaxConnections = Annotated[
    int | None,
    typer.Option("--max-connections", help="Most connections of all clients; one address may have half of them."),
]
Announce = Annotated[
    str | None,
    typer.Option(
        "--announce", metavar="IFACE,…", help="Announce the node on the LAN by mDNS: interfaces, addresses, or all."
    ),
]
RingSize = Annotated[
    str | None, typer.Option("--ring-size", metavar="SIZE", help="Bytes that a ring holds, like 64MiB.")
]
RingSlots = Annotated[int | None, typer.Option("--ring-slots", help="Most batches that a ring holds.")]
BatchSize = Annotated[
    str | None, typer.Option("--batch-size", metavar="SIZE", help="Send a batch once it has this many bytes.")
]
BatchAge = Annotated[
    float | None, typer.Option("--batch-age-ms", help="How long a packet may wait for others to fill its batch.")
]
Linger = Annotated[float | None, typer.Option("--linger-s", help="Seconds to go on answering after the end.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Show each setting and where it came from; exit.")]


def node_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a verb's parameters that set something of a node; None stands for what was not given.

    >>> node_flags({"bind": "tcp://*:5570", "ring_size": None, "simulate": True})
    {'bind': 'tcp://*:5570', 'ring_size': None}
    """
    from usbcast_broker.settings import NodeSettings

    return {setting.name: given[setting.name] for setting in fields(NodeSettings) if setting.name in given}
