"""The command line: `bridge --to` stores, and the verbs that read streams read from the server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from servers import Server, free_ports

from tests.support.nodes import serving, small
from tests.support.programs import Program, run, usbcast


def storing(server: Server, upstream: str, *arguments: str) -> Program:
    return Program(usbcast("bridge", "--to", server.url, upstream, "--json", *arguments))


def last_line(program: Program) -> dict[str, Any]:
    return dict(json.loads(program.out[-1]))


@pytest.mark.slow
def test_store_and_read_back(server: Server, tmp_path: Path) -> None:
    with (
        serving(rate_hz=500, packets=700, ends=True) as served,
        storing(server, served.endpoint, "--keep", "2d") as bridge,
    ):
        begun = bridge.hear("storing")
        assert (begun["to"], begun["streams"]) == (server.url, ["sim"])
        bridge.hear("figures", where=lambda said: said["streams"]["sim"]["ledger"]["out"] > 100)
        watched = run("watch", "sim", "-e", server.url, "--start", "oldest", "--json")
        books = last_line(watched)
        assert (books["event"], books["out"], books["lost"], books["balanced"]) == ("books", 700, {}, True)
        bridge.hear("figures", where=lambda said: said["streams"]["sim"]["ended"])
        bridge.signal(signal.SIGTERM)
        assert bridge.finish() == 0, bridge.stderr
        said = last_line(bridge)
        assert said["event"] == "books"
        assert (said["streams"]["sim"]["ledger"]["out"], said["streams"]["sim"]["trouble"]) == (700, "")

    listed = json.loads(run("list", "-e", server.url, "--json").stdout)["streams"]
    assert [(one["stream"], one["next_sequence"], one["ended"], one["keep_s"]) for one in listed] == [
        ("sim", 700, True, 2 * 86400)
    ]
    assert "SIM0001" in run("list", "-e", server.url).stdout
    told = run("info", "sim", "-e", server.url).stdout
    assert "from 0 on still stored" in told
    assert "2 days" in told
    assert "as usbcast-sim" in told

    base = tmp_path / "run"
    recorded = run("record", "si*", "-e", server.url, "--start", "oldest", "--until", "end", "-o", str(base), "--json")
    assert recorded.finish() == 0, recorded.stderr
    verified = run("verify", str(base), "--json")
    assert verified.finish() == 0, verified.stdout
    assert last_line(verified)["balanced"]
    assert "700" in run("info", str(base)).stdout


@pytest.mark.slow
def test_a_bridge_that_waits_finds_the_streams_of_a_node_that_comes_later(server: Server) -> None:
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    with storing(server, endpoint, "--wait") as bridge:
        bridge.hear("figures", where=lambda said: said["streams"] == {})
        with serving(rate_hz=500, settings=small(bind=endpoint)):
            bridge.hear("figures", where=lambda said: "sim" in said["streams"])
            bridge.hear("figures", where=lambda said: said["streams"]["sim"]["ledger"]["out"] > 100)
            bridge.signal(signal.SIGTERM)
            assert bridge.finish() == 0, bridge.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("bridge", "--to", "http://x"),
            2,
            "--to is 'http://x': write the address of a NATS server, like nats://HOST:4222",
        ),
        (("bridge", "--to", "nats://x", "--bind", "tcp://127.0.0.1:1"), 2, "--bind is for a bridge that serves"),
        (("bridge", "--to", "nats://x", "--announce", "all"), 2, "--announce is for a bridge that serves"),
        (("bridge", "tcp://127.0.0.1:1", "--keep", "7d"), 2, "--keep is for a bridge that stores on a NATS server"),
        (("bridge", "--to", "nats://x", "--keep", "a week"), 2, "--keep is 'a week': write a duration"),
        (("bridge", "--to", "nats://x", "--keep-bytes", "much"), 2, "--keep-bytes is 'much': write a size"),
        (("bridge", "--to", "nats://x", "tcp://a:1", "tcp://b:1"), 2, "--to stores the streams of one node"),
        (("bridge", "--to", "nats://x", "--start", "7"), 2, "--start is '7'"),
        (
            ("bridge", "--to", "nats://x", "--creds", "/none", "--streams", "sim"),
            2,
            "the credentials '/none' are not a file",
        ),
        (("health", "-e", "nats://u:secret@x"), 2, "nats://x:4222 is a server that stores streams, not a node"),
        (
            ("watch", "sim", "-e", "nats://x", "--via", "ring"),
            2,
            "via is 'ring': nats://x:4222 can be read in one way only",
        ),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, said: str) -> None:
    program = run(*arguments)
    assert program.finish() == code
    assert said in program.stderr
    assert "secret" not in program.stderr
    assert "Traceback" not in program.stderr


def test_nobody_there(nowhere: str) -> None:
    for arguments in (("bridge", "--to", nowhere, "tcp://127.0.0.1:1", "--streams", "sim"), ("list", "-e", nowhere)):
        program = run(*arguments)
        assert program.finish() == 1
        assert program.stderr == (
            f"usbcast: no NATS server answers at {nowhere}: Connection refused; is one running there?\n"
        )
