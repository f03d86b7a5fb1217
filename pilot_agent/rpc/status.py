"""gRPC's status codes, without gRPC."""

from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """A call's outcome. Source: gRPC's status code documentation."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def go_name(self) -> str:
        """Return the code as Go's gRPC writes it in an error's text."""
        if self is Code.CANCELLED:
            return "Canceled"
        return "OK" if self is Code.OK else self.name.title().replace("_", "")


_LONGEST_DETAILS_BYTES: Final = 4096


def percent_encoded(details: str) -> bytes:
    """Return `grpc-message` as it goes on the wire, cut where that would exceed 4,096 bytes.

    So trailers fit into one frame, and into the 8 KiB of metadata that gRPC's clients take.
    """
    found = bytearray()
    for character in details[:_LONGEST_DETAILS_BYTES]:
        encoded = b"".join(
            b"%c" % each if 0x20 <= each <= 0x7E and each != 0x25 else b"%%%02X" % each
            for each in character.encode(errors="replace")
        )
        if len(found) + len(encoded) > _LONGEST_DETAILS_BYTES:
            break
        found += encoded
    return bytes(found)
