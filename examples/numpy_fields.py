"""Fields of the packets as numpy arrays, by the layout in the device's profile, without copying.

usbcast serve --simulate &
python examples/numpy_fields.py first-case ch0
"""

from __future__ import annotations

import sys

import numpy as np

import usbcast

name = sys.argv[1] if len(sys.argv) > 1 else "first-case"
field = sys.argv[2] if len(sys.argv) > 2 else "ch0"

values, times = [], []
with usbcast.subscribe(name, start="oldest") as stream:
    print("fields:", ", ".join(f"{one.name} {one.type} {one.unit}".strip() for one in stream.info.fields))
    for batch in stream:
        values.append(batch.scaled(field))  # float64 in the profile's unit; batch.fields[field] is the raw view
        times.append(batch.times_ns)  # when this machine had each packet; batch.times_ns_dejittered() smooths it
        if sum(map(len, values)) >= 200:
            break

value, time_ns = np.concatenate(values), np.concatenate(times)
print(f"{field}: {len(value)} values, mean {value.mean():.3f}, rms {np.sqrt((value**2).mean()):.3f}")
print(f"{len(time_ns) / (np.ptp(time_ns) / 1e9):.1f} packets/s by arrival")
