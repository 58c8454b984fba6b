"""Sentences about what is wrong with a key of a profile: its path, the bad value, what is allowed.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from typing import Any, Literal, Union

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """A value as TOML would write it, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def sentences(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return one sentence per problem, without the origin: `framing.size is 0: a whole number from 1 to … is allowed`."""
    found = []
    for problem in error.errors(include_url=False):
        path, table, field = _follow(problem["loc"], root)
        kind, value = problem["type"], problem["input"]
        allowed = "a table" if problem["loc"] and isinstance(problem["loc"][-1], int) else _allowed(field)
        if kind == "extra_forbidden" and table is not None:
            found.append(_unknown_key(path, table))
        elif kind in ("missing", "union_tag_not_found"):
            key = f"{path}.method" if kind == "union_tag_not_found" else path
            found.append(f"{key} is missing: {allowed} is needed")
        elif kind == "union_tag_invalid":
            found.append(f"{path}.method is {shown(value['method'])}: {allowed} is allowed")
        else:
            found.append(f"{path} is {shown(value)}: {allowed} is allowed")
    return found


def _follow(
    location: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[str, type[BaseModel] | None, FieldInfo | None]:
    """The key path of a pydantic location, the table that its last key stands in, and the field, if it is one."""
    path, table, field = "", root, None
    inside: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        variant = _variants(field).get(part) if inside is None and field is not None else None
        if variant is not None:  # the tag of a union, which is no key
            inside, field = variant, None
            continue
        if inside is not None:
            table, field = inside, _field(inside, part)
        path += f".{part}" if path else part
        inside = _table_of(field)
    return path, table, field


def _field(table: type[BaseModel], key: str) -> FieldInfo | None:
    return next((info for name, info in table.model_fields.items() if key == (info.alias or name)), None)


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(one for one in typing.get_args(annotation) if one is not type(None))
    if typing.get_origin(annotation) is tuple:
        return (typing.get_args(annotation)[0],)
    return (annotation,)


def _table_of(field: FieldInfo | None) -> type[BaseModel] | None:
    members = _members(field.annotation) if field is not None else ()
    return members[0] if len(members) == 1 and _is_table(members[0]) else None


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _variants(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The tables of a union, by their `method`."""
    tables = [one for one in _members(field.annotation) if _is_table(one)]
    return {
        typing.get_args(one.model_fields["method"].annotation)[0]: one for one in tables if "method" in one.model_fields
    }


def _unknown_key(path: str, table: type[BaseModel]) -> str:
    key = path.rpartition(".")[2]
    keys = [info.alias or name for name, info in table.model_fields.items()]
    near = difflib.get_close_matches(key, keys, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(keys)}"
    return f"{path} is not a key of a profile: {hint}"


def _allowed(field: FieldInfo | None) -> str:
    """Return the allowed values of a key, from its own description or from its type and bounds."""
    if field is None:
        return "another value"
    if field.description:
        return field.description
    members = _members(field.annotation)
    if field.discriminator:
        return "one of " + ", ".join(json.dumps(name) for name in _variants(field))
    if typing.get_origin(field.annotation) is tuple:
        most = next(one.max_length for one in field.metadata if isinstance(one, annotated_types.MaxLen))
        return f"an array of up to {most} tables"
    if _is_table(members[0]):
        return "a table"
    if typing.get_origin(members[0]) is Literal:
        return "one of " + ", ".join(json.dumps(one) for one in typing.get_args(members[0]))
    if members[0] is bool:
        return "true or false"
    low = next((one.ge for one in field.metadata if isinstance(one, annotated_types.Ge)), None)
    high = next((one.le for one in field.metadata if isinstance(one, annotated_types.Le)), None)
    noun = "a whole number" if members[0] is int else "a number"
    return noun if low is None else f"{noun} from {low} to {high}"
