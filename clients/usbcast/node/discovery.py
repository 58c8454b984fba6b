"""Finding nodes on the LAN by mDNS: those announced on chosen interfaces, as long as they are."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usbcast_schemas.errors import ConfigError, NodeUnreachable, StreamAmbiguous, WireError
from usbcast_schemas.extras import missing
from usbcast_schemas.interfaces import ALL, choose, split_names
from usbcast_schemas.lan import SCHEME, SERVICE, Announced

if TYPE_CHECKING:
    from zeroconf import Zeroconf

log = logging.getLogger(__name__)

LOOK_S = 1.5
"""Questions go out at once and after a second. An answer waits for up to 120 ms, and for up to a second if the same was
said to all just before (RFC 6762, sections 5.2 and 6)."""

MOST_LOOK_S = 4.0
MAX_NODES = 1000
_RESOLVE_MS = 1000


@dataclass(frozen=True, slots=True)
class LanNode:
    """A node as it is announced; what it says is not to be trusted before the node itself was asked."""

    endpoint: str
    announced: Announced

    def __str__(self) -> str:
        return f"{self.endpoint} ({', '.join(self.announced.streams)})"


def is_lan(endpoint: str | None) -> bool:
    """Return True if `endpoint` asks for discovery on the LAN: `lan:`, or `lan:eth0,10.0.0.5` for these interfaces only."""
    return endpoint is not None and endpoint.startswith(SCHEME)


class LanBrowser:
    """Listens on the interfaces for as long as it is open; `nodes` as of now. Raises ConfigError where mDNS cannot be used."""

    def __init__(self, endpoint: str = SCHEME) -> None:
        wanted = split_names(endpoint.removeprefix(SCHEME)) or [ALL]
        addresses = choose(wanted)
        try:
            from zeroconf import DNSQuestionType, IPVersion, ServiceBrowser, Zeroconf
        except ModuleNotFoundError as error:
            raise ConfigError(missing(error.name)) from None
        self.where = ", ".join(wanted)
        self.began_s = time.monotonic()
        self._lock = threading.Lock()
        self._found: dict[str, LanNode] = {}
        self._refused: set[str] = set()
        """Names of what announced something malformed; each is said once."""
        try:
            self._zeroconf = Zeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
        except OSError as error:
            raise ConfigError(
                f"cannot look for nodes on {self.where}: {error.strerror or error}; give the endpoint instead"
            ) from None
        # Answered to all: an answer to this host alone would go to any one of the programs here that listen for mDNS.
        asked = DNSQuestionType.QM
        self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed], question_type=asked)

    def __enter__(self) -> LanBrowser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._browser.cancel()
        self._zeroconf.close()

    @property
    def settled(self) -> bool:
        """True once every node on the LAN has had the time to answer."""
        return time.monotonic() - self.began_s >= LOOK_S

    def nodes(self) -> list[LanNode]:
        """Each node once, also if it is announced on several interfaces."""
        with self._lock:
            found = sorted(self._found.values(), key=lambda node: node.endpoint)
        return list({node.announced.node: node for node in reversed(found)}.values())[::-1]

    def with_stream(self, stream: str) -> LanNode | None:
        """The node that has `stream`; None if none is known yet. Raises StreamAmbiguous where there are several."""
        having = [node for node in self.nodes() if stream in node.announced.streams]
        if len(having) > 1:
            raise StreamAmbiguous(
                f"{len(having)} nodes on the LAN have a stream {stream!r}: {'; '.join(map(str, having))}. "
                f"Choose one by its address, such as endpoint={having[0].endpoint}"
            )
        return having[0] if having else None

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        from zeroconf import DNSQuestionType, ServiceInfo, ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            with self._lock:
                self._found.pop(name, None)
            return
        service = ServiceInfo(service_type, name)
        if not service.request(zeroconf, _RESOLVE_MS, DNSQuestionType.QM):
            return
        addresses = service.parsed_addresses()
        try:
            announced = Announced.from_txt(service.properties)
        except WireError as error:
            if name not in self._refused and len(self._refused) < MAX_NODES:
                self._refused.add(name)
                log.warning("%r: %s", name[:100], error)
            return
        with self._lock:
            if addresses and service.port and (name in self._found or len(self._found) < MAX_NODES):
                self._found[name] = LanNode(f"tcp://{addresses[0]}:{service.port}", announced)


def lan_nodes(endpoint: str = SCHEME) -> list[LanNode]:
    """The nodes that answer; takes LOOK_S."""
    with LanBrowser(endpoint) as browser:
        while not browser.settled:
            time.sleep(0.02)
        return browser.nodes()


def find_on_lan(stream: str, endpoint: str) -> str:
    """The address of the one node on the LAN that has `stream`. Raises NodeUnreachable, StreamAmbiguous."""
    with LanBrowser(endpoint) as browser:
        while time.monotonic() - browser.began_s < MOST_LOOK_S:
            if browser.settled and (node := browser.with_stream(stream)):
                return node.endpoint
            time.sleep(0.02)
        raise NodeUnreachable(not_found(stream, browser.where, browser.nodes()))


def not_found(stream: str, where: str, nodes: Sequence[LanNode]) -> str:
    """Return the error message for a stream that no node announces."""
    others = f"; the announced nodes are {'; '.join(map(str, nodes))}" if nodes else ""
    return (
        f"no node with a stream {stream!r} is announced on the LAN ({where}){others}: start the node with "
        "`usbcast serve --announce all`, or give its address, which needs no announcement"
    )
