"""A connection as bytes: what the next process needs, beside its socket, to go on with it where it was.

All that two ends of an HTTP/2 connection must agree on: the table of header fields, windows, streams, and
what was read of a frame or message and not used yet. Our own header blocks use no table, and whole
frames alone are written, so that there is nothing of the other direction.
"""

from typing import Final

import msgspec

from pilot_agent.unreadable import UNREADABLE

FORMAT: Final = 1


class KeptMessage(msgspec.Struct, frozen=True):
    """A request of which only a part has come."""

    head: bytes = b""
    missing_bytes: int | None = None
    begun: bytes = b""


class KeptCall(msgspec.Struct, frozen=True, kw_only=True):
    """One open call; `state` is its method's own."""

    stream: int
    headers: dict[str, str]
    window_bytes: int
    unreported_bytes: int
    has_begun: bool
    message: KeptMessage
    state: bytes


class KeptConnection(msgspec.Struct, frozen=True, kw_only=True):
    """One connection."""

    unread: bytes
    table: tuple[tuple[bytes, bytes], ...]  # newest first
    table_bytes: int  # the most that it may have
    notice: bytes
    window_bytes: int
    initial_window_bytes: int
    frame_bytes: int
    unreported_bytes: int
    newest: int
    resets: int
    calls: tuple[KeptCall, ...]


class KeptServer(msgspec.Struct, frozen=True, kw_only=True):
    """All connections, in the order of their descriptors."""

    connections: tuple[KeptConnection, ...]
    format: int = FORMAT


def encode(connections: tuple[KeptConnection, ...]) -> bytes:
    """Return the bytes from which `decode` makes the same."""
    return msgspec.msgpack.encode(KeptServer(connections=connections))


def decode(body: bytes) -> tuple[KeptConnection, ...]:
    """Return what a predecessor kept.

    Raises:
        ValueError: it was another version, which keeps something else.
    """
    try:
        kept = msgspec.msgpack.decode(body, type=KeptServer)
    except UNREADABLE as error:
        raise ValueError(f"connections of the version before: {error}") from error
    if kept.format != FORMAT:
        raise ValueError(f"connections of the version before: format got={kept.format} expected={FORMAT}")
    return kept.connections
