"""Recording, measured: a simulated device of 112-byte packets, one recorder; its CPU, its memory over time, bytes per packet.

    python benchmarks/recording.py                              # 20,000 packets/s for 60 s
    python benchmarks/recording.py --seconds 600 --rate 20000

Exit code 1 unless the recording verifies without a loss and the recorder's memory stays flat: no more than 8 MiB between a
fifth of the time and its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from usbcast.demo.children import Children

PACKET_BYTES = 112
FLAT_MIB = 8
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def own_bytes(pid: int) -> int:
    """Memory that is the process's own: the ring is mapped too, and its pages count as resident once they have been read."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def measure(endpoint: str, base: Path, seconds: float, compression: str) -> dict[str, Any]:
    """Record for so long; the figures of the recorder's process."""
    command = [sys.executable, "-m", "usbcast", "record", "first-case", "--endpoint", endpoint, "-o", str(base)]
    command += ["--duration", str(seconds), "--compression", compression, "--json"]
    with (base.parent / "log").open("w") as log, subprocess.Popen(command, stdout=log) as process:
        while process.poll() is None and "figures" not in (base.parent / "log").read_text():
            time.sleep(0.05)
        begin_s, begin_cpu_s, memory = time.monotonic(), cpu_s(process.pid), []
        used_s = lasted_s = 0.0
        while process.poll() is None:
            try:
                used_s, lasted_s = cpu_s(process.pid) - begin_cpu_s, time.monotonic() - begin_s
                memory.append(own_bytes(process.pid))
            except (OSError, KeyError, IndexError):
                break  # it has just ended
            time.sleep(0.5)
    memory = [size for size in memory if size]
    return {"cpu": used_s / lasted_s, "memory": memory}


def record(rate: float, seconds: float, compression: str) -> dict[str, Any]:
    """One recording of a simulated device, and what verifying it says."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory, Children() as children:
        base = Path(directory) / "r"
        serve = ["--simulate", "--json", "--bind", "tcp://127.0.0.1:0", "--rate", str(rate)]
        children.start("node", "usbcast", "serve", *serve)
        endpoint = children.wait_for("node", "serving", 20)["endpoint"]
        found = measure(endpoint, base, seconds, compression)
        size_bytes = sum(path.stat().st_size for path in base.parent.glob("r-*.mcap"))
        command = [sys.executable, "-m", "usbcast", "verify", str(base), "--json"]
        begin_s = time.monotonic()
        verified = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        verify_s = time.monotonic() - begin_s
    (books,) = verified["recordings"][0]["streams"]
    return found | {
        "packets": books["recorded"],
        "batches": books["batches"],
        "lost": sum(books["lost"].values()),
        "balanced": verified["balanced"],
        "bytes_per_packet": size_bytes / books["recorded"],
        "verified_per_s": books["recorded"] / verify_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=20_000)
    parser.add_argument("--compression", default="zstd", choices=["zstd", "lz4", "none"])
    given = parser.parse_args()
    found = record(given.rate, given.seconds, given.compression)
    memory, packets = found["memory"], found["packets"]
    early, late, most = (size / 2**20 for size in (memory[len(memory) // 5], memory[-1], max(memory)))
    rate = packets / given.seconds
    print(f"recorded        {packets:,} packets in {given.seconds:g} s, {rate:,.0f}/s, in {found['batches']:,} batches")
    print(f"lost            {found['lost']:,}; balanced: {found['balanced']}")
    print(f"CPU             {found['cpu']:.1%} of a core")
    print(f"own memory      {early:.1f} MiB after a fifth of the time, {late:.1f} at the end, {most:.1f} at the most")
    print(f"on disk         {found['bytes_per_packet']:.1f} bytes per packet of {PACKET_BYTES} ({given.compression})")
    print(f"verify          {found['verified_per_s']:,.0f} packets/s")
    good = found["balanced"] and not found["lost"] and late - early <= FLAT_MIB
    print("as it should be" if good else "NOT SO")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
