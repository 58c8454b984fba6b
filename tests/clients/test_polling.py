"""The order in which a receiver is asked: what comes of it, and what it is asked for."""

from __future__ import annotations

import pytest

from usbcast.receiving.polling import poll


class Asked:
    """A receiver with given answers, which notes what it is asked."""

    def __init__(self, park: float, found: bool, rest: float, quiet: bool) -> None:
        self._park, self._found, self._rest, self._quiet = park, found, rest, quiet
        self.asked: list[str] = []

    def pump(self) -> bool:
        self.asked.append("pump")
        return self._found

    def park_s(self) -> float:
        self.asked.append("park_s")
        return self._park

    def rest_s(self) -> float:
        self.asked.append("rest_s")
        return self._rest

    def may_sleep(self) -> bool:
        self.asked.append("may_sleep")
        return self._quiet


@pytest.mark.parametrize(
    ("receiver", "most_s", "polled", "asked"),
    [
        (Asked(2.0, False, 0.0, False), 5.0, 2.0, "park_s"),
        (Asked(2.0, False, 0.0, False), 0.5, 0.5, "park_s"),
        (Asked(0.0, True, 0.0, False), 5.0, "event", "park_s pump take"),
        (Asked(0.0, False, 3.0, True), 5.0, 3.0, "park_s pump rest_s may_sleep"),
        (Asked(0.0, False, 3.0, True), 0.5, 0.5, "park_s pump rest_s may_sleep"),
        (Asked(0.0, False, 3.0, False), 5.0, 0.0, "park_s pump rest_s may_sleep"),
        (Asked(0.0, False, 0.0, True), 5.0, 0.0, "park_s pump rest_s"),
        # Whoever will not wait looks once, and does not ask to be woken: that would cost the writer a system call.
        (Asked(2.0, True, 3.0, True), 0.0, "event", "pump take"),
        (Asked(2.0, False, 3.0, True), 0.0, 0.0, "pump rest_s"),
        (Asked(2.0, False, 3.0, True), -1.0, 0.0, "pump rest_s"),
    ],
)
def test_what_comes_of_it(receiver: Asked, most_s: float, polled: str | float, asked: str) -> None:
    def take() -> str:
        receiver.asked.append("take")
        return "event"

    assert poll(receiver, take, most_s) == polled
    assert " ".join(receiver.asked) == asked


def test_if_nothing_can_be_taken_after_all_it_is_polled_again() -> None:
    assert poll(Asked(0.0, True, 3.0, True), lambda: None, 5.0) == 0.0
