"""Words that the project no longer uses, and the names in docs/design.md held against the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("broker", "clients", "schemas", "tests", "examples", "benchmarks")

RETIRED_NAMES = {
    "Attended": "WatchdogReporter",
    "Audience": "TopicInterest",
    "Budgets": "RateLimiter",
    "Courier": "StoreReader",
    "From": "Upstream",
    "Digest": "EventBuilder",
    "Following": "FastPath",
    "Gatekeeper": "Authenticator",
    "Happening": "DeviceEvent",
    "Line": "Stream",
    "Meaning": "DecodeContext",
    "Moderation": "Coalescer",
    "PublishedWay": "PublishedChannel",
    "Reception": "Receiver",
    "Remark": "Annotation",
    "Renewal": "EpochChange",
    "RingWay": "RingChannel",
    "Standing": "StoreState",
    "Tap": "StreamRecorder",
    "Undelivered": "Outbox",
    "Way": "Channel",
    "Wish": "StoreOptions",
    "knock": "on_data",
    "lent": "loaned",
    "take_back": "return_loan",
}
"""Identifiers that were renamed, and what they are called now. Add a line when you rename another one."""

RETIRED_WORDS = {
    "courier": "store reader",
    "gatekeeper": "authenticator",
    "undelivered": "outbox",
}
"""Words of ours that the field has another term for: neither in docs nor as a part of an identifier."""

RETIRED_IN_DOCS = {
    "audience": "subscribers",
    "books": "ledger",
    "happenings": "device events",
    "reception": "receiver",
    "short way": "fast path",
}
"""Not in README, CONTRIBUTING and docs/; names in backquotes and code blocks are left alone."""

HISTORY = {"CHANGELOG.md"}
"""Pages that speak of the past, where old words stand."""


@cache
def identifiers() -> dict[str, str]:
    """Every name in the Python code, and a place where it stands."""
    found: dict[str, str] = {}
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name.endswith("_pb2.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for name in (getattr(node, key, None) for key in ("id", "attr", "name", "asname", "arg")):
                    if isinstance(name, str):
                        found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def parts(name: str) -> set[str]:
    """The words of an identifier, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def pages() -> list[Path]:
    return [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.name not in HISTORY]


def prose(text: str) -> list[tuple[int, str]]:
    """The lines of a page with their numbers, without code blocks and what stands in backquotes or is a link's address."""
    lines, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            lines.append((number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)))
    return lines


@pytest.mark.parametrize("name", RETIRED_NAMES)
def test_a_retired_name_is_not_used_in_code(name: str) -> None:
    place = identifiers().get(name)
    assert place is None, f"{place} uses {name}: it is called {RETIRED_NAMES[name]} now"


@pytest.mark.parametrize("word", RETIRED_WORDS)
def test_a_retired_word_is_no_part_of_an_identifier(word: str) -> None:
    used = [f"{place}: {name}" for name, place in identifiers().items() if word in parts(name)]
    assert used == [], f"say {RETIRED_WORDS[word]}"


@pytest.mark.parametrize("word", RETIRED_WORDS | RETIRED_IN_DOCS)
def test_a_retired_word_is_not_used_in_docs(word: str) -> None:
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    used = [
        f"{page.relative_to(ROOT)}:{number}: {line.strip()}"
        for page in pages()
        for number, line in prose(page.read_text(encoding="utf-8"))
        if pattern.search(line)
    ]
    assert used == [], f"say {(RETIRED_WORDS | RETIRED_IN_DOCS)[word]}"


def test_words_are_found_in_identifiers_and_prose() -> None:
    assert parts("_RingWay") == {"ring", "way"}
    assert parts("ZMQ_FD") == {"zmq", "fd"}
    assert prose("one `two` three\n```\nfour\n```\n[five](six)") == [(1, "one  three"), (5, "[five")]


STEP = re.compile(r"^[ \d]\d?\s+(?P<file>[\w/.]+\.(?:py|c))\s{2,}(?P<chain>.+?)(?:\s{2,}.*)?$")


def steps(text: str) -> list[tuple[str, str]]:
    """(file, function) for each step of "The way of one packet" in docs/design.md."""
    section = text.partition("\n## The way of one packet\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        match = STEP.match(line)
        if match:
            file = match["file"]
            for link in match["chain"].split(" ▸ "):
                other, _, functions = link.rpartition(": ")
                file = other or file
                found += [(file, function) for function in functions.split(", ")]
    return found


def defines(path: Path, function: str) -> bool:
    keyword = r"^\s*(?:async )?def " if path.suffix == ".py" else r"^[A-Za-z][\w *]*?\b"
    return re.search(rf"{keyword}{re.escape(function)}\(", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_each_step_of_the_way_of_one_packet_exists() -> None:
    sources = [path for folder in ("broker", "clients", "schemas") for path in (ROOT / folder).rglob("*.[pc]*")]
    missing = [
        f"{file}: {function}"
        for file, function in steps((ROOT / "docs/design.md").read_text(encoding="utf-8"))
        if not any(path.as_posix().endswith(f"/{file}") and defines(path, function) for path in sources)
    ]
    assert missing == [], "docs/design.md names functions that do not exist (any more)"


def test_the_steps_of_one_packet_are_found() -> None:
    assert steps("\n## The way of one packet\n\n 6 a/b.py   f ▸ c.c: g, h    why\n\n## Next\n 7 d.py   i\n") == [
        ("a/b.py", "f"), ("c.c", "g"), ("c.c", "h"),
    ]  # fmt: skip
    assert len(steps((ROOT / "docs/design.md").read_text(encoding="utf-8"))) > 40


def test_the_glossary_stays_short() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = page.partition("\n## Glossary\n")[2].partition("\n## ")[0]
    entries = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert 0 < len(entries) <= 25, "a term that is not used by several rooms belongs to the docstring of its module"
