"""One unary gRPC call over a connection of its own, for short-lived workers."""

import threading
from typing import Final

from pilot_agent.rpc import Code
from pilot_agent.rpc.client import ClientCall, Target

_LARGEST_ANSWER_BYTES: Final = 4 << 20  # gRPC's own limit


class CallFailed(Exception):  # noqa: N818  # a status, not a fault
    """The call ended with this status; the text is its message."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(details)
        self.code = code


def call(
    target: Target,
    method: str,
    message: bytes,
    *,
    headers: tuple[tuple[str, str | bytes], ...],
    timeout_s: float,
) -> bytes:
    """Return the answer's message.

    Args:
        target: Whom to ask.
        method: "/package.Service/Method".
        message: The request, encoded.
        headers: Metadata; the names in lower case.
        timeout_s: For everything, the connection included.

    Raises:
        CallFailed: there is none.
    """
    timeout = ("grpc-timeout", f"{int(timeout_s * 1000)}m")
    calling = ClientCall(target, method, (*headers, timeout), limit_bytes=_LARGEST_ANSWER_BYTES)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        calling.cancel()

    timer = threading.Timer(timeout_s, expire)
    sender = threading.Thread(target=calling.send, args=(message,), kwargs={"is_last": True})
    for thread in (timer, sender):
        thread.daemon = True
        thread.start()
    try:
        answers = list(calling.responses())
    finally:
        timer.cancel()
        calling.close()
    if expired.is_set() and calling.code is Code.CANCELLED:
        raise CallFailed(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    if calling.code is not Code.OK:
        raise CallFailed(calling.code, calling.details)
    if len(answers) != 1:
        raise CallFailed(Code.INTERNAL, f"cardinality violation: got={len(answers)} messages expected=1")
    return answers[0]
