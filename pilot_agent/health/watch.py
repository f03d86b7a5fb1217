"""Looks at an Envoy that has earned readiness: does it still serve? Asked again at most once a second.

What was seen is kept, so that any number of probes costs Envoy one question a second, and a question
that takes its time makes nobody wait but the one who asks it.
"""

import datetime as dt
import errno
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from pilot_agent.health import readiness
from pilot_agent.health.admin import NoAnswerError, stats
from pilot_agent.health.generations import Generation
from pilot_agent.health.listeners import ACTIVE_FILTER, Listeners
from pilot_agent.http import HttpError, fetch
from pilot_agent.unreadable import UNREADABLE

FRESH_S: Final = 1.0
_ASK_S: Final = 1.0
_CONNECT_S: Final = 0.5
_CERTS_LIMIT_BYTES: Final = 16 << 20
_STOPPED: Final = (b"T", b"t")
_ENDED: Final = (b"Z", b"X")

Process = Literal["runs", "stopped", "gone"]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The last look at one generation; times are monotonic seconds."""

    at_s: float
    refusal: str = ""
    silent_since_s: float | None = None  # when the first of the questions without an answer was asked
    listens: bool | None = None  # its readiness listener does; None: could not be told
    configured: bool | None = None  # it has listeners of istiod's; None: could not be told
    expired_s: float = 0.0  # for how long a certificate that Envoy uses has been expired


class Watch:
    """The last look at each generation; thread-safe."""

    def __init__(self, host: str, *, ready_port: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`host` is the loopback address of Envoy's ports, `ready_port` its own readiness listener."""
        self._host, self._ready_port, self._clock = host, ready_port, clock
        self._listeners = Listeners(host, _ASK_S)
        self._seen: dict[int, Seen] = {}
        self._looking = threading.Lock()

    def seen(self, generation: Generation, *, certificate_expired: bool) -> Seen:
        """Return a look that is at most a second old, or the last one while a newer one is under way."""
        last = self._seen.get(generation.generation)
        if last is not None and self._clock() - last.at_s < FRESH_S:
            return last
        if not self._looking.acquire(blocking=last is None):
            assert last is not None
            return last
        try:
            again = self._seen.get(generation.generation)
            if again is not None and self._clock() - again.at_s < FRESH_S:
                return again
            found = self._look(generation, last, certificate_expired=certificate_expired)
            self._seen[generation.generation] = found  # one small record for each Envoy there ever was
            return found
        finally:
            self._looking.release()

    def _look(self, generation: Generation, last: Seen | None, *, certificate_expired: bool) -> Seen:
        now_s = self._clock()
        try:
            asked = readiness.LIVE_FILTER + readiness.EPOCH_FILTER + ACTIVE_FILTER
            answer = stats(self._host, generation, asked, _ASK_S)
            if readiness.epoch_refusal(answer, generation.epoch) is not None:
                return Seen(at_s=self._clock())  # a newer epoch has the port: this one cannot be asked
            refusal = _refusal(answer)
            configured = self._listeners.has_dynamic(
                answer, generation=generation.generation, admin_port=generation.admin_port
            )
        except (NoAnswerError, readiness.StatsError):
            since_s = now_s if last is None or last.silent_since_s is None else last.silent_since_s
            return Seen(at_s=self._clock(), silent_since_s=since_s)
        return Seen(
            at_s=self._clock(),
            refusal=refusal,
            listens=self._listens(),
            configured=configured,
            expired_s=self._expired_s(generation) if certificate_expired else 0.0,
        )

    def _listens(self) -> bool | None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_CONNECT_S)
            try:
                sock.connect((self._host, self._ready_port))
            except ConnectionRefusedError:
                return False
            except OSError as error:
                return False if error.errno == errno.ECONNREFUSED else None
            return True

    def _expired_s(self, generation: Generation) -> float:
        try:
            answer = fetch(
                self._host,
                generation.admin_port,
                "GET",
                "/certs",
                timeout_s=_ASK_S,
                limit_bytes=_CERTS_LIMIT_BYTES,
            )
            return expired_s(answer.body, time.time())
        except (HttpError, *UNREADABLE):
            return 0.0


def _refusal(answer: str) -> str:
    """Return what Envoy says against itself.

    Raises:
        NoAnswerError: it says nothing at all, which speaks neither for nor against it.
    """
    if any(readiness.stat(answer, name) is None for name in readiness.LIVE_STATS):
        raise NoAnswerError("no such stats")
    return readiness.live_refusal(answer) or ""


class _Name(msgspec.Struct):
    uri: str = ""


class _Certificate(msgspec.Struct):
    subject_alt_names: list[_Name] = msgspec.field(default_factory=list)
    expiration_time: str = ""


class _Entry(msgspec.Struct):
    cert_chain: list[_Certificate] = msgspec.field(default_factory=list)


class _Certs(msgspec.Struct):
    certificates: list[_Entry] = msgspec.field(default_factory=list)


def expired_s(certs: bytes, now_unix_s: float) -> float:
    """Return for how long a workload certificate (one with a SPIFFE ID) that Envoy uses has been expired.

    0.0 when there is none. `certs` is the answer of Envoy's `/certs`.

    Raises:
        msgspec.MsgspecError: it is no such answer.
    """
    ends = [
        _unix_s(certificate.expiration_time)
        for entry in msgspec.json.decode(certs, type=_Certs).certificates
        for certificate in entry.cert_chain
        if any(name.uri.startswith("spiffe://") for name in certificate.subject_alt_names)
    ]
    return max((now_unix_s - end_s for end_s in ends if end_s <= now_unix_s), default=0.0)


def process_state(pid: int) -> Process:
    """Return what the kernel says of the process; one that is not known (pid 0) runs."""
    if pid <= 0:
        return "runs"
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"
    if state in _STOPPED:
        return "stopped"
    return "gone" if state in _ENDED else "runs"


def _unix_s(text: str) -> float:
    return msgspec.convert(text, dt.datetime).timestamp()
