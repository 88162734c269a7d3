"""Who a node is, beside its name: a number of its state directory, and the machine that the directory is on.

A name proves nothing: the default is the host name, which cloned machines and containers have in common. Nor does what
is in a directory, which may be a copy: so what the file system knows the directory by goes with it.
"""

import hashlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.linux.files import born, write_whole

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
    directory: str = ""
    """What the file system knows the state directory by, and no copy of it. Empty: kept by an older version."""
    copied_from: tuple[str, ...] = ()
    """The ids of this machine's directories of which this one is a copy; such a copy is another node."""
    is_from_elsewhere: bool = False
    """It is a copy from another machine."""

    @classmethod
    def of(cls, file: Path, machine: Machine | None = None) -> Self:
        """That which the file keeps, or a new one, which it keeps from now on. Raises ConfigurationError."""
        machine = machine or Machine.here()
        directory = _mark(file.parent)
        kept = _kept(file)
        if kept is None:
            identity = cls(secrets.token_hex(16), machine, directory)
        elif machine.is_another_than(kept.machine):
            log.warning("%s was copied from another machine: this is a new node", file.parent)
            identity = cls(secrets.token_hex(16), machine, directory, is_from_elsewhere=True)
        elif kept.directory not in ("", directory):
            log.warning("%s is a copy of another directory of this machine: this is a new node", file.parent)
            identity = cls(secrets.token_hex(16), machine, directory, (*kept.copied_from, kept.id))
        else:
            identity = cls(kept.id, machine, directory, kept.copied_from)
        if kept is None or (identity.id, identity.directory) != (kept.id, kept.directory):
            _keep(file, identity)
        return identity

    @property
    def related(self) -> tuple[str, ...]:
        """Of the directories that no two services may run on at once: they would find each other's servers."""
        return (*self.copied_from, self.id)

    @property
    def shown(self) -> str:
        """For people: where it is."""
        marks = sorted(self.machine.marks.items(), reverse=True)
        return f"{socket.gethostname()}{f' ({marks[0][0]} {marks[0][1][:8]})' if marks else ''}"


def _kept(file: Path) -> NodeIdentity | None:
    """None where there is no file. One that cannot be understood is an error: whoever it was, this is not known."""
    try:
        document = json.loads(file.read_text())
        machine = Machine(dict(document["machine"]["marks"]))
        copied_from = tuple(map(str, document.get("copied_from", ())))
        return NodeIdentity(str(document["id"]), machine, str(document.get("directory", "")), copied_from)
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
    document = asdict(replace(identity, is_from_elsewhere=False))
    try:
        write_whole(file, json.dumps(document))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error


def _mark(directory: Path) -> str:
    """Its inode and time of birth: they stay when it is moved within its file system, and no copy has both."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be read: {error.strerror}.") from error
    try:
        return f"{os.fstat(descriptor).st_ino}.{born(descriptor)}"
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _digest(name: str, text: str) -> str:
    return hashlib.sha256(f"cloudmanager {name} {text.lower()}".encode()).hexdigest()[:32]
