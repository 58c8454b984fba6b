"""Framing: cut the bytes of USB transfers into whole packets, and account for every byte that is not part of one.

Pure: no socket, thread or clock.
"""

from usbcast_broker.framing.assembler import Assembler
from usbcast_broker.framing.counter import CounterTracker
from usbcast_broker.framing.framer import Framer
from usbcast_broker.framing.methods import make_framer
from usbcast_broker.framing.stripper import StatusStripper

__all__ = ["Assembler", "CounterTracker", "Framer", "StatusStripper", "make_framer"]
