"""The commented configuration file that `cloudmanager config example` prints.

A line that begins with `#` and no blank is an option or a table: take the `#` away to use it.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator

from cloudmanager.core.options import PROVIDERS, Option, Section

WIDTH = 100
HEADER = """\
The configuration of cloudmanager. It is looked for at --config, $CLOUDMANAGER_CONFIG, ./cloudmanager.toml and
/etc/cloudmanager/cloudmanager.toml, in this order. Every option is shown with its default; take the # in front of a
line away to change it. An environment variable, CLOUDMANAGER_SERVER__LISTEN for listen of [server], wins over the
file. `cloudmanager config check` says what was understood."""


def example(sections: Iterable[Section]) -> str:
    """The file as text. It is valid as it is, and with every commented option in use."""
    lines = [*_comment(HEADER)]
    for section in sections:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    is_provider = section.name.startswith(f"{PROVIDERS}.")
    yield from _comment(section.meaning)
    if is_provider:
        yield from _comment("The name behind the dot is yours to choose: disks are asked for as name:disk.")
    yield f"{'#' if is_provider else ''}[{section.name}]"
    for option in section.options:
        yield from _option(option)


def _option(option: Option) -> Iterator[str]:
    yield from _comment(f"{option.meaning} ({option.type}{'; required' if option.is_required else ''})".strip())
    value = option.example if option.default is None else option.default
    if value is not option.example and option.example is not None:
        yield from _comment(f"Example: {option.name} = {toml(option.example)}")
    yield f"#{option.name} = {toml(value)}" if value is not None else f"# {option.name}: not set"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
