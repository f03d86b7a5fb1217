"""Istio's bookinfo as six small HTTP servers in one process: productpage, details, ratings, reviews v1 to v3.

productpage and reviews call the others through the sidecar's outbound listener, told apart by Host, as they
would in a pod. Every answer says who gave it (`x-served-by`) and whom the sidecar saw calling (`x-caller`).

    python -m lab.bookinfo --config lab/config/bookinfo.yaml
"""

import argparse
import http.client
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from lab.mesh import BOOKINFO, Address, Mesh, Service, Workload, load_mesh

_PASSED_ON = ("x-request-id", "traceparent", "b3")
_CALL_TIMEOUT_S = 10.0
_STARS = {"Reviewer1": 5, "Reviewer2": 4}
_TEXTS = {
    "Reviewer1": "Slapstick from start to end, and I laughed at every mistaken twin.",
    "Reviewer2": "Short and fun, though deeper plays are to be had.",
}


class CallFailedError(OSError):
    """Another service did not answer 200."""


@dataclass(frozen=True, slots=True)
class Reply:
    body: bytes
    content_type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK


@dataclass(frozen=True, slots=True)
class Call:
    """One request as an application sees it, with the way to the other services."""

    path: str
    headers: Mapping[str, str]
    outbound: Address
    version: str

    def ask(self, service: str, path: str) -> Any:
        """Return another service's JSON.

        Raises:
            CallFailedError: it cannot be reached, or answers anything but 200.
        """
        headers = {"Host": f"{service}:9080", **{k: v for k, v in self.headers.items() if k in _PASSED_ON}}
        connection = http.client.HTTPConnection(
            self.outbound.host, self.outbound.port, timeout=_CALL_TIMEOUT_S
        )
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailedError(f"{service}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise CallFailedError(f"{service}: status {response.status}: {body[:200]!r}")
        return json.loads(body)


Application = Callable[[Call], Reply]


def _json(value: object) -> Reply:
    return Reply(json.dumps(value).encode())


def _not_found(call: Call) -> Reply:
    return Reply(json.dumps({"error": f"no {call.path}"}).encode(), status=HTTPStatus.NOT_FOUND)


def details(call: Call) -> Reply:
    """/details/N: facts about the book."""
    facts = {"author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200}
    return _json({"id": 0, **facts}) if call.path.startswith("/details/") else _not_found(call)


def ratings(call: Call) -> Reply:
    """/ratings/N: stars by reviewer."""
    return _json({"id": 0, "ratings": _STARS}) if call.path.startswith("/ratings/") else _not_found(call)


def reviews(call: Call) -> Reply:
    """/reviews/N: texts; v2 and v3 ask ratings for the stars, in black and in red."""
    if not call.path.startswith("/reviews/"):
        return _not_found(call)
    found: list[dict[str, object]] = [{"reviewer": who, "text": text} for who, text in _TEXTS.items()]
    if call.version != "v1":
        stars = call.ask("ratings", "/ratings/0")["ratings"]
        color = "black" if call.version == "v2" else "red"
        for one in found:
            one["rating"] = {"stars": stars[str(one["reviewer"])], "color": color}
    name = f"reviews-{call.version}"
    return _json({"id": "0", "podname": name, "clustername": "lab", "reviews": found})


def productpage(call: Call) -> Reply:
    """/productpage for a person, /api/v1/products… for a program; both ask the other services."""
    if call.path in ("/", "/productpage"):
        return _page(call.ask("details", "/details/0"), call.ask("reviews", "/reviews/0"))
    if call.path == "/api/v1/products":
        return _json([{"id": 0, "title": "The Comedy of Errors"}])
    if call.path == "/api/v1/products/0":
        return _json(call.ask("details", "/details/0"))
    if call.path == "/api/v1/products/0/reviews":
        return _json(call.ask("reviews", "/reviews/0"))
    if call.path == "/api/v1/products/0/ratings":
        return _json(call.ask("ratings", "/ratings/0"))
    return _not_found(call)


def _page(facts: Mapping[str, object], opinions: Mapping[str, Any]) -> Reply:
    rows = "".join(f"<tr><th>{key}<td>{value}" for key, value in facts.items())
    quotes = "".join(f"<blockquote>{_quote(one)}</blockquote>" for one in opinions["reviews"])
    text = (
        "<!doctype html><title>Simple Bookstore App</title><h1>The Comedy of Errors</h1>"
        f"<table>{rows}</table><h2>Reviews, served by {opinions['podname']}</h2>{quotes}"
    )
    return Reply(text.encode(), "text/html; charset=utf-8")


def _quote(one: Mapping[str, Any]) -> str:
    rating = one.get("rating")
    stars = f"<span style='color:{rating['color']}'>{'★' * rating['stars']}</span> " if rating else ""
    return f"{stars}{one['text']} <em>{one['reviewer']}</em>"


_APPLICATIONS: Mapping[str, Application] = {
    "productpage": productpage,
    "details": details,
    "ratings": ratings,
    "reviews": reviews,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024  # head and body in one packet

    def __init__(
        self, service: Service, workload: Workload, outbound: Address, *rest: Any, **named: Any
    ) -> None:
        self._service, self._workload, self._outbound = service, workload, outbound
        super().__init__(*rest, **named)  # Any: what socketserver passes on

    def do_GET(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        path = self.path.partition("?")[0]
        call = Call(path, headers, self._outbound, self._workload.version)
        self._send(self._reply(call), headers)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: Envoy counts requests better."""

    def _reply(self, call: Call) -> Reply:
        if call.path == "/health":
            return _json({"status": "healthy"})
        try:
            return _APPLICATIONS[self._service.name](call)
        except CallFailedError as error:
            return Reply(json.dumps({"error": str(error)}).encode(), status=HTTPStatus.BAD_GATEWAY)

    def _send(self, reply: Reply, headers: Mapping[str, str]) -> None:
        self.send_response(reply.status)
        self.send_header("content-type", reply.content_type)
        self.send_header("content-length", str(len(reply.body)))
        self.send_header("x-served-by", f"{self._service.name}-{self._workload.version}")
        self.send_header("x-caller", caller_of(headers.get("x-forwarded-client-cert", "")))
        self.end_headers()
        self.wfile.write(reply.body)


def caller_of(client_cert_header: str) -> str:
    """Return the SPIFFE ID in the last hop's client certificate, "none" without mTLS."""
    last = client_cert_header.rpartition(",")[2]
    parts = dict(part.partition("=")[::2] for part in last.split(";"))
    return parts.get("URI", "none")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:  # Any: the base class's
        """Say nothing of a caller that reset its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Bind without asking DNS for our own name, which takes many seconds where nobody answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class Bookinfo:
    """All applications of a mesh, each on its own port.

    Raises (on start):
        OSError: a port is taken; the text names it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._servers: list[_Server] = []

    def start(self) -> Self:
        try:
            for service in self._mesh.services:
                for workload in service.workloads:
                    self._servers.append(self._listen(service, workload))
        except OSError:
            self._close()
            raise
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def quit(self) -> None:
        ending = [threading.Thread(target=server.shutdown) for server in self._servers]
        for thread in ending:  # together: each waits for its server's next look
            thread.start()
        for thread in ending:
            thread.join()
        self._close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quit()

    def _close(self) -> None:
        while self._servers:
            self._servers.pop().server_close()

    def _listen(self, service: Service, workload: Workload) -> _Server:
        address = workload.application
        try:
            return _Server(
                (address.host, address.port), partial(_Handler, service, workload, self._mesh.outbound)
            )
        except OSError as error:
            raise OSError(f"{service.name} {workload.version} cannot listen on {address}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all applications until SIGINT or SIGTERM; prints one line when all listen."""
    parser = argparse.ArgumentParser(prog="python -m lab.bookinfo", description="Bookinfo, all in one.")
    parser.add_argument("--config", type=Path, default=BOOKINFO)
    parser.add_argument("--port-shift", type=int, default=0, help="added to every port of the file")
    options = parser.parse_args(arguments)
    quit_now = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: quit_now.set())
    try:
        with Bookinfo(load_mesh(options.config).with_ports(lambda port: port + options.port_shift)):
            print("bookinfo is up", flush=True)
            quit_now.wait()
    except (OSError, ValueError) as error:
        print(f"lab.bookinfo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
