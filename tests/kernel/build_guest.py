"""Makes the guest of the kernel tests, once: `python tests/kernel/build_guest.py [--install] [--if-possible] [--force]`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from kernelrig.image import Unavailable, build, find_image, install_tools


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the guest of the kernel tests, unless it is there already.")
    parser.add_argument(
        "--install", action="store_true", help="install missing Debian packages (root; also if CI=true)"
    )
    parser.add_argument("--if-possible", action="store_true", help="no guest is no failure: the tests skip themselves")
    parser.add_argument("--force", action="store_true", help="make it again although it is there")
    given = parser.parse_args()
    try:
        if os.geteuid() == 0 and (given.install or os.environ.get("CI") == "true"):
            install_tools()
        if not given.force:
            try:
                print(f"the guest is there: {find_image().directory}")
                return 0
            except Unavailable as reason:
                print(reason)
        begin = time.monotonic()
        image = build()
        print(f"made the guest in {time.monotonic() - begin:.0f} s: {image.directory}")
    except Unavailable as reason:
        print(f"no guest: {reason}", file=sys.stderr)
        return 0 if given.if_possible else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
