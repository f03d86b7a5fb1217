"""Tokens of a Google Compute Engine instance: fetched from its metadata server, kept in the token file.

Runs in a short-lived worker process only. Source: the reference's credential fetcher GoogleComputeEngine.
"""

import base64
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pilot_agent.http import HttpError, fetch
from pilot_agent.log import get_logger
from pilot_agent.security.errors import CaUnavailable
from pilot_agent.security.work import TokenRequest, decode

REFRESH_BEFORE_S: Final = 25 * 60.0
CALL_S: Final = 5.0
_TARGET: Final = "/computeMetadata/v1/instance/service-accounts/default/identity?audience={}&format=full"
_LIMIT_BYTES: Final = 64 << 10
_log = get_logger("gcecred")


def refresh(request: bytes) -> bytes:
    """Take an encoded TokenRequest, renew the token file if it is due; return nothing."""
    wanted = decode(request, TokenRequest)
    try:
        if is_due(_kept(wanted.path), time.time()):
            fetch_token(wanted)
    except CaUnavailable as error:
        _log.warn(str(error))
    return b""


def is_due(token: str, now_s: float) -> bool:
    """Return whether a token is to be renewed: no JWT, without an end, or that is less than 25 min away."""
    try:
        claims = token.split(".")[1]
        end_s = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return not isinstance(end_s, int | float) or end_s - now_s < REFRESH_BEFORE_S
    except (IndexError, KeyError, TypeError, ValueError):
        return True


def fetch_token(wanted: TokenRequest) -> str:
    """Return a fresh token, which is written to the token file, too.

    Raises:
        CaUnavailable: the metadata server gives none.
    """
    host, _, port = wanted.host.partition(":")
    try:
        answer = fetch(
            host,
            int(port or 80),
            "GET",
            _TARGET.format(quote(wanted.audience, safe="")),
            headers=(("Metadata-Flavor", "Google"),),
            timeout_s=CALL_S,
            limit_bytes=_LIMIT_BYTES,
        )
    except (HttpError, ValueError) as error:
        raise CaUnavailable(
            f"failed to get a token from the metadata server {wanted.host}: {error}"
        ) from error
    token = answer.body.decode(errors="replace").strip()
    if answer.status != 200 or not token:
        raise CaUnavailable(
            f"failed to get a token from the metadata server {wanted.host}: status got={answer.status} "
            f"expected=200, {len(token)} characters"
        )
    _keep(wanted.path, token)
    return token


def token_of(wanted: TokenRequest) -> str:
    """Return a token: a fresh one, or the one that was kept where there is none to be had."""
    try:
        return fetch_token(wanted)
    except CaUnavailable as error:
        _log.warn(f"{error}; the one in {wanted.path} is used")
        return _kept(wanted.path)


def _kept(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _keep(path: str, token: str) -> None:
    new = Path(f"{path}.{os.getpid()}")
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
        new.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        _log.error(f"failed to write the token to {path}: {error}")
