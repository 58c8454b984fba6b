"""`usbcast command`: a control transfer, or data for an OUT endpoint, while the device streams."""

from __future__ import annotations

from typing import Annotated

import typer

from usbcast.cli.options import AsJson, Endpoint, Keys, hex_bytes, number
from usbcast.cli.output import console, emit
from usbcast.node.locate import locate
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import UsageError
from usbcast_schemas.v1 import usbcast_pb2 as pb


def command(
    stream: Annotated[str, typer.Argument(help="Name of a stream of the device.")],
    request_type: Annotated[
        str | None, typer.Option("--type", metavar="N", help="bmRequestType of a control transfer; bit 7 set reads.")
    ] = None,
    request: Annotated[str, typer.Option("--request", metavar="N", help="bRequest.")] = "0",
    value: Annotated[str, typer.Option("--value", metavar="N", help="wValue.")] = "0",
    index: Annotated[str, typer.Option("--index", metavar="N", help="wIndex.")] = "0",
    out: Annotated[
        str | None, typer.Option("--out", metavar="ENDPOINT", help="Send --data to this OUT endpoint.")
    ] = None,
    data: Annotated[str, typer.Option("--data", metavar="HEX", help="Bytes to write.")] = "",
    length: Annotated[int, typer.Option("--length", min=0, max=65535, help="Bytes to read.")] = 0,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.01, max=60, help="Seconds to wait for the device.")
    ] = 1.0,
    endpoint: Endpoint = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Send a command to the device of STREAM and show its answer."""
    if (request_type is None) == (out is None):
        raise UsageError("say either --type, for a control transfer, or --out, for data to an OUT endpoint")
    asked = pb.CommandRequest(stream=stream, timeout_ms=int(timeout_s * 1000))
    payload = hex_bytes(data)
    if request_type is not None:
        asked.control.CopyFrom(
            pb.ControlTransfer(
                request_type=number(request_type), request=number(request), value=number(value), index=number(index),
                data=payload, length=length,
            )
        )  # fmt: skip
    else:
        asked.out.CopyFrom(pb.OutTransfer(endpoint=number(out or ""), data=payload))
    with NodeClient(locate(stream, endpoint), keys=keys) as node:
        answer = node.command(asked)
    if as_json:
        emit({"data": answer.data.hex(), "written": answer.written})
    elif answer.data:
        console.print(answer.data.hex(" "))
    else:
        console.print(f"{answer.written} bytes written")
