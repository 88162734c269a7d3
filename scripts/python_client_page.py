"""Prints docs/python-client.md, made from the docstrings of the client's public names. `make docs` calls it."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache
from types import ModuleType

HEADER = """\
# Python client

<!-- Made by `make docs` from the docstrings. Change those. -->

`pip install cloudmanager`, without an extra, installs the client. [Use a disk in a worker](worker-guide.md) shows it at
work. Everything that it raises is a `ClientError`: see
[troubleshooting](troubleshooting.md#errors-of-the-python-client).
"""
MODULES = {
    "cloudmanager.client": "Exports for threads and coroutines, and what the service knows.",
    "cloudmanager.client.access_methods": "From an NBD address to a device, a file, a stub or a mounted file system.",
    "cloudmanager.client.deploy": "An image onto a disk. Needs `pip install 'cloudmanager[deploy]'`.",
    "cloudmanager.client.openrelik": "Disks among the input files of an OpenRelik task.",
}
ERRORS = (
    "cloudmanager.client.errors",
    "cloudmanager.client.access_methods.errors",
    "cloudmanager.client.deploy.errors",
    "cloudmanager.client.openrelik.errors",
)
FIRST = ("CloudManager", "ExportedDisk", "ExportOptions", "AsyncCloudManager", "AsyncExportedDisk")
"""Before all others, which follow by name."""
CONSTRUCTED = ("CloudManager", "AsyncCloudManager")
"""What a caller makes. Frozen data is described by its fields, and everything else is answered by a method."""
WIDTH = 120


def page() -> str:
    """The page as Markdown."""
    lines = [HEADER]
    for name, summary in MODULES.items():
        module = importlib.import_module(name)
        lines += [f"## {name}", "", summary, ""]
        for public in ordered(module):
            lines += entry(public, getattr(module, public))
    lines += ["## Errors", ""]
    for name in ERRORS:
        doc = inspect.getdoc(importlib.import_module(name)) or ""
        first, _, rest = doc.partition("\n\n")
        tree, _, after = rest.partition("\n\n")
        lines += [f"### {name}", "", *wrapped(first), "", "```text", tree, "```", ""]
        lines += [*wrapped(after), ""] if after else []
    return "\n".join(lines).rstrip() + "\n"


def ordered(module: ModuleType) -> list[str]:
    """The public names without the errors, which have a section of their own."""
    names = [name for name in module.__all__ if not is_error(getattr(module, name))]
    return [name for name in FIRST if name in names] + sorted(
        set(names) - set(FIRST), key=lambda name: (name.lower(), name)
    )


def is_error(found: object) -> bool:
    return inspect.ismodule(found) or (inspect.isclass(found) and issubclass(found, Exception))


def entry(name: str, found: object) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    if inspect.isclass(found):
        if name in CONSTRUCTED:
            yield from [f"`{name}{signature(found.__init__)}`", ""]
        yield from [*paragraphs(found), ""]
        yield from items(found)
    elif callable(found):
        yield from [f"`{name}{signature(found)}`", "", *paragraphs(found), ""]
    else:
        yield from [f"`{found!r}`", ""]


def items(kind: type) -> Iterator[str]:
    """The fields, members, properties and methods of a class, each as an item of a list."""
    shown = list(fields(kind))
    names = {what.partition(":")[0] for what, _ in shown}
    methods = [(name, found) for name, found in methods_of(kind) if name not in names]
    shown += [(member_text(name, found), inspect.getdoc(found) or "") for name, found in methods]
    made = [bullet(what, doc) for what, doc in shown]
    yield from made
    if made:
        yield ""


def fields(kind: type) -> Iterator[tuple[str, str]]:
    """What the class body assigns or annotates, with the string that follows it."""
    body = tree_of(kind).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            what, name = f"{ast.unparse(statement.target)}: {ast.unparse(statement.annotation)}", statement.target.id
        elif isinstance(statement, ast.Assign) and issubclass(kind, Enum):
            what, name = ast.unparse(statement), ast.unparse(statement.targets[0])
        else:
            continue
        if not name.startswith("_"):
            yield what, inspect.cleandoc(string_of(following))


def string_of(statement: ast.stmt | None) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def methods_of(kind: type) -> list[tuple[str, object]]:
    """Public ones, those of our own bases too, in the order of the source; of a context manager also its entry."""
    found: dict[str, object] = {}
    for base in reversed([base for base in kind.__mro__ if base.__module__.startswith("cloudmanager.")]):
        for name, value in vars(base).items():
            if not name.startswith("_") and isinstance(unbound(value), Callable | property):
                found[name] = value
    return [] if issubclass(kind, Enum) else [(name, found[name]) for name in found if not inspect.isclass(found[name])]


def unbound(value: object) -> object:
    return value.__func__ if isinstance(value, classmethod | staticmethod) else value


def member_text(name: str, found: object) -> str:
    if isinstance(found, property):
        node = tree_of(found.fget)
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    function = unbound(found)
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{prefix}{name}{signature(function)}"


def signature(function: object) -> str:
    """As it stands in the source, without `self`."""
    node = tree_of(inspect.unwrap(function))
    arguments = node.args
    for part in ast.walk(arguments):
        if isinstance(part, ast.arg):
            part.annotation = plain(part.annotation)
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    returns = f" -> {ast.unparse(plain(node.returns))}" if node.returns and node.name != "__init__" else ""
    return f"({ast.unparse(arguments)}){returns}"


def plain(annotation: ast.expr | None) -> ast.expr | None:
    """Without the quotation marks of an annotation that is a string."""
    is_text = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return ast.Name(annotation.value) if is_text else annotation


def tree_of(found: object) -> ast.ClassDef:
    """The definition, parsed. A fresh one each time: callers change it."""
    (definition,) = ast.parse(source_of(found)).body
    return definition


@cache
def source_of(found: object) -> str:
    return textwrap.dedent(inspect.getsource(found))


def paragraphs(found: object) -> list[str]:
    """Of its own docstring: neither the one of a base nor the one that `dataclass` makes up."""
    node = tree_of(inspect.unwrap(found) if inspect.isroutine(found) else found)
    return wrapped(ast.get_docstring(node) or "")


def bullet(what: str, doc: str) -> str:
    text = f"- `{what}`" + (f": {doc}" if doc else "")
    head, *more = text.split("\n\n")
    blocks = [textwrap.fill(head, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)]
    blocks += [textwrap.indent("\n".join(wrapped(each, WIDTH - 2)), "  ") for each in more]
    return "\n\n".join(blocks)


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Paragraphs of a docstring; indented ones are code and stay as they are."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        is_code = block.startswith("    ")
        made: Iterable[str] = (
            ["```text", *textwrap.dedent(block).splitlines(), "```"]
            if is_code
            else textwrap.wrap(block, width, break_long_words=False, break_on_hyphens=False)
        )
        lines += ["", *made] if lines else made
    return lines


if __name__ == "__main__":
    sys.stdout.write(page())
