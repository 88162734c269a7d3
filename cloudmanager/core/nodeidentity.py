"""Who a node is, beside its name: a number of its state directory, and the machine that the directory is on.

A name proves nothing: the default is the host name, which cloned machines and containers have in common.
"""

import hashlib
import json
import logging
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.linux.files import write_whole

_SOURCES = {"machine_id": Path("/etc/machine-id"), "product_uuid": Path("/sys/class/dmi/id/product_uuid")}
"""machine-id(5), which a clone of a machine may have too; the UUID of the virtual machine or board, for root only."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """This machine, by what it says of itself. Digests: a machine's id is not for everybody (machine-id(5))."""

    marks: Mapping[str, str]
    """By source; without those that cannot be read."""

    @classmethod
    def here(cls, sources: Mapping[str, Path] | None = None) -> Self:
        read = {name: _read(path) for name, path in (sources or _SOURCES).items()}
        return cls({name: _digest(name, text) for name, text in read.items() if text})

    def is_another_than(self, other: Self) -> bool:
        """For certain: a mark that both have differs."""
        return any(other.marks.get(name, mark) != mark for name, mark in self.marks.items())


@dataclass(frozen=True)
class NodeIdentity:
    """What one state directory on one machine is known by."""

    id: str
    """Random, and never given again."""
    machine: Machine = field(default_factory=Machine.here)
    copied_from: str = ""
    """The id that a directory had which was copied to this machine; such a copy is another node."""

    @classmethod
    def of(cls, file: Path, machine: Machine | None = None) -> Self:
        """That which the file keeps, or a new one, which it keeps from now on. Raises ConfigurationError."""
        machine = machine or Machine.here()
        kept = _kept(file)
        if kept is not None and not machine.is_another_than(kept[1]):
            return cls(kept[0], machine)
        identity = cls(secrets.token_hex(16), machine, kept[0] if kept else "")
        if kept:
            log.warning("%s was copied from another machine: this is a new node", file.parent)
        _keep(file, identity)
        return identity

    @property
    def shown(self) -> str:
        """For people: where it is."""
        marks = sorted(self.machine.marks.items(), reverse=True)
        return f"{socket.gethostname()}{f' ({marks[0][0]} {marks[0][1][:8]})' if marks else ''}"


def _kept(file: Path) -> tuple[str, Machine] | None:
    """None where there is no file. One that cannot be understood is an error: whoever it was, this is not known."""
    try:
        document = json.loads(file.read_text())
        return str(document["id"]), Machine(dict(document["machine"]["marks"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file} is damaged. Remove it: then this is a new node, which can have the former one's name when that is "
            "not seen any more."
        ) from error


def _keep(file: Path, identity: NodeIdentity) -> None:
    try:
        write_whole(file, json.dumps({"id": identity.id, "machine": asdict(identity.machine)}))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _digest(name: str, text: str) -> str:
    return hashlib.sha256(f"cloudmanager {name} {text.lower()}".encode()).hexdigest()[:32]
