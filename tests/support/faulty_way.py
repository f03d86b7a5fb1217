"""A TCP way to a server that fails as networks do: refusing, hung, half-open, slow, sending garbage."""

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Literal, Self

Mood = Literal["good", "refusing", "hung", "garbage", "slow"]
"""What becomes of a new connection; `hung`: it is accepted and nothing is ever answered."""

_SLOW_PIECE: Final = 1400
_SLOW_PAUSE_S: Final = 0.02  # about 70 kB a second and way
_NOW: Final = struct.pack("ii", 1, 0)  # SO_LINGER: the end is a reset


class FaultyWay:
    """Listens on `port` of loopback and passes everything on to `target`; faults are switched at any time."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target, self._port = target, port
        self._mood: Mood = "good"
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._pairs: set[_Pair] = set()
        self._ending = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._close_listener()
        self.cut()

    @contextmanager
    def being(self, mood: Mood, *, cut: bool = True) -> Iterator[None]:
        """Treat new connections so; `cut`: those that stand are reset, too. Good again afterwards."""
        self._mood = mood
        if mood == "refusing":
            self._close_listener()
        if cut:
            self.cut()
        try:
            yield
        finally:
            self._mood = "good"
            self.cut()
            if mood == "refusing":
                self._listen()

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """Let nothing more come through the connections that stand, and end none; new ones are good."""
        with self._lock:
            standing = tuple(self._pairs)
        for pair in standing:
            pair.frozen.set()
        yield  # they stay dead: who does not find out waits for ever

    def cut(self) -> None:
        """Reset every connection that stands."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.reset()

    def _listen(self) -> None:
        deadline_s = time.monotonic() + 5
        while True:
            try:
                listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
                break
            except OSError:  # an outgoing connection has the port for a moment
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._ending:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self._mood), daemon=True).start()

    def _serve(self, client: socket.socket, mood: Mood) -> None:
        if mood == "garbage":
            with client, contextlib.suppress(OSError):
                client.sendall(random.randbytes(500))
            return
        if mood == "hung":
            pair = _Pair(client, client.dup(), slow=False)
            pair.frozen.set()
        else:
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
                client.close()
                return
            pair = _Pair(client, server, slow=mood == "slow")
        with self._lock:
            self._pairs.add(pair)
        pair.run()
        with self._lock:
            self._pairs.discard(pair)


class _Pair:
    """Two connections, and what comes on one goes out on the other; `frozen`: no more."""

    def __init__(self, client: socket.socket, server: socket.socket, *, slow: bool) -> None:
        self.frozen = threading.Event()
        self._ends, self._slow = (client, server), slow
        self._over = threading.Event()
        for end in self._ends:
            end.settimeout(30)

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for here, there in (self._ends, self._ends[::-1]):
                selector.register(here, selectors.EVENT_READ, there)
            while not self._over.is_set() and self._turn(selector):
                pass
        for end in self._ends:
            end.close()

    def reset(self) -> None:
        self._over.set()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
                end.shutdown(socket.SHUT_RDWR)

    def _turn(self, selector: selectors.BaseSelector) -> bool:
        if self.frozen.is_set():
            self._over.wait(0.2)
            return True
        for key, _ in selector.select(0.2):
            here, there = key.fileobj, key.data
            assert isinstance(here, socket.socket)
            try:
                data = here.recv(_SLOW_PIECE if self._slow else 1 << 18)
                if self.frozen.is_set():
                    return True
                if data:
                    there.sendall(data)
            except OSError:
                return False
            if not data:
                return False
            if self._slow:
                self._over.wait(_SLOW_PAUSE_S)
        return True
