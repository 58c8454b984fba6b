"""Results as markdown and JSON: the goals, and one table per figure with each peer's ratio to usbcast's ring."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks.goals import GOALS, Results
from benchmarks.peers import MODULES, load, version_of
from benchmarks.works import Show, load_work

REFERENCE = "usbcast-ring"


@dataclass
class Record:
    """All that was measured, in the order in which it was."""

    mode: str
    rounds: int
    samples: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = field(default_factory=dict)
    """work → column → row → figure → one value per round"""
    failures: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    load_before: tuple[float, ...] = field(default_factory=lambda: tuple(round(x, 2) for x in os.getloadavg()))

    def add(self, work: str, column: str, row: str, figures: dict[str, float]) -> None:
        cell = self.samples.setdefault(work, {}).setdefault(column, {}).setdefault(row, {})
        for name, value in figures.items():
            cell.setdefault(name, []).append(value)

    def medians(self) -> Results:
        return {
            work: {
                column: {row: {name: median(values) for name, values in cell.items()} for row, cell in rows.items()}
                for column, rows in columns.items()
            }
            for work, columns in self.samples.items()
        }


def machine() -> str:
    return (
        f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def to_json(record: Record) -> str:
    return json.dumps(
        {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "mode": record.mode,
            "rounds": record.rounds,
            "load_before": record.load_before,
            "versions": versions(record),
            "missing": record.missing,
            "failures": record.failures,
            "medians": record.medians(),
            "samples": record.samples,
        },
        indent=1,
    )


def versions(record: Record) -> dict[str, str]:
    rows = {row for columns in record.samples.values() for rows in columns.values() for row in rows}
    return {MODULES[row][1]: version_of(row) for row in sorted(rows) if row in MODULES}


def to_markdown(record: Record) -> str:
    results = record.medians()
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} in {record.mode} mode, medians of {record.rounds}, on {machine()}; "
        f"load before it {record.load_before[0]:.1f}. "
        + ", ".join(f"{name} {number}" for name, number in versions(record).items())
        + f". In brackets the ratio to {label(REFERENCE)}.",
        "",
    ]
    lines += goals(results)
    for name, columns in results.items():
        work = load_work(name)
        lines += [f"### {work.title}", "", work.about, ""]
        for show in work.shows:
            lines += table(show, columns)
    for what, why in record.missing.items():
        lines.append(f"- not measured: {what}, because {why}")
    lines += [f"- failed: {failure}" for failure in record.failures]
    wrong = [
        f"- {row}, {column}: {figures['wrong']:.0f} blocks were not what was sent at their place"
        for columns in results.values()
        for column, rows in columns.items()
        for row, figures in rows.items()
        if figures.get("wrong") and "latest" not in row
    ]
    return "\n".join([*lines, *wrong]) + "\n"


def goals(results: Results) -> list[str]:
    """The goals of which both sides were measured."""
    found: list[tuple[Any, float]] = [(goal, ratio) for goal in GOALS if (ratio := goal.ratio(results)) is not None]
    if not found:
        return []
    lines = ["| goal | wanted | here | |", "|---|---:|---:|---|"]
    lines += [
        f"| {goal.says} | {goal.wanted} | {ratio:.2f} | {'met' if goal.is_met(ratio) else '**not met**'} |"
        for goal, ratio in found
    ]
    return [*lines, ""]


def table(show: Show, columns: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """One figure of every row in every column that has it; left out where it is nowhere, or nothing was lost."""
    having = {name: rows for name, rows in columns.items() if any(show.figure in cell for cell in rows.values())}
    values = [cell.get(show.figure, 0.0) for rows in having.values() for cell in rows.values()]
    if not values or (show.figure == "lost_percent" and not any(values)):
        return []
    rows = list(dict.fromkeys(row for cells in having.values() for row in cells))
    lines = [f"**{show.heading}**", "", "| | " + " | ".join(having) + " |", "|---|" + "---:|" * len(having)]
    for row in rows:
        cells = []
        for cells_of in having.values():
            value, reference = (cells_of.get(name, {}).get(show.figure) for name in (row, REFERENCE))
            cells.append(_cell(value, reference if row != REFERENCE else None, show.digits))
        lines.append(f"| {label(row)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(value: float | None, reference: float | None, digits: int) -> str:
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    return f"{text} ({value / reference:.2f})" if reference and reference > 0 else text


def label(row: str) -> str:
    return load(row).label if row in MODULES else row
