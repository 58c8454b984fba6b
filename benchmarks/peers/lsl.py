"""Lab Streaming Layer: a packet is a sample of 28 int32 channels; chunks in, chunks out, by numpy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import PACKET_BYTES, Task

CHANNELS = PACKET_BYTES // 4
MOST = 4096
WAIT_S = 0.2
BUFFERED = 2_000
"""Hundreds of samples, for a stream of no nominal rate: room for the window. Its default is 360."""

SETTINGS = """\
[ports]
IPv6 = disable
[multicast]
ResolveScope = machine
MachineAddresses = {127.0.0.1}
LinkAddresses = {}
SiteAddresses = {}
OrganizationAddresses = {}
GlobalAddresses = {}
[lab]
KnownPeers = {127.0.0.1}
[log]
level = -3
"""
"""It looks for streams on this machine and nowhere else."""


def _library(task: Task) -> Any:
    path = Path(task.directory) / f"lsl-{os.getpid()}.cfg"
    path.write_text(SETTINGS)
    os.environ["LSLAPICFG"] = str(path)
    import pylsl

    return pylsl


class LslPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        lsl = _library(task)
        name = Path(task.directory).name
        info = lsl.StreamInfo(name, "bench", CHANNELS, lsl.IRREGULAR_RATE, lsl.cf_int32, name)
        self._outlet = lsl.StreamOutlet(info, max_buffered=BUFFERED)
        self.address = name

    def send(self, block: bytes) -> None:
        self._outlet.push_chunk(np.frombuffer(block, np.int32).reshape(-1, CHANNELS))


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    lsl = _library(task)
    found = lsl.resolve_byprop("name", task.address, timeout=20)
    inlet = lsl.StreamInlet(found[0], max_buflen=BUFFERED)
    inlet.open_stream()
    room = np.empty((MOST, CHANNELS), np.int32)
    while True:
        chunk, _ = inlet.pull_chunk(WAIT_S, MOST, room, min_samples=1, as_numpy=True)
        if len(chunk) and take(memoryview(chunk).cast("B")):
            return


PEERS = {
    "lsl": Peer(
        "Lab Streaming Layer",
        LslPublisher,
        subscribe,
        "buffers 200,000 samples, as configured, for each subscriber, then drops the oldest",
    )
}
