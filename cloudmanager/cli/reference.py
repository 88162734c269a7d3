"""docs/configuration.md, made from the code."""

from collections.abc import Iterable, Iterator

from cloudmanager.cli.example import toml
from cloudmanager.core.options import PROVIDERS, Option, Section

HEADER = """\
# Configuration

<!-- Made by `make docs` from the code. Change the code. -->

cloudmanager reads one TOML file: the one that `--config` names, else `$CLOUDMANAGER_CONFIG`, else
`./cloudmanager.toml`, else `/etc/cloudmanager/cloudmanager.toml`. Without any, the defaults below hold.

- `cloudmanager config example > cloudmanager.toml` writes a commented file of all options to start from.
- `cloudmanager config check` says what was understood, or what is wrong. A key that does not exist is an error.
- Every option has an environment variable, which wins over the file. A list is written as JSON there:
  `CLOUDMANAGER_SERVER__TOKEN_SHA256='["5e88…"]'`.

```toml
[server]
listen = "127.0.0.1:8600"

[providers.local]
type = "local"
images = ["/srv/images"]
```
"""
PROVIDERS_HEADER = """\
## Providers

Each `[providers.NAME]` table configures one provider. The name is yours to choose, and disks are asked for with it:
`NAME:disk`. Two providers may have the same `type`. The name is a part of the environment variable too:
`CLOUDMANAGER_PROVIDERS__NAME__OPTION`. A list or a table of a provider has no variable of its own; it is set with
`CLOUDMANAGER_PROVIDERS='{"NAME": {"OPTION": ["…"]}}'`.
"""
COLUMNS = ("option", "type", "default", "meaning", "environment variable")


def reference(sections: Iterable[Section]) -> str:
    """The page as Markdown."""
    parts, is_first_provider = [HEADER], True
    for section in sections:
        is_provider = section.name.startswith(f"{PROVIDERS}.")
        if is_provider and is_first_provider:
            parts.append(PROVIDERS_HEADER)
            is_first_provider = False
        parts.append("\n".join(_section(section, "###" if is_provider else "##")) + "\n")
    return "\n".join(parts)


def _section(section: Section, heading: str) -> Iterator[str]:
    yield f"{heading} `[{section.name}]`"
    yield ""
    yield section.meaning
    yield ""
    yield _row(COLUMNS)
    yield _row(["---"] * len(COLUMNS))
    for option in section.options:
        meaning = option.meaning + (f" Example: `{toml(option.example)}`." if option.example is not None else "")
        yield _row([f"`{option.name}`", option.type, _default(option), meaning, _code(option.variable)])


def _default(option: Option) -> str:
    if option.is_required:
        return "required"
    return "" if option.default is None else _code(toml(option.default))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
