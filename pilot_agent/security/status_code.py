"""gRPC status codes in Go's spelling, which log lines and error texts have."""

from pilot_agent.rpc import Code


def go_code_of(number: int) -> str:
    """Return a status code as Go prints it: `Unavailable`, `OK`; unknown ones as `Code(99)`."""
    return Code(number).go_name if number in set(Code) else f"Code({number})"
