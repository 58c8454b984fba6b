"""Keyring: the directory with a party's own key pair, the clients that it admits, and the nodes that it trusts.

Three TOML files, each written whole under another name and then renamed, so that a reader never sees half of one:

    secret.toml   name, public, secret          mode 0600; refused if others can read it
    clients.toml  [[client]] name, key, rights  who may come in; refused if others can write it
    nodes.toml    [[node]] endpoint, key        whose public key a node must have; likewise
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from usbcast_schemas.errors import KeysError
from usbcast_schemas.keys import ClientKey, KeyPair, Rights, check_name, key_text, parse_key, parse_rights, short_text
from usbcast_schemas.sockets import is_pair, make_key_pair, split_tcp

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Room for about 20,000 keys; a larger file is refused."""

SECRET, CLIENTS, NODES = "secret.toml", "clients.toml", "nodes.toml"


class Keyring:
    """A directory of keys. Every call raises KeysError with what to do about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.expanduser()
        self.clients_file = self.directory / CLIENTS

    @classmethod
    def create(cls, directory: Path, name: str) -> Keyring:
        """Make a new pair in `directory`, which need not be there yet; never over an old one."""
        check_name(name)
        ring = cls(directory)
        pair = make_key_pair(name)
        try:
            ring.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeysError(f"cannot make the directory {ring.directory}: {error.strerror}") from None
        path = ring.directory / SECRET
        with ring._locked():
            if path.exists():
                raise KeysError(
                    f"{path} exists already, and clients that know its key would not know a new one: "
                    "give another directory with --keys, or move this one away"
                )
            ring._write(path, [("", {"name": name, "public": key_text(pair.public), "secret": pair.secret.hex()})])
        return ring

    def own(self) -> KeyPair:
        """The pair of this directory."""
        path = self.directory / SECRET
        if not path.exists():
            raise KeysError(f"there are no keys in {self.directory}: usbcast keys new --keys {self.directory}")
        content = self._read(path, forbidden=0o077)
        try:
            pair = KeyPair(
                parse_key(_text(content, "public")),
                parse_key(_text(content, "secret")),
                check_name(_text(content, "name")),
            )
        except KeysError:
            # Not the value: it may be the secret.
            raise KeysError(
                f"{path} is not as `usbcast keys new` writes it (name, public, secret): restore it from a backup, "
                "or move it away and make a new one"
            ) from None
        if not is_pair(pair):
            raise KeysError(
                f"in {path} the secret does not belong to the public key {short_text(pair.public)}: "
                "restore the file from a backup, or move it away and make a new one"
            )
        return pair

    def clients(self) -> dict[bytes, ClientKey]:
        """The clients that have been let in, by public key; those that were revoked too, without rights."""
        found = {}
        for entry in self._entries(CLIENTS, "client"):
            with self._at(CLIENTS):
                client = ClientKey(
                    parse_key(_text(entry, "key")),
                    check_name(_text(entry, "name")),
                    parse_rights(_text(entry, "rights")),
                )
            found[client.public] = client
        return found

    def allow(self, client: ClientKey) -> None:
        """Let `client` in, with its rights instead of those that it had."""
        check_name(client.name)
        with self._locked():
            clients = self.clients()
            for other in clients.values():
                if other.name == client.name and other.public != client.public:
                    raise KeysError(
                        f"another key is called {client.name} already: {short_text(other.public)}; choose another name"
                    )
            clients[client.public] = client
            self._write_clients(clients.values())

    def revoke(self, who: str) -> ClientKey:
        """Take all rights from the client with this name, or this public key; return it as it was."""
        with self._locked():
            clients = self.clients()
            matching = [
                one for one in clients.values() if who == one.name or key_text(one.public).startswith(who.lower())
            ]
            matching = [one for one in matching if one.name == who] or matching
            if len(matching) != 1 or not who:
                names = ", ".join(sorted(one.name for one in matching or clients.values())) or "none"
                raise KeysError(
                    f"{who[:100]!r} names {'no' if not matching else 'more than one'} client; there are {names}"
                )
            client = matching[0]
            clients[client.public] = ClientKey(client.public, client.name, Rights.NONE)
            self._write_clients(clients.values())
        return client

    def nodes(self) -> dict[str, bytes]:
        """The public keys of known nodes, by request address."""
        found = {}
        for entry in self._entries(NODES, "node"):
            with self._at(NODES):
                found[_text(entry, "endpoint")] = parse_key(_text(entry, "key"))
        return found

    def trust(self, endpoint: str, public: bytes) -> bytes | None:
        """Require this key of the node at `endpoint` from now on; return the key required before."""
        split_tcp(endpoint)
        if not endpoint.isprintable():
            raise KeysError(f"{endpoint!r} is not an endpoint that can be written into a file")
        with self._locked():
            nodes = self.nodes()
            before = nodes.get(endpoint)
            nodes[endpoint] = public
            self._write(
                self.directory / NODES,
                [("node", {"endpoint": where, "key": key_text(key)}) for where, key in sorted(nodes.items())],
            )
        return before

    def _write_clients(self, clients: Iterable[ClientKey]) -> None:
        self._write(
            self.clients_file,
            [
                ("client", {"name": one.name, "key": key_text(one.public), "rights": one.rights.value})
                for one in clients
            ],
        )

    def _entries(self, file: str, table: str) -> list[Mapping[str, Any]]:
        path = self.directory / file
        if not path.exists():
            return []
        entries = self._read(path, forbidden=0o022).get(table, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise KeysError(f"{path}: [[{table}]] must be a list of tables")
        return entries

    @contextlib.contextmanager
    def _at(self, file: str) -> Iterator[None]:
        try:
            yield
        except KeysError as error:
            raise KeysError(f"{self.directory / file}: {error}") from None

    def _read(self, path: Path, *, forbidden: int) -> dict[str, Any]:
        """The content of a file that is this user's, and on which nobody else has a right in `forbidden`."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                _check_owner(path, status, forbidden)
                _check_owner(self.directory, self.directory.stat(), 0o022)
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise KeysError(f"cannot read {path}: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise KeysError(f"{path} has more than {MAX_FILE_BYTES} bytes: that is not a file of keys")
        try:
            return tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise KeysError(f"{path} is not TOML: {error}") from None

    def _write(self, path: Path, tables: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        """Write `tables` whole, for this user alone. Printable text is written in TOML as it is in JSON."""
        lines = []
        for table, values in tables:
            lines += [f"[[{table}]]"] if table else []
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()] + [""]
        unfinished = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                    file.write("\n".join(lines))
                    file.flush()
                    os.fsync(fd)
                unfinished.rename(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise KeysError(f"cannot write {path}: {error.strerror}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the directory: one change at a time, also between processes."""
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise KeysError(
                f"cannot open the directory {self.directory}: {error.strerror}; "
                f"usbcast keys new --keys {self.directory} makes it"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _check_owner(path: Path, status: os.stat_result, forbidden: int) -> None:
    if status.st_uid not in (os.getuid(), 0):
        raise KeysError(f"{path} belongs to another user, {status.st_uid}: chown {os.getuid()} {path}")
    if status.st_mode & forbidden:
        what = "read" if forbidden & 0o044 else "change"
        mode = "go=" if forbidden & 0o044 else "go-w"
        raise KeysError(f"others can {what} {path} (mode {stat.S_IMODE(status.st_mode):04o}): chmod {mode} {path}")


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise KeysError(f"{key} is missing, or not text")
    return value
