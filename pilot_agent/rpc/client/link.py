"""A connection's bytes, plain or under TLS: one thread receives, any thread sends.

OpenSSL's objects allow one thread at a time, and a reader waits for long: so it waits at the socket, and
holds the lock for as long as it deciphers what came. What is to be sent is enciphered under the lock too,
and sent by whoever comes first: nobody waits for somebody who waits for the network.
"""

import mmap
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl

_RECEIVE_BYTES: Final = 256 * 1024
_RECORD_BYTES: Final = 16 * 1024
_TIMEOUT: Final = struct.Struct("@ll")


class Link:
    """A plain one. Errors of the network are OSErrors; TimeoutError when nothing comes."""

    def __init__(self, sock: socket.socket) -> None:
        """Own the connected socket."""
        self._socket = sock
        self._lock = threading.Lock()  # guards what is to be sent
        self._sending = threading.Lock()  # held by who sends
        self._closing = threading.Lock()  # never held while something waits
        self._waiting = bytearray()
        # One for all: a new object of this size each time is three calls of the kernel more.
        # What is not used of it costs no memory.
        self._received = memoryview(mmap.mmap(-1, _RECEIVE_BYTES))
        sock.settimeout(None)

    def fileno(self) -> int:
        """Return the descriptor, for waiting until something comes; -1 when closed."""
        return self._socket.fileno()

    def be_patient(self, seconds: float) -> None:
        """Have `receive` raise TimeoutError when nothing comes for so long."""
        whole = int(seconds)
        timeout = _TIMEOUT.pack(whole, int((seconds - whole) * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    def receive(self) -> bytes:
        """Return some bytes, waiting for them; none at the end."""
        return bytes(self._receive())

    def _receive(self) -> memoryview:
        """Return what has come, waiting for it; valid until the next time."""
        try:
            return self._received[: self._socket.recv_into(self._received)]
        except BlockingIOError as error:
            raise TimeoutError("nothing came") from error

    def send(self, data: bytes) -> None:
        """Send this behind what was sent before. It may still be under way when this returns."""
        with self._lock:
            self._seal(data)
            is_mine = self._sending.acquire(blocking=False)
            sealed = self._sealed() if is_mine else b""
        if is_mine:  # else who sends sends ours as well
            try:
                self._socket.sendall(sealed, socket.MSG_NOSIGNAL)
            finally:
                self._sending.release()
        self._flush()

    def say_last(self, data: bytes) -> None:
        """Send this if that takes no time, and end the connection; from any thread, more than once."""
        with suppress(OSError), self._lock:
            self._seal(data)
            if self._sending.acquire(blocking=False):
                try:
                    self._socket.send(self._sealed(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                finally:
                    self._sending.release()
        with self._closing, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, after `say_last`, when nobody uses the link any more."""
        with self._sending, self._closing:
            self._socket.close()

    def _flush(self) -> None:
        while self._is_waiting():  # again, if somebody came when we had just found nothing more
            if not self._sending.acquire(blocking=False):
                return  # who holds it sends ours as well
            try:
                while data := self._next_sealed():
                    self._socket.sendall(data, socket.MSG_NOSIGNAL)
            finally:
                self._sending.release()

    def _next_sealed(self) -> bytes:
        with self._lock:
            return self._sealed()

    def _is_waiting(self) -> bool:
        return bool(self._waiting)

    def _seal(self, data: bytes) -> None:
        """Put this behind what waits to be sent; the lock is held."""
        self._waiting += data

    def _sealed(self) -> bytes:
        """Take what waits to be sent; the lock is held."""
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


class TlsLink(Link):
    """One under TLS. `handshake` comes first."""

    def __init__(self, sock: socket.socket, context: "ssl.SSLContext", server_name: str) -> None:
        import ssl  # noqa: PLC0415  # 2 MB, for processes that speak TLS

        super().__init__(sock)
        self._wants_more = ssl.SSLWantReadError
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def handshake(self) -> "ssl.SSLObject":
        """Agree with the peer, and return what tells on what.

        Raises:
            OSError: (also ssl.SSLError) one of the two does not want the other, or the peer is gone.
        """
        while True:
            try:
                self._tls.do_handshake()
            except self._wants_more:
                self._flush()
                self._feed(self._receive())
            else:
                self._flush()
                return self._tls
            finally:
                if self._is_waiting():  # an alert, which tells the peer why
                    with suppress(OSError):
                        self._flush()

    def receive(self) -> bytes:
        while True:
            data = self._receive()
            with self._lock:
                self._feed(data)
                found = self._opened()
            self._flush()  # TLS may have had something to answer
            if found or not data:
                return found

    def _feed(self, data: memoryview) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _opened(self) -> bytes:
        """Return all that can be deciphered now."""
        parts: list[bytes] = []
        with suppress(self._wants_more):
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(_RECORD_BYTES)
                if not part:
                    break
                parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _is_waiting(self) -> bool:
        return self._outgoing.pending > 0

    def _seal(self, data: bytes) -> None:
        self._tls.write(data)

    def _sealed(self) -> bytes:
        return self._outgoing.read()
