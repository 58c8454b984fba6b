"""TOML text to tables, or one clause that says what is wrong with it, whatever the text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

MAX_BITS = 128
"""No key of ours takes a larger whole number; Python cannot even write one of some 14,000 bits in a message."""


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of `text`; raise ValueError, and nothing else, with a clause to put behind "not valid TOML: "."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("its arrays are nested too deeply") from None
    except ValueError:
        raise ValueError("it contains a number of thousands of digits") from None
    for key, bits in _long_numbers("", tables):
        raise ValueError(f"{key} is a number of {bits} bits, and at most {MAX_BITS} are allowed")
    return tables


def _long_numbers(key: str, value: object) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _long_numbers(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _long_numbers(f"{key}[{index}]", inner)
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        yield key, value.bit_length()


__all__ = ["parse_toml"]
