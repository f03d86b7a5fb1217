"""Which handler answers a request: the table, the rules of paths, the loopback rule. Pure.

Source: Go's ServeMux, on which the reference's status server stands, and its handlers.
"""

import posixpath
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from pilot_agent.status.messages import Answer, Request, text

Handler = Callable[[Request], Answer]

NOT_FOUND: Final = text(404, "404 page not found")
FORBIDDEN: Final = text(403, "Only requests from localhost are allowed")
METHOD_NOT_ALLOWED: Final = text(405, "Method Not Allowed")


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a path that ends in a slash stands for all below it."""

    path: str
    handler: Handler
    loopback_only: bool = False  # asked before the method
    method: str = ""  # empty: any


def answer(routes: Sequence[Route], request: Request) -> Answer:
    """Return the answer of the route that fits, or the reference's refusal."""
    clean = clean_path(request.path)
    if clean != request.path:
        return _redirect(request, clean)
    route = _route(routes, request.path)
    if route is None:
        subtree = _route(routes, f"{request.path}/")
        if subtree is not None and subtree.path == f"{request.path}/":
            return _redirect(request, subtree.path)
        return NOT_FOUND
    if route.loopback_only and not request.from_loopback():
        return FORBIDDEN
    if route.method and request.method != route.method:
        return METHOD_NOT_ALLOWED
    if route.method and request.header("origin") is not None:
        return FORBIDDEN  # some site's page, in the browser of a person who forwards this port to loopback
    return route.handler(request)


def clean_path(path: str) -> str:
    """Return the shortest equal path: no empty, `.` or `..` parts, a final slash kept."""
    if not path:
        return "/"
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def _route(routes: Sequence[Route], path: str) -> Route | None:
    exact = next((route for route in routes if route.path == path), None)
    if exact is not None:
        return exact
    below = [route for route in routes if route.path.endswith("/") and path.startswith(route.path)]
    return max(below, key=lambda route: len(route.path), default=None)


def _redirect(request: Request, path: str) -> Answer:
    target = quote(path, safe="/%:@!$&'()*+,;=-._~") + (f"?{request.query}" if request.query else "")
    if request.method not in ("GET", "HEAD"):
        return Answer(status=307, headers=(("Location", target),))
    return Answer(
        status=307,
        content_type="text/html; charset=utf-8",
        headers=(("Location", target),),
        body=f'<a href="{_escaped(target)}">Temporary Redirect</a>.\n\n'.encode(),
    )


def _escaped(target: str) -> str:
    """Return a target, which has no quotes, for an HTML attribute (`html` would cost 1 MB of entities)."""
    return target.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
