"""What is tried again, how, and for how long."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cloudmanager.client import AsyncCloudManager, CloudManager, ExportState, errors, exchange
from cloudmanager.client.exchange import (
    LONGEST_PAUSE_SECONDS,
    Reply,
    Request,
    ScheduledRequest,
    TransportFailed,
    pauses,
    with_retries,
)
from tests.client.conftest import MakeClient, MakeProxy
from tests.client.daemon import Daemon

pytestmark = pytest.mark.anyio

SAFE = Request("GET", "/v1/nodes")
UNSAFE = Request("POST", "/v1/somewhere", is_repeatable=False)
GOOD = Reply(200, {}, b"{}", 0.0)


def problem(code: str, status: int = 503, *, retriable: bool = True, **headers: str) -> Reply:
    body = {"code": code, "title": "T", "detail": "Why.", "retriable": retriable}
    named = {"content-type": "application/problem+json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Reply(status, named, json.dumps(body).encode(), 0.0)


def answered(request: Request, seconds: float, *answers: Reply | TransportFailed) -> list[ScheduledRequest]:
    """The steps that the call takes while it is given these answers. Raises what it raises in the end."""
    call = with_retries(request, seconds)
    steps = [next(call)]
    for answer in answers:
        try:
            steps.append(call.throw(answer) if isinstance(answer, TransportFailed) else call.send(answer))
        except StopIteration:
            return steps
    return steps


def failed(*, was_sent: bool) -> TransportFailed:
    return TransportFailed("the network is gone", was_sent=was_sent)


@pytest.mark.parametrize("answer", [problem("throttled"), Reply(502, {}, b"<html>", 0.0), failed(was_sent=True)])
def test_what_is_safe_is_tried_again(answer: Reply | TransportFailed) -> None:
    steps = answered(SAFE, 60, answer, answer, GOOD)
    assert [step.request for step in steps] == [SAFE] * 3
    assert steps[0].after == 0
    assert all(step.after > 0 for step in steps[1:])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem("throttled"), errors.Throttled),
        (failed(was_sent=True), errors.Unreachable),
    ],
)
def test_what_is_not_safe_is_not_sent_twice(answer: Reply | TransportFailed, error: type[Exception]) -> None:
    with pytest.raises(error):
        answered(UNSAFE, 60, answer)


def test_what_never_left_is_sent_again_even_if_it_is_not_safe() -> None:
    assert len(answered(UNSAFE, 60, failed(was_sent=False), GOOD)) == 2


def test_what_will_never_work_is_not_tried_again() -> None:
    with pytest.raises(errors.DiskNotFound, match="Why"):
        answered(SAFE, 60, problem("disk_not_found", 404, retriable=False))


def test_retry_after_is_honoured() -> None:
    steps = answered(SAFE, 60, problem("throttled", retry_after="17"), GOOD)
    assert steps[1].after == 17


def test_a_pause_that_is_longer_than_the_retry_budget_is_not_made() -> None:
    with pytest.raises(errors.Throttled) as asked:
        answered(SAFE, 10, problem("throttled", retry_after="17"))
    assert asked.value.retry_after == 17


def test_the_pauses_grow_to_a_bound_and_are_not_the_same_for_everybody() -> None:
    mine, others = pauses(), pauses()
    first = [next(mine) for _ in range(20)]
    assert first[0] <= exchange.FIRST_PAUSE_SECONDS
    assert LONGEST_PAUSE_SECONDS / 2 <= max(first) <= LONGEST_PAUSE_SECONDS
    assert first != [next(others) for _ in range(20)]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(301, {"location": "https://elsewhere/"}, b"", 0.0), "https://elsewhere/"),
        (Reply(404, {"content-type": "text/html"}, b"<html>", 0.0), "lead to a cloudmanager"),
    ],
)
def test_what_is_no_cloudmanager_is_told_as_that(reply: Reply, says: str) -> None:
    with pytest.raises(errors.UnexpectedAnswer, match=says):
        answered(SAFE, 60, reply)


def test_a_code_that_is_not_known_here_is_kept() -> None:
    with pytest.raises(errors.ServiceError) as newer:
        answered(SAFE, 60, problem("eclipse", 418, retriable=False))
    assert (newer.value.given_code, newer.value.status, type(newer.value)) == ("eclipse", 418, errors.ServiceError)


async def test_an_answer_that_is_lost_on_the_way_makes_no_second_export(
    make_client: MakeClient, daemon: Daemon, swallowing: MakeProxy, request: pytest.FixtureRequest
) -> None:
    proxy, holder = swallowing(), request.node.name
    async with make_client(proxy.url).export("local:a.img", holder=holder) as disk:
        assert [export["id"] for export in daemon.exports() if export["holder"] == holder] == [disk.id]
    assert proxy.swallowed.startswith(b"HTTP/1.1 201")


def test_ctrl_c_before_the_answer_gives_back_what_was_asked_for(
    daemon: Daemon, swallowing: MakeProxy, request: pytest.FixtureRequest
) -> None:
    holder, main = request.node.name, threading.get_ident()
    proxy = swallowing(lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        CloudManager(proxy.url).export("local:a.img", holder=holder).__enter__()
    states = [export["state"] for export in daemon.exports() if export["holder"] == holder]
    assert states in (["closing"], ["closed"])


async def test_a_cancellation_before_the_answer_gives_back_what_was_asked_for(
    daemon: Daemon, swallowing: MakeProxy, request: pytest.FixtureRequest
) -> None:
    holder, loop = request.node.name, asyncio.get_running_loop()
    proxy = swallowing(lambda: loop.call_soon_threadsafe(task.cancel))
    task: asyncio.Task[object] = asyncio.create_task(
        AsyncCloudManager(proxy.url).export("local:a.img", holder=holder).__aenter__()
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    states = [export["state"] for export in daemon.exports() if export["holder"] == holder]
    assert states in (["closing"], ["closed"])


class Stub(BaseHTTPRequestHandler):
    """Answers what `answers` says, in turn."""

    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, headers, body = self.answers.pop(0)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[tuple[str, type[Stub]]]:
    """A service that says what a test wants it to say."""
    handler = type("Answering", (Stub,), {"answers": [], "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_service_that_is_busy_is_asked_again(make_client: MakeClient, stub: tuple[str, type[Stub]]) -> None:
    url, handler = stub
    busy = json.dumps({"code": "store_unavailable", "title": "T", "detail": "D", "retriable": True}).encode()
    handler.answers += [
        (503, {"Content-Type": "application/problem+json", "Retry-After": "0"}, busy),
        (200, {"Content-Type": "application/json"}, b'{"items": [], "next_page": null}'),
    ]
    assert [node async for node in make_client(url).nodes()] == []
    assert handler.asked == ["/v1/nodes", "/v1/nodes"]


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"items": 1}', b'{"items": [{"name": "n"}]}', b'{"items": [{"name": 7}]}', b"\xff"]
)
async def test_an_answer_that_makes_no_sense_is_told_as_that(
    make_client: MakeClient, stub: tuple[str, type[Stub]], body: bytes
) -> None:
    url, handler = stub
    handler.answers.append((200, {"Content-Type": "application/json"}, body))
    with pytest.raises(errors.UnexpectedAnswer):
        assert [node async for node in make_client(url).nodes()]


def test_states_are_those_of_the_service() -> None:
    from cloudmanager.core import model

    assert [state.value for state in ExportState] == [state.value for state in model.ExportState]
    assert {state for state in ExportState if state.is_live} == {state.value for state in model.LIVE_STATES}
