"""Announcing a node on the LAN by mDNS, on chosen interfaces only, for as long as it lives (RFC 6762, RFC 6763)."""

from __future__ import annotations

import logging
import os
import re
import socket as posix
from collections.abc import Sequence
from typing import TYPE_CHECKING

from usbcast_schemas.errors import ConfigError
from usbcast_schemas.extras import missing
from usbcast_schemas.interfaces import ALL, choose, is_loopback, split_names
from usbcast_schemas.lan import SERVICE, Announced
from usbcast_schemas.sockets import split_tcp

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = logging.getLogger(__name__)

TTL_S = 120
"""Time for which the LAN may remember a node that could not say goodbye: RFC 6762's figure for records of a host."""

_ANYWHERE = ("0.0.0.0", "*")


def addresses_to_announce(announce: str, endpoint: str) -> list[str]:
    """Return the addresses at which to announce a node that listens at `endpoint`, by the setting.

    Raises ConfigError if a client that finds it there could not reach it.
    """
    wanted = split_names(announce)
    if not wanted:
        return []
    tcp = split_tcp(endpoint)
    if tcp is None:
        raise ConfigError(
            f"cannot announce the node on {announce}: it listens on {endpoint}, which only this machine can reach: "
            "listen on tcp, or omit --announce"
        )
    host = tcp[0]
    if host.startswith("["):
        raise ConfigError(f"cannot announce {endpoint}: only IPv4 addresses can be announced; bind to one of these")
    chosen = choose(wanted)
    if host in _ANYWHERE:
        return chosen
    reachable = [address for address in chosen if address == host]
    if not reachable and wanted == [ALL] and not is_loopback(host):
        reachable = [host]
    if not reachable:
        listens = f"only on this machine ({endpoint})" if is_loopback(host) else f"at {endpoint} alone"
        raise ConfigError(
            f"cannot announce the node on {announce} ({', '.join(chosen)}): it listens {listens}, so nobody there could "
            f"reach it; listen there with --bind tcp://{chosen[0]}:{tcp[1]}, or omit --announce"
        )
    return reachable


class Announcement:
    """The mDNS services of a node, one per address; `close` says goodbye. Raises ConfigError if mDNS cannot be used."""

    def __init__(self, addresses: Sequence[str], port: int, announced: Announced) -> None:
        try:
            from zeroconf import IPVersion, Zeroconf
        except ModuleNotFoundError as error:
            raise ConfigError(missing(error.name)) from None
        self._announcers: list[tuple[Zeroconf, str, str]] = []
        self._port = port
        host = re.sub(r"[^A-Za-z0-9-]", "-", posix.gethostname())[:40]
        try:
            # One responder for each address, so that nobody is told an address of another network.
            for address in addresses:
                announcer = Zeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
                label = f"{host}-{announced.node}-{os.urandom(2).hex()}"
                self._announcers.append((announcer, address, label))
                # The name is random: there is nobody to ask whether it is taken.
                announcer.register_service(self._service(address, label, announced), cooperating_responders=True)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"cannot announce the node on {', '.join(addresses)}: {error.strerror or error}; omit --announce, "
                "clients that know the address need no announcement"
            ) from None
        log.info("announced at %s", ", ".join(addresses))

    def update(self, announced: Announced) -> None:
        """Say the same with other streams."""
        for announcer, address, label in self._announcers:
            announcer.update_service(self._service(address, label, announced))

    def close(self) -> None:
        """Say goodbye, so that the node vanishes at once; idempotent."""
        while self._announcers:
            self._announcers.pop()[0].close()

    def _service(self, address: str, label: str, announced: Announced) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            addresses=[posix.inet_aton(address)],
            port=self._port,
            properties=announced.to_txt(),
            server=f"{label}.local.",
            host_ttl=TTL_S,
            other_ttl=TTL_S,
        )
