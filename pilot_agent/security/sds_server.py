"""The SDS gRPC server on a Unix socket: a thread for each stream, one for each connection."""

import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pilot_agent.log import get_logger
from pilot_agent.rpc import Call, CallEnded, Code, Method, Requests, Resumption, Server, iterating
from pilot_agent.security.sds_session import DELTA, SOTW, Serving, Session, StreamFailedError, Variant
from pilot_agent.security.secret_store import WaitEndedError

SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
STREAM_LIMIT: Final = 1000
"""Calls at once; the next is answered RESOURCE_EXHAUSTED: none waits in silence."""
_REQUEST_LIMIT_BYTES: Final = 4 << 20  # gRPC's own default

_log = get_logger("ads")


class SdsServer:
    """Serves what is in the store of `serving`; whoever makes it calls `quit`."""

    def __init__(
        self,
        serving: Serving,
        *,
        hand_down: Callable[[tuple[int, ...]], None] | None = None,
        stream_limit: int = STREAM_LIMIT,
    ) -> None:
        """`hand_down` gets a successor's descriptors again whenever the socket had to be made again."""
        self._serving = serving
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sessions: set[Session] = set()
        methods: dict[str, Method] = {
            "StreamSecrets": partial(self._stream, SOTW),
            "DeltaSecrets": partial(self._stream, DELTA),
            "FetchSecrets": iterating(self._fetch),
        }
        resumptions: dict[str, Resumption] = {
            "StreamSecrets": partial(self._stream, SOTW),
            "DeltaSecrets": partial(self._stream, DELTA),
        }
        self._server = Server(
            {f"/{SERVICE}/{name}": method for name, method in methods.items()},
            name="sds",
            calls_limit=stream_limit,
            message_limit_bytes=_REQUEST_LIMIT_BYTES,
            resumptions={f"/{SERVICE}/{name}": resume for name, resume in resumptions.items()},
        )
        if hand_down is not None:
            self._server.when_made_again(hand_down)

    def serve(
        self, path: str, inherited: tuple[int, ...] = (), left: tuple[bytes, tuple[int, ...]] = (b"", ())
    ) -> tuple[int, ...]:
        """Listen on `path`, or on what a predecessor handed down, and begin to answer.

        `left` are the connections that it has left (see `keep`).

        Returns:
            The descriptors to hand down to a successor.

        Raises:
            SocketError: the socket cannot be bound; this server is of no use then.
        """
        self._server.listen(path, inherited)
        body, descriptors = left
        if body and (taken := self._server.resume(body, descriptors)):
            _log.debug(f"ADS: connections taken over: {taken}")
        self._server.start()
        return self._server.heirlooms()

    def keep(self, patience_s: float) -> tuple[bytes, list[int]]:
        """Stop, and return the connections with their streams for a successor (see `Server.keep`)."""
        return self._server.keep(patience_s)

    def push(self, material: str) -> None:
        """Send new material to every stream that has subscribed to it; does not block."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.changed(material)

    def streams(self) -> int:
        """Return how many streams are open."""
        with self._lock:
            return len(self._sessions)

    def quit(self, grace_s: float) -> None:
        """End all streams, with OK within the grace; take the socket away unless it is a successor's."""
        with self._changed:
            for session in self._sessions:
                session.end()
            self._changed.wait_for(lambda: not self._sessions, grace_s)
        self._server.quit()

    def _stream(self, variant: Variant, call: Call, kept: bytes | None = None) -> "_SdsCall":
        session = Session(next(self._numbers), self._serving, variant, kept)
        if kept is not None:  # what is newer than what was served
            for material in self._serving.store.all():
                session.changed(material.name)
        with self._lock:
            self._sessions.add(session)
        try:
            return _SdsCall(call, session, self._forget)
        except RuntimeError:  # no more threads
            self._forget(session)
            raise

    def _fetch(self, requests: Requests) -> Iterator[bytes]:
        session = Session(next(self._numbers), self._serving)
        requests.when_cancelled(session.end)
        for request in requests:
            try:
                yield session.fetch(request)
            except WaitEndedError:
                raise CallEnded(Code.CANCELLED, "the caller is gone, or the agent ends") from None
            except StreamFailedError as failure:
                raise CallEnded(failure.code, failure.text) from failure
            return

    def _forget(self, session: Session) -> None:
        with self._changed:
            self._sessions.discard(session)
            self._changed.notify()


class _SdsCall:
    """One stream: the connection's thread puts requests into the session, one of its own answers."""

    def __init__(self, call: Call, session: Session, forget: Callable[[Session], None]) -> None:
        self._call, self._session, self._forget = call, session, forget
        threading.Thread(target=self._respond, name=f"sds-{session.number}", daemon=True).start()

    def message(self, body: bytes) -> None:
        self._session.asked(body)

    def half_closed(self) -> None:
        self._session.no_more()

    def cancelled(self) -> None:
        self._session.end()

    def keep(self) -> bytes | None:
        return self._session.keep()

    def _respond(self) -> None:
        try:
            for body in self._session.responses(self._call.turn):
                if not self._call.send(body):
                    break
            self._finish()
        except WaitEndedError:
            self._finish()
        except StreamFailedError as failure:
            _log.warn(f"ADS: stream {self._session.number} failed: {failure.text}")
            self._finish(failure.code, failure.text)
        finally:
            self._forget(self._session)
            _log.info(f'ADS: "" {self._session.number} terminated')

    def _finish(self, code: Code = Code.OK, details: str = "") -> None:
        with self._call.turn:
            self._call.finish(code, details)
