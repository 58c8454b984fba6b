"""Both engines in one process: what Python does, beside what the engine does that was chosen at import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from usbcast_schemas import batch
from usbcast_schemas.ring import reader
from usbcast_schemas.ring.memory import PureMemory


@contextmanager
def only_python() -> Iterator[None]:
    """Have batches decoded, and the rings read that are opened meanwhile, by Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_read_plain", batch.decode_plain)
        patch.setattr(reader, "memory_in_order", PureMemory)
        yield
