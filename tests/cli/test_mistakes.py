"""What a user can cause is one sentence with the next step, never a traceback: exit code 1, or 2 for bad usage.

One of each kind as a real process; more of the same kind in this one, where nothing may be left behind either.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.nodes import serving
from tests.support.programs import Program, run
from usbcast.cli import app
from usbcast.node.requests import NodeClient
from usbcast_broker.settings import NodeSettings
from usbcast_schemas.keyring import Keyring

SIMULATE = ("serve", "--simulate", "--bind", "tcp://127.0.0.1:0")
NOWHERE = "tcp://127.0.0.1:9"


def said(program: Program, code: int) -> str:
    """The one sentence on stderr; nothing else was said."""
    assert program.stdout == ""
    assert "Traceback" not in program.stderr
    assert program.finish() == code
    first, *others = program.stderr.strip().splitlines()
    assert first.startswith("usbcast: ")
    assert others == []
    return first.removeprefix("usbcast: ")


def said_of(*arguments: str, code: int = 1, **environment: str) -> str:
    """The one sentence of a real process."""
    return said(run(*arguments, **environment), code)


Say = Callable[..., str]


@pytest.fixture
def said_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """The one sentence of the same program in this process."""

    def say(*arguments: str, code: int = 1) -> str:
        monkeypatch.setattr(sys, "argv", ["usbcast", *arguments])
        assert app.run() == code
        told = capfd.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        assert line.startswith("usbcast: ")
        return line.removeprefix("usbcast: ")

    return say


def test_a_port_that_is_taken(said_here: Say) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        sentence = f"{taken} is in use by another program: stop that one, or choose another address with --bind"
        assert said_of("serve", "--simulate", "--bind", taken) == sentence
        assert said_here(*SIMULATE, "--publish", taken) == sentence


def test_a_port_that_another_node_has(said_here: Say, tmp_path: Path) -> None:
    with serving(rate_hz=100) as served:
        port = served.endpoint.rpartition(":")[2]
        then = f"(process {os.getpid()}, serving sim): stop that one, or choose another address with --bind"
        for host in ("127.0.0.1", "0.0.0.0"):
            sentence = said_here("serve", "--simulate", "--bind", f"tcp://{host}:{port}", "--insecure")
            assert sentence == f"tcp://{host}:{port} is in use by another usbcast node {then}"
        assert said_here("bridge", served.endpoint, "--bind", served.endpoint).endswith(then)
    with serving(settings=NodeSettings(bind=f"ipc://{tmp_path}/node", ring_size=4 << 20)) as served:
        assert said_here("serve", "--simulate", "--bind", served.endpoint).endswith(then)


def test_a_port_that_a_node_with_keys_has(said_here: Say, tmp_path: Path) -> None:
    Keyring.create(tmp_path / "keys", "node")
    settings = NodeSettings(bind="tcp://127.0.0.1:0", ring_size=4 << 20, keys=str(tmp_path / "keys"))
    with serving(settings=settings) as served:
        said = said_here("serve", "--simulate", "--bind", served.endpoint)
    assert said.startswith(f"{served.endpoint} is in use by another usbcast node, which asks for a key: stop that one")


def test_an_address_that_others_could_reach(said_here: Say) -> None:
    assert "pass --insecure if everybody" in said_here("serve", "--simulate", "--bind", "tcp://0.0.0.0:0")
    assert "can be reached from other machines" in said_here(*SIMULATE, "--publish", "tcp://*:0")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[stream", "not valid TOML"),
        ("", "stream"),
        (
            '[stream]\nname = "X"\n[device]\nvendor_id = 1\nproduct_id = 2\n[framing]\nmethod = "fixed"\nsize = 4\n',
            '"X"',
        ),
        ('[stream]\nname = "x"\n[device]\nvendor_id = 1\nproduct_id = 2\n[framing]\nmethod = "magic"\n', "magic"),
    ],
    ids=["not TOML", "empty", "bad name", "unknown method"],
)
def test_a_profile_that_is_wrong(
    tmp_path: Path, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line for each thing that is wrong with it."""
    profile = tmp_path / "device.toml"
    profile.write_text(text)
    monkeypatch.setattr(sys, "argv", ["usbcast", "serve", str(profile), "--bind", "tcp://127.0.0.1:0"])
    assert app.run() == 1
    told = capfd.readouterr()
    assert told.out == ""
    assert sentence in told.err
    assert all("device.toml" in line for line in told.err.splitlines())


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    assert said_of("serve", "nope").startswith("there is no profile named nope; shipped profiles are ")
    assert "absent.toml" in said_of("serve", str(tmp_path / "absent.toml"))


