"""The first case, measured: 112 bytes every 10 ms to 8 subscribers in 8 processes; each packet once, in order, none late.

    python benchmarks/first_case.py                 # 6,000 packets in 60 s
    python benchmarks/first_case.py --seconds 10

Lag is from the return of the USB read to the delivery of the packet to the application. Exit code 1 unless every subscriber
got every packet once and nothing came later than 50 ms after the device's last packet.
"""

from __future__ import annotations

import argparse
import sys

from usbcast.demo.children import Children

VIAS = ("ring", "push", "notify")
RATE_HZ = 100


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--subscribers", type=int, default=8)
    given = parser.parse_args()
    packets = int(given.seconds * RATE_HZ)
    with Children() as children:
        serve = ("serve", "--simulate", "--json", "--bind", "tcp://127.0.0.1:0", "--packets", str(packets))
        children.start("node", "usbcast", *serve)
        endpoint = children.wait_for("node", "serving", 20)["endpoint"]
        names = {f"{VIAS[n % len(VIAS)]}-{n}": VIAS[n % len(VIAS)] for n in range(given.subscribers)}
        for name, via in names.items():
            children.start(name, "usbcast.demo.subscriber", endpoint, via, "first-case")
        found = {}
        while len(found) < len(names):
            heard = children.hear(given.seconds + 30)
            if heard is None:
                break
            if heard[1]["event"] == "done":
                found[heard[0]] = heard[1]["streams"]["first-case"]
    print(f"{'subscriber':12} {'delivered':>9} {'lost':>5} {'twice':>5} {'late':>5} {'lag p50 µs':>10} {'p99 µs':>8}")
    for name in sorted(names):
        f = found.get(name)
        if f is None:
            print(f"{name:12} did not finish")
            continue
        print(
            f"{name:12} {f['delivered']:9} {f['declared_lost']:5} {f['duplicates']:5} {f['after_stop']:5} "
            f"{f['lag_p50_us']:10.0f} {f['lag_p99_us']:8.0f}"
        )
    good = len(found) == len(names) and all(
        (f["delivered"], f["declared_lost"], f["duplicates"], f["after_stop"]) == (packets, 0, 0, 0)
        for f in found.values()
    )
    print(
        f"{packets} packets, {'each delivered once and in order to every subscriber, none late' if good else 'NOT SO'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
