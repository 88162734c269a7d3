"""What the package imports is what pyproject.toml installs."""

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import cloudmanager

PACKAGE = Path(cloudmanager.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIGHT = PROJECT["dependencies"]
FOR_TESTS = ["pytest"]
"""cloudmanager.testing is for test suites, which bring it."""


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group(0)).lower()


def _closure(requirements: Iterable[str]) -> set[str]:
    """The distributions that these lead to, by their normalised names."""
    found: set[str] = set()
    wanted = [_name(line) for line in requirements]
    while wanted:
        name = wanted.pop()
        if name not in found and name != "cloudmanager":
            found.add(name)
            wanted += [_name(line) for line in _requirements_of(name) if "extra ==" not in line]
    return found


def _requirements_of(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []  # for another platform


def _imports(directory: Path) -> Iterator[tuple[str, Path]]:
    """Top-level modules that are not Python's and not ours."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in {name.partition(".")[0] for name in modules} - {"cloudmanager"}:
                if module not in sys.stdlib_module_names:
                    yield module, path


def _undeclared(directory: Path, requirements: Iterable[str]) -> set[str]:
    allowed, owners = _closure(requirements), packages_distributions()
    return {
        f"{module} in {path.relative_to(PACKAGE)}"
        for module, path in _imports(directory)
        if not {_name(owner) for owner in owners.get(module, [module])} & allowed
    }


def test_everything_that_the_package_imports_is_declared() -> None:
    assert _undeclared(PACKAGE, [*LIGHT, *itertools.chain(*EXTRAS.values()), *FOR_TESTS]) == set()


def test_the_client_needs_the_light_installation_only() -> None:
    users = ("route", "upload")
    compression = {f"zstandard in client/deploy/{user}.py" for user in users}  # an extra, and NBD is used without
    assert _undeclared(PACKAGE / "client", LIGHT) == compression
    second_opinion = ["cryptography>=42", "oslo.utils>=8"]  # on images, which are read without it too
    assert EXTRAS["deploy"] == [*second_opinion, "zstandard>=0.23"]


def test_the_service_without_a_cloud_needs_its_own_parts_only() -> None:
    server = [*LIGHT, *EXTRAS["server"], *EXTRAS["postgres"]]
    for part in ("core", "api", "cli", "providers/local"):
        assert _undeclared(PACKAGE / part, server) == set()
