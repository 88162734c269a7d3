"""What all cloud providers share: bounded waits, retries, locks, slots, and the way to a machine's disks."""

import ctypes
import json
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudUnavailable,
    ConfigurationError,
    DeviceMismatch,
    DeviceNotReady,
    Throttled,
)
from cloudmanager.providers import _nvme, _scsi
from cloudmanager.providers._block_devices import BlockDevice, BlockDevices
from cloudmanager.providers._disk_locks import DiskLocks
from cloudmanager.providers._metadata import MetadataServer
from cloudmanager.providers._retrying import retrying
from cloudmanager.providers._slots import Slots
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response

NAMES = [f"/dev/xvda{letter}" for letter in "abcdefgh"]


# Waiting


def test_a_wait_ends_with_what_it_waits_for() -> None:
    answers = iter([None, None, "there"])
    assert wait_for(lambda: next(answers), timeout=5, interval=0.01) == "there"


def test_a_wait_ends_at_its_bound_after_a_last_look() -> None:
    looks: list[float] = []

    def look() -> None:
        looks.append(time.monotonic())

    started = time.monotonic()
    with pytest.raises(TimedOut):
        wait_for(look, timeout=0.1, interval=10)
    assert len(looks) == 2
    assert looks[-1] - started >= 0.1


def test_a_bound_of_nothing_still_looks_once() -> None:
    assert wait_for(lambda: "there", timeout=0, interval=1) == "there"


def test_a_deadline_has_nothing_left_when_it_is_over() -> None:
    assert Deadline(0).left == 0
    assert 9 < Deadline(10).left <= 10


# Retries


@pytest.mark.parametrize("error", [Throttled("slower"), CloudUnavailable("later")])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    left = [error, error]

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retrying(call, attempts=3, timeout=10) == "done"


def test_the_last_error_leaves_as_it_is() -> None:
    errors = [Throttled("first", cloud_code="a"), Throttled("last", cloud_code="b", retry_after=0.01)]
    left = list(errors)

    def call() -> str:
        raise left.pop(0)

    with pytest.raises(Throttled) as caught:
        retrying(call, attempts=2, timeout=10)
    assert caught.value is errors[1]


@pytest.mark.parametrize(
    "error", [AccessDenied("no"), CloudUnavailable("pending", retriable=False), Throttled("tomorrow", retry_after=3600)]
)
def test_what_does_not_pass_in_time_is_not_tried_again(error: Exception) -> None:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retrying(call, attempts=5, timeout=10)
    assert len(calls) == 1


def test_a_retry_waits_as_long_as_the_cloud_says() -> None:
    left = [Throttled("slower", retry_after=0.3)]

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    started = time.monotonic()
    retrying(call, attempts=2, timeout=10)
    assert time.monotonic() - started >= 0.3


# Locks


