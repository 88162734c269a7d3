"""A node's identity besides its name: a random id of its state directory, and the machine that the directory is on.

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

_BOARD = "product_uuid"
_SOURCES = {"machine_id": Path("/etc/machine-id"), _BOARD: Path("/sys/class/dmi/id/product_uuid")}
"""machine-id(5), which a clone of a machine may have too; the UUID of the virtual machine or board, for root only."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MachineMarks:
    """This machine's identifiers, as digests: a machine's id must not be published (machine-id(5))."""

    marks: Mapping[str, str]
    """By source; without those that cannot be read."""

    @classmethod
    def here(cls, sources: Mapping[str, Path] | None = None) -> Self:
        read = {name: _read(path) for name, path in (sources or _SOURCES).items()}
        return cls({name: _digest(name, text) for name, text in read.items() if text})

    def is_another_than(self, other: Self) -> bool:
        """For certain: the board's mark differs, or, where it cannot be compared, the machine id's."""
        if _BOARD in self.marks and _BOARD in other.marks:
            return self.is_another_board_than(other)
        return any(other.marks.get(name, mark) != mark for name, mark in self.marks.items())

    def is_another_board_than(self, other: Self) -> bool:
        """For certain: of what no file of the machine says."""
        return _BOARD in self.marks and other.marks.get(_BOARD, self.marks[_BOARD]) != self.marks[_BOARD]


@dataclass(frozen=True)
class NodeIdentity:
    """What one state directory on one machine is known by."""

    id: str
    """Random, and never given again."""
    machine: MachineMarks = field(default_factory=MachineMarks.here)
    directory: str = ""
    """What the file system knows the state directory by, and no copy of it. Empty: kept by an older version."""
    boot: str = ""
    """Of the machine, when the service was started last."""
    copied_from: tuple[str, ...] = ()
    """The ids of this machine's directories of which this one is a copy; such a copy is another node."""
    is_from_elsewhere: bool = False
    """It is a copy from another machine."""

    @classmethod
    def of(cls, file: Path, machine: MachineMarks | None = None, boot: str = "") -> "NodeIdentity":
        """That which the file keeps, or a new one, which it keeps from now on. Raises ConfigurationError.

        `boot` is this boot's id, if it is known.
        """
        kept = _kept(file)
        here = cls(secrets.token_hex(16), machine or MachineMarks.here(), _mark(file.parent), boot)
        identity = here if kept is None else _compared(kept, here, file.parent)
        if identity != kept:
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


def _compared(kept: NodeIdentity, here: NodeIdentity, path: Path) -> NodeIdentity:
    """Who this is, by what was kept at the last start. `here` has a new id."""
    is_copy = kept.directory not in ("", here.directory)
    was_here = bool(here.boot) and (kept.boot, kept.directory) == (here.boot, here.directory)
    if here.machine.is_another_than(kept.machine) and not was_here:
        log.warning("%s was copied from another machine: this is a new node", path)
        # If neither, perhaps only the machine id was changed: what was kept of the machine is not put aside.
        is_from_elsewhere = is_copy or here.machine.is_another_board_than(kept.machine)
        return replace(here, is_from_elsewhere=is_from_elsewhere)
    if is_copy:
        log.warning("%s is a copy of another directory of this machine: this is a new node", path)
        return replace(here, copied_from=(*kept.copied_from, kept.id))
    known = MachineMarks({**kept.machine.marks, **here.machine.marks})  # what cannot be read now may be, later
    return replace(here, id=kept.id, machine=known, copied_from=kept.copied_from)


def _kept(file: Path) -> NodeIdentity | None:
    """None where there is no file. A file that cannot be understood is an error: the identity is unknown."""
    try:
        document = json.loads(file.read_text())
        return NodeIdentity(
            str(document["id"]),
            MachineMarks(dict(document["machine"]["marks"])),
            str(document.get("directory", "")),
            str(document.get("boot", "")),
            tuple(map(str, document.get("copied_from", ()))),
        )
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
