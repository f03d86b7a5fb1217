"""The page that shows the status document to a person: one file, read when it is asked for.

It loads nothing from elsewhere, and the browser is told not to let it; it fetches the JSON of the same
address every two seconds and writes text, never markup, into itself.
"""

import ipaddress
from pathlib import Path
from typing import Final

from pilot_agent.status.messages import Headers, Request

HTML: Final = "text/html; charset=utf-8"
NO_STORE: Final[Headers] = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
PAGE_HEADERS: Final[Headers] = (
    *NO_STORE,
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("Referrer-Policy", "no-referrer"),
)
_FILE: Final = Path(__file__).with_name("page.html")


def page() -> bytes:
    """Return the page. Not kept in memory: who needs it is a person."""
    return _FILE.read_bytes()


def wants_page(request: Request) -> bool:
    """Return whether a browser asks: `?format=` decides, else what `Accept` names first."""
    for pair in request.query.split("&"):
        name, _, value = pair.partition("=")
        if name == "format":
            return value == "html"
    accept = (request.header("accept") or "").lower()
    html, json = accept.find("text/html"), accept.find("application/json")
    return html >= 0 and (json < 0 or html < json)


def names_this_machine(host: str) -> bool:
    """Return whether a Host header is an address or localhost: what no other site's page can be under."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.strip("[]").lower().rstrip(".")
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
