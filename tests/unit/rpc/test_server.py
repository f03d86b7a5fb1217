"""The gRPC server of our own, as gRPC's own client sees it."""

import queue
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilot_agent.rpc import Call, CallEnded, Code, Requests, Server, iterating
from pilot_agent.rpc import server as server_module
from tests.support.waiting import wait_for

MIB = 1 << 20


class Echo:
    """Answers what comes on a thread of its own, and remembers how the call ended."""

    def __init__(self, call: Call, ends: "queue.SimpleQueue[str]") -> None:
        self._call, self._ends = call, ends
        self._queue: queue.SimpleQueue[bytes | str] = queue.SimpleQueue()
        threading.Thread(target=self._answer, name="test-echo", daemon=True).start()

    def message(self, body: bytes) -> None:
        self._queue.put(body)

    def half_closed(self) -> None:
        self._queue.put("half-closed")

    def cancelled(self) -> None:
        self._queue.put("cancelled")

    def _answer(self) -> None:
        while isinstance(body := self._queue.get(), bytes):
            self._call.send(body)
        self._call.finish()
        self._ends.put(body)


def _refuse(_: Requests) -> Iterator[bytes]:
    raise CallEnded(Code.PERMISSION_DENIED, "100 % not allowed: \N{SNOWMAN}\n")
    yield b""


def _big(requests: Requests) -> Iterator[bytes]:
    for request in requests:
        yield b"x" * int(request)


class Served:
    def __init__(self, path: str, **options: Any) -> None:
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.path = path
        self.server = Server(
            {
                "/test/Echo": lambda call: Echo(call, self.ends),
                "/test/Refuse": iterating(_refuse),
                "/test/Big": iterating(_big),
                "/test/Header": iterating(lambda requests: iter([requests.call.headers["x-name"].encode()])),
            },
            name="test",
            **{"calls_limit": 100, "message_limit_bytes": 4 * MIB} | options,
        )
        self.server.listen(path)
        self.server.start()

    def channel(self, *options: tuple[str, int]) -> grpc.Channel:
        common = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        return grpc.insecure_channel(f"unix:{self.path}", common + options)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(str(tmp_path / "socket"))
    yield made
    made.server.quit()


def test_messages_of_any_size_come_back_in_order(served: Served) -> None:
    bodies = [b"", b"a", b"b" * 16_379, b"c" * 16_384, b"d" * 100_000, b"e" * (3 * MIB)]
    with served.channel() as channel:
        assert list(channel.stream_stream("/test/Echo", None, None)(iter(bodies), timeout=20)) == bodies


def test_a_unary_call_gets_its_answer(served: Served) -> None:
    with served.channel() as channel:
        assert channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x"
        assert (
            channel.unary_unary("/test/Header", None, None)(b"", metadata=(("x-name", "n"),), timeout=10)
            == b"n"
        )


def test_a_status_arrives_with_its_text(served: Served) -> None:
    with served.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        list(channel.stream_stream("/test/Refuse", None, None)(iter([]), timeout=10))
    assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert failed.value.details() == "100 % not allowed: \N{SNOWMAN}\n"


def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    with served.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/test/None", None, None)(b"", timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert failed.value.details() == "unknown method /test/None"


def test_a_request_above_the_limit_is_refused_and_the_connection_goes_on(served: Served) -> None:
    with served.channel() as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/test/Echo", None, None)(b"x" * (4 * MIB + 1), timeout=10)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (
            failed.value.details() == f"grpc: received message larger than max ({4 * MIB + 1} vs. {4 * MIB})"
        )
        assert served.ends.get(timeout=10) == "cancelled"
        assert channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x"


def test_compressed_messages_are_refused(served: Served) -> None:
    with served.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/test/Echo", None, None)(
            b"x" * 1000, timeout=10, compression=grpc.Compression.Gzip
        )
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "identity" in (failed.value.details() or "")


