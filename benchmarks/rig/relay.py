"""A TCP relay that holds every byte back for a while: latency, where the kernel has no netem."""

import asyncio
import threading
from asyncio import AbstractEventLoop, Event, Queue, StreamReader, StreamWriter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

_CHUNK_BYTES = 2**18
_CHUNKS_ON_THE_WAY = 4096
"""A gigabyte: the wire of a relay is as long as it has to be."""


@contextmanager
def relay(address: str, target_port: int, delay_seconds: float) -> Iterator[int]:
    """The port on `address` that leads to another one there; `delay_seconds` in each direction."""
    made = _Relay(address, target_port, delay_seconds)
    thread = threading.Thread(target=lambda: asyncio.run(made.run()))
    thread.start()
    loop, port = made.started.result()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(made.stop.set)
        thread.join()


@dataclass(frozen=True)
class _Relay:
    address: str
    target_port: int
    delay_seconds: float
    started: "Future[tuple[AbstractEventLoop, int]]" = field(default_factory=Future)
    """With the port."""
    stop: Event = field(default_factory=Event)

    async def run(self) -> None:
        async with await asyncio.start_server(self._connected, self.address, 0, limit=_CHUNK_BYTES) as server:
            self.started.set_result((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
            await self.stop.wait()

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.address, self.target_port, limit=_CHUNK_BYTES)
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
    """Nothing once the connection is over, in whatever way."""
    try:
        return await reader.read(_CHUNK_BYTES)
    except ConnectionError:
        return b""
