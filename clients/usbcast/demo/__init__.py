"""`usbcast demo`: a node and three subscribers in processes of their own, a live table, and the ledgers at the end.

`node` and `subscriber` are the children's programs; they speak JSON, one object a line, to the parent.
"""

from __future__ import annotations

FIRST_CASE = "first-case"
FAST = "fast"
RATES_HZ = {FIRST_CASE: 100.0, FAST: 20_000.0}
PROGRESS_S = 0.25
