"""Have a function called with everything that happens: batches, gaps, unplugging, restarts, silence, the end.

usbcast serve --simulate &
python examples/listen.py first-case
"""

from __future__ import annotations

import sys

import usbcast
from usbcast import Batch, DeviceEvent, End, Event, Gap, Restart, Silence


def on_event(event: Event) -> None:
    """Called from the subscription's own thread, one event at a time, in order."""
    match event:
        case Batch():
            pass  # your data: event.packets, event.fields, event.payload
        case Gap(count=count, stage=stage, reason=reason, at_least=at_least):
            print(f"gap: {'at least ' if at_least else ''}{count} packets lost at stage {stage}: {reason}")
        case DeviceEvent(kind=kind, detail=detail):
            print(f"device {kind}: {detail}")
        case Restart(old_epoch=old, new_epoch=new):
            print(f"restart: {old:016x} is over, {new:016x} counts from 0")
        case Silence(duration_ns=duration):
            print(f"silence for {duration / 1e9:.1f} s; reconnecting")
        case End(reason=reason, packets=packets):
            print(f"end after {packets} packets: {reason}")


name = sys.argv[1] if len(sys.argv) > 1 else "first-case"
with usbcast.subscribe(name, start="oldest") as stream:
    stream.listen(on_event).join()  # your program may do something else meanwhile
