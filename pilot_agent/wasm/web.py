"""HTTP(S) to places that a configuration names: guarded, verified, bounded."""

import base64
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pilot_agent.http import (
    Deadline,
    Dialing,
    Exchange,
    HttpError,
    RedirectError,
    ResponseTooLargeError,
    open_exchange,
)
from pilot_agent.http.target import redirected
from pilot_agent.wasm.guard import Guard
from pilot_agent.wasm.image_name import without_userinfo
from pilot_agent.wasm.options import WasmOptions

Headers = tuple[tuple[str, str], ...]

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 10
_AGENT: Final = ("User-Agent", "pilot-agent")
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_UNSAFE_IN_A_TARGET: Final = re.compile(r"[^\x21-\x7e]")


class Place(NamedTuple):
    """An http or https URL in its parts."""

    tls: bool
    host: str
    port: int
    target: str
    userinfo: str  # `user:password`, percent-encoding undone; empty: none

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises: RedirectError: it is none."""
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
            userinfo = unquote(parts.netloc.rpartition("@")[0])
        except ValueError as error:
            raise RedirectError(f"parse {without_userinfo(url)!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise RedirectError(f'unsupported protocol scheme "{parts.scheme}" in {without_userinfo(url)!r}')
        tls = parts.scheme == "https"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target = _UNSAFE_IN_A_TARGET.sub(_escaped, target)
        return cls(tls, host, port or (443 if tls else 80), target, userinfo)


class Web:
    """Opens URLs through the guard; `roots_path` is the bundle that certificates are verified with."""

    def __init__(self, guard: Guard, roots_path: str = "") -> None:
        self._guard, self._roots_path = guard, roots_path

    def open(
        self,
        url: str,
        *,
        headers: Headers = (),
        insecure: bool,
        deadline: Deadline,
        form: bytes = b"",
    ) -> Exchange:
        """Return the answer to a GET, redirects followed (ten requests in all); who opened it closes it.

        With a `form` it is a POST, and a redirect is the answer.

        `Authorization` goes to the first host alone. `insecure` verifies no certificate.

        Raises:
            HttpError: no answer; BlockedAddressError where it must not be asked for.
        """
        first = place = Place.of(url)
        for _ in range(_MOST_REDIRECTS):
            sent = headers if _same_host(first, place) else _without_credentials(headers)
            exchange = self._exchange(place, sent, insecure, deadline, form)
            location = exchange.header("location")
            if exchange.status not in _REDIRECTS or not location or form:
                return exchange
            exchange.close()
            url = redirected(url, location)
            place = Place.of(url)
        raise RedirectError(f"stopped after {_MOST_REDIRECTS} redirects")

    def get(
        self,
        url: str,
        *,
        headers: Headers = (),
        insecure: bool,
        deadline: Deadline,
        limit_bytes: int,
        form: bytes = b"",
    ) -> tuple[Exchange, bytes]:
        """Return a whole answer of at most `limit_bytes`.

        Raises:
            HttpError: no answer, or too large a one.
        """
        with self.open(url, headers=headers, insecure=insecure, deadline=deadline, form=form) as exchange:
            return exchange, b"".join(limited(exchange, limit_bytes))

    def _exchange(
        self, place: Place, headers: Headers, insecure: bool, deadline: Deadline, form: bytes
    ) -> Exchange:
        if place.userinfo and not any(name.lower() == "authorization" for name, _ in headers):
            basic = base64.b64encode(place.userinfo.encode()).decode()
            headers = (*headers, ("Authorization", f"Basic {basic}"))
        dialing = Dialing(
            tls=place.tls,
            roots_path=None if insecure else self._roots_path,
            resolve=self._guard.resolve_within(deadline),
        )
        return open_exchange(
            place.host,
            place.port,
            "POST" if form else "GET",
            place.target,
            body=form,
            headers=(_AGENT, ("Host", _host_header(place)), *headers),
            timeout_s=deadline.remaining_s(),
            dialing=dialing,
        )


def web_of(options: WasmOptions) -> Web:
    """Return the web as these settings let it be seen."""
    return Web(Guard(options.blocked_cidrs), options.roots_path)


def limited(exchange: Exchange, limit_bytes: int) -> Iterator[bytes]:
    """Yield an answer's body as it comes.

    Raises:
        ResponseTooLargeError: it announces or sends more than `limit_bytes`.
        HttpError: it does not come to its end.
    """
    announced = exchange.header("content-length") or ""
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit_bytes):
        raise ResponseTooLargeError(f"response of {announced[:30]} bytes exceeds the limit of {limit_bytes}")
    size = 0
    for chunk in exchange.chunks():
        size += len(chunk)
        if size > limit_bytes:
            raise ResponseTooLargeError(f"response exceeds the limit of {limit_bytes} bytes")
        yield chunk


def tls_failure(error: HttpError) -> Literal["none", "plain text", "other"]:
    """Return whether TLS is why there is no connection, and whether the server does not speak it at all."""
    import ssl  # noqa: PLC0415  # loaded by the attempt already

    cause = error.__cause__
    if not isinstance(cause, ssl.SSLError):
        return "none"
    return "plain text" if cause.reason in _NOT_TLS else "other"


def _same_host(one: Place, other: Place) -> bool:
    """Return whether credentials for one may go to the other: never from TLS to plain text."""
    return (one.host, one.port, one.tls) == (other.host, other.port, other.tls)


def _without_credentials(headers: Headers) -> Headers:
    return tuple(header for header in headers if header[0].lower() != "authorization")


def _host_header(place: Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port == (443 if place.tls else 80) else f"{host}:{place.port}"


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