def test_more_calls_than_allowed_are_refused_and_room_comes_back(tmp_path: Path) -> None:
    served = Served(str(tmp_path / "socket"), calls_limit=2)
    try:
        with served.channel() as channel:
            held: list[Any] = []
            waiting = [queue.SimpleQueue[bytes | None]() for _ in range(2)]
            for each in waiting:
                each.put(b"x")
                held.append(channel.stream_stream("/test/Echo", None, None)(iter(each.get, None)))
                assert next(iter(held[-1])) == b"x"
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10)
            assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            waiting[0].put(None)
            assert list(held[0]) == []
            assert channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x"
            waiting[1].put(None)
            assert list(held[1]) == []
    finally:
        served.server.quit()


def test_a_cancelled_call_is_told_once(served: Served) -> None:
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    requests.put(b"x")
    with served.channel() as channel:
        call = channel.stream_stream("/test/Echo", None, None)(iter(requests.get, None))
        assert next(iter(call)) == b"x"
        call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        assert served.ends.get(timeout=10) == "cancelled"
        requests.put(None)
    assert served.ends.empty()


def test_a_lost_client_is_told_to_all_its_calls(served: Served) -> None:
    requests = [queue.SimpleQueue[bytes | None]() for _ in range(3)]
    channel = served.channel()
    for each in requests:
        each.put(b"x")
        assert next(iter(channel.stream_stream("/test/Echo", None, None)(iter(each.get, None)))) == b"x"
    channel.close()
    assert [served.ends.get(timeout=10) for _ in requests] == ["cancelled"] * 3
    for each in requests:
        each.put(None)


def test_a_client_that_reads_nothing_holds_up_no_other_call(served: Served) -> None:
    narrow = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
    with served.channel(*narrow) as slow, served.channel() as quick:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests.put(b"%d" % (20 * MIB))
        stuck = slow.stream_stream("/test/Big", None, None)(iter(requests.get, None))
        for channel in (slow, quick):  # the slow one's connection has room of its own for other calls
            assert channel.unary_unary("/test/Echo", None, None)(b"x", timeout=10) == b"x"
        assert len(next(iter(stuck))) == 20 * MIB
        requests.put(None)
        assert list(stuck) == []


def test_many_clients_at_once_are_all_served(served: Served) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with served.channel() as channel:
                bodies = [b"%d" % number * 5000 for number in range(50)]
                assert (
                    list(channel.stream_stream("/test/Echo", None, None)(iter(bodies), timeout=30)) == bodies
                )
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not failed


def test_a_socket_whose_file_was_removed_is_made_again_and_its_clients_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_LOOK_MS", 20)
    folder = tmp_path / "removed"
    made = Served(str(folder / "socket"))
    handed_down = queue.SimpleQueue[tuple[int, ...]]()
    made.server.when_made_again(handed_down.put)
    with made.channel() as old, made.channel() as new:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = old.stream_stream("/test/Echo", None, None)(iter(requests.get, None))
        requests.put(b"x")
        assert next(iter(call)) == b"x"
        shutil.rmtree(folder)
        assert len(handed_down.get(timeout=10)) == 2
        assert new.unary_unary("/test/Big", None, None)(b"3", wait_for_ready=True, timeout=10) == b"xxx"
        requests.put(b"y")
        assert next(iter(call)) == b"y"
        requests.put(None)
    made.server.quit()
    assert not Path(made.path).exists()


def test_the_socket_and_all_threads_are_gone_after_the_end(served: Served) -> None:
    with served.channel() as channel:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests.put(b"x")
        call = channel.stream_stream("/test/Echo", None, None)(iter(requests.get, None))
        assert next(iter(call)) == b"x"
        served.server.quit()
        with pytest.raises(grpc.RpcError):
            next(iter(call))
        requests.put(None)
    assert not Path(served.path).exists()
    wait_for(
        lambda: not [each for each in threading.enumerate() if each.name.startswith("test-")],
        what="the end of all threads",
    )
