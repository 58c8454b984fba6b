"""`usbcast list --lan`: the nodes announced on the local network, and whether each answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from usbcast.cli.output import console, emit, table
from usbcast.node.discovery import LanNode, lan_nodes
from usbcast.node.requests import NodeClient
from usbcast_schemas.errors import UsbcastError

ANSWER_S = 1.5
AT_ONCE = 16


def show_lan(endpoint: str, keys: str | None, as_json: bool) -> None:
    """Show the announced nodes; only the last column comes from the nodes themselves."""
    nodes = lan_nodes(endpoint)
    with ThreadPoolExecutor(AT_ONCE) as asking:
        answers = list(asking.map(lambda node: _answer(node, keys), nodes))
    if as_json:
        emit({"nodes": [_plain(node, answer) for node, answer in zip(nodes, answers, strict=True)]})
        return
    if not nodes:
        console.print(
            "No node is announced on the LAN. `usbcast serve --announce all` starts one that is; an address needs no "
            "announcement: usbcast list --endpoint tcp://HOST:5570",
        )
        return
    rows = [
        (
            ", ".join(node.announced.streams) + ("" if node.announced.complete else ", …"),
            node.endpoint,
            node.announced.version,
            node.announced.contract,
            "yes" if node.announced.key else "no",
            "NO" if answer else "yes",
        )
        for node, answer in zip(nodes, answers, strict=True)
    ]
    console.print(
        table("Nodes on the LAN", ("streams", "endpoint", "version", "contract", "asks for keys", "answers"), rows)
    )
    for node, answer in zip(nodes, answers, strict=True):
        if answer:
            console.print(f"  {node.endpoint} is announced, but gone or not to be reached: {answer}")


def _answer(node: LanNode, keys: str | None) -> str:
    """Return the reason why the node does not answer; empty if it does."""
    try:
        with NodeClient(node.endpoint, timeout_s=ANSWER_S, keys=keys) as client:
            client.describe()
    except UsbcastError as error:
        return str(error)
    return ""


def _plain(node: LanNode, answer: str) -> dict[str, object]:
    said = node.announced
    return {
        "endpoint": node.endpoint,
        "node": said.node,
        "streams": list(said.streams),
        "complete": said.complete,
        "version": said.version,
        "contract": said.contract,
        "key": said.key,
        "answers": not answer,
        "problem": answer,
    }
