"""Smoothing arrival times: a straight line through (sequence, arrival), fitted by recursive least squares that forget.

The method of Lab Streaming Layer's `postproc_dejitter`: packets leave the device at an almost constant rate, so arrival times
scatter around a line whose slope drifts slowly. Textbook: S. Haykin, Adaptive Filter Theory, ch. "Recursive least squares".

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORGET_HALFTIME_S = 90.0
_INITIAL_VARIANCE = 1e10
_LEAST_HZ, _MOST_HZ = 1e-9, 1e12
_FORGOTTEN = 1e-12
"""Weight below which the past is dropped altogether."""


def dejitter_of(nominal_rate_hz: float) -> Dejitter | None:
    """Return the fitted line for a stream of that rate; None if the rate is unknown (0) or not a number."""
    return Dejitter(nominal_rate_hz) if _LEAST_HZ <= nominal_rate_hz <= _MOST_HZ else None


class Dejitter:
    """The line of one epoch: time_ns(sequence) = intercept + slope * sequence, relative to the first arrival."""

    def __init__(self, nominal_rate_hz: float) -> None:
        self._period_s = 1.0 / nominal_rate_hz
        self._forget_per_s = 0.5 ** (1.0 / FORGET_HALFTIME_S)
        self.restart()

    def restart(self) -> None:
        """Forget everything: a new epoch, or a device that came back."""
        self._origin: tuple[int, int] | None = None

    def update(self, last_sequence: int, realtime_ns: int) -> None:
        """Learn from one transfer: its last packet arrived at `realtime_ns`."""
        if self._origin is None:
            self._origin = (last_sequence, realtime_ns)
            self._last = last_sequence
            self._intercept_s, self._slope_s = 0.0, self._period_s
            self._p00, self._p01, self._p11 = _INITIAL_VARIANCE, 0.0, _INITIAL_VARIANCE * self._period_s**2
            return
        sequence0, realtime0_ns = self._origin
        x = float(last_sequence - sequence0)
        y = (realtime_ns - realtime0_ns) / 1e9
        forget = self._forget_per_s ** (max(0, last_sequence - self._last) * self._period_s)
        self._last = last_sequence
        if forget < _FORGOTTEN:
            self.restart()
            self.update(last_sequence, realtime_ns)
            return
        # Gain k = P u / (forget + u' P u) with u = (1, x); then P = (P - k u' P) / forget.
        pu0 = self._p00 + self._p01 * x
        pu1 = self._p01 + self._p11 * x
        weight = forget + pu0 + pu1 * x
        k0, k1 = pu0 / weight, pu1 / weight
        error = y - (self._intercept_s + self._slope_s * x)
        self._intercept_s += k0 * error
        self._slope_s += k1 * error
        self._p00 = (self._p00 - k0 * pu0) / forget
        self._p01 = (self._p01 - k0 * pu1) / forget
        self._p11 = (self._p11 - k1 * pu1) / forget

    def times_ns(self, first_sequence: int, count: int) -> NDArray[np.int64]:
        """int64 (count,): the line's times for consecutive packets; nanoseconds since 1970."""
        import numpy as np

        assert self._origin is not None, "update comes before times_ns"
        sequence0, realtime0_ns = self._origin
        x = np.arange(first_sequence - sequence0, first_sequence - sequence0 + count, dtype=np.float64)
        offsets = np.rint((self._intercept_s + self._slope_s * x) * 1e9).astype(np.int64)
        times: NDArray[np.int64] = offsets + realtime0_ns
        return times
