"""One client's connection: requests one after the other, with a limit on everything a client may send."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

import h11
import msgspec

from pilot_agent.log import get_logger
from pilot_agent.status.compression import MIN_BYTES, chosen, compressed, is_packed
from pilot_agent.status.messages import Answer, Request, printable

_RECEIVE_BYTES: Final = 16_384
BUSY: Final = 4
OUR_TURN: Final = 5
"""The first part of `rank`: of who is being served, and of whom no thread has come to yet."""

_SLOW_S: Final = 0.1  # for a first request
_LONG_S: Final = 1.0  # for an answer
_SEND_BYTES: Final = 65_536
_log = get_logger()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take. The defaults are far above what any prober or scraper needs."""

    head_bytes: int = 32_768
    head_s: float = 10.0  # from the first byte of a request to the end of its head, and again for its body
    body_bytes: int = 65_536
    send_s: float = 30.0  # for 64 KiB of an answer to be taken
    pipelined_pause_s: float = 0.05  # before a request that did not wait for the answer to the one before
    linger_s: float = 0.5  # after a refusal, so that the client reads it before the reset


class _GoneError(Exception):
    """The client closed, or was too slow; there is nobody to answer."""


class Connection:
    """Serves one socket until it ends; `rank` tells whom to part with first."""

    def __init__(
        self, sock: socket.socket, peer: str, handler: Callable[[Request], Answer], limits: Limits
    ) -> None:
        self._sock, self._peer, self._handler, self._limits = sock, peer, handler, limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._deadline_s: float | None = None  # of what is being received
        self._last_used_s = time.monotonic()
        self._asked_since_s = 0.0  # when the first request was waited for first; 0.0: not yet
        self._is_waiting = False  # for the client; otherwise it is our turn
        self._busy = self._has_served = self._is_held_back = False
        self._has_sent = False  # something of the answer

    def rank(self) -> tuple[int, float]:
        """Return how much this client is wanted, the least first, and since when.

        First goes who is idle between two requests, then who is slow to send one, then who is being
        served for long. New ones stay longest: a prober's request takes milliseconds, and would never be
        served while others keep all threads busy. Nobody is idle or slow whose bytes lie here unread, or
        whom no thread has listened to yet: on a machine without time to spare that is our own slowness.
        """
        now_s = time.monotonic()
        if self._is_held_back:
            kind = 0
        elif self._busy:
            kind = 2 if now_s - self._last_used_s >= _LONG_S else BUSY
        elif not self._is_waiting or _has_unread(self._sock):
            kind = OUR_TURN
        elif self._has_served:
            kind = 0
        else:
            kind = 1 if now_s - self._asked_since_s >= _SLOW_S else 3
        return kind, self._last_used_s

    def serve(self) -> None:
        """Answer requests until the client or a limit ends it; closes the socket."""
        try:
            self._deadline_s = time.monotonic() + self._limits.head_s
            while self._serve_one():
                self._protocol.start_next_cycle()
                self._last_used_s, self._has_served = time.monotonic(), True
                self._deadline_s = None  # an idle connection may stay: Envoy and probers keep theirs
                if self._protocol.trailing_data[0]:
                    self._is_held_back = True
                    time.sleep(self._limits.pipelined_pause_s)
                    self._is_held_back = False
        except _GoneError:
            pass
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)
        except OSError:
            pass  # the client is gone in the middle of something
        finally:
            self._sock.close()

    def end(self) -> None:
        """Make `serve` return; may be called from any thread."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself

    def _serve_one(self) -> bool:
        request = self._request()
        if request is None:
            return False
        self._busy, self._last_used_s = True, time.monotonic()
        try:
            reply = self._handled(request)
            try:
                self._send(request, reply)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  # as above: a page that is no answer, or breaks
                _log.error(f"status server: {request.method} {printable(request.path)}: {error}")
                if not self._has_sent:
                    self._refuse(500)
                return False
            finally:
                if reply.afterwards is not None:
                    reply.afterwards()
        finally:
            self._busy = False
        return self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE

    def _handled(self, request: Request) -> Answer:
        try:
            return self._handler(request)
        except Exception as error:  # noqa: BLE001  # one request must not end the server that all probes need
            _log.error(f"status server: {request.method} {printable(request.path)}: {error!r}")
            return Answer(status=500)

    def _request(self) -> Request | None:
        head = self._event()
        if not isinstance(head, h11.Request):
            return None
        if head.method == b"CONNECT":  # a 200 would make a tunnel of the connection
            raise h11.RemoteProtocolError("CONNECT", error_status_hint=405)
        if self._protocol.they_are_waiting_for_100_continue:
            interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._sock.sendall(self._protocol.send(interim) or b"")
        self._deadline_s = time.monotonic() + self._limits.head_s
        size = 0
        while isinstance(event := self._event(), h11.Data):
            size += len(event.data)
            if size > self._limits.body_bytes:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
        target, _, query = head.target.decode("ascii").partition("?")
        if not target.startswith("/") and "://" in target:  # the form that proxies are asked in
            target = "/" + target.partition("://")[2].partition("/")[2]
        if not target.startswith("/"):
            raise h11.RemoteProtocolError(f"target {target!r}", error_status_hint=400)
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(target),
            query=query,
            headers=headers,
            peer=self._peer,
        )

    def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event) or event is h11.PAUSED
                return event
            if self._deadline_s is None and self._protocol.trailing_data[0]:
                self._deadline_s = time.monotonic() + self._limits.head_s
            data = self._received()
            if self._deadline_s is None:
                self._deadline_s = time.monotonic() + self._limits.head_s
            self._protocol.receive_data(data)

    def _received(self) -> bytes:
        left_s = None if self._deadline_s is None else self._deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise _GoneError
        self._asked_since_s = self._asked_since_s or time.monotonic()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        self._is_waiting = True
        came = poll.poll(None if left_s is None else left_s * 1000)
        self._is_waiting = False  # before the bytes are read, so that they are always seen somewhere
        if not came:
            raise _GoneError
        return self._sock.recv(_RECEIVE_BYTES)

    def _send(self, request: Request, reply: Answer) -> None:
        """Raises: h11.LocalProtocolError: the answer is none of HTTP."""
        self._has_sent = False
        body, extra = _encoded(request, reply)
        try:
            self._send_parts(request, reply, body, extra)
        finally:
            for part in (body, reply.body):  # the latter where nothing was read of it
                close = getattr(part, "close", None)
                if close is not None:
                    close()

    def _send_parts(
        self, request: Request, reply: Answer, body: bytes | Iterator[bytes], extra: list[tuple[str, str]]
    ) -> None:
        headers = [("Content-Type", reply.content_type)] if reply.content_type else []
        headers += [*reply.headers, *extra, ("Vary", "Accept-Encoding"), ("Date", _http_date())]
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
            body = iter((body,) if body else ())
        head = h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status))
        pending = self._protocol.send(head) or b""
        for chunk in body if request.method != "HEAD" else ():
            pending += self._protocol.send(h11.Data(data=chunk)) or b""
            if len(pending) >= _SEND_BYTES:
                self._send_all(pending)
                pending = b""
        self._send_all(pending + (self._protocol.send(h11.EndOfMessage()) or b""))

    def _send_all(self, data: bytes) -> None:
        self._has_sent = True
        view = memoryview(data)
        for at in range(0, len(view), _SEND_BYTES):
            self._sock.settimeout(self._limits.send_s)
            self._sock.sendall(view[at : at + _SEND_BYTES])

    def _refuse(self, status: int) -> None:
        """Answer what is no request, and give the client the time to read it."""
        if self._protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE, h11.ERROR):
            return
        reason = _reason(status).decode()
        body = f"{status} {reason}"
        head = (
            f"HTTP/1.1 {body}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            self._sock.settimeout(self._limits.linger_s)
            self._sock.sendall((head + body).encode())
            self._sock.shutdown(socket.SHUT_WR)
            deadline_s = time.monotonic() + self._limits.linger_s
            while time.monotonic() < deadline_s and self._sock.recv(_RECEIVE_BYTES):
                pass
        except OSError:
            return


def _has_unread(sock: socket.socket) -> bool:
    """Return whether something of the client's, its end perhaps, was not read yet."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # closed at this moment
        return False


def _encoded(request: Request, reply: Answer) -> tuple[bytes | Iterator[bytes], list[tuple[str, str]]]:
    """Return the body as it is sent, and the headers that say so."""
    if is_packed(reply.content_type) or (isinstance(reply.body, bytes) and len(reply.body) < MIN_BYTES):
        return reply.body, []
    encoding = None if request.method == "HEAD" else chosen(request.header("accept-encoding"))
    if encoding is None:
        return reply.body, []
    headers: list[tuple[str, str]] = [("Content-Encoding", encoding)]
    if isinstance(reply.body, bytes):
        return b"".join(compressed(iter((reply.body,)), encoding)), headers
    return compressed(reply.body, encoding), headers


def _http_date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())


_REASONS: Final = {
    200: b"OK",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Request Entity Too Large",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}


def _reason(status: int) -> bytes:
    return _REASONS.get(status, b"")
