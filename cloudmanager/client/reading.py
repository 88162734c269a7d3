"""JSON as frozen data: what is missing or of another kind is an error, what is unknown is left out.

A newer service may say more than this client understands, but not less.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cloudmanager.client.errors import UnexpectedAnswer

Kind = TypeVar("Kind")


def parse(text: bytes) -> object:
    """Raises UnexpectedAnswer."""
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError):
        raise UnexpectedAnswer(
            f"The answer is not JSON: {text[:80]!r}. Does the address lead to a cloudmanager?"
        ) from None


def read(kind: type[Kind], value: object, where: str) -> Kind:
    """`value` as the dataclass `kind`. `where` names it in errors. Raises UnexpectedAnswer."""
    return cast(Kind, _as(kind, value, where))


def _as(kind: object, value: object, where: str) -> object:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _as(_without_none(kind), value, where)
    if origin is tuple:
        return tuple(_as(get_args(kind)[0], item, f"{where}[{at}]") for at, item in enumerate(_is(list, value, where)))
    if origin is Mapping:
        texts = _is(dict, value, where).items()
        return {_is(str, key, where): _is(str, text, f"{where}.{key}") for key, text in texts}
    if not isinstance(kind, type):
        raise TypeError(f"{where}: {kind} cannot be read")
    return _as_class(kind, value, where)


def _as_class(kind: type, value: object, where: str) -> object:
    if is_dataclass(kind):
        return _as_record(kind, value, where)
    if issubclass(kind, Enum):
        return _converted(kind, value, where)
    if kind is datetime:
        return _converted(datetime.fromisoformat, _is(str, value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _is(kind, value, where)


def _as_record(kind: type, value: object, where: str) -> object:
    given = _is(dict, value, where)
    missing = [name for name in _required(kind) if name not in given]
    if missing:
        raise UnexpectedAnswer(f"The answer lacks {where}.{missing[0]}. {_ADVICE}")
    fields_of_kind = {}
    for name, hint, as_they_are in _hints(kind):
        if name in given:
            content = given[name]
            is_right = type(content) in as_they_are  # most are, and a list has ten thousands of them
            fields_of_kind[name] = content if is_right else _as(hint, content, f"{where}.{name}")
    return kind(**fields_of_kind)


@cache
def _hints(kind: type) -> tuple[tuple[str, object, tuple[type, ...]], ...]:
    """Each field with its type, and the types whose values are taken as they are."""
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name], _as_they_are(hints[field.name])) for field in fields(kind))


def _as_they_are(hint: object) -> tuple[type, ...]:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind in (str, int, bool, float, type(None)))


@cache
def _required(kind: type) -> tuple[str, ...]:
    """A field with a default is one that older services do not have."""
    return tuple(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)


def _without_none(kind: object) -> object:
    (only,) = (each for each in get_args(kind) if each is not type(None))
    return cast(object, only)


def _is(kind: type[Kind], value: object, where: str) -> Kind:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnexpectedAnswer(f"{where} of the answer is {_shown(value)}, not of type {kind.__name__}. {_ADVICE}")
    return value


def _converted(convert: object, value: object, where: str) -> object:
    try:
        return convert(value)  # type: ignore[operator] # an enum or fromisoformat: both take one value
    except ValueError:
        raise UnexpectedAnswer(f"{where} of the answer is {_shown(value)}: that is not known here. {_ADVICE}") from None


def _shown(value: object) -> str:
    """Its kind where it is large."""
    is_short = isinstance(value, str | int | float | None) and len(str(value)) < 40
    return ascii(value) if is_short else type(value).__name__


_ADVICE = "The service may be older or newer than this client; install the same version of both."
