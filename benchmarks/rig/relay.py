"""A TCP relay that holds every byte back for a while: latency, where the kernel has no netem."""

import asyncio
import threading
from asyncio import AbstractEventLoop, Event, Queue, StreamReader, StreamWriter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

_CHUNK_BYTES = 2**18
_CHUNKS_ON_THE_WAY = 4096
"""A gigabyte: the wire of a relay is as long as it has to be."""


@contextmanager
def relay(far: str, near: str, ports: Sequence[int], delay_seconds: float) -> Iterator[None]:
    """Each of the ports on the address `far` leads to the same one on `near`, `delay_seconds` in each direction."""
    made = _Relay(far, near, ports, delay_seconds)
    thread = threading.Thread(target=lambda: asyncio.run(made.run()))
    thread.start()
    try:
        loop = made.started.result()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(made.stop.set)
    finally:
        thread.join()


@dataclass(frozen=True)
class _Relay:
    far: str
    near: str
    ports: Sequence[int]
    delay_seconds: float
    started: "Future[AbstractEventLoop]" = field(default_factory=Future)
    stop: Event = field(default_factory=Event)

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            try:
                for port in self.ports:
                    connected = partial(self._connected, port)
                    await stack.enter_async_context(
                        await asyncio.start_server(connected, self.far, port, limit=_CHUNK_BYTES)
                    )
            except OSError as error:
                self.started.set_exception(error)
                return
            self.started.set_result(asyncio.get_running_loop())
            await self.stop.wait()

    async def _connected(self, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.near, port, limit=_CHUNK_BYTES)
        with closing(writer), closing(far_writer), suppress(ConnectionError):
            async with asyncio.TaskGroup() as both:
                for source, target in ((reader, far_writer), (far_reader, writer)):
                    on_the_way: Queue[tuple[float, bytes]] = Queue(_CHUNKS_ON_THE_WAY)
                    both.create_task(self._depart(source, on_the_way))
                    both.create_task(_arrive(on_the_way, target))

    async def _depart(self, reader: StreamReader, on_the_way: "Queue[tuple[float, bytes]]") -> None:
        """An empty chunk is the end of the stream."""
        loop = asyncio.get_running_loop()
        chunk = b"more"
        while chunk:
            chunk = await _received(reader)
            await on_the_way.put((loop.time() + self.delay_seconds, chunk))


async def _arrive(on_the_way: "Queue[tuple[float, bytes]]", writer: StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while True:
            due, chunk = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


async def _received(reader: StreamReader) -> bytes:
    """Nothing once the connection is over, however it ended."""
    try:
        return await reader.read(_CHUNK_BYTES)
    except ConnectionError:
        return b""
