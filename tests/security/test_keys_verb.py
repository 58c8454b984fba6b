"""`usbcast keys` and `--keys`: a keyed node and a client set up as docs/security.md says, and every mistake in words."""

from __future__ import annotations

import json
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import Program, run, usbcast
from usbcast.cli import app
from usbcast_schemas.keyring import Keyring

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["usbcast", *arguments])
        code = app.run()
        told = capfd.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return call


def said(told: tuple[int, str, str]) -> str:
    """The one sentence of a failure."""
    code, out, err = told
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    return line.removeprefix("usbcast: ")


def test_keys_are_made_shown_allowed_revoked_and_listed(cli: Cli, tmp_path: Path) -> None:
    node, alice = str(tmp_path / "node"), str(tmp_path / "alice")
    made = json.loads(cli("keys", "new", "--keys", node, "--name", "lab", "--json")[1])
    assert (made["name"], made["directory"]) == ("lab", node)
    assert stat.S_IMODE((tmp_path / "node" / "secret.toml").stat().st_mode) == 0o600
    code, out, _ = cli("keys", "new", "--keys", alice, "--name", "alice")
    key = Keyring(Path(alice)).own().public.hex()
    assert code == 0
    assert f"usbcast keys allow {key} --name alice --keys DIR" in out
    assert Keyring(Path(alice)).own().secret.hex() not in out
    assert key in cli("keys", "show", "--keys", alice)[1]
    assert cli("keys", "allow", key, "--name", "alice", "--keys", node)[1].strip() == f"{key[:12]} (alice) may read"
    allowed = json.loads(
        cli("keys", "allow", key, "--name", "alice", "--rights", "command", "--keys", node, "--json")[1]
    )
    assert allowed == {"allowed": {"name": "alice", "key": key, "rights": "read and command"}}
    trusted = json.loads(cli("keys", "trust", "tcp://lab:5570", made["key"], "--keys", alice, "--json")[1])
    assert trusted == {"trusted": {"endpoint": "tcp://lab:5570", "key": made["key"], "before": None}}
    assert "until now it had to have" in cli("keys", "trust", "tcp://lab:5570", key, "--keys", alice)[1]
    listed = json.loads(cli("keys", "list", "--keys", node, "--json")[1])
    assert listed == {"clients": [{"name": "alice", "key": key, "rights": "read and command"}], "nodes": []}
    assert cli("keys", "revoke", "alice", "--keys", node)[1].strip() == f"{key[:12]} (alice) is revoked"
    code, out, _ = cli("keys", "list", "--keys", node)
    assert code == 0
    assert "alice" in out
    assert "none" in out


def test_mistakes_are_one_sentence(cli: Cli, tmp_path: Path) -> None:
    there, key = str(tmp_path / "there"), "ab" * 32
    cli("keys", "new", "--keys", there, "--name", "me")
    assert "exists already" in said(cli("keys", "new", "--keys", there))
    absent = str(tmp_path / "absent")
    for verb in (("show",), ("allow", key, "--name", "a"), ("revoke", "a"), ("trust", "tcp://lab:5570", key)):
        assert f"usbcast keys new --keys {absent}" in said(cli("keys", *verb, "--keys", absent))
    assert "'abc' is not a public key: one has 64 hex digits" in said(
        cli("keys", "allow", "abc", "--name", "a", "--keys", there)
    )
    assert "'a b' is not a name for a key" in said(cli("keys", "allow", key, "--name", "a b", "--keys", there))
    assert "'all' are not rights: read or command" in said(
        cli("keys", "allow", key, "--name", "a", "--rights", "all", "--keys", there)
    )
    assert "'bob' names no client; there are none" in said(cli("keys", "revoke", "bob", "--keys", there))
    (tmp_path / "there" / "secret.toml").chmod(0o644)
    assert "chmod go= " in said(cli("keys", "show", "--keys", there))
    assert "chmod go= " in said(cli("serve", "--simulate", "--bind", "tcp://127.0.0.1:0", "--keys", there))
    assert "chmod go= " in said(cli("list", "--keys", there))


def test_what_is_asked_for_wrongly_is_bad_usage(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("keys", "show")
    assert (code, err.strip()) == (2, "usbcast: say which keys: --keys DIR, or set USBCAST_KEYS to a directory")
    cli("keys", "new", "--keys", str(tmp_path / "k"))
    assert cli("keys", "trust", "lab:5570", "ab" * 32, "--keys", str(tmp_path / "k"))[0] == 2


def test_an_address_that_others_can_reach_needs_keys_or_a_word(cli: Cli, tmp_path: Path) -> None:
    sentence = said(cli("serve", "--simulate", "--bind", "tcp://0.0.0.0:0"))
    assert (
        "admit only clients with a key (--keys DIR; usbcast keys new --keys DIR makes one), or pass --insecure"
        in sentence
    )


@pytest.mark.slow
def test_a_keyed_node_and_its_clients_as_programs(tmp_path: Path) -> None:
    """Five commands; then every verb works with the key, and none without."""
    node, alice = str(tmp_path / "node"), str(tmp_path / "alice")
    made = json.loads(run("keys", "new", "--name", "lab", "--json", USBCAST_KEYS=node).stdout)
    served = Program(
        usbcast("serve", "--simulate", "--ring-size", "4MiB", "--bind", "tcp://0.0.0.0:0", "--json"), USBCAST_KEYS=node
    )
    with served:
        endpoint = served.hear("serving")["endpoint"].replace("0.0.0.0", "127.0.0.1")
        key = json.loads(run("keys", "new", "--name", "alice", "--json", USBCAST_KEYS=alice).stdout)["key"]
        run("keys", "allow", key, "--name", "alice", USBCAST_KEYS=node)
        run("keys", "trust", endpoint, made["key"], USBCAST_KEYS=alice)
        verbs = {
            "list": (),
            "info": ("first-case",),
            "health": (),
            "watch": ("first-case", "--seconds", "0.5", "--via", "push"),
            "record": ("first-case", "--packets", "20", "--via", "push", "-o", str(tmp_path / "run")),
        }
        for verb, arguments in verbs.items():
            refused = run(verb, *arguments, "-e", endpoint, "--json")
            assert refused.finish() == 1, verb
            (line,) = refused.stderr.strip().splitlines()
            assert "lets in only clients with a key, and you gave none" in line
            well = run(verb, *arguments, "-e", endpoint, "--json", USBCAST_KEYS=alice)
            assert well.finish() == 0, (verb, well.stderr)
        commanded = run(
            "command",
            "first-case",
            "--type",
            "0xc0",
            "--request",
            "1",
            "--length",
            "2",
            "-e",
            endpoint,
            "--keys",
            alice,
        )
        assert commanded.finish() == 1
        assert "may read, but not command the device" in commanded.stderr
        assert "refused 127.0.0.1: no key" in served.stderr
        assert f"refused key {key[:12]} (alice)" in served.stderr
        served.signal(signal.SIGTERM)
        assert served.finish() == 0
