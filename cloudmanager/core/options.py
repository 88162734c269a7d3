"""Every option of the configuration, read from the models that check it. What documents the options is made of this."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from cloudmanager.core.settings import ENVIRONMENT_PREFIX, Settings

Schema = Mapping[str, Any]
"""A part of a JSON schema."""

PROVIDERS = "providers"


@dataclass(frozen=True)
class Option:
    """One line of the configuration file."""

    name: str
    type: str
    """For a person: `integer, 1 to 64`."""
    meaning: str
    variable: str
    """The environment variable that sets it too; empty for a provider's lists and tables, which a string cannot be."""
    is_required: bool
    default: object = None
    """As TOML would have it; None where there is none, or where it is made on the machine."""
    example: object = None


@dataclass(frozen=True)
class Section:
    """One table of the configuration file."""

    name: str
    meaning: str
    options: tuple[Option, ...]


def sections(provider_types: Mapping[str, type[Any]]) -> list[Section]:
    """The service's own tables, then one for each provider type, named after it."""
    tables = {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    return [
        *(_section(name, model, ()) for name, model in tables.items()),
        *(_provider_section(name, cls) for name, cls in sorted(provider_types.items())),
    ]


def _provider_section(type_name: str, cls: type[Any]) -> Section:
    name = f"{PROVIDERS}.{type_name}"
    chosen = Option("type", f'"{type_name}"', "The provider type.", _variable(name, "type"), True, example=type_name)
    return _section(name, cls.Settings, (chosen,))


def _section(name: str, model: type[BaseModel], first: tuple[Option, ...]) -> Section:
    schema = model.model_json_schema()
    required = schema.get("required", ())
    options = (
        Option(
            name=key,
            type=_type(part, schema.get("$defs", {})),
            meaning=part.get("description", ""),
            variable=""
            if first and ("$ref" in part or part.get("type") in ("array", "object"))
            else _variable(name, key),
            is_required=key in required,
            default=part.get("default"),
            example=part.get("example"),
        )
        for key, part in schema.get("properties", {}).items()
    )
    return Section(name, schema.get("description", ""), (*first, *options))


def _variable(section: str, option: str) -> str:
    return ENVIRONMENT_PREFIX + "__".join([*section.split("."), option]).upper()


def _type(part: Schema, definitions: Schema) -> str:
    if "$ref" in part:
        return _type(definitions[part["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in part:
        return _either(_type(choice, definitions) for choice in part["anyOf"] if choice.get("type") != "null")
    if "const" in part:
        return _either([f'"{part["const"]}"'])
    if "enum" in part:
        return _either(f'"{word}"' for word in part["enum"])
    if part.get("type") == "array":
        return f"list of {_plural(_type(part.get('items', {}), definitions))}"
    name = "path" if part.get("format") == "path" else _NAMES.get(part.get("type", ""), "string")
    return ", ".join(filter(None, [name, _bounds(part)]))


_NAMES = {"boolean": "true or false", "integer": "integer", "number": "number", "object": "table"}


def _plural(name: str) -> str:
    return f"{name}s" if name.isalpha() else name


def _either(choices: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(choices))


def _bounds(part: Schema) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    if high is not None:
        return f"at most {high}"
    if "exclusiveMinimum" in part:
        return f"more than {part['exclusiveMinimum']}"
    return ""
