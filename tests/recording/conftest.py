"""Makes the helpers of the whole and of this area importable."""

from __future__ import annotations

import sys
from pathlib import Path

for directory in (Path(__file__).parent, Path(__file__).parents[1]):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