def test_one_disk_is_worked_on_by_one_thread_and_others_beside_it() -> None:
    locks, inside, most = DiskLocks(), [], []
    both = threading.Barrier(2, timeout=5)

    def work(_: int) -> None:
        with locks.locked("one"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    def meet(disk: str) -> None:
        with locks.locked(disk):
            both.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
        list(pool.map(meet, ("one", "other")))
    assert max(most) == 1


def test_a_lock_that_nobody_holds_is_forgotten() -> None:
    locks = DiskLocks()
    for number in range(100):
        with locks.locked(str(number)):
            pass
    assert len(locks._locks) == 0


# Slots


def slots(directory: Path, rest: float = 300) -> Slots:
    return Slots(directory, "i-1", timedelta(seconds=rest))


def choose(directory: Path, taken: tuple[str, ...] = (), rest: float = 300) -> str:
    with slots(directory, rest).locked() as memory:
        return memory.choose(NAMES, taken)


def test_a_slot_is_neither_taken_nor_used_a_moment_ago(tmp_path: Path) -> None:
    assert [choose(tmp_path, (NAMES[0],)), choose(tmp_path), choose(tmp_path)] == [NAMES[1], NAMES[0], NAMES[2]]


def test_a_slot_that_rested_is_used_again(tmp_path: Path) -> None:
    assert [choose(tmp_path, rest=0), choose(tmp_path, rest=0)] == [NAMES[0], NAMES[0]]


def test_when_all_free_slots_rest_the_longest_rested_is_used(tmp_path: Path) -> None:
    used = [choose(tmp_path) for _ in NAMES]
    assert choose(tmp_path) == used[0]


def test_when_all_slots_are_taken_it_is_the_limit(tmp_path: Path) -> None:
    with pytest.raises(AttachLimit):
        choose(tmp_path, tuple(NAMES))


def test_processes_and_threads_choose_different_slots(tmp_path: Path) -> None:
    program = f"""if True:
        from datetime import timedelta
        from pathlib import Path
        from cloudmanager.providers._slots import Slots
        with Slots(Path({str(tmp_path)!r}), "i-1", timedelta(minutes=5)).locked() as memory:
            print(memory.choose({NAMES!r}, ()))
    """
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        chosen = list(pool.map(lambda _: choose(tmp_path), range(3)))
    chosen += [child.communicate(timeout=30)[0].strip() for child in children]
    assert len(set(chosen)) == 6


def test_machines_have_memories_of_their_own(tmp_path: Path) -> None:
    choose(tmp_path)
    with Slots(tmp_path, "i-2", timedelta(minutes=5)).locked() as memory:
        assert memory.choose(NAMES, ()) == NAMES[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}', json.dumps({NAMES[0]: 1e12})])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, content: str) -> None:
    choose(tmp_path)
    next(tmp_path.glob("slots-*")).write_text(content)
    assert choose(tmp_path) == NAMES[0]


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="lock_dir"):
        slots(tmp_path / "file" / "locks")


# Metadata


def ask(answer: Response, timeout: float = 5) -> str:
    with HttpServer(lambda _: answer) as server:
        return MetadataServer(server.url, timeout=timeout, advice="Set it.").ask("/who?x=1", {"Flavor": "a"})


def test_the_metadata_server_s_answer_is_its_text() -> None:
    assert ask(Response.of_text(200, "worker-1")) == "worker-1"


