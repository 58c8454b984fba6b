"""The running guest: QEMU without hardware help, the project's source shared into it, its ports forwarded to the host."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path
from types import TracebackType

from kernelrig.image import Image
from kernelrig.monitor import Monitor
from kernelrig.program import Finished, Program

PROJECT = Path(__file__).resolve().parents[3]

FTDI = "ftdi"
"""QEMU's name for its USB serial converter."""
FTDI_SERIAL = "FT000001"
"""Given, because QEMU's own choice changes with the port."""

MEMORY_MIB = 768
PORTS = 9
BOOT_TIMEOUT_S = 180.0

# numpy's wheels want at least x86-64-v2, which QEMU's plain model is not.
CPU = "Nehalem"
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 mitigations=off nokaslr nowatchdog no_timer_check panic=-1 rdinit=/init"
)
LAUNCHER = "#!/usr/bin/python3\nfrom usbcast.cli import main\n\nmain()\n"


class Guest:
    """A booted guest with an FTDI serial converter plugged in; a context manager that ends it."""

    def __init__(self, image: Image) -> None:
        self._cleanup = contextlib.ExitStack()
        try:
            self._boot(image)
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cleanup.close()

    @property
    def wire(self) -> Path:
        """The socket behind the FTDI chip: what is written to it comes out of the guest's USB."""
        return self._directory / "wire"

    def node_port(self, node: int = 0) -> int:
        """The request port of a node, free in the guest and forwarded, as is the next one for its data."""
        return self._ports[2 * node]

    def start(self, *argv: str, user: str | None = None) -> Program:
        """Start a program in the guest."""
        return Program(self._agent_port, argv, user=user)

    def run(self, *argv: str, user: str | None = None, timeout_s: float = 120.0) -> Finished:
        """Run a program in the guest to its end."""
        with self.start(*argv, user=user) as program:
            return program.finish(timeout_s)

    def shell(self, script: str, timeout_s: float = 120.0) -> list[str]:
        """Run a line of shell in the guest and return what it wrote; AssertionError if it fails."""
        finished = self.run("bash", "-euc", script, timeout_s=timeout_s)
        assert finished.code == 0, (script, finished)
        return finished.out

    def plug_ftdi(self) -> None:
        """Plug it in; QEMU takes the next port that is free."""
        with self._monitor() as monitor:
            monitor.plug("usb-serial", FTDI, chardev="wire", serial=FTDI_SERIAL, **{"always-plugged": True})

    def unplug_ftdi(self) -> None:
        with self._monitor() as monitor:
            monitor.unplug(FTDI)

    @contextlib.contextmanager
    def tablet(self) -> Iterator[Callable[[int, int, bool], None]]:
        """A HID tablet, plugged in: what it gives moves the pen to x, y (up to 0x7fff) and presses its left button or not."""
        with self._monitor() as monitor:
            monitor.plug("usb-tablet", "tablet")
            self.shell("until ls -d /sys/bus/usb/drivers/usbhid/*:* 2> /dev/null; do sleep 0.1; done; udevadm settle")

            def move(x: int, y: int, pressed: bool) -> None:
                places = [{"type": "abs", "data": {"axis": axis, "value": to}} for axis, to in (("x", x), ("y", y))]
                press = {"type": "btn", "data": {"button": "left", "down": pressed}}
                monitor.execute("input-send-event", events=[*places, press])

            try:
                yield move
            finally:
                monitor.unplug("tablet")

    def stop_udev(self) -> None:
        """As in a container: the kernel tells of devices, and nobody passes it on."""
        self.shell("udevadm control --exit")

    def start_udev(self) -> None:
        self.shell("/lib/systemd/systemd-udevd --daemon; udevadm settle")

    def _monitor(self) -> Monitor:
        return Monitor(self._directory / "monitor")

    def _boot(self, image: Image) -> None:
        begin = time.monotonic()
        self._directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="usbcast-guest-")))
        *self._ports, self._agent_port = _free_ports(PORTS)
        share = self._directory / "share"
        _fill_share(share, self._agent_port)
        errors = self._cleanup.enter_context((self._directory / "errors").open("w"))
        self._qemu = subprocess.Popen(
            self._command(image, share), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
        self._cleanup.callback(self._kill)
        self.uptime_s = self._wait_until_up()
        self.boot_s = time.monotonic() - begin

    def _command(self, image: Image, share: Path) -> list[str]:
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{port}" for port in (*self._ports, self._agent_port))
        command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", CPU, "-smp", "2", "-m", str(MEMORY_MIB)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", KERNEL_ARGUMENTS]
        command += ["-serial", f"file:{self._directory / 'console'}"]
        command += ["-qmp", f"unix:{self._directory / 'monitor'},server=on,wait=off"]
        command += ["-drive", f"file={image.root},format=raw,if=virtio,readonly=on"]
        command += ["-nic", f"user,model=virtio-net-pci,restrict=off{forwards}"]
        for tag, path in (("project", PROJECT), ("share", share)):
            options = f"path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"
            command += ["-virtfs", f"local,{options}"]
        command += ["-device", "qemu-xhci", "-chardev", f"socket,id=wire,path={self.wire},server=on,wait=off"]
        command += ["-device", f"usb-serial,chardev=wire,id={FTDI},serial={FTDI_SERIAL},always-plugged=on"]
        # QEMU must not outlive the tests, however they end.
        leash = shutil.which("setpriv")
        return [leash, "--pdeathsig", "KILL", *command] if leash else command

    def _wait_until_up(self) -> float:
        """Seconds since the guest's kernel started, when its agent answers."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline and self._qemu.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._agent_port), timeout=1) as connection:
                    greeting = connection.makefile("rb").readline()
            except OSError:
                greeting = b""
            if greeting:
                return float(json.loads(greeting)["ready"])
            time.sleep(0.1)
        said = (self._directory / "errors").read_text() + (self._directory / "console").read_text(errors="replace")
        raise RuntimeError(f"the guest did not come up within {BOOT_TIMEOUT_S:g} s:\n{said[-4000:]}")

    def _kill(self) -> None:
        self._qemu.kill()
        self._qemu.wait()


def _fill_share(share: Path, agent_port: int) -> None:
    """What the guest needs beside the checkout: the installed project's metadata, a launcher, and its port."""
    (share / "bin").mkdir(parents=True)
    (share / "bin/usbcast").write_text(LAUNCHER)
    (share / "bin/usbcast").chmod(0o755)
    project = distribution("usbcast")
    metadata = share / "site" / f"usbcast-{project.version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(project.read_text("METADATA") or "")
    (share / "agent-port").write_text(str(agent_port))


def _free_ports(count: int) -> Sequence[int]:
    """As many free ports in a row; a node's data is at the port behind its requests."""
    for _ in range(100):
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            start = first.getsockname()[1]
            try:
                for port in range(start + 1, start + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return range(start, start + count)
    raise RuntimeError(f"no {count} free ports in a row were found")
