"""Sizes as people write them."""

from __future__ import annotations

import re


def parse_size(text: str) -> int:
    """Bytes from `64MiB`, `1 GB`, `4096`; raise ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    if found is None:
        raise ValueError(text)
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper()))
