"""Protobuf's wire format, as little of it as the byte path needs, without the protobuf library.

Reading gives offsets into the caller's bytes and copies nothing; every length is checked. Importing
`*_pb2` modules would cost each process several MB (measured: docs/decisions), and the messages that
the agent itself builds have five fields at most. Source: protobuf.dev, "Encoding".
"""

from pilot_agent.wire.reader import Field, WireError, fields
from pilot_agent.wire.writer import bytes_field, message, text_field, varint_field

__all__ = ["Field", "WireError", "bytes_field", "fields", "message", "text_field", "varint_field"]
