"""A small HTTP/1.1 client over plain sockets, for Envoy's admin interface, probes and scrapes.

The protocol is h11's part (pure Python, 1.2 MB once for all processes that are forked after its
import), sockets and limits are ours.
"""

from pilot_agent.http.client import Exchange, Response, exchange_on, fetch, open_exchange
from pilot_agent.http.dial import Deadline, Dialing, Resolve, Resolved, resolved
from pilot_agent.http.errors import (
    ConnectError,
    HttpError,
    HttpTimeoutError,
    ProtocolError,
    RedirectError,
    ResponseTooLargeError,
    as_url_error,
    url_of,
)

__all__ = [
    "ConnectError",
    "Deadline",
    "Dialing",
    "Exchange",
    "HttpError",
    "HttpTimeoutError",
    "ProtocolError",
    "RedirectError",
    "Resolve",
    "Resolved",
    "Response",
    "ResponseTooLargeError",
    "as_url_error",
    "exchange_on",
    "fetch",
    "open_exchange",
    "resolved",
    "url_of",
]
