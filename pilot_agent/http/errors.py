"""Why an exchange failed, sorted by what the caller can do; the texts are those of Go's client.

They stand in log lines, on stderr and in what istiod is told, so they keep the reference's words.
"""


class HttpError(Exception):
    """The exchange did not give a response."""


class ConnectError(HttpError):
    """No connection: nothing was sent, so the call may be repeated."""


class HttpTimeoutError(HttpError):
    """The time limit ran out; the peer may or may not have acted."""


class ProtocolError(HttpError):
    """What was asked, or what came back, is no HTTP/1.1."""


class ResponseTooLargeError(HttpError):
    """The body is larger than the caller's limit."""


class RedirectError(HttpError):
    """More redirects than allowed, or one that leads nowhere."""


def as_url_error(method: str, url: str, error: HttpError) -> str:
    """Return the text in which Go names the call beside its error: `Get "http://…": …`."""
    return f'{method[:1]}{method[1:].lower()} "{url}": {error}'


def url_of(host: str, port: int, target: str, *, scheme: str = "http") -> str:
    """Return the URL of a call; IPv6 addresses get their brackets."""
    return f"{scheme}://{authority(host, port)}{target}"


def authority(host: str, port: int) -> str:
    """Return `host:port` with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
