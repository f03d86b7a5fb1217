"""A status server on a free port, with whatever handler or pages a test gives it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pilot_agent.status.connection import Limits
from pilot_agent.status.messages import Answer, Request
from pilot_agent.status.server import StatusServer

Start = Callable[..., "Served"]


class Served:
    def __init__(self, handler: Callable[[Request], Answer], **options: object) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.server = StatusServer(self.listener, handler, **options)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.server.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a test did it already
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.server.close()
        self.listener.close()
        assert not self.thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Start]:
    started: list[Served] = []

    def start(handler: Callable[[Request], Answer], **options: object) -> Served:
        started.append(Served(handler, **options))
        return started[-1]

    yield start
    for served in started:
        served.close()


@pytest.fixture
def impatient() -> Limits:
    return Limits(head_bytes=2048, head_s=0.3, body_bytes=1000, send_s=0.3, linger_s=0.2)
