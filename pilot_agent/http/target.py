"""Escapes a configured path for the request line; finds where a redirect leads."""

from urllib.parse import quote, urljoin

from pilot_agent.http.errors import RedirectError


def request_target(path: str) -> str:
    """Return `path`, which may have a query, with what may not stand in a request line escaped."""
    rooted = path if path.startswith("/") else f"/{path}"
    return quote(rooted, safe="/%?&=:;,+$@!*'()~#[]").partition("#")[0]


def redirected(url: str, location: str) -> str:
    """Return the URL that a `Location` means.

    Raises:
        RedirectError: it means none.
    """
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise RedirectError(f'failed to parse Location header "{location}": {error}') from error