def test_a_device_that_is_missing() -> None:
    assert said_of("serve", "first-case", "--bind", "tcp://127.0.0.1:0") == (
        "no USB device 1209:0001 is plugged in; plug it in; usbcast devices lists what is plugged in"
    )


@pytest.mark.parametrize(
    "arguments",
    [("info", "imu"), ("watch", "imu"), ("command", "imu", "--type", "0xc0", "--length", "1")],
    ids=lambda arguments: arguments[0],
)
def test_a_stream_that_is_unknown(arguments: tuple[str, ...], said_here: Say) -> None:
    with serving(rate_hz=100) as served:
        assert said_here(*arguments, "--endpoint", served.endpoint) == "this node has no stream 'imu'; it has sim"


@pytest.mark.parametrize(
    "verb", [("list",), ("info", "imu"), ("health",), ("command", "imu", "--type", "0xc0", "--timeout", "0.01")]
)
def test_a_node_that_is_not_there(verb: tuple[str, ...], said_here: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NodeClient.__init__.__kwdefaults__, "timeout_s", 0.1)
    sentence = said_here(*verb, "--endpoint", NOWHERE)
    assert sentence.startswith(f"no node answered at {NOWHERE} within ")
    assert sentence.endswith("is one running there? `usbcast serve --simulate` starts one")


def test_a_command_that_the_device_refuses(said_here: Say) -> None:
    with serving(rate_hz=100) as served:
        at = ("--endpoint", served.endpoint)
        assert "0xee" in said_here("command", "sim", "--type", "0xc0", "--request", "0xee", "--length", "1", *at)
        assert said_here("command", "sim", "--out", "0x01", "--data", "00", *at).endswith(
            "has no OUT endpoint 0x01 in use; it has 0x02"
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ring-size", "huge"), "ring_size is 'huge' (from --ring-size): a whole number, or a size like 64MiB, is"),
        (("--ring-size", "1k"), "ring_size is 1000: from 1048576 to"),
        (("--ring-slots", "3"), "ring_slots is 3: from 16 to"),
        (("--batch-age-ms", "-1"), "batch_age_ms is -1.0: from 0 to"),
        (("--packet-size", "5"), "simulator: packet_size is 5; a whole number from 16 to 1048576 is allowed"),
        (("--rate", "-1"), "simulator: rate_hz is -1.0; a number from 0 to"),
        (("--packets", "0"), "simulator: packets is 0; a whole number from 1"),
        (("--faults", "absent.toml"), "there is no faults file absent.toml"),
        (
            ("--packet-size", "300000", "--ring-size", "1MiB"),
            "stream 'first-case' has packets of up to 300000 bytes and ring_size is 1048576: a ring must hold at least",
        ),
        (("--config", "absent.toml"), "cannot read the settings absent.toml: No such file or directory"),
    ],
)
def test_a_setting_that_is_wrong(arguments: tuple[str, ...], sentence: str, said_here: Say) -> None:
    assert said_here(*SIMULATE, *arguments).startswith(sentence)


def test_a_setting_in_the_environment_that_is_wrong() -> None:
    assert (
        said_of(*SIMULATE, USBCAST_LINGER_S="soon") == "linger_s is 'soon' (from USBCAST_LINGER_S): a number is allowed"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve",), "say which device to serve: one or more PROFILEs (a file, or first-case), or --simulate"),
        (
            ("serve", "./x.toml", "--simulate"),
            "--simulate serves the simulated device, whose profile is built in: leave out ./x.toml, or leave out --simulate",
        ),
        (("serve", "first-case", "ftdi-numbered", "--stream", "x"), "--stream x names one stream, and there are 2"),
        (("serve", "--simulate", "--bind", "localhost"), "'localhost' is not an endpoint: write tcp://HOST:PORT"),
        (("serve", "--simulate", "--stream", "IMU"), "'IMU' is not a stream name: use 1 to 64 of a-z"),
        (("watch", "first-case", "--start", "then"), "start is 'then': 'now', 'oldest' or a sequence"),
        (("watch", "first-case", "--via", "mail"), "via is 'mail': one of auto, push, notify, ring is allowed"),
        (("list", "--endpoint", "localhost"), "'localhost' is not an endpoint"),
        (("list", "--endpoint", "tcp://*:6594"), "'tcp://*:6594' is an address to listen on, not to connect to"),
        (("watch", "x", "--endpoint", "tcp://*:6594"), "'tcp://*:6594' is an address to listen on"),
        (("record", "x", "--endpoint", "tcp://*:6594"), "'tcp://*:6594' is an address to listen on"),
        (("doctor", "tcp://*:6594"), "'tcp://*:6594' is an address to listen on"),
        (("health", "--endpoint", "tcp://" + "é" * 80 + ":1"), "'" + "é" * 80 + "' cannot be the name of a host"),
        (("health", "--endpoint", "tcp://a\udce9:1"), "'tcp://a\\udce9:1' is not an endpoint"),
        (("health", "--endpoint", "ipc://" + "x" * 300), "cannot connect to 'ipc://xxx"),
        (("bridge", "tcp://*:6594", "--bind", "tcp://127.0.0.1:0"), "'tcp://*:6594' is an address to listen on"),
        (("command", "x"), "say either --type, for a control transfer, or --out, for data to an OUT endpoint"),
        (("command", "x", "--type", "1", "--out", "2"), "say either --type"),
        (("command", "x", "--type", "many"), "'many' is not a whole number: write 129 or 0x81"),
        (("command", "x", "--type", "1", "--data", "xyz"), "'xyz' is not bytes in hex"),
    ],
)
def test_bad_usage_in_a_sentence(arguments: tuple[str, ...], sentence: str, said_here: Say) -> None:
    assert said_here(*arguments, code=2).startswith(sentence)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("serve", "--fly"),
        ("info",),
        ("serve", "--simulate", "--rate", "fast"),
        ("watch", "x", "--seconds", "0"),
        ("demo", "--seconds", "-3"),
        ("command",),
    ],
)
def test_bad_usage_with_the_usage(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["usbcast", *arguments])
    assert app.run() == 2
    assert capfd.readouterr().err.startswith("Usage: ")


