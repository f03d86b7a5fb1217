"""Whom the status port parts with when all places are taken: never who waits for the port itself."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from pilot_agent.status.connection import BUSY, OUR_TURN, Connection, Limits
from pilot_agent.status.messages import Answer, Request
from tests.support.status_client import get, open_client
from tests.support.waiting import wait_for
from tests.unit.status.conftest import Start

HALF, WHOLE = b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
IDLE, SLOW, LONG, NEW = 0, 1, 2, 3


@contextmanager
def connection(
    handler: Callable[[Request], Answer] = lambda _: Answer(),
) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield Connection(ours, "127.0.0.1", handler, Limits(pipelined_pause_s=1.0)), theirs


@contextmanager
def listened_to(
    handler: Callable[[Request], Answer] = lambda _: Answer(),
) -> Iterator[tuple[Connection, socket.socket]]:
    with connection(handler) as (found, theirs):
        thread = threading.Thread(target=found.serve)
        thread.start()
        try:
            yield found, theirs
        finally:
            found.end()
            thread.join(10)


def wait_for_kind(of: Connection, kind: int) -> None:
    wait_for(lambda: of.rank()[0] == kind, what=f"kind {kind} instead of {of.rank()[0]}")


def test_whom_no_thread_has_listened_to_yet_is_not_slow_however_long_that_takes() -> None:
    with connection() as (waiting, theirs):
        theirs.sendall(WHOLE)
        time.sleep(0.15)  # longer than a client that is listened to may take
        assert waiting.rank()[0] == OUR_TURN


def test_a_client_is_new_then_slow_then_idle_and_its_unread_bytes_make_it_our_turn() -> None:
    with listened_to() as (client, theirs):
        wait_for_kind(client, NEW)
        wait_for_kind(client, SLOW)
        theirs.sendall(HALF)
        wait_for_kind(client, SLOW)
        theirs.sendall(b"y\r\nHost: a\r\n\r\n")
        assert theirs.recv(100).startswith(b"HTTP/1.1 200")
        wait_for_kind(client, IDLE)


def test_who_is_served_for_long_gives_way_before_who_has_just_asked() -> None:
    go_on = threading.Event()

    def slow(_: Request) -> Answer:
        go_on.wait(10)
        return Answer()

    with listened_to(slow) as (client, theirs):
        theirs.sendall(WHOLE)
        wait_for_kind(client, BUSY)
        wait_for_kind(client, LONG)
        go_on.set()


def test_who_does_not_wait_for_answers_gives_way_while_held_back() -> None:
    with listened_to() as (client, theirs):
        theirs.sendall(WHOLE * 20)
        wait_for_kind(client, IDLE)


def test_clients_that_have_asked_get_their_answers_whoever_comes_behind_them(serve: Start) -> None:
    """Forty at four places: hardly anybody is cut who waits for the port alone, whatever else runs here."""
    served = serve(lambda _: Answer(body=b"x"), max_connections=4)
    clients = []
    for _ in range(40):
        clients.append(open_client(served.port))
        clients[-1].sendall(WHOLE.replace(b"Host: a", b"Host: a\r\nConnection: close"))
    answers = [answered(client) for client in clients]
    assert answers.count(b"HTTP/1.1 200") >= 35


def answered(client: socket.socket) -> bytes:
    with client, suppress(ConnectionError):
        return client.recv(1000)[:12]
    return b""


def test_who_waits_for_somebody_else_gives_way_at_once(serve: Start) -> None:
    go_on = threading.Event()

    def handler(request: Request) -> Answer:
        if request.path == "/slow":
            go_on.wait(10)
        return Answer(body=b"x")

    served = serve(handler, max_connections=4)
    slow = [open_client(served.port) for _ in range(4)]
    for client in slow:
        client.sendall(WHOLE.replace(b"/ ", b"/slow "))
    assert get(served.port, "/").body == b"x"
    go_on.set()
    for client in slow:
        client.close()


TIGHT = """
import os, re, resource, socket, sys, threading
from pilot_agent.status.messages import Answer
from pilot_agent.status.server import StatusServer

listener = socket.create_server(("127.0.0.1", 0))
server = StatusServer(listener, lambda _: Answer(body=b"well"))
threading.Thread(target=server.serve, daemon=True).start()
print(listener.getsockname()[1], flush=True)
margin = int(sys.argv[1])
for word in sys.stdin:
    limit = resource.RLIM_INFINITY
    if word == "tight\\n":
        limit = (int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10) + margin
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    os.write(1, b"done\\n")  # in one piece: the log writes to the same pipe
"""


def ask_and_stay(port: int, stack: ExitStack) -> bytes:
    """Return the answer, nothing where the connection was closed instead."""
    client = stack.enter_context(open_client(port))
    try:
        client.sendall(WHOLE)
        return client.recv(100)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("margin_bytes", [1 << 20, 1 << 14])
def test_a_machine_without_another_thread_costs_clients_and_not_the_server(margin_bytes: int) -> None:
    with (
        ExitStack() as stack,
        subprocess.Popen(
            [sys.executable, "-c", TIGHT, str(margin_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert get(port, "/").body == b"well"

        def turn(word: str) -> None:
            print(word, file=process.stdin, flush=True)
            assert process.stdout is not None
            assert "done\n" in iter(process.stdout.readline, "")  # behind lines of the log

        turn("tight")
        answers = [ask_and_stay(port, stack) for _ in range(20)]  # the first may get a stack that was used
        assert answers[-1] == b""
        turn("loose")
        assert get(port, "/").body == b"well"
