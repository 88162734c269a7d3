"""What a program may use of this machine."""

import resource
from dataclasses import dataclass

_LIMIT_UNIT = 512
"""Bytes that `ulimit -f` counts in (POSIX)."""
_STACK_BYTES = 2 * 2**20
"""Of each thread. glibc takes RLIMIT_STACK for that, often 8 MiB, all of which counts as allocated."""


@dataclass(frozen=True)
class Limits:
    """None: what this process may use. They hold from before the program is executed."""

    file_bytes: int | None = None
    """The size to which its writes may make a file grow; then they fail with EFBIG."""
    memory_bytes: int | None = None
    """What it may allocate, stacks of threads included; then it gets no more (RLIMIT_DATA).

    Not its address space (RLIMIT_AS): of that, glibc sets 64 MiB aside for many a thread, without using it.
    """
    open_files: int | None = None
    processes: int | None = None
    """Its own and its threads, where it has a control group."""
    cpu_weight: int = 100
    """Its part of a busy processor beside others, where it has a control group; 100 is everybody's."""

    def setting(self, *, is_waiting: bool) -> list[str]:
        """Lines of shell, for the program's process to run first: what only itself can set.

        `is_waiting`: it waits when `apply` is called. One that is still executing a program then gets back the limit
        of its stack that it had (setup_new_exec() in Linux's fs/exec.c).
        """
        lines = []
        if self.file_bytes is not None:
            # Ignored, the signal becomes an error of the write, which a client gets as ENOSPC.
            lines += ['trap "" XFSZ', f"ulimit -f {self.file_bytes // _LIMIT_UNIT}"]
        if self.memory_bytes is not None and not is_waiting:
            lines.append(f"ulimit -s {_STACK_BYTES // 1024}")
        return lines

    def apply(self, pid: int) -> None:
        """To a process that has not executed the program yet. Raises OSError."""
        limits = {
            resource.RLIMIT_DATA: self.memory_bytes,
            resource.RLIMIT_STACK: _STACK_BYTES if self.memory_bytes else None,
            resource.RLIMIT_NOFILE: self.open_files,
        }
        for kind, limit in limits.items():
            if limit is not None:
                _, hard = resource.prlimit(pid, kind)
                bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
                resource.prlimit(pid, kind, (bounded, bounded))
