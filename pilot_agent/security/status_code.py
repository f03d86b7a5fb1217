"""gRPC status codes in Go's spelling, which log lines and error texts have."""

from typing import Final

import grpc

_SPECIAL: Final = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}


def go_code(code: grpc.StatusCode) -> str:
    """Return a status code as Go prints it: `Unavailable`, `PermissionDenied`, `OK`."""
    return _SPECIAL.get(code) or code.name.title().replace("_", "")


def go_code_of(number: int) -> str:
    """Return the same for a code as it stands in a message; unknown ones as `Code(99)`."""
    known = {code.value[0]: code for code in grpc.StatusCode}
    return go_code(known[number]) if number in known else f"Code({number})"
