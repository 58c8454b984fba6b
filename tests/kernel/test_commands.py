"""Commands while the device streams: answered, each client's in order, whatever their size, and the stream goes on."""

from __future__ import annotations

import random
import threading
import time
import zlib
from typing import Final

import pytest
from kernelrig.checks import check_books
from kernelrig.guest import Guest
from kernelrig.listening import Listening
from kernelrig.serving import Serving
from kernelrig.sessions import FIRST_CASE, ROOM_ENOUGH, SoftDevice
from kernelrig.usbip_device import BULK_OUT, REFUSED, SLOW, VENDOR_IN, VENDOR_OUT

import usbcast
from usbcast import NodeClient
from usbcast_schemas.errors import CommandFailed
from usbcast_schemas.v1 import usbcast_pb2 as pb

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

CONTROL_SIZES: Final = (0, 1, 64, 4096)
"""libusb on Linux carries no more in a control transfer."""
WRITE_SIZES: Final = (1, 512, 16384, 300_000)
SLOW_MS: Final = 2000


class Client:
    """One of those who command the device; all that it asks for bears its number in the setup packet's index."""

    def __init__(self, endpoint: str, number: int) -> None:
        self._node = NodeClient(endpoint, timeout_s=30)
        self._number = number
        self.asked: list[list[int]] = []

    def control(self, request_type: int, request: int, value: int, *, data: bytes = b"", length: int = 0) -> bytes:
        self.asked.append([request_type, request, value, self._number, len(data) or length])
        control = pb.ControlTransfer(
            request_type=request_type, request=request, value=value, index=self._number, data=data, length=length
        )
        asked = pb.CommandRequest(stream=FIRST_CASE, timeout_ms=5000, control=control)
        return self._node.command(asked).data

    def write(self, data: bytes) -> int:
        out = pb.OutTransfer(endpoint=BULK_OUT, data=data)
        return self._node.command(pb.CommandRequest(stream=FIRST_CASE, timeout_ms=5000, out=out)).written

    def close(self) -> None:
        self._node.close()


@pytest.mark.kernel_ci
def test_commands_of_every_size_while_it_streams(guest: Guest) -> None:
    chance = random.Random(3)
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device,
        Serving(guest, FIRST_CASE) as serving,
        Listening(FIRST_CASE, serving.endpoint) as listening,
    ):
        client = Client(serving.endpoint, 7)
        device.start()
        listening.reach(300)
        quiet = listening.gaps()
        written = []
        for value, size in enumerate(CONTROL_SIZES * 5):
            data = chance.randbytes(size)
            assert client.control(VENDOR_OUT, 1, value, data=data) == b""
            assert client.control(VENDOR_IN, 2, value, length=size) == data
        for size in WRITE_SIZES * 2:
            data = chance.randbytes(size)
            assert client.write(data) == size
            written.append(data)
        with pytest.raises(CommandFailed, match="it answered with a stall"):
            client.control(VENDOR_IN, REFUSED, 0, length=4)
        busy = listening.gaps()
        with pytest.raises(CommandFailed, match="at most 4096 bytes"):
            client.control(VENDOR_IN, 2, 0, length=5000)
        client.asked.pop()
        commands = device.commands()
        client.close()
        counted = device.drain()
        listening.reach(counted["made"])
        books = serving.stop()
    print(f"largest gap between two packets, read and arrived: {quiet} without commands, {busy} with them")
    assert [one for one in commands if one[0] != BULK_OUT & 0xF] == client.asked
    sent = [one for one in commands if one[0] == BULK_OUT & 0xF]
    assert sum(size for _, size, _ in sent) == sum(map(len, written))
    assert listening.numbers == list(range(counted["made"]))
    check_books(books, packets=counted["made"], lost={})
    assert zlib.crc32(written[0]) == sent[0][2]


def test_several_clients_at_once_are_answered_each_in_order(guest: Guest) -> None:
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device,
        Serving(guest, FIRST_CASE) as serving,
        Listening(FIRST_CASE, serving.endpoint) as listening,
    ):
        device.start()
        clients = [Client(serving.endpoint, number) for number in range(1, 5)]

        def work(client: Client) -> None:
            for value in range(25):
                client.control(VENDOR_IN, 2, value, length=8)

        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        commands = device.commands()
        for client in clients:
            client.close()
        counted = device.drain()
        listening.reach(counted["made"])
        books = serving.stop()
    for client in clients:
        assert len(client.asked) == 25
        assert [one for one in commands if one[3] == client.asked[0][3]] == client.asked
    assert listening.numbers == list(range(counted["made"]))
    check_books(books, packets=counted["made"], lost={})


def test_a_device_that_is_slow_to_answer_does_not_hold_the_stream_up(guest: Guest) -> None:
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device,
        Serving(guest, FIRST_CASE) as serving,
        Listening(FIRST_CASE, serving.endpoint) as listening,
    ):
        client = Client(serving.endpoint, 1)
        device.start()
        listening.reach(100)
        begin_s, before = time.monotonic(), listening.count
        client.control(VENDOR_IN, SLOW, SLOW_MS, length=1)
        took_s, during = time.monotonic() - begin_s, listening.count - before
        client.close()
        counted = device.drain()
        listening.reach(counted["made"])
        books = serving.stop()
    print(f"{during} packets arrived during a command of {took_s:.2f} s")
    assert took_s >= SLOW_MS / 1000
    assert during >= SLOW_MS / 1000 * 100 / 2
    assert listening.numbers == list(range(counted["made"]))
    check_books(books, packets=counted["made"], lost={})


def test_a_subscription_commands_the_device_of_its_stream(guest: Guest) -> None:
    with (
        SoftDevice(guest, rate_hz=100, fifo=ROOM_ENOUGH) as device,
        Serving(guest, FIRST_CASE) as serving,
        usbcast.subscribe(FIRST_CASE, serving.endpoint) as stream,
    ):
        stream.command(VENDOR_OUT, 1, data=b"hello", timeout_s=5)
        assert stream.command(VENDOR_IN, 2, length=5, timeout_s=5) == b"hello"
        assert stream.write(BULK_OUT, b"xyz", timeout_s=5) == 3
        assert device.commands()[-1] == [BULK_OUT & 0xF, 3, zlib.crc32(b"xyz")]
        serving.stop()
