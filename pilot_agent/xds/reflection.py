"""gRPC server reflection (v1 and v1alpha, equal on the wire) without the protobuf library.

Listing the services is answered here. Descriptors need the generated messages, which cost several
MB: that question goes to a short-lived process (`reflect_worker`).

Source: github.com/grpc/grpc, doc/server-reflection.md.
"""

from typing import Final, Literal

import msgspec

from pilot_agent.wire import WireError, bytes_field, message, text_field, varint_field
from pilot_agent.wire import fields as wire_fields

SERVICES: Final = (
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
REFLECTION_SERVICES: Final = SERVICES[1:]

NOT_FOUND: Final = 5
UNIMPLEMENTED: Final = 12
UNAVAILABLE: Final = 14

Kind = Literal["file_by_filename", "file_containing_symbol", "list_services", "other"]
_KINDS: Final[dict[int, Kind]] = {
    3: "file_by_filename",
    4: "file_containing_symbol",
    5: "other",  # file_containing_extension
    6: "other",  # all_extension_numbers_of_type
    7: "list_services",
}


class Question(msgspec.Struct, frozen=True):
    """One ServerReflectionRequest."""

    kind: Kind
    text: str  # the file name or the symbol
    host: str


def read_question(data: bytes) -> Question:
    """Return what a ServerReflectionRequest asks.

    Raises:
        WireError: the bytes are no such message, or ask nothing.
    """
    host, found = "", None
    for field in wire_fields(data):
        raw = data[field.start : field.end] if field.wire_type == 2 else b""
        if field.number == 1:
            host = raw.decode(errors="replace")
        elif field.number in _KINDS:
            found = _KINDS[field.number], raw.decode(errors="replace")
    if found is None:
        raise WireError("reflection request without message_request")
    return Question(*found, host)


def response(question: Question, request: bytes, payload: bytes) -> bytes:
    """Return a ServerReflectionResponse; `payload` is its encoded `message_response`."""
    return message(text_field(1, question.host), bytes_field(2, request), payload)


def services() -> bytes:
    """Return the encoded list_services_response."""
    return bytes_field(6, message(*(bytes_field(1, text_field(1, name)) for name in SERVICES)))


def files(descriptors: list[bytes]) -> bytes:
    """Return the encoded file_descriptor_response of these serialized FileDescriptorProtos."""
    return bytes_field(4, message(*(bytes_field(1, descriptor) for descriptor in descriptors)))


def error(code: int, text: str) -> bytes:
    """Return the encoded error_response."""
    return bytes_field(7, message(varint_field(1, code), text_field(2, text)))
