"""cloudmanager new-provider"""

import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from cloudmanager.core.errors import InvalidRequest, SetupError

TEMPLATES = "new_provider_template"
SUFFIX = ".template"
ENTRY_POINT_GROUP = "cloudmanager.plugins"
NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


def run(name: str, directory: Path | None, *, as_json: bool) -> None:
    """Writes a package that passes its own tests. Raises InvalidRequest, SetupError; overwrites nothing."""
    _refuse(name)
    names = _names(name)
    directory = directory or Path(names["distribution"])
    if directory.is_symlink() or (directory.exists() and not _is_empty(directory)):
        raise SetupError(f"{directory} is there already, and nothing is overwritten: name another directory.")
    for path, content in package(name).items():
        _write(directory / path, content)
    if as_json:
        print(json.dumps({"type": name, "directory": str(directory)}))
        return
    print(f"{directory} has a provider of type {name}. What to do next:")
    print(f"  cd {directory}")
    print("  pip install '.[test]'   # beside cloudmanager")
    print("  pytest                  # certifies it; change the code, and the tests report what is missing")
    print("  cloudmanager plugins    # shows that it is there")


def package(name: str) -> dict[Path, str]:
    """The files of the package, by their paths in it."""
    names = _names(name)
    found = _templates(files("cloudmanager.cli") / TEMPLATES, Path())
    return {Path(Template(str(path)).substitute(names)): Template(text).substitute(names) for path, text in found}


def _refuse(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!a} cannot be a provider's type: use lower-case letters and digits, a letter first."
        )
    for plugin in entry_points(group=ENTRY_POINT_GROUP):
        if plugin.name == name:
            owner = plugin.dist.name if plugin.dist else plugin.value
            raise SetupError(f"A plugin {name} is installed already, from {owner}: choose another name.")


def _names(name: str) -> dict[str, str]:
    parts = re.split(r"[_-]", name)
    return {
        "name": name,
        "distribution": f"cloudmanager-{name}",
        "module": f"cloudmanager_{'_'.join(parts)}",
        "Class": "".join(part.capitalize() for part in parts),
    }


def _templates(directory: Traversable, below: Path) -> Iterator[tuple[Path, str]]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, below / entry.name)
        elif entry.name.endswith(SUFFIX):
            yield below / entry.name.removesuffix(SUFFIX), entry.read_text(encoding="utf-8")


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}.") from error
