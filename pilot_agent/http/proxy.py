"""Connects directly, or through the HTTP proxy that the environment names.

Source: Go's httpproxy and gRPC's proxy dialer: a gRPC target counts as an `https` URL.
"""

import base64
import ipaddress
import socket
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from pilot_agent.http.dial import Deadline, Dialing, Resolved, connect, resolved
from pilot_agent.http.errors import ConnectError, HttpError, HttpTimeoutError, authority

_LARGEST_ANSWER_BYTES: Final = 16 * 1024
_DEFAULT_PORT: Final = 80


def dial(host: str, port: int, deadline: Deadline, environment: Mapping[str, str]) -> socket.socket:
    """Return a connected socket; each address of a name gets its share of the time.

    Raises:
        HttpError: there is no connection.
        OSError: the proxy broke off.
    """
    through = proxy_for(host, port, environment)
    if through is None:
        return _first_of(host, port, deadline)
    sock = _first_of(*address_of(through), deadline)
    try:
        open_tunnel(sock, host, port, through, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> SplitResult | None:
    """Return the URL of the proxy for a TLS or gRPC connection to `host`, None for a direct one.

    Raises:
        ConnectError: `HTTPS_PROXY` names none that can be used.
    """
    value = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
    if not value or _is_direct(host.strip("[]"), port, environment):
        return None
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        is_usable = url.scheme == "http" and url.hostname is not None and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConnectError("HTTPS_PROXY names no proxy that can be used: expected http://host:port")
    return url


def address_of(proxy: SplitResult) -> tuple[str, int]:
    """Return host and port of a proxy."""
    return proxy.hostname or "", proxy.port or _DEFAULT_PORT


def open_tunnel(sock: socket.socket, host: str, port: int, proxy: SplitResult, deadline: Deadline) -> None:
    """Ask the proxy at the other end of `sock` for a connection to `host`.

    Raises:
        ConnectError: it says no.
        OSError, HttpTimeoutError: it does not answer.
    """
    target = authority(host, port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: pilot-agent"]
    if proxy.username is not None:
        account = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(account.encode()).decode()}")
    sock.settimeout(deadline.remaining_s())
    sock.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the peer's
        sock.settimeout(deadline.remaining_s())
        byte = sock.recv(1)
        answer += byte
        if not byte or len(answer) > _LARGEST_ANSWER_BYTES:
            raise ConnectError(f"proxy {authority(*address_of(proxy))} gave no answer to CONNECT")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise ConnectError(f"proxy {authority(*address_of(proxy))} refuses CONNECT to {target}: {status!r}")


def _first_of(host: str, port: int, deadline: Deadline) -> socket.socket:
    found: list[Resolved] = resolved(host.strip("[]"), port)
    first: HttpError | None = None
    for number, each in enumerate(found):
        share = Deadline(deadline.left_s() / (len(found) - number))
        dialing = Dialing(resolve=partial(_only, each))
        try:
            return connect(host, port, share, dialing)
        except (ConnectError, HttpTimeoutError) as error:
            first = first or error
    raise first or ConnectError(f"dial tcp: lookup {host}: no such host")


def _only(each: Resolved, _host: str, _port: int) -> list[Resolved]:
    return [each]


def _is_direct(host: str, port: int, environment: Mapping[str, str]) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    rules = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    return any(_fits(rule.strip().lower(), host.lower(), port, address) for rule in rules.split(","))


def _fits(
    rule: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> bool:
    if rule in ("", "*"):
        return rule == "*"
    if address is not None and "/" in rule:
        try:
            return address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, wanted = rule.rpartition(":")
    if colon and wanted.isdecimal() and (":" not in name or name.endswith("]")):
        if int(wanted) != port:
            return False
        rule = name
    rule = rule.strip("[]")
    if address is not None:
        return _address(rule) == address
    suffix = rule.removeprefix("*")
    return host.endswith(suffix) if suffix.startswith(".") else host == suffix or host.endswith(f".{suffix}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
