"""A site: hosts that are namespaces of this machine, and the links between them. It leaves nothing behind, however it ends.

A host has a network, a host name, a /dev/shm and so a host id of its own. It lives as long as its anchor, a `cat` that ends
when this process does; whatever is started on it is killed with this process. So no namespace needs a name, and a run that is
killed leaves none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.programs import Program

WIRE = Path(__file__).with_name("wire.py")
TOOLS = ("unshare", "nsenter", "setpriv", "ip")
ENVIRONMENT = {"USBCAST_RING_DIR": "/dev/shm/rings", "USBCAST_RUNTIME_DIR": "/dev/shm/run"}
"""Of programs on a host: both are in the host's own /dev/shm."""

ANCHOR = (
    "mount -t tmpfs -o size=1g tmpfs /dev/shm && echo {name} > /proc/sys/kernel/hostname && ip link set lo up && "
    "echo reno > /proc/sys/net/ipv4/tcp_congestion_control && echo up && exec cat"
)
"""Reno is the congestion control that every kernel has; what else a machine may prefer would change the figures."""


@lru_cache(maxsize=1)
def unavailable() -> str:
    """Why there can be no site on this machine; empty if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: install iproute2 and util-linux"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        with Host("probe"):
            return ""
    except OSError as error:
        return f"namespaces with TUN devices are not to be had here: {error}"


class Host:
    """One host; a context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._anchor = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", ANCHOR.format(name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._anchor.stdout
        assert self._anchor.stderr
        if self._anchor.stdout.readline() != "up\n":
            said = self._anchor.stderr.read().strip()
            self.close()
            raise PermissionError(said)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """A process in the host's namespaces."""
        return self._anchor.pid

    def command(self, command: Sequence[str]) -> list[str]:
        """`command` as it runs on this host; killed with the thread that starts it."""
        entry = ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(self.pid), "--net", "--mount", "--uts"]
        return [*entry, "--", *command]

    def start(self, command: Sequence[str], **environment: str) -> Program:
        return Program(self.command(command), **ENVIRONMENT, **environment)

    def run(self, *command: str) -> str:
        """Run a short command to its end; what it wrote."""
        return subprocess.run(self.command(command), check=True, capture_output=True, text=True, timeout=20).stdout

    def close(self) -> None:
        with self._anchor:
            self._anchor.kill()


class Link:
    """A link between two hosts, one device at each end."""

    def __init__(self, name: str, hosts: tuple[Host, Host], number: int) -> None:
        self.name = name
        self.hosts = hosts
        self.addresses = f"10.77.{number}.1", f"10.77.{number}.2"
        self._site: Site | None = None

    @property
    def device(self) -> str:
        """Of both hosts."""
        return self.name

    def attach(self, site: Site) -> None:
        """The wire is there: give both ends their address."""
        self._site = site
        for host, mine, other in zip(self.hosts, self.addresses, self.addresses[::-1], strict=True):
            host.run("ip", "address", "add", mine, "peer", other, "dev", self.device)
            host.run("ip", "link", "set", self.device, "up")

    def shape(self, way: int | None = None, **shape: float) -> None:
        """Change one direction, or both; `netrig.wire.Shape` has the names."""
        assert self._site
        self._site.tell(link=self.name, way=way, **shape)

    def counts(self) -> list[dict[str, int]]:
        """What the wire counted in each direction."""
        assert self._site
        counted: list[dict[str, int]] = self._site.tell(count=True)["links"][self.name]
        return counted

    def set_up(self, up: bool, *ends: int) -> None:
        """As `ip link set up` or `down` does, at these ends (0, 1), or both."""
        for end in ends or (0, 1):
            self.hosts[end].run("ip", "link", "set", self.device, "up" if up else "down")


class Site:
    """Hosts in a row, named a, b, c …, and links ab, bc …"""

    def __init__(self, hosts: Sequence[Host], links: Sequence[Link], wire: subprocess.Popen[str]) -> None:
        self.hosts = hosts
        self.links = links
        self._wire = wire
        self._telling = threading.Lock()

    @property
    def wire_pid(self) -> int:
        return self._wire.pid

    def tell(self, **wish: Any) -> dict[str, Any]:
        """Tell the wire; its answer."""
        assert self._wire.stdin
        assert self._wire.stdout
        with self._telling:
            self._wire.stdin.write(json.dumps(wish) + "\n")
            self._wire.stdin.flush()
            return dict(json.loads(self._wire.stdout.readline()))


@contextlib.contextmanager
def site(hosts: int, seed: int = 0) -> Iterator[Site]:
    """So many hosts in a row, linked, with nothing in the way."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Host("abcdefgh"[n])) for n in range(hosts)]
        links = [Link(a.name + b.name, (a, b), n) for n, (a, b) in enumerate(itertools.pairwise(made))]
        said = [
            {
                "name": link.name,
                "seed": f"{seed} {link.name}",
                "ends": [{"host_pid": host.pid, "device": link.device} for host in link.hosts],
            }
            for link in links
        ]
        wire = stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(WIRE), json.dumps(said)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(wire.kill)
        assert wire.stdout
        assert json.loads(wire.stdout.readline())["event"] == "ready"
        whole = Site(made, links, wire)
        for link in links:
            link.attach(whole)
        yield whole
