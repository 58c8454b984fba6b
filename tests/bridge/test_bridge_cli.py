"""`usbcast bridge` as people run it: its file, its figures, and what it says of mistakes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from bridge_line import Start

from tests.support.programs import Program, follow, run

pytestmark = pytest.mark.slow

ANY = "tcp://127.0.0.1:0"


def test_a_bridge_with_a_file(start: Start, programs: list[Program], tmp_path: Path) -> None:
    _, serving = start("serve", "--simulate", "--rate", "1000", "--ring-size", "4MiB", "--bind", ANY)
    config = tmp_path / "bridge.toml"
    config.write_text(f'bind = "{ANY}"\nring_size = "4MiB"\n[streams."lab-*"]\nevery = 10\n')
    bridge, bridged = start("bridge", f"lab={serving['endpoint']}", "--config", str(config))
    assert bridged["streams"] == ["lab-first-case"]
    assert bridged["upstreams"] == {"lab-first-case": serving["endpoint"]}
    reader = follow(bridged["endpoint"], "push", stream="lab-first-case")
    programs.append(reader)
    reader.hear("figures", where=lambda said: said["delivered"] > 50)
    listed = json.loads(run("list", "--endpoint", bridged["endpoint"], "--json").stdout)["streams"]
    assert [(info["stream"], info["source"]) for info in listed] == [("lab-first-case", serving["endpoint"])]
    health = run("health", "--endpoint", bridged["endpoint"]).stdout
    assert all(part in health for part in ("upstream", "bridge", "outlet", "the ledgers balance", serving["endpoint"]))
    bridge.signal(signal.SIGINT)
    ended = bridge.hear("ended")
    books = ended["streams"]["lab-first-case"]
    assert books["balanced"]
    assert books["ledgers"]["bridge"]["lost"] == {}
    left_out = books["ledgers"]["bridge"]["counters"]["left out: left out on purpose: one of 10 packets is carried"]
    assert left_out == books["ledgers"]["bridge"]["overhead"] > 400
    assert bridge.finish() == 0


def test_where_each_setting_came_from(tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text('ring_size = "4MiB"\n[streams.imu]\nevery = 2\n')
    shown = json.loads(run("bridge", "tcp://lab:5570", "--config", str(config), "--show-config", "--json").stdout)
    assert shown["ring_size"] == {"value": 4 << 20, "source": str(config)}


@pytest.mark.parametrize(
    ("arguments", "file", "code", "sentence"),
    [
        ([], "", 2, "no upstream is named: give its address, as in usbcast bridge tcp://HOST:PORT"),
        (["lab"], "", 2, "'lab' is not an endpoint"),
        (["tcp://127.0.0.1:1"], "", 1, "--wait starts the bridge anyway"),
        (["tcp://lab:1", "tcp://lab:1"], "", 2, "tcp://lab:1 is named twice"),
        (["tcp://lab:1", "--every", "2", "--on-demand"], "", 1, "every and on_demand are given for one stream"),
        (["tcp://lab:1", "--limit", "much"], "", 1, "limit is 'much': write bytes a second, like 50kB"),
        (["tcp://lab:1", "--start", "5"], "", 2, "--start is '5': oldest or now is allowed"),
        (
            ["tcp://lab:1"],
            "[streams.imu]\nevry = 2\n",
            1,
            'streams."imu" has the unknown key evry; allowed are every, latest_hz',
        ),
        (
            ["tcp://lab:1"],
            "[streams.imu]\nevery = 'x'\n",
            1,
            "every of streams.\"imu\" is 'x': a whole number is needed",
        ),
        (["tcp://lab:1"], "[streams]\nimu = 3\n", 1, 'streams."imu" is 3: a table is needed, as [streams."imu"]'),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], file: str, code: int, sentence: str, tmp_path: Path) -> None:
    if file:
        config = tmp_path / "bridge.toml"
        config.write_text(file)
        arguments = [*arguments, "--config", str(config)]
    ran = run("bridge", *arguments, "--bind", ANY)
    assert sentence in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert ran.finish() == code
