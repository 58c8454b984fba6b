"""The wire as a program: carries IP packets between TUN devices of two hosts, and loses, delays or throttles them as told.

It stands in for `tc netem`, which not every kernel has, and draws from a seed. The first argument is a JSON list of links:
`{"name": ..., "seed": ..., "ends": [{"host_pid": ..., "device": ...}, {...}]}`. Then every line of stdin is a wish:
`{"link": ..., "way": 0, 1 or null for both, ...}` with the fields of Shape, or `{"count": true}`. Each is answered by a line.
Direction 0 goes from the first end to the second. It ends when stdin does.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKETS_PER_TURN = 64


@dataclasses.dataclass
class Shape:
    """What one direction of a link does to packets; the order of things is that of netem: lost, throttled, delayed."""

    loss: float = 0.0
    """Of all packets, by chance."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Each packet comes by up to so much sooner or later, so packets overtake each other."""
    rate_bits_per_s: float = 0.0
    """0: as fast as it goes."""
    queue_bytes: int = 64 * 1024
    """What waits before a throttled link; what does not fit is dropped."""


class Direction:
    """One direction of a link."""

    def __init__(self, source: int, target: int, seed: str) -> None:
        self.source, self.target = source, target
        self.shape = Shape()
        self.passed = self.passed_bytes = self.lost = self.dropped = self.refused = 0
        self._chance = random.Random(seed)
        self._free_s = 0.0
        """When the throttled link has sent all that waits for it."""

    def due(self, size_bytes: int, now_s: float) -> float | None:
        """When a packet that enters now comes out; None if it does not."""
        shape = self.shape
        if shape.loss and self._chance.random() < shape.loss:
            self.lost += 1
            return None
        leaves_s = now_s
        if shape.rate_bits_per_s:
            waiting_s = max(0.0, self._free_s - now_s)
            if waiting_s * shape.rate_bits_per_s / 8 + size_bytes > shape.queue_bytes:
                self.dropped += 1
                return None
            leaves_s = self._free_s = now_s + waiting_s + size_bytes * 8 / shape.rate_bits_per_s
        return leaves_s + shape.delay_s + self._chance.uniform(-shape.jitter_s, shape.jitter_s)

    def deliver(self, packet: bytes) -> None:
        try:
            os.write(self.target, packet)
        except OSError:  # the device is down
            self.refused += 1
        else:
            self.passed += 1
            self.passed_bytes += len(packet)

    def counts(self) -> dict[str, int]:
        names = ("passed", "passed_bytes", "lost", "dropped", "refused")
        return {name: getattr(self, name) for name in names}


class Wire:
    """All links of a test."""

    def __init__(self, links: list[dict[str, Any]]) -> None:
        self._links: dict[str, tuple[Direction, Direction]] = {}
        self._by_source: dict[int, Direction] = {}
        self._coming: list[tuple[float, int, bytes, Direction]] = []
        self._number = 0
        for link in links:
            first, second = (open_tun(end["host_pid"], end["device"]) for end in link["ends"])
            there = Direction(first, second, f"{link['seed']} there")
            back = Direction(second, first, f"{link['seed']} back")
            self._links[link["name"]] = there, back
            self._by_source |= {first: there, second: back}

    def run(self) -> None:
        """Until stdin ends."""
        wishes = b""
        poll = select.poll()
        for source in (*self._by_source, sys.stdin.fileno()):
            poll.register(source, select.POLLIN)
        say({"event": "ready"})
        while True:
            rest_s = self._coming[0][0] - time.monotonic() if self._coming else 60.0
            for source, _ in poll.poll(max(0.0, rest_s * 1000)):
                if source == sys.stdin.fileno():
                    read = os.read(source, 65536)
                    if not read:
                        return
                    *lines, wishes = (wishes + read).split(b"\n")
                    for line in lines:
                        self._grant(json.loads(line))
                else:
                    self._take(self._by_source[source])
            now_s = time.monotonic()
            while self._coming and self._coming[0][0] <= now_s:
                _, _, packet, direction = heapq.heappop(self._coming)
                direction.deliver(packet)

    def _take(self, direction: Direction) -> None:
        for _ in range(PACKETS_PER_TURN):
            try:
                packet = os.read(direction.source, 65536)
            except OSError:  # nothing more, or the device is down
                return
            due_s = direction.due(len(packet), time.monotonic())
            if due_s is not None:
                self._number += 1
                heapq.heappush(self._coming, (due_s, self._number, packet, direction))

    def _grant(self, wish: dict[str, Any]) -> None:
        if wish.pop("count", False):
            counted = {name: [way.counts() for way in ways] for name, ways in self._links.items()}
            say({"event": "counted", "links": counted})
            return
        ways, way = self._links[wish.pop("link")], wish.pop("way")
        for direction in ways if way is None else [ways[way]]:
            direction.shape = dataclasses.replace(direction.shape, **wish)
        say({"event": "shaped"})


def open_tun(host_pid: int, device: str) -> int:
    """Make a TUN device in the network namespace of a process; it is gone when the descriptor is closed."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{host_pid}/ns/net").open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network of process {host_pid}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    Wire(json.loads(sys.argv[1])).run()
