"""Encodes single fields; a message is their concatenation."""


def message(*parts: bytes) -> bytes:
    """Return the message that consists of these encoded fields."""
    return b"".join(parts)


def text_field(number: int, text: str) -> bytes:
    """Encode a string field; empty text is left out, as proto3 does."""
    return bytes_field(number, text.encode()) if text else b""


def bytes_field(number: int, data: bytes) -> bytes:
    """Encode a bytes or message field, empty ones too (an empty message is not a missing one)."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def varint_field(number: int, value: int) -> bytes:
    """Encode an int32, int64, bool or enum field; zero is left out, as proto3 does."""
    return _varint(number << 3) + _varint(value & (1 << 64) - 1) if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
