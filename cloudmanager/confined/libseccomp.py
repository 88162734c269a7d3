"""libseccomp, the well-kept maker of system call filters, by its C interface.

It knows the calls of every architecture, and what a foreign calling convention (32 bits, x32) could be used for. Its
Python package exists for the system's Python only. https://github.com/seccomp/libseccomp, seccomp_rule_add(3)
"""

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Self

from cloudmanager.confined.errors import Unconfinable

ALLOW = 0x7FFF0000
KILL = 0x80000000
"""The whole process."""
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_LIBRARY = "libseccomp.so.2"
_ON_FOREIGN_CALLS = 2
"""SCMP_FLTATR_ACT_BADARCH."""
_EQUAL_WHERE_MASKED = 7
_LOW_BITS = 0xFFFFFFFF


def fail(number: int) -> int:
    """The call does nothing and returns this error number."""
    return _ERRNO | number


def trace(message: int) -> int:
    """A tracer decides; without one the call fails with ENOSYS."""
    return _TRACE | message


@dataclass(frozen=True)
class Argument:
    """What an argument of a call has to be, in the bits that the mask has."""

    number: int
    """From 0."""
    value: int
    mask: int = _LOW_BITS


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Filter:
    """A filter for this machine's architecture that is being made."""

    def __init__(self, otherwise: int, on_foreign_calls: int) -> None:
        """`otherwise` is what happens to calls without a rule. Raises Unconfinable where the library is missing."""
        self._library = _library()
        self._context = self._library.seccomp_init(otherwise)
        if not self._context:
            raise MemoryError
        _checked(self._library.seccomp_attr_set(self._context, _ON_FOREIGN_CALLS, on_foreign_calls))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.seccomp_release(self._context)

    def add(self, action: int, call: str, arguments: Iterable[Argument] = ()) -> None:
        """For calls whose arguments are all so. One that this machine does not have needs no rule."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        wanted = [_Comparison(a.number, _EQUAL_WHERE_MASKED, a.mask, a.value) for a in arguments]
        array = (_Comparison * len(wanted))(*wanted)
        _checked(self._library.seccomp_rule_add_array(self._context, action, number, len(wanted), array))

    def program(self) -> bytes:
        """Classic BPF, as the kernel and bubblewrap take it."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _checked(self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise Unconfinable(
            f"{_LIBRARY} cannot be loaded, so no filter of system calls can be made: install the package libseccomp2."
        ) from None
    pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.restype = pointer
    library.seccomp_init.argtypes = (u32,)
    library.seccomp_attr_set.argtypes = (pointer, ctypes.c_int, u32)
    library.seccomp_release.argtypes = (pointer,)
    library.seccomp_release.restype = None
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (pointer, u32, ctypes.c_int, ctypes.c_uint, pointer)
    library.seccomp_export_bpf.argtypes = (pointer, ctypes.c_int)
    return library


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
