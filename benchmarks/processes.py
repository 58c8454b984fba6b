"""What the operating system says of a process: memory and time on a processor."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def memory() -> dict[str, int]:
    """Bytes of this process: resident, with the shared memory that it has touched, and without it; and the most ever."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        return {"resident_bytes": most, "private_bytes": most, "most_bytes": most}
    page = resource.getpagesize()
    return {"resident_bytes": resident * page, "private_bytes": (resident - shared) * page, "most_bytes": most}


def cpu_ns(pid: int) -> int:
    """What the threads of another process have run so far; 0 where that cannot be had."""
    total = 0
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total
