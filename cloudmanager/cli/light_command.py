"""Commands that start faster.

typer converts every parameter by pydantic, also those that are not given and those that are text and stay it. To import
pydantic takes as long as to import typer.
"""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class LightCommand(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _lightened(super().get_params(ctx))


class LightGroup(TyperGroup):
    """The same for the options before the command."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _lightened(super().get_params(ctx))


class _AsItIs:
    """Replaces typer's conversion, and calls it only for parameters that need conversion."""

    def coerce(self, value: Any, param: Any, ctx: typer.Context) -> Any:
        is_one = not param.multiple and param.nargs == 1
        described = param.type_descriptor
        if is_one and (value is None or (type(value) is described.annotation and not described.parameter_info.parser)):
            return value
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _lightened(params: list[Any]) -> list[Any]:
    """A typer that is made in another way keeps its own conversion."""
    for param in params:
        if hasattr(param, "type_descriptor") and getattr(param, "_runtime_param", param) is None:
            param._runtime_param = _AsItIs()
    return params