def test_path_method_and_headers_are_as_asked_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return Response.of_text(200, "token")

    with HttpServer(answer) as server:
        metadata = MetadataServer(f"{server.url}/latest/", timeout=5, advice="")
        assert metadata.ask("api/token", {"X-TTL": "60"}, "PUT") == "token"
    assert (seen[0].method, seen[0].path, seen[0].headers["X-TTL"]) == ("PUT", "/latest/api/token", "60")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Response.of_text(403, "no"), "HTTP status 403"),
        (Response.of_text(302, "elsewhere"), "HTTP status 302"),
        (Response.of_text(200, "x" * 2_000_000), "HTTP status 200"),
        (CUT, "could not be reached"),
    ],
)
def test_what_is_no_answer_is_a_configuration_error_that_says_what_was_tried(answer: Response, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{message}.*http://127.0.0.1:\d+/who.* Set it\."):
        ask(answer)


@pytest.mark.parametrize(
    ("answer", "is_passing"),
    [
        *((Response.of_text(403, "no"), False), (Response.of_text(404, "what?"), False)),
        *((Response.of_text(429, "later"), True), (Response.of_text(503, "later"), True), (CUT, True)),
    ],
    ids=["403", "404", "429", "503", "cut"],
)
def test_what_looks_like_an_outage_of_the_metadata_server_is_retriable(answer: Response, is_passing: bool) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(answer)
    assert caught.value.retriable is is_passing


@pytest.mark.parametrize("url", ["http://metadata.invalid", "http://[::1"])
def test_a_metadata_server_that_cannot_exist_is_final(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MetadataServer(url, timeout=5, advice="").ask("who", {})
    assert not caught.value.retriable


def test_a_metadata_server_that_is_slow_is_not_waited_for() -> None:
    released = threading.Event()

    def answer(_: Request) -> Response:
        released.wait(10)
        return Response(200)

    with HttpServer(answer) as server:
        with pytest.raises(ConfigurationError, match=r"no answer within 0\.1 s"):
            MetadataServer(server.url, timeout=0.1, advice="").ask("who", {})
        released.set()


# Devices


def page83(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return bytes([0, 0x83]) + len(content).to_bytes(2, "big") + content


def block_device(tmp_path: Path, files: dict[str, bytes], name: str = "sdb") -> BlockDevice:
    directory = tmp_path / "sys/block" / name
    for path, content in {"size": b"2048\n", "dev": b"7:0\n", **files}.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return BlockDevice(name, tmp_path / "dev" / name, directory)


VENDOR = bytes([0x02, 0x00, 0, 3]) + b"one"
NAA = bytes([0x01, 0x03, 0, 8]) + bytes(8)
OF_THE_PORT = bytes([0x02, 0x10, 0, 4]) + b"port"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (page83(VENDOR), {"one"}),
        (page83(NAA, VENDOR), {"one"}),
        (page83(OF_THE_PORT, NAA), set()),
        (page83(VENDOR)[:-1], set()),
        (bytes([0, 0x80, 0, 3]) + b"one", set()),
        (page83(bytes([0x02, 0x00, 0, 200]) + b"cut"), set()),
        (page83(bytes([0x02, 0x00, 0, 2]) + b"\xff\xfe"), set()),
        (b"", set()),
    ],
)
def test_names_are_read_from_vital_product_data_and_damage_is_no_name(
    tmp_path: Path, page: bytes, names: set[str]
) -> None:
    assert _scsi.vendor_serials(block_device(tmp_path, {"device/vpd_pg83": page})) == names


def test_partitions_and_hidden_paths_are_no_disks(tmp_path: Path) -> None:
    block_device(tmp_path, {}, "sda")
    block_device(tmp_path, {"partition": b"1\n"}, "sdb")
    block_device(tmp_path, {"hidden": b"1\n"}, "nvme0c0n1")
    found = BlockDevices(tmp_path / "dev", tmp_path / "sys")
    assert [device.name for device in found] == ["sda"]
    assert found.named("sdb") is None


def test_a_node_that_is_missing_or_empty_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotReady, match="not there yet"):
        block_device(tmp_path, {}).as_device()
    empty = block_device(tmp_path, {"size": b"0\n"}, "sdc")
    empty.node.parent.mkdir()
    os.mknod(empty.node, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    with pytest.raises(DeviceNotReady, match="no size"):
        empty.as_device()


def test_a_node_with_another_number_than_the_kernel_s_is_a_mismatch(tmp_path: Path) -> None:
    device = block_device(tmp_path, {})
    device.node.parent.mkdir()
    os.mknod(device.node, 0o600 | stat.S_IFBLK, os.makedev(7, 1))
    with pytest.raises(DeviceMismatch, match="another device"):
        device.as_device()


def test_a_size_that_is_not_the_disk_s_is_a_mismatch(tmp_path: Path) -> None:
    device = block_device(tmp_path, {})
    device.node.parent.mkdir()
    os.mknod(device.node, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    assert device.as_device(2048 * 512).size_bytes == 2048 * 512
    with pytest.raises(DeviceMismatch, match="1048576 bytes, and the disk has 5"):
        device.as_device(5)


def test_a_node_that_is_no_block_device_is_a_mismatch(tmp_path: Path) -> None:
    device = block_device(tmp_path, {})
    device.node.parent.mkdir()
    device.node.touch()
    with pytest.raises(DeviceMismatch, match="not the block device"):
        device.as_device()


def test_a_link_in_the_place_of_a_node_is_not_followed(tmp_path: Path) -> None:
    device = block_device(tmp_path, {})
    device.node.parent.mkdir()
    device.node.symlink_to("/dev/loop0")
    with pytest.raises(DeviceMismatch, match="not the block device"):
        device.as_device()


def test_an_identify_that_the_device_does_not_answer_is_empty(tmp_path: Path) -> None:
    device = block_device(tmp_path, {"nsid": b"1\n"}, "nvme0n1")
    device.node.parent.mkdir()
    device.node.symlink_to("/dev/null")
    assert _nvme.identify_namespace(device) == b""
    assert _nvme.identify_controller(device) == b""
    assert (_nvme.is_namespace(device), _nvme.nsid(device)) == (True, 1)


def test_the_admin_command_has_the_size_that_its_ioctl_number_says() -> None:
    assert ctypes.sizeof(_nvme._AdminCommand) == _nvme._IOCTL_ADMIN_COMMAND >> 16 & 0x3FFF
