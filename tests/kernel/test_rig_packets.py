"""The rig's own examination of packets, without a guest: whatever is wrong with them must show in the story."""

from __future__ import annotations

import pytest
from kernelrig.packets import SHAPES, SIZE, Examiner, numbered_packet
from kernelrig.usbip_device import first_case_packet

P = [numbered_packet(number, 1000 + number) for number in range(8)]


def flipped(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("packets", "story"),
    [
        ([], []),
        (P, [["packets", 0, 7]]),
        ([P[0], P[1], P[4], P[5]], [["packets", 0, 1], ["packets", 4, 5]]),
        ([P[0], P[1], P[1], P[2]], [["packets", 0, 1], ["packets", 1, 2]]),
        ([P[1], P[0]], [["packets", 1, 1], ["packets", 0, 0]]),
        ([P[0], flipped(P[1], 50), P[2]], [["packets", 0, 0], ["damaged"], ["packets", 2, 2]]),
        ([P[0], flipped(P[1], 0)], [["packets", 0, 0], ["damaged"]]),
        ([P[0], flipped(P[1], SIZE - 1)], [["packets", 0, 0], ["damaged"]]),
        ([P[0][:-1], P[1] + b"\0", b""], [["damaged"], ["damaged"], ["damaged"]]),
    ],
)
def test_what_is_wrong_shows_in_the_story(packets: list[bytes], story: list[list[str | int]]) -> None:
    examiner = Examiner(SHAPES["ftdi-numbered"])
    for packet in packets:
        examiner.take(packet)
    assert examiner.story == story
    assert examiner.damaged == story.count(["damaged"])
    assert examiner.good == len(packets) - examiner.damaged


def test_what_happens_between_packets_stands_between_them() -> None:
    examiner = Examiner(SHAPES["ftdi-numbered"])
    assert examiner.last_number == -1
    examiner.take(P[0])
    examiner.tell("detached")
    examiner.take(P[1])
    examiner.tell("end")
    assert examiner.story == [["packets", 0, 0], ["detached"], ["packets", 1, 1], ["end"]]
    assert examiner.last_number == 1


def test_a_packet_bears_its_time() -> None:
    assert [SHAPES["ftdi-numbered"].made_ns(packet) for packet in P[:2]] == [1000, 1001]
    assert SHAPES["first-case"].made_ns(first_case_packet(7, 5)) == 5000
