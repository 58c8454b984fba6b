"""nats-server in processes of its own: one, or three as a cluster."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.request
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.nodes import eventually
from tests.support.ports import free_ports


@cache
def needed() -> str:
    """Why these tests cannot run here; empty if they can."""
    return "" if _program() else "nats-server is not installed: apt install nats-server"


def _program() -> str | None:
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")


class Server:
    """One server. A context manager that starts it, and kills it at the end."""

    def __init__(
        self,
        store: Path,
        configuration: str = "",
        *,
        name: str = "one",
        jetstream: bool = True,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.port, self._monitor = ports or tuple(free_ports(2))
        self._store = store
        store.mkdir(parents=True, exist_ok=True)
        self._config = store / "server.conf"
        enabled = f'jetstream {{ store_dir: "{store}", max_file: 64GB, max_mem: 256MB }}' if jetstream else ""
        self._config.write_text(
            f'server_name: {name}\nlisten: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self._monitor}"\n'
            f'{enabled}\nlog_file: "{store}/log"\n{configuration}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        program = _program()
        assert program
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)], stdin=subprocess.DEVNULL, start_new_session=True
        )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        eventually(self._answers, f"server {self.name} is ready; {self.log()}")

    def log(self) -> str:
        path = self._store / "log"
        return path.read_text()[-2000:] if path.exists() else ""

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def monitor(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}/{path}", timeout=1) as answer:
            return dict(json.load(answer))

    def _answers(self) -> bool:
        assert self.running, f"server {self.name} has ended: {self.log()}"
        try:
            return self.monitor("healthz").get("status") == "ok"
        except OSError:
            return False


class Cluster:
    """Three servers that know each other."""

    def __init__(self, base: Path) -> None:
        ports = free_ports(9)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[6:])
        self.servers = [
            Server(
                base / f"n{n}",
                f'cluster {{ name: fleet, listen: "127.0.0.1:{ports[6 + n]}", routes: [{routes}] }}',
                name=f"n{n}",
                ports=(ports[n], ports[3 + n]),
            )
            for n in range(3)
        ]

    def __enter__(self) -> Cluster:
        try:
            for server in self.servers:
                server.start(wait=False)
            for server in self.servers:
                server.wait_ready()
            eventually(self._has_leader, "the cluster has a leader")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return "nats://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def leader_of(self, store: str) -> Server:
        """The server that leads a JetStream stream."""

        def find() -> Server | None:
            for server in self.servers:
                if not server.running:
                    continue
                accounts = server.monitor("jsz?accounts=1&streams=1").get("account_details", [])
                for stream in (stream for account in accounts for stream in account.get("stream_detail", [])):
                    if stream["name"] == store:
                        leader = stream.get("cluster", {}).get("leader")
                        return next((one for one in self.servers if one.name == leader), None)
            return None

        return eventually(find, f"{store} has a leader")

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def _has_leader(self) -> bool:
        time.sleep(0.05)
        return all(server.monitor("jsz").get("meta_cluster", {}).get("leader") for server in self.servers)


async def make_store(url: str, stream: str, **config: Any) -> None:
    """A JetStream stream for `stream` that was there before."""
    import nats
    from nats.js.api import StreamConfig

    client = await nats.connect(url)
    subjects = [f"usbcast.{stream}.batch", f"usbcast.{stream}.gap"]
    chosen = {"subjects": subjects, **config}
    await client.jetstream().add_stream(StreamConfig(name=f"usbcast-{stream}", **chosen))
    await client.close()
