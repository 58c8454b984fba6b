"""Locate the node of a stream: at the endpoint given, else on this machine or the LAN, else at the default address."""

from __future__ import annotations

from usbcast.node.discovery import LanBrowser, find_on_lan, is_lan, lan_nodes
from usbcast_schemas.contract import DEFAULT_ENDPOINT
from usbcast_schemas.registry import local_nodes


def locate(stream: str, endpoint: str | None) -> str:
    """The request address to ask for `stream`; the latest node of this machine to have started wins.

    For `lan:` looks for up to four seconds. Raises NodeUnreachable, StreamAmbiguous, ConfigError then.
    """
    if endpoint is None:
        return _locate_here(stream)
    return find_on_lan(stream, endpoint) if is_lan(endpoint) else endpoint


def endpoints(endpoint: str | None) -> list[str]:
    """The request addresses of all nodes that are known of."""
    if endpoint is not None:
        return [node.endpoint for node in lan_nodes(endpoint)] if is_lan(endpoint) else [endpoint]
    found = [node.endpoint for node in local_nodes()]
    return found or [DEFAULT_ENDPOINT]


class Finder:
    """A `locate` that does not block: call it until it returns an address. It listens on the LAN only until then."""

    def __init__(self, stream: str, endpoint: str | None) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._browser: LanBrowser | None = None

    def find(self) -> str | None:
        """The address, None while it is not known. Raises StreamAmbiguous, ConfigError."""
        if self._endpoint is None:
            return _locate_here(self._stream)
        if not is_lan(self._endpoint):
            return self._endpoint
        if self._browser is None:
            self._browser = LanBrowser(self._endpoint)
        node = self._browser.with_stream(self._stream) if self._browser.settled else None
        if node is None:
            return None
        self.close()
        return node.endpoint

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()
            self._browser = None


def _locate_here(stream: str) -> str:
    for node in local_nodes():
        if stream in node.streams:
            return node.endpoint
    return DEFAULT_ENDPOINT
