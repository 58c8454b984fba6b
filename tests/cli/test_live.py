"""The live view of a verb, and the options of the verbs that run a node."""

from __future__ import annotations

import io
import threading
from dataclasses import fields
from types import SimpleNamespace

import pytest
import typer.main

from usbcast.cli import live
from usbcast.cli.app import app
from usbcast.cli.live import LiveView
from usbcast.cli.node_options import node_flags
from usbcast.cli.node_run import attend
from usbcast.cli.output import SafeConsole
from usbcast_broker.settings import NodeSettings


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(live, "console", SafeConsole(file=sent, force_terminal=True, width=40))
    return sent


def test_on_a_terminal_the_view_is_drawn(screen: io.StringIO) -> None:
    with LiveView(as_json=False) as view:
        view.draw(lambda: "12 packets")
    assert view.drawn
    assert "12 packets" in screen.getvalue()


def test_with_json_nothing_is_drawn_nor_made(screen: io.StringIO) -> None:
    made: list[str] = []
    with LiveView(as_json=True) as view:
        view.draw(lambda: made.append("a table") or "a table")  # type: ignore[func-returns-value]
    assert (made, screen.getvalue()) == ([], "")


def test_the_view_is_due_at_once_and_then_once_in_a_period(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = LiveView(2.0, as_json=False)
    due = []
    for now_s in (100.0, 101.9, 102.0, 103.0, 104.1):
        monkeypatch.setattr("usbcast.cli.live.time.monotonic", lambda now_s=now_s: now_s)
        due.append(view.due())
    assert due == [True, False, True, False, True]


def test_an_option_of_a_node_says_the_same_in_each_verb() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    settings = {setting.name for setting in fields(NodeSettings)}
    said: dict[str, set[tuple[str, str]]] = {}
    for verb in ("serve", "bridge", "play"):
        for option in commands[verb].params:
            if option.name in settings:
                said.setdefault(option.name, set()).add((option.opts[0], option.help))
    assert set(said) >= {"bind", "keys", "ring_size", "linger_s", "announce"}
    assert [name for name, helps in said.items() if len(helps) > 1] == []


def test_only_parameters_named_like_a_setting_become_flags() -> None:
    given = {"bind": "tcp://127.0.0.1:1", "ring_size": None, "simulate": True, "config": None}
    assert node_flags(given) == {"bind": "tcp://127.0.0.1:1", "ring_size": None}


class Unused:
    """A watchdog that must not be fed."""

    def look(self) -> None:
        raise AssertionError("the watchdog was fed for a node that can publish nothing any more")


def test_a_verb_ends_when_its_node_can_do_nothing_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    node = SimpleNamespace(problem="publishing has stopped: no space")
    never = threading.Event()
    problem = attend(node, Unused(), never, str, as_json=True, exhausted=threading.Event())  # type: ignore[arg-type]
    assert problem == node.problem
    assert capsys.readouterr().err == f"usbcast: {problem}\n"
