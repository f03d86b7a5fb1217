"""Answers `/app-health/…` and `/app-lifecycle/…`: asks the application and tells its caller."""

import time
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from pilot_agent.http import Dialing, HttpError, as_url_error
from pilot_agent.http.dial import Deadline, connect
from pilot_agent.http.errors import authority
from pilot_agent.http.target import request_target
from pilot_agent.log import get_logger
from pilot_agent.status.app import grpc, http
from pilot_agent.status.app.answers import FAILED, PASSED, passed_on
from pilot_agent.status.app.configuration import AppProber
from pilot_agent.status.app.kept import Kept
from pilot_agent.status.document import ProbeRow
from pilot_agent.status.messages import TEXT, Answer, Request, printable
from pilot_agent.status.turns import Turns

_LONGEST_S: Final = 60.0
"""Where no `timeoutSeconds` is given. The reference then waits for ever; the kubelet gives up long before."""

_AT_ONCE: Final = 16
"""Probes of one path that may be under way: a target that never answers must not eat the threads."""

_LINGER_S: Final = 1
_log = get_logger("probes")
_default_log = get_logger()


class AppProbeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes need to know beside the probers."""

    probers: Mapping[str, AppProber] = msgspec.field(default_factory=dict)
    host: str = "localhost"  # where all of them go, whatever host they name
    source_address: str = "127.0.0.6"  # what the traffic redirection lets pass
    http2: bool = True
    keep_alive: bool = False  # connections to the application are used again
    status_port: int = 15020


class AppProbes:
    """Thread-safe; each probe runs on its caller's thread."""

    def __init__(self, options: AppProbeOptions) -> None:
        self._options = options
        self._results: dict[str, tuple[int, float]] = {}  # path → status, seconds since the epoch
        self._kept = Kept() if options.keep_alive else None
        self._slots = {path: Turns(_AT_ONCE) for path in options.probers}

    def answer(self, request: Request) -> Answer:
        prober = self._options.probers.get(request.path)
        if prober is None:
            _default_log.error(f"Prober does not exists url {printable(request.path)}")
            body = f"app prober config does not exists for {request.path}"
            return Answer(status=400, content_type=TEXT, body=body.encode())
        slots = self._slots[request.path]
        if not slots.acquire(prober.timeout_s or _LONGEST_S):
            _log.error(f"{_AT_ONCE} probes of {request.path} are under way, one more got no turn")
            return FAILED
        try:
            answer = self._probed(prober, request)
        finally:
            slots.release()
        self._results[request.path] = answer.status, time.time()
        return answer

    def close(self) -> None:
        """Close the connections that were kept."""
        if self._kept is not None:
            self._kept.close()

    def rows(self) -> tuple[ProbeRow, ...]:
        """Return the probes, and what their callers were told last."""
        found = ((path, prober, self._results.get(path, (0, 0.0))) for path, prober in self._items())
        return tuple(
            ProbeRow(path=path, kind=prober.kind, port=prober.port, last_status=status, last_unix_s=at)
            for path, prober, (status, at) in found
        )

    def _items(self) -> Iterable[tuple[str, AppProber]]:
        return sorted(self._options.probers.items())

    def _probed(self, prober: AppProber, request: Request) -> Answer:
        match prober.kind:
            case "http":
                return self._http(prober, request)
            case "tcp":
                return self._tcp(prober)
            case "grpc":
                return self._grpc(prober, request)

    def _http(self, prober: AppProber, request: Request) -> Answer:
        options = self._options
        target = http.Target(
            host=options.host, port=prober.port, path=request_target(prober.path), tls=prober.tls
        )
        call = http.Call(
            headers=request.headers,
            source_address=options.source_address,
            http2=options.http2,
            kept=self._kept,
            deadline=Deadline(prober.timeout_s or _LONGEST_S),
        )
        asked_for = request.header("host") or authority(options.host, prober.port)
        host = host_header(asked_for, options.status_port, prober.port)
        try:
            return passed_on(*http.probe(target, host, call))
        except HttpError as error:
            reason = as_url_error("GET", target.url, error)
            _log.error(
                f"Request to probe app failed: {reason}, original URL path = {request.path}\n"
                f"app URL path = {prober.path}"
            )
            return FAILED

    def _tcp(self, prober: AppProber) -> Answer:
        dialing = Dialing(source_address=self._options.source_address, linger_s=_LINGER_S)
        deadline = Deadline(prober.timeout_s or _LONGEST_S)
        try:
            connect(self._options.host, prober.port, deadline, dialing).close()
        except HttpError:
            return FAILED
        return PASSED

    def _grpc(self, prober: AppProber, request: Request) -> Answer:
        problem = grpc.probe(
            self._options.host,
            prober.port,
            prober.service,
            user_agent=request.header("user-agent") or "",
            source_address=self._options.source_address,
            timeout_s=prober.timeout_s,
        )
        if problem:
            _log.error(problem)
        return FAILED if problem else PASSED


def host_header(incoming: str, status_port: int, app_port: int) -> str:
    """Return the Host that the application sees: the caller's, with its own port for the status port."""
    host, colon, port = incoming.rpartition(":")
    return f"{host}:{app_port}" if colon and port == str(status_port) else incoming
