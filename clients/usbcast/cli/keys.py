"""`usbcast keys`: make keys, let clients in, take their rights away, and say which key a node must have."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from usbcast.cli.options import AsJson
from usbcast.cli.output import console, emit, table
from usbcast.node.credentials import VARIABLE
from usbcast_schemas.errors import UsageError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import ClientKey, key_text, parse_key, parse_rights, short_text

app = typer.Typer(
    no_args_is_help=True,
    help="Keys: which clients a node admits, and which node a client trusts. See docs/security.md.",
)

Directory = Annotated[
    str | None, typer.Option("--keys", metavar="DIR", help="Directory of the keys; default: USBCAST_KEYS.")
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the key pair.")]


@app.command("new", epilog="Example: usbcast keys new --keys ~/.usbcast-keys --name alice")
def new(directory: Directory = None, name: Name = None, as_json: AsJson = False) -> None:
    """Make a key pair, for a node or a client. Nobody but you can read it."""
    ring = Keyring.create(_directory(directory), name or _own_name())
    _show(ring, as_json, f"made {ring.directory / 'secret.toml'}")


@app.command("show", epilog="Example: usbcast keys show --keys ~/.usbcast-keys")
def show(directory: Directory = None, as_json: AsJson = False) -> None:
    """Show the public key, and what others have to run to know it. It is no secret."""
    _show(Keyring(_directory(directory)), as_json, None)


@app.command("list", epilog="Example: usbcast keys list --keys ~/.usbcast-keys")
def list_keys(directory: Directory = None, as_json: AsJson = False) -> None:
    """List the clients that are let in or were revoked, and the nodes whose keys are known."""
    ring = Keyring(_directory(directory))
    clients, nodes = ring.clients().values(), ring.nodes()
    if as_json:
        emit(
            {
                "clients": [
                    {"name": one.name, "key": key_text(one.public), "rights": one.rights.value} for one in clients
                ],
                "nodes": [{"endpoint": endpoint, "key": key_text(key)} for endpoint, key in nodes.items()],
            }
        )
        return
    rows = [(one.name, one.rights.value, short_text(one.public)) for one in clients]
    console.print(table("Clients", ("name", "rights", "key"), rows))
    console.print(table("Nodes", ("endpoint", "key"), [(endpoint, short_text(key)) for endpoint, key in nodes.items()]))


@app.command("allow", epilog="Example: usbcast keys allow KEY --name alice --keys ~/.usbcast-keys")
def allow(
    key: Annotated[str, typer.Argument(help="The client's public key: 64 hex digits.")],
    name: Annotated[str, typer.Option("--name", help="Name for the client.")],
    rights: Annotated[str, typer.Option("--rights", help="read; or command: read, and command the device.")] = "read",
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Let a client in, or give it other rights. The node need not be started again."""
    client = ClientKey(parse_key(key), name, parse_rights(rights))
    if not client.rights.may_read:
        raise UsageError(
            f"--rights is {rights!r}: read or command is allowed; usbcast keys revoke {name} takes them away"
        )
    ring = Keyring(_directory(directory))
    ring.own()
    ring.allow(client)
    if as_json:
        emit({"allowed": {"name": name, "key": key, "rights": client.rights.value}})
    else:
        console.print(f"{short_text(client.public, name)} may {client.rights.value}")


@app.command("revoke", epilog="Example: usbcast keys revoke alice --keys ~/.usbcast-keys")
def revoke(
    who: Annotated[str, typer.Argument(metavar="NAME|KEY", help="The client's name, or how its public key begins.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take all rights from a client; if it is connected, it is cut off at once."""
    client = Keyring(_directory(directory)).revoke(who)
    if as_json:
        emit({"revoked": {"name": client.name, "key": key_text(client.public)}})
    else:
        console.print(f"{short_text(client.public, client.name)} is revoked")


@app.command("trust", epilog="Example: usbcast keys trust tcp://lab:5570 KEY --keys ~/.usbcast-keys")
def trust(
    endpoint: Annotated[str, typer.Argument(help="The node's request address, as given to --endpoint.")],
    key: Annotated[str, typer.Argument(help="The node's public key, as `usbcast keys show` prints it there.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """From now on the node at ENDPOINT must have this key; any other is refused."""
    public = parse_key(key)
    before = Keyring(_directory(directory)).trust(endpoint, public)
    if as_json:
        emit({"trusted": {"endpoint": endpoint, "key": key, "before": key_text(before) if before else None}})
        return
    console.print(f"the node at {endpoint} must have the key {short_text(public)}")
    if before not in (None, public):
        console.print(f"  until now it had to have {short_text(before or b'')}")


def _directory(given: str | None) -> Path:
    directory = given or os.environ.get(VARIABLE)
    if not directory:
        raise UsageError(f"say which keys: --keys DIR, or set {VARIABLE} to a directory")
    return Path(directory)


def _own_name() -> str:
    """Return user and host, reduced to the characters that a key's name may have."""
    return re.sub(r"[^A-Za-z0-9._@-]", "-", f"{getpass.getuser()}@{socket.gethostname()}").lstrip("._@-")[:64] or "me"


def _show(ring: Keyring, as_json: bool, made: str | None) -> None:
    own = ring.own()
    key = key_text(own.public)
    if as_json:
        emit({"name": own.name, "key": key, "directory": str(ring.directory)})
        return
    if made:
        console.print(made, soft_wrap=True)
    for line in (
        f"public key of {own.name}:",
        f"  {key}",
        "for a client, have this run where the node is:",
        f"  usbcast keys allow {key} --name {own.name} --keys DIR",
        "for a node, have this run by its clients:",
        f"  usbcast keys trust tcp://{socket.gethostname()}:5570 {key} --keys DIR",
    ):
        console.print(line, soft_wrap=True)
