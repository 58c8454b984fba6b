"""The doctor with real causes: each hop is broken in the way in which it breaks, and named with what to do."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.support.distant import distant_node
from tests.support.fake_node import FakeNode
from tests.support.nodes import eventually, serving, small
from tests.support.programs import Program, run, serve, usbcast
from tests.support.proxy import DelayingProxy
from usbcast.doctor.findings import Finding
from usbcast.doctor.hops import HOPS, examine
from usbcast_broker.node import Node
from usbcast_broker.sources.simulator import SimulatorConfig
from usbcast_broker.sources.simulator.profile import profile_of
from usbcast_schemas.errors import UsageError
from usbcast_schemas.keyring import Keyring
from usbcast_schemas.keys import ClientKey, Rights
from usbcast_schemas.profile import parse_profile
from usbcast_schemas.v1 import usbcast_pb2 as pb


def look(endpoint: str, stream: str | None = None, keys: str | None = None) -> dict[str, Finding]:
    return {finding.hop: finding for finding in examine(endpoint, stream, keys)}


def check_broken(found: dict[str, Finding], hop: str, *words: str) -> None:
    """This hop fails and no other; what needs it is skipped."""
    assert [one.hop for one in found.values() if one.outcome == "failed"] == [hop], found
    for word in words:
        assert word in found[hop].says
    assert list(found) == list(HOPS)


def test_all_is_well_with_a_node_of_this_machine() -> None:
    with serving(stream="fit", rate_hz=1000) as served:
        found = look(served.endpoint)
    assert [one for one in found.values() if one.outcome == "failed"] == []
    assert {hop for hop, one in found.items() if one.outcome == "skipped"} == {"key"}
    assert "127.0.0.1" in found["name"].says
    assert "without keys" in found["handshake"].says
    assert found["stream"].says == "fit"
    assert "by push" in found["first message"].says
    assert "by ring" in found["ring"].says
    assert "1209:0001" in found["device"].says
    assert "the same as here" in found["clock"].says
    assert "balanced" in found["books"].says


@pytest.mark.slow
def test_a_device_of_whose_bytes_no_packet_comes() -> None:
    """The profile expects another checksum: every packet is thrown away, and the books balance."""
    config = SimulatorConfig(rate_hz=1000)
    toml = profile_of(config, "fit").toml
    wrong = parse_profile(toml.replace('"crc32"', '"crc32c"'), "wrong")
    assert wrong.toml != toml
    with serving(stream="fit", profile=wrong, rate_hz=1000) as served:
        eventually(lambda: served.pipeline.problem)
        check_broken(look(served.endpoint), "device", "is attached, but", "and not one packet: compare [framing]")
        health = run("health", "--endpoint", served.endpoint, "--json")
        assert health.finish() == 1
        said = json.loads(health.stdout)["streams"]["fit"]
        assert (said["balanced"], said["well"], said["attached"]) == (True, False, True)
        assert "and not one packet" in said["problem"]
        assert run("doctor", served.endpoint).finish() == 1


def test_a_name_that_is_not_known() -> None:
    found = look("tcp://no-such-host.invalid:5570")
    check_broken(found, "name", "no-such-host.invalid", "IP address")
    assert found["books"].outcome == "skipped"


def test_a_port_on_which_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        check_broken(look(f"tcp://127.0.0.1:{port}"), "port", "refused", f"--bind tcp://0.0.0.0:{port}")


@pytest.mark.slow
def test_a_port_that_takes_connections_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check_broken(look(f"tcp://127.0.0.1:{silent.getsockname()[1]}"), "handshake", "says nothing", "hangs")


@pytest.fixture
def web_server() -> Iterator[int]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Not to the terminal."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_web_server(web_server: int) -> None:
    check_broken(look(f"tcp://127.0.0.1:{web_server}"), "handshake", "web server", "check the port")


def test_a_program_that_speaks_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                for _ in range(2):
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        check_broken(
            look(f"tcp://127.0.0.1:{server.getsockname()[1]}"), "handshake", "another program", "SSH-2.0-OpenSSH"
        )
        thread.join()


@pytest.mark.slow
def test_a_zeromq_program_that_is_no_node() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        check_broken(look(f"tcp://127.0.0.1:{port}"), "contract", "speaks ZMTP but does not answer")


def test_a_node_of_another_major_version() -> None:
    def newer(request: pb.Request) -> list[list[bytes]]:
        return [[pb.Reply(contract=2 << 16, request_id=request.request_id).SerializeToString()]]

    with FakeNode(newer) as node:
        check_broken(look(node.endpoint), "contract", "2.0", "1.0", "same major version")


def test_a_stream_that_is_not_there() -> None:
    with serving(stream="here") as served:
        check_broken(look(served.endpoint, "elsewhere"), "stream", "'elsewhere'", "it has here")


def test_a_node_without_a_stream() -> None:
    with Node(small()) as node:
        node.start()
        check_broken(look(node.endpoint), "stream", "has no stream")


@pytest.mark.slow
def test_a_data_port_that_the_way_does_not_let_through() -> None:
    with (
        distant_node("--rate", "200") as (_, endpoint),
        DelayingProxy(endpoint, there_s=0.0, back_s=0.0, at="127.0.0.9") as proxy,
    ):
        found = look(proxy.endpoint)
    check_broken(found, "data port", "requests are answered at", "tcp://127.0.0.9:", "--publish")
    assert found["first message"].outcome == "skipped"
    assert "another machine" in found["ring"].says
    assert found["clock"].outcome == found["books"].outcome == "ok"


@pytest.mark.slow
def test_a_clock_that_is_far_off_is_said_with_how_much() -> None:
    with distant_node(clock="-90") as (_, endpoint):
        found = look(endpoint)
    assert found["clock"].outcome == "ok"
    assert found["clock"].says.startswith(("-90.", "-89.9"))
    assert "NTP" in found["clock"].says


def test_a_device_that_was_unplugged() -> None:
    with serving(stream="gone") as served:
        served.device.unplug()
        eventually(lambda: not served.pipeline.feed.attached, "it is noticed")
        check_broken(look(served.endpoint), "device", "not attached", "SIM0001")


@pytest.mark.slow
def test_a_node_that_hangs() -> None:
    program, endpoint = serve("--bind", "tcp://127.0.0.1:0")
    with program:
        program.signal(signal.SIGSTOP)
        tasks = list(Path(f"/proc/{program.pid}/task").iterdir())
        eventually(lambda: all(") T " in (task / "stat").read_text() for task in tasks), "all its threads stand still")
        check_broken(look(endpoint), "handshake", "says nothing", "hangs or was suspended")
        program.signal(signal.SIGCONT)
        program.signal(signal.SIGTERM)
        assert program.finish() == 0


def test_keys_that_are_missing_wrong_and_right(tmp_path: Path) -> None:
    own, friend, stranger = (Keyring.create(tmp_path / name, name) for name in ("node", "friend", "stranger"))
    own.allow(ClientKey(friend.own().public, "friend", Rights.READ))
    with serving(stream="locked", settings=small(keys=str(own.directory))) as served:
        check_broken(look(served.endpoint), "key", "lets in only clients with a key", "--keys")
        check_broken(
            look(served.endpoint, keys=str(stranger.directory)), "key", "does not let in your key", "usbcast keys allow"
        )
        found = look(served.endpoint, keys=str(friend.directory))
        assert [one for one in found.values() if one.outcome == "failed"] == []
        assert "let in" in found["key"].says
        assert "CURVE" in found["handshake"].says
        check_broken(look(served.endpoint, keys=str(tmp_path / "nothing")), "key", "nothing")
    with serving(stream="open") as served:
        check_broken(look(served.endpoint, keys=str(friend.directory)), "key", "has no keys")


def test_what_is_no_address_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="is not an endpoint"):
        look("lab:5570")
    asked = run("doctor", "lab:5570")
    assert asked.finish() == 2
    assert "is not an endpoint" in asked.stderr


def test_the_command_line_looks_at_this_machine_and_its_nodes() -> None:
    with serving(stream="fit", rate_hz=1000) as served:
        asked = run("doctor", "--json")
        said = [json.loads(line) for line in asked.out]
        assert {one["of"] for one in said[:-1]} == {"this machine", served.endpoint}
        here = {one["hop"]: one for one in said if one.get("of") == "this machine"}
        assert set(here) == {"usbcast", "native core", "extras", "directories", "shared memory", "open files", "usb"}
        assert "discovery" in here["extras"]["says"]
        failures = [one for one in said[:-1] if one["outcome"] == "failed"]
        assert [one for one in failures if one["of"] == served.endpoint] == []
        assert said[-1] == {"event": "verdict", "well": not failures}
        assert asked.finish() == (1 if failures else 0)


def test_it_says_whether_the_native_core_is_in_use() -> None:
    asked = run("doctor", USBCAST_PURE="1")
    asked.finish()
    assert "USBCAST_PURE is set: Python does its work" in "\n".join(asked.out)


def test_few_open_files_and_a_missing_directory_are_told_with_what_to_do(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    wide.chmod(0o755)
    limited = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh", *usbcast("doctor", "--json")]
    with Program(limited, USBCAST_RING_DIR=str(wide)) as asked:
        assert asked.finish() == 1
    said = {one["hop"]: one for line in asked.out if (one := json.loads(line))["event"] == "finding"}
    assert said["open files"]["outcome"] == said["directories"]["outcome"] == "failed"
    assert "ulimit -n 1024" in said["open files"]["says"]
    assert "USBCAST_RING_DIR" in said["directories"]["says"]


def test_the_command_line_says_what_fails_in_a_line_each() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        asked = run("doctor", f"tcp://127.0.0.1:{bound.getsockname()[1]}")
    assert asked.finish() == 1
    lines = asked.stdout.splitlines()
    assert len(lines) == 1 + len(HOPS)
    assert lines[1].split()[:2] == ["ok", "name"]
    assert lines[2].split()[:2] == ["failed", "port"]
    assert asked.stderr == ""
