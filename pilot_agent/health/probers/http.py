"""The HTTP probe: one GET on a connection of its own; 200 to 399 is well.

Source: the reference's HTTP prober. It means not to verify certificates, but its comparison of the
scheme never matches; here they are not verified, as the kubelet does it.
"""

import re
from typing import Final

from pilot_agent.health.probe import HttpGet
from pilot_agent.http import Dialing, HttpError, as_url_error, fetch, url_of
from pilot_agent.http.target import request_target

_LINGER_S: Final = 1
_MAX_REDIRECTS: Final = 10
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def http_probe(method: HttpGet, host: str, *, source_address: str, timeout_s: float) -> str | None:
    """Return None for a status from 200 to 399, else why not."""
    refused = _path_error(method.path)
    if refused:
        return refused
    target = request_target(method.path)
    if ":" in _family_text(host) and ":" not in source_address:
        source_address = ""  # an IPv4 source cannot reach an IPv6 address
    dialing = Dialing(source_address=source_address, linger_s=_LINGER_S, tls=method.scheme == "https")
    try:
        answer = fetch(
            host,
            method.port,
            "GET",
            target,
            headers=_headers(method.headers),
            timeout_s=timeout_s,
            limit_bytes=0,
            truncate=True,
            max_redirects=_MAX_REDIRECTS,
            dialing=dialing,
        )
    except HttpError as error:
        return as_url_error("GET", url_of(host, method.port, target, scheme=method.scheme), error)
    if 200 <= answer.status < 400:
        return None
    return f"status code was not from [200,400), bad code {answer.status}"


def _headers(configured: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    names = {name for name, _ in configured}
    added = [("Accept-Encoding", "gzip")]
    added += [] if "User-Agent" in names else [("User-Agent", "istio-probe/1.0")]
    return [*configured, *added]


def _path_error(path: str) -> str | None:
    if _CONTROL.search(path):
        return f'parse "{path}": net/url: invalid control character in URL'
    bad = _BAD_ESCAPE.search(path.partition("?")[0])
    return f'parse "{path}": invalid URL escape "{bad[0]}"' if bad else None


def _family_text(host: str) -> str:
    return host.strip("[]")
