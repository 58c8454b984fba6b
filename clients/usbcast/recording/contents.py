"""Contents of a file: for each stream, the runs of sequences that it holds or declares lost.

Every chunk ends with this list, for the whole file up to there. So when damage takes a chunk, the next one still says
exactly what it held.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from usbcast_schemas.errors import WireError

MAX_RUNS = 1000
"""Runs of one stream in one file; beyond that the oldest are dropped and counted."""


@dataclass(slots=True)
class Run:
    """One stream in one epoch: sequences [first, until), in batches numbered [first_number, until_number)."""

    epoch: int
    first: int
    until: int
    first_number: int | None = None
    until_number: int | None = None

    def extend(self, other: Run) -> None:
        self.until = max(self.until, other.until)
        if self.first_number is None:
            self.first_number = other.first_number
        if other.until_number is not None:
            self.until_number = max(self.until_number or 0, other.until_number)


class Contents:
    """The runs of every stream, in the order of the file."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Run]] = {}
        self.forgotten: dict[str, int] = {}
        """By stream, the number of runs that are no longer listed."""

    def add(self, stream: str, run: Run) -> None:
        runs = self.runs.setdefault(stream, [])
        if runs and runs[-1].epoch == run.epoch:
            runs[-1].extend(run)
            return
        runs.append(Run(run.epoch, run.first, run.until, run.first_number, run.until_number))
        if len(runs) > MAX_RUNS:
            del runs[0]
            self.forgotten[stream] = self.forgotten.get(stream, 0) + 1

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of an annotation."""
        fields: dict[str, Any] = {
            "streams": {
                stream: [[f"{r.epoch:016x}", r.first, r.until, r.first_number, r.until_number] for r in runs]
                for stream, runs in self.runs.items()
            }
        }
        return fields | ({"forgotten": self.forgotten} if self.forgotten else {})

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Contents:
        """Read the fields of an annotation. Raises WireError if they are not such a list."""
        made = cls()
        try:
            for stream, runs in fields["streams"].items():
                made.runs[stream] = [_run(*said) for said in runs]
            made.forgotten = {stream: int(count) for stream, count in fields.get("forgotten", {}).items()}
        except (KeyError, ValueError, TypeError, AttributeError):
            raise WireError(f"{str(fields)[:80]!r} is not a valid list of what a file contains") from None
        return made


def _run(epoch: str, first: int, until: int, first_number: int | None, until_number: int | None) -> Run:
    numbers = (first, until, *(n for n in (first_number, until_number) if n is not None))
    if not all(isinstance(n, int) and 0 <= n < 1 << 64 for n in numbers) or until < first:
        raise ValueError(numbers)
    return Run(int(epoch, 16), first, until, first_number, until_number)