def test_the_exit_codes_are_those_of_the_process() -> None:
    with serving(rate_hz=100) as served:
        assert said_of("info", "imu", "--endpoint", served.endpoint) == "this node has no stream 'imu'; it has sim"
    assert said_of("serve", code=2).startswith("say which device to serve")
    misused = run("fly")
    assert misused.finish() == 2
    assert misused.stderr.startswith("Usage: usbcast")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this root may not mount: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_shared_memory_that_is_full(full: Path) -> None:
    sentence = said_of(*SIMULATE, USBCAST_RING_DIR=str(full))
    assert sentence.startswith(f"the ring of stream 'first-case' needs 76 MiB in {full}, which has 2 MiB free: make it")
    assert "--ring-size" in sentence
    assert list(full.iterdir()) == [], "nothing is left of the attempt"
    fits = ("--ring-size", "1MiB", "--ring-slots", "1024", "--packets", "1", "--linger-s", "0")
    assert run(*SIMULATE, *fits, USBCAST_RING_DIR=str(full)).finish() == 0


def test_directories_that_will_not_do(tmp_path: Path, said_here: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    for name in ("USBCAST_RING_DIR", "USBCAST_RUNTIME_DIR"):
        for path, sentence in (
            (tmp_path / "file", f"cannot make the directory {tmp_path}/file: File exists; set USBCAST_RING_DIR and"),
            (tmp_path / "file" / "x", f"cannot make the directory {tmp_path}/file/x: Not a directory; set"),
            (tmp_path / "open", f"{tmp_path}/open is not a directory that only this user may enter (owner "),
            (Path("/proc/usbcast"), "cannot make the directory /proc/usbcast: "),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(name, str(path))
                assert said_here(*SIMULATE).startswith(sentence)


def test_a_ring_directory_in_which_nothing_may_be_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert said_of(*SIMULATE, USBCAST_RING_DIR=str(tmp_path / "closed")).startswith(
            "cannot make the ring of stream"
        )
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this root may not mount: {mounted.stderr.decode().strip()}")
    try:
        sentence = said_of(*SIMULATE, USBCAST_RING_DIR=str(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert sentence == (
        f"cannot make the ring of stream 'first-case' in {tmp_path}: Read-only file system; "
        "set USBCAST_RING_DIR to a directory that this user may write to"
    )


def test_a_machine_without_shared_memory_serves_from_another_place(
    private_directories: tuple[Path, Path], tmp_path: Path
) -> None:
    """As on macOS, where there is no /dev/shm: the ring is beside the node's record."""
    code = (
        "from pathlib import Path; from usbcast_schemas import places; places.SHARED_MEMORY = Path('/nonexistent');"
        "import sys; from usbcast.cli import main; sys.argv = ['usbcast', *sys.argv[1:]]; main()"
    )
    _, runtime = private_directories
    with Program([sys.executable, "-c", code, *SIMULATE, "--json", "--ring-size", "1MiB"], USBCAST_RING_DIR="") as node:
        node.hear("serving")
        assert len(list((runtime / "rings").glob("*.ring"))) == 1
        node.kill()
    with contextlib.suppress(OSError):
        for path in sorted(runtime.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
