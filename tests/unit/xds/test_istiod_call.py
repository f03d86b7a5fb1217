"""gRPC's segregated call, with each version of grpcio that setup.cfg admits."""

import gc
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from pilot_agent.rpc import CallEnded, Code, Requests, Server, iterating
from pilot_agent.xds.istiod_call import IstiodCall
from tests.support.waiting import wait_for

MIB = 1 << 20


def _istiod(requests: Requests, metadata: "queue.SimpleQueue[dict[str, str]]") -> Iterator[bytes]:
    """Echo; "end" ends the call with a status, "flood" is answered without end, "silence" not at all."""
    metadata.put(dict(requests.call.headers))
    for body in requests:
        if body == b"end":
            raise CallEnded(Code.PERMISSION_DENIED, "no: \N{SNOWMAN}")
        while body == b"flood":
            yield b"f" * MIB
        if body != b"silence":
            yield body


class Place:
    def __init__(self, path: str) -> None:
        self.target = f"unix:{path}"
        self.metadata: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self.server = Server(
            {"/istiod/Ads": iterating(lambda requests: _istiod(requests, self.metadata))},
            name="istiod",
            calls_limit=10_000,
            message_limit_bytes=64 * MIB,
        )
        self.server.listen(path)
        self.server.start()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(str(tmp_path / "istiod"))
    yield made
    made.server.quit()


def a_channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(
        target, (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    )


@pytest.fixture
def begin(place: Place) -> Iterator[Callable[[], IstiodCall]]:
    with a_channel(place.target) as channel:
        yield lambda: IstiodCall(channel, "/istiod/Ads", (("clusterid", "Kubernetes"), ("a-bin", b"\0\1")))


def test_requests_and_responses_pass_in_order_and_the_status_with_its_text(
    place: Place, begin: Callable[[], IstiodCall]
) -> None:
    call = begin()
    bodies = [b"", b"a", b"b" * (5 * MIB), *(b"%d" % number for number in range(200))]
    sender = threading.Thread(target=call.send_all, args=(iter([*bodies, b"end"]),))
    sender.start()
    assert list(call.responses()) == bodies
    assert (call.code, call.details) == (Code.PERMISSION_DENIED, "no: \N{SNOWMAN}")
    sender.join(10)
    assert not sender.is_alive()
    metadata = place.metadata.get(timeout=10)
    assert (metadata["clusterid"], metadata["a-bin"]) == ("Kubernetes", "AAE")
    call.cancel()  # harmless behind the end
    call.close()


@pytest.mark.parametrize("request_", [b"silence", b"flood"], ids=["silence", "flood"])
def test_a_call_is_cancelled_while_its_reader_waits(begin: Callable[[], IstiodCall], request_: bytes) -> None:
    call = begin()
    call.send_all([request_])
    timer = threading.Timer(0.05, call.cancel)
    timer.start()
    for body in call.responses():
        assert body
    assert call.code is Code.CANCELLED
    timer.join()


def test_a_call_is_cancelled_while_it_sends(begin: Callable[[], IstiodCall]) -> None:
    """The first request is larger than every window: the second waits for its turn."""
    call = begin()
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()

    def requests() -> Iterator[bytes]:
        for number in range(1000):
            asked.put(number)
            yield b"r" * (16 * MIB)

    with ThreadPoolExecutor(1) as pool:
        sender = pool.submit(call.send_all, requests())
        asked.get(timeout=10)
        asked.get(timeout=10)
        call.cancel()
        assert list(call.responses()) == []
        sender.result(10)
    assert call.code is Code.CANCELLED


def test_a_call_that_nobody_answers_is_unavailable_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with a_channel(f"127.0.0.1:{port}") as channel:
        call = IstiodCall(channel, "/istiod/Ads", ())
        assert list(call.responses()) == []
        assert call.code is Code.UNAVAILABLE
        assert call.details


def test_a_call_that_never_connects_can_be_cancelled() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        ThreadPoolExecutor(2) as pool,
        a_channel(f"127.0.0.1:{mute.getsockname()[1]}") as channel,
    ):
        call = IstiodCall(channel, "/istiod/Ads", ())
        sender = pool.submit(call.send_all, [b"1", b"2", b"3"])
        reader = pool.submit(list, call.responses())
        accepted, _ = mute.accept()
        call.cancel()
        assert reader.result(10) == []
        sender.result(10)
        assert call.code is Code.CANCELLED
        accepted.close()


@pytest.mark.parametrize("was_read", [False, True], ids=["unread", "left"])
def test_a_channel_can_be_closed_when_its_call_was_left_alone(place: Place, was_read: bool) -> None:
    """gRPC waits in `Channel.close` until the call has told all that it has to tell."""
    channel = a_channel(place.target)
    call = IstiodCall(channel, "/istiod/Ads", ())
    call.send_all([b"flood"])
    responses = call.responses()
    if was_read:
        assert next(responses)
    call.close()
    closing = threading.Thread(target=channel.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_the_lost_connection_ends_the_call(place: Place, begin: Callable[[], IstiodCall]) -> None:
    call = begin()
    call.send_all([b"1"])
    responses = call.responses()
    assert next(responses) == b"1"
    place.server.quit()
    assert list(responses) == []
    assert call.code in {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN}


def test_many_calls_leave_no_thread_and_no_descriptor(place: Place) -> None:
    def serve(number: int) -> None:
        with a_channel(place.target) as channel:
            call = IstiodCall(channel, "/istiod/Ads", ())
            call.send_all([b"flood" if number % 2 else b"1"])
            assert next(call.responses())
            call.close()

    for number in range(20):
        serve(number)
    gc.collect()
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for number in range(200):
        serve(number)
    gc.collect()
    wait_for(lambda: threading.active_count() <= threads, what="the end of all threads")
    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files, what="closed descriptors")
