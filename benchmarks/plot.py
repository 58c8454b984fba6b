"""Results as one picture: throughput by batch size, and lag at 100 packets a second."""

from __future__ import annotations

from pathlib import Path

from benchmarks.goals import Results
from benchmarks.report import label


def plot(results: Results, path: Path) -> bool:
    """Draw what there is; False if matplotlib or anything to draw is missing."""
    throughput, lag = results.get("throughput", {}), results.get("lag", {}).get("100/s", {})
    if not throughput and not lag:
        return False
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5.5))
    rows = list(dict.fromkeys(row for rows in throughput.values() for row in rows))
    for row in rows:
        points = [
            (int(column.removeprefix("batch ")), cells[row]["mega_per_s"])
            for column, cells in throughput.items()
            if row in cells
        ]
        ours = row.startswith("usbcast")
        style = "k:" if row == "memcpy" else "o-" if ours else "s--"
        left.plot(*zip(*points, strict=True), style, label=label(row), linewidth=2.5 if ours else 1, markersize=4)
    left.set(xscale="log", yscale="log", xlabel="packets of 112 bytes handed over at once", ylabel="million packets/s")
    left.set_title("Throughput: one publisher, one subscriber")
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    names = sorted(lag, key=lambda row: lag[row]["p50_us"], reverse=True)
    places = range(len(names))
    colours = ["tab:blue" if name.startswith("usbcast") else "tab:grey" for name in names]
    right.barh(places, [lag[name]["p99_us"] for name in names], color=colours, alpha=0.35)
    right.barh(places, [lag[name]["p50_us"] for name in names], color=colours)
    right.set_yticks(places, [label(name) for name in names])
    right.set(xscale="log", xlabel="µs; solid: median, pale: 99th percentile", title="Lag at 100 packets/s")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
