"""Endpoints: tell a NATS server from a node, and take the address of a server apart.

The address of a server is `nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][/PREFIX][?creds=FILE&ca=FILE]`.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from usbcast_schemas.errors import UsageError

SCHEMES = ("nats", "tls")
DEFAULT_PORT = 4222
DEFAULT_PREFIX = "usbcast"

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_OPTIONS = ("creds", "ca")


def is_stored(endpoint: str | None) -> bool:
    """Return True if `endpoint` is the address of a NATS server, not of a node."""
    return endpoint is not None and endpoint.partition("://")[0].lower() in SCHEMES


@dataclass(frozen=True, slots=True)
class Address:
    """Servers of one cluster, how to be let in, and the prefix of the subjects. `str` leaves the password out."""

    servers: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    creds: str = ""
    """File with a user's JWT and key."""
    ca: str = ""
    """File with the certificates to trust, where the system's do not do."""

    def __str__(self) -> str:
        return ",".join(map(public, self.servers))

    def with_creds(self, creds: str) -> Address:
        return replace(self, creds=creds or self.creds)


def public(url: str) -> str:
    """A server's address without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def parse(endpoint: str) -> Address:
    """Parse `endpoint`; raise UsageError if it is not the address of a NATS server."""
    scheme, _, rest = endpoint.partition("://")
    where, _, query = rest.partition("?")
    hosts, _, prefix = where.partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    wrong = f"{public(endpoint)!r} is not the address of a NATS server"
    example = "write it like nats://HOST:4222, with several hosts separated by commas"
    if scheme.lower() not in SCHEMES or not hosts:
        raise UsageError(f"{wrong}: {example}")
    for name in options:
        if name not in _OPTIONS:
            raise UsageError(f"{wrong}: the option {name!r} is unknown; the options are {', '.join(_OPTIONS)}")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise UsageError(f"{wrong}: the prefix {prefix!r} may have up to 64 letters, digits, '_' and '-'")
    userinfo = hosts.rpartition("@")[0] if hosts.count("@") == 1 else ""
    servers = []
    for part in hosts.split(","):
        host = part if "@" in part or not userinfo else f"{userinfo}@{part}"
        server = urlsplit(f"{scheme.lower()}://{host}")
        try:
            port = server.port or DEFAULT_PORT
        except ValueError:
            raise UsageError(f"{wrong}: the port in {public(f'{scheme}://{host}')!r} is invalid; {example}") from None
        if not server.hostname:
            raise UsageError(f"{wrong}: a host is missing; {example}")
        name = f"[{server.hostname}]" if ":" in server.hostname else server.hostname
        login = host.rpartition("@")[0]
        servers.append(f"{scheme.lower()}://{f'{login}@' if login else ''}{name}:{port}")
    return Address(tuple(servers), prefix or DEFAULT_PREFIX, options.get("creds", ""), options.get("ca", ""))
