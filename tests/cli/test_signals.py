"""A signal is heard whatever the thread that it interrupts is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from usbcast.cli.signals import stop_signals


def test_a_signal_in_the_middle_of_the_events_own_work_is_heard() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as stopped:
        with stopped._cond:  # as `wait` holds it when it begins and ends
            os.kill(os.getpid(), signal.SIGINT)
            signal.getsignal(signal.SIGINT)  # by now the handler has run
        assert stopped.wait(10)
    assert signal.getsignal(signal.SIGINT) is before
    assert "usbcast-signals" not in [thread.name for thread in threading.enumerate()]


def test_a_signal_while_waiting_ends_the_waiting() -> None:
    with stop_signals() as stopped:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert stopped.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.is_set()


def test_ctrl_c_while_a_verb_is_being_loaded_shows_no_traceback() -> None:
    code = """
import sys
import usbcast.cli

class Interrupts:
    def find_spec(self, name, *_):
        if name == "usbcast.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
usbcast.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
