"""Profiles for one test: a shipped one with some of its values changed, as a file in the guest."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from importlib.resources import files

from kernelrig.guest import Guest

Changes = Mapping[str, Mapping[str, int | str]]
"""By section and key; an empty text takes the key away."""


def changed(text: str, changes: Changes) -> str:
    """The profile `text` with these values.

    >>> changed('[stream]\\nname = "a"\\n', {"stream": {"name": "b"}, "transfer": {"queue": 1}})
    '[stream]\\nname = "b"\\n\\n[transfer]\\nqueue = 1\\n'
    """
    for section, values in changes.items():
        if f"[{section}]\n" not in text:
            text += f"\n[{section}]\n"
        head, found, rest = text.partition(f"[{section}]\n")
        body, more = re.match(r"(?s)(.*?)(\n\[.*|\Z)", rest).groups()  # type: ignore[union-attr]
        for key, value in values.items():
            body = re.sub(rf"(?m)^{key} = .*\n?", "", body)
            if value != "":
                body = f'{key} = "{value}"\n{body}' if isinstance(value, str) else f"{key} = {value}\n{body}"
        text = head + found + body + more
    return text


def write_profile(guest: Guest, shipped: str, name: str, changes: Changes) -> str:
    """Write the shipped profile with `changes` and this name of its stream; return the file's path in the guest."""
    text = (files("usbcast_broker.profiles") / f"{shipped}.toml").read_text(encoding="utf-8")
    text = changed(text, {**changes, "stream": {"name": name, **changes.get("stream", {})}})
    path = f"/tmp/{name}.toml"
    guest.shell(f"echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path}")
    return path
