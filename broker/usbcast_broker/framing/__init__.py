"""From the bytes of USB transfers to whole packets, with every byte that was none accounted for.

Pure: no socket, thread or clock.
"""

from usbcast_broker.framing.assembler import Assembler
from usbcast_broker.framing.counter import CounterTracker
from usbcast_broker.framing.framer import Framer
from usbcast_broker.framing.methods import make_framer
from usbcast_broker.framing.stripper import StatusStripper

__all__ = ["Assembler", "CounterTracker", "Framer", "StatusStripper", "make_framer"]
