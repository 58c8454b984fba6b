"""What is done about a failing read, step by step."""

from __future__ import annotations

import pytest

from usbcast_broker.sources.usb.recovery import Recovery, Step
from usbcast_schemas.errors import DeviceDetached, DeviceError, DeviceFailed, DeviceOverflowed, DeviceStalled

AGAIN, CLEAR, RESET, REOPEN = Step.READ_AGAIN, Step.CLEAR_HALT, Step.RESET, Step.REOPEN


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (DeviceStalled, [CLEAR, CLEAR, CLEAR, RESET, REOPEN, REOPEN]),
        (DeviceOverflowed, [AGAIN, AGAIN, AGAIN, CLEAR, RESET, REOPEN, REOPEN]),
        (DeviceFailed, [AGAIN, AGAIN, AGAIN, REOPEN, REOPEN]),
        (DeviceDetached, [REOPEN, REOPEN]),
        (DeviceError, [REOPEN]),
    ],
)
def test_steps(kind: type[DeviceError], steps: list[Step]) -> None:
    recovery = Recovery()
    assert [recovery.failed(kind("x")) for _ in steps] == steps


@pytest.mark.parametrize("calm", ["succeeded", "survived"])
def test_a_read_without_fault_begins_anew(calm: str) -> None:
    recovery = Recovery()
    for _ in range(3):
        recovery.failed(DeviceStalled("x"))
        recovery.failed(DeviceFailed("x"))
    getattr(recovery, calm)()
    assert recovery.failed(DeviceStalled("x")) is CLEAR
    assert recovery.failed(DeviceFailed("x")) is AGAIN


def test_it_waits_longer_for_a_device_that_comes_back_without_data() -> None:
    recovery = Recovery()
    assert [recovery.wait_s() for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    recovery.survived()
    assert recovery.wait_s() == 5.0
    recovery.succeeded()
    assert recovery.wait_s() == 0.2
    assert all(recovery.wait_s() <= 5.0 for _ in range(2000))
