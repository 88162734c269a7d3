"""compose.yaml as options of `podman run`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.checkout import ROOT


def _each(option: str) -> Callable[[list[str]], list[str]]:
    return lambda values: [word for value in values for word in (option, value)]


def _ulimits(limits: Mapping[str, int]) -> list[str]:
    return [word for name, value in limits.items() for word in ("--ulimit", f"{name}={value}:{value}")]


# What is no matter of a single run gives no options. A key that is not here fails the test.
_OPTIONS: dict[str, Callable[..., list[str]]] = {
    "image": lambda _: [],
    "build": lambda _: [],
    "restart": lambda _: [],
    "healthcheck": lambda _: [],
    "volumes": lambda _: [],
    "init": lambda value: ["--init"] if value else [],
    "network_mode": lambda value: ["--network", value],
    "cap_drop": _each("--cap-drop"),
    "cap_add": _each("--cap-add"),
    "security_opt": _each("--security-opt"),
    "device_cgroup_rules": _each("--device-cgroup-rule"),
    "ulimits": _ulimits,
    "stop_grace_period": lambda value: ["--stop-timeout", value.removesuffix("s")],
}


def service() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    only: dict[str, Any]
    (only,) = document["services"].values()
    return only


def options(places: Mapping[str, Path]) -> list[str]:
    """Options for `podman run`. `places` replaces the sources of volumes by directories and files of a test."""
    settings = service()
    arguments = [word for key, value in settings.items() for word in _OPTIONS[key](value)]
    for volume in settings["volumes"]:
        source, target = volume.split(":", 1)
        arguments += ["--volume", f"{places.get(source, source)}:{target}"]
    return arguments
