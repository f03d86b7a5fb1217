"""Where a call goes, and how its connection is made: addresses in turn, a proxy where one is set, TLS."""

import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from pilot_agent.http import ConnectError, HttpError
from pilot_agent.http.dial import Deadline, words
from pilot_agent.rpc.client.link import Link, TlsLink

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

CONNECT_TIMEOUT_S: Final = 20.0
"""For all addresses together, with the handshake; gRPC's own."""
_UNIX: Final = "unix:"


class TargetError(OSError):
    """No connection was made; the text is the one of Go's gRPC."""


class Secured(msgspec.Struct, frozen=True):
    """TLS: contexts to be tried in turn, each on a new connection, and a last look at what was agreed on."""

    contexts: "Sequence[ssl.SSLContext]"
    server_name: str
    check: "Callable[[ssl.SSLObject], None]"  # raises ValueError where it is not allowed


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Who is called."""

    address: str  # host:port, [IPv6]:port or unix:PATH
    secured: Secured | None = None  # None: plaintext
    authority: str = ""  # for the call; empty: the address
    user_timeout_s: float = (
        0.0  # so long sent bytes may go unacknowledged (TCP_USER_TIMEOUT); 0: the system's
    )

    @property
    def called(self) -> str:
        """Return what goes into `:authority`."""
        return self.authority or ("localhost" if self.address.startswith(_UNIX) else self.address)

    def dial(self, timeout_s: float = CONNECT_TIMEOUT_S) -> Link:
        """Return a connection, waiting for it.

        Raises:
            TargetError: there is none.
        """
        deadline = Deadline(timeout_s)
        if self.secured is None:
            return Link(self._connected(deadline))
        *others, last = self.secured.contexts
        for context in others:
            try:
                return self._handshaken(context, deadline)
            except TargetError as error:
                if getattr(error.__cause__, "verify_code", 0):  # the peer is not whom we want
                    raise
        return self._handshaken(last, deadline)

    def _handshaken(self, context: "ssl.SSLContext", deadline: Deadline) -> Link:
        assert self.secured is not None, "called for TLS alone"
        sock = self._connected(deadline)
        try:
            link = TlsLink(sock, context, self.secured.server_name)
            sock.settimeout(deadline.left_s())
            self.secured.check(link.handshake())
            sock.settimeout(None)
        except (OSError, ValueError) as error:
            sock.close()
            text = f'connection error: desc = "transport: authentication handshake failed: {_reason(error)}"'
            raise TargetError(text) from error
        except BaseException:
            sock.close()
            raise
        return link

    def _connected(self, deadline: Deadline) -> socket.socket:
        try:
            if self.address.startswith(_UNIX):
                return _unix(self.address.removeprefix(_UNIX).removeprefix("//"))
            return self._tcp(deadline)
        except (HttpError, OSError) as error:
            why = words(error) if isinstance(error, OSError) else str(error)
            raise TargetError(f'connection error: desc = "transport: Error while dialing: {why}"') from error

    def _tcp(self, deadline: Deadline) -> socket.socket:
        from pilot_agent.http.proxy import dial  # noqa: PLC0415  # what it imports is for TCP alone

        sock = dial(*_host_and_port(self.address), deadline, os.environ)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.user_timeout_s:
                wanted = int(self.user_timeout_s * 1000)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wanted)
        except BaseException:
            sock.close()
            raise
        return sock


def _unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise ConnectError(f"dial unix {path}: connect: {words(error)}") from error
    return sock


def _host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts; raises ConnectError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConnectError(f"dial tcp: address {address}: missing port in address")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reason(error: OSError | ValueError) -> str:
    """Return what went wrong, without the place in OpenSSL's source."""
    if isinstance(error, TimeoutError):
        return "context deadline exceeded"
    verify_message = getattr(error, "verify_message", "")
    if verify_message:
        return f"tls: failed to verify certificate: {verify_message}"
    reason = getattr(error, "reason", "")
    if reason:
        return f"tls: {reason.lower().replace('_', ' ')}"
    return words(error) if isinstance(error, OSError) else str(error)
