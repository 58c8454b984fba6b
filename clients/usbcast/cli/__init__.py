"""The command line: one program, a verb each in a module of its own; `main` turns errors into one sentence and a code."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

from usbcast_schemas.extras import missing

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended, as shells have it."""


def main() -> NoReturn:
    """Run `usbcast`. Exit codes: 0 all well, 1 something that the user can mend, 2 bad usage, 130 Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr always is: what the terminal has no letter for is shown by its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from usbcast.cli.app import run
        from usbcast.cli.nonwaiting import nonwaiting
    except ModuleNotFoundError as error:
        if not (sentence := missing(error.name)):
            raise
        sys.stderr.write(f"usbcast: {sentence}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    with nonwaiting("stderr"):
        try:
            code = run()
        except KeyboardInterrupt:  # before or behind the verb, which knows what to do with it
            code = INTERRUPTED
    sys.stdout.flush()
    # Threads of libraries must not hold up the end once all has been closed.
    os._exit(code)
