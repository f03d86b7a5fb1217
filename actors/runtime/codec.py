"""Messages as packets: framed, typed, validated, never pickled.

A frame is `header | head | body`. The head is the message's type name and its msgpack; the body is the
message's `body` field, if it has one, as raw bytes. A frame larger than one packet is cut; every
packet repeats the header, so that a reader who comes in the middle (its predecessor was killed) can
skip to the next first packet.
"""

import struct
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

from actors.messages import cert, control, dns, envoy, health, xds
from pilot_agent.unreadable import UNREADABLE

FORMAT_VERSION: Final = 1
CHUNK_BYTES: Final = 96 * 1024
"""Content bytes in a packet: with the default buffer of 212,992 two packets are under way."""

FIRST, NEXT = 0, 1

_HEADER: Final = struct.Struct("!BBHIIQ")  # the fields of Header
HEADER_BYTES: Final = _HEADER.size
_MAX_HEAD_BYTES: Final = 64 << 20
_MAX_BODY_BYTES: Final = 512 << 20
"""Memory for the whole frame is taken at its first packet: a length beyond reason must not be believed."""


class FrameError(ValueError):
    """A packet or message that cannot be read; the text says what was got and what was expected."""


class Header(NamedTuple):
    """What every packet begins with. The sender's incarnation and the sequence name the frame."""

    version: int
    kind: int  # FIRST or NEXT
    incarnation: int  # of the sending actor, modulo 65,536
    sequence: int  # counts the sender's frames
    head_bytes: int
    body_bytes: int


def _message_types(modules: Iterable[ModuleType]) -> dict[str, type]:
    found: dict[str, type] = {}
    for module in modules:
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, msgspec.Struct)
                and value.__module__ == module.__name__
            ):
                assert name not in found, f"two messages are named {name}"
                found[name] = value
    return found


MESSAGE_TYPES: Final = _message_types((cert, control, dns, envoy, health, xds))
_WITH_BODY: Final = frozenset(
    name for name, kind in MESSAGE_TYPES.items() if "body" in getattr(kind, "__struct_fields__", ())
)
_encoder: Final = msgspec.msgpack.Encoder()
_decoders: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {  # Any: one type a name
    name: msgspec.msgpack.Decoder(kind) for name, kind in MESSAGE_TYPES.items()
}


def encode(message: Any) -> tuple[bytes, bytes]:  # any class of MESSAGE_TYPES
    """Return (head, body) of a message.

    Raises:
        LookupError: its class is not in `actors.messages` (a programming error).
    """
    name = type(message).__name__
    if name not in MESSAGE_TYPES:
        raise LookupError(f"{name} is no message of actors.messages")
    body = b""
    if name in _WITH_BODY:
        body = message.body
        message = msgspec.structs.replace(message, body=b"")
    head = b"%c%s%s" % (len(name), name.encode(), _encoder.encode(message))
    return head, body


def decode(head: bytes, body: bytes) -> object:
    """Return the message, validated against its type.

    Raises:
        FrameError: unknown type, or fields that do not fit it.
    """
    name = head[1 : 1 + head[0]].decode(errors="replace") if head else ""
    decoder = _decoders.get(name)
    if decoder is None:
        raise FrameError(f"message type got={name!r} expected=one of {len(_decoders)} known")
    try:
        message = decoder.decode(head[1 + head[0] :])
    except UNREADABLE as error:
        raise FrameError(f"message {name}: {error}") from error
    if name in _WITH_BODY:
        msgspec.structs.force_setattr(message, "body", body)  # frozen for all who will see it
    return message


def pack_header(header: Header) -> bytes:
    """Return the bytes of a packet's header."""
    version, kind, incarnation, sequence, head_bytes, body_bytes = header
    return _HEADER.pack(version, kind, incarnation & 0xFFFF, sequence & 0xFFFFFFFF, head_bytes, body_bytes)


def unpack_header(data: bytes | bytearray | memoryview) -> Header:
    """Return the header of a packet.

    Raises:
        FrameError: too short, another format version, or lengths beyond reason.
    """
    if len(data) < HEADER_BYTES:
        raise FrameError(f"packet bytes got={len(data)} expected>={HEADER_BYTES}")
    header = Header(*_HEADER.unpack_from(data))
    if header.version != FORMAT_VERSION:
        raise FrameError(f"format version got={header.version} expected={FORMAT_VERSION}")
    if (
        header.kind not in (FIRST, NEXT)
        or header.head_bytes > _MAX_HEAD_BYTES
        or header.body_bytes > _MAX_BODY_BYTES
    ):
        sizes = f"a head of {header.head_bytes} and a body of {header.body_bytes} bytes"
        raise FrameError(f"packet kind {header.kind} with {sizes}")
    return header
