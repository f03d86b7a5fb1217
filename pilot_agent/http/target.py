"""Escapes a configured path for the request line."""

from urllib.parse import quote


def request_target(path: str) -> str:
    """Return `path`, which may have a query, with what may not stand in a request line escaped."""
    rooted = path if path.startswith("/") else f"/{path}"
    return quote(rooted, safe="/%?&=:;,+$@!*'()~#[]").partition("#")[0]
