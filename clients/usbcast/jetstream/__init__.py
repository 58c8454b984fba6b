"""NATS JetStream: streams stored by a server, for fleets, for days, and for many readers. See docs/nats.md.

Nothing here is imported unless an endpoint is `nats://` or `tls://`.
"""

from __future__ import annotations

from importlib.util import find_spec

from usbcast_schemas.errors import UsageError
from usbcast_schemas.extras import missing


def require_nats() -> None:
    """Raise UsageError if the client library is not installed."""
    if find_spec("nats") is None:
        raise UsageError(missing("nats"))
