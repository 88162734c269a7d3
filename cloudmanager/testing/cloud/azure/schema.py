"""Checks request bodies against the official schema, as the SDK carries it.

azure-mgmt-compute generates `azure.mgmt.compute.types` from the REST specification: a TypedDict per object, with the
names of the wire, required members marked, and enums by name.
"""

import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import UnionType

import typing_extensions
from azure.mgmt.compute import models
from azure.mgmt.compute import types as wire

from cloudmanager.testing.cloud.azure import errors


def check(body: object, model: str) -> None:
    """Raises ArmError for what the service would refuse to read: unknown, missing or mistyped members."""
    _check_object(body, getattr(wire, model), "")


@cache
def _members(model: type) -> Mapping[str, object]:
    return typing_extensions.get_type_hints(model, globalns=vars(models) | vars(wire), include_extras=True)


def _check_object(body: object, model: type, path: str) -> None:
    if not isinstance(body, dict):
        raise errors.bad_value(body, path or model.__name__)
    members = _members(model)
    for name, value in body.items():
        if name not in members:
            raise errors.unknown_member(name, model.__name__, _join(path, name))
        if value is not None:
            _check_value(value, members[name], _join(path, name))
    for name, hint in members.items():
        if typing.get_origin(hint) is typing_extensions.Required and body.get(name) is None:
            raise errors.missing_member(_join(path, name))


def _check_value(value: object, hint: object, path: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing_extensions.Required:
        _check_value(value, arguments[0], path)
    elif origin in (typing.Union, UnionType):
        _check_union(value, arguments, path)
    elif origin is list:
        _check_list(value, arguments[0], path)
    elif origin is dict:
        _check_mapping(value, arguments[1], path)
    elif typing_extensions.is_typeddict(hint):
        _check_object(value, typing.cast(type, hint), path)
    elif not _is_a(value, hint):
        raise errors.bad_value(value, path)


def _check_union(value: object, choices: tuple[object, ...], path: str) -> None:
    enums = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, Enum)]
    if enums:
        known = {str(member.value).casefold() for enum in enums for member in enum}
        if not isinstance(value, str) or value.casefold() not in known:
            raise errors.bad_value(value, path)
        return
    if not any(_fits(value, choice, path) for choice in choices):
        raise errors.bad_value(value, path)


def _fits(value: object, hint: object, path: str) -> bool:
    try:
        _check_value(value, hint, path)
    except errors.ArmError:
        return False
    return True


def _check_list(value: object, item: object, path: str) -> None:
    if not isinstance(value, list):
        raise errors.bad_value(value, path)
    for index, entry in enumerate(value):
        _check_value(entry, item, f"{path}[{index}]")


def _check_mapping(value: object, item: object, path: str) -> None:
    if not isinstance(value, dict):
        raise errors.bad_value(value, path)
    for name, entry in value.items():
        _check_value(entry, item, _join(path, name))


def _is_a(value: object, hint: object) -> bool:
    if hint is typing.Any or hint is object:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
