"""Checks whether the kernel serves every connection of an NBD device.

For each it has a work item, which ends with the connection. Two of them can end up in one thread, one after the other:
when the kernel is slow to start a thread (it is busy, or short of memory) the workqueue's rescuer takes both, and the
second waits for the first for ever (drivers/block/nbd.c, recv_work; kernel/workqueue.c, rescuer_thread). What the
server answers on that connection is not read, and a request takes until it times out.
"""

import os
import re
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from mmap import PAGESIZE, mmap
from pathlib import Path

GRACE_SECONDS = 3.0
"""How much longer than the first a connection may take with the same bytes."""


def are_served(descriptor: int, device: Path, timeout_seconds: float) -> bool:
    """Reads through every queue of the device; it has one for each connection.

    `descriptor` was opened with O_DIRECT before the device was connected: to open it now makes the kernel look for
    partitions first, which waits for an answer too.

    A read that is not answered goes on in a thread, until the device is disconnected. When not even the first is
    answered in time, nothing is known about the others: that counts as served.
    """
    cpus = _cpus(device)
    if len(cpus) < 2:
        return True
    executor = ThreadPoolExecutor(len(cpus), "nbd-queue")
    reads = [executor.submit(_read_on, cpu, os.dup(descriptor)) for cpu in cpus]
    executor.shutdown(wait=False)
    answered, _ = wait(reads, timeout_seconds, FIRST_COMPLETED)
    return not answered or not wait(reads, GRACE_SECONDS).not_done


def _cpus(device: Path) -> list[int]:
    """One for each queue that this process can reach."""
    allowed = os.sched_getaffinity(0)
    lists = [queue.read_text() for queue in Path("/sys/block", device.name, "mq").glob("*/cpu_list")]
    ours = [allowed & {int(number) for number in re.findall(r"\d+", listed)} for listed in lists]
    return [min(cpus) for cpus in ours if cpus]


def _read_on(cpu: int, descriptor: int) -> None:
    """A request goes into the queue of the processor that it is made on. An error is an answer too.

    The descriptor is this read's own, since the read may end after everything else.
    """
    try:
        with suppress(OSError), mmap(-1, PAGESIZE) as page:  # O_DIRECT wants aligned memory
            os.sched_setaffinity(0, {cpu})
            os.preadv(descriptor, [memoryview(page)[:512]], 0)
    finally:
        os.close(descriptor)
