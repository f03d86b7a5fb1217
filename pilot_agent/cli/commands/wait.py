"""`wait`: returns when Envoy is ready; a postStart hook holds the application back with it."""

import time

from pilot_agent.cli.command import Command, Invocation
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag

_LONGEST_S = 1_000_000.0
"""Eleven days; longer times overflow the system's calls."""


def _run(invocation: Invocation) -> int:
    from pilot_agent.log import get_logger  # noqa: PLC0415  # `help` lists this module too

    values, _log = invocation.values, get_logger()
    timeout_s = values.integer("timeoutSeconds")
    _log.info(f"Waiting for Envoy proxy to be ready (timeout: {timeout_s} seconds)...")
    _wait_until_ready(
        values.string("url"),
        deadline=time.monotonic() + min(timeout_s, _LONGEST_S),
        period_s=min(values.integer("periodMillis") / 1000, _LONGEST_S),
        request_timeout_s=min(values.integer("requestTimeoutMillis") / 1000, _LONGEST_S),
    )
    _log.info("Envoy is ready!")
    return 0


def _wait_until_ready(url: str, *, deadline: float, period_s: float, request_timeout_s: float) -> None:
    """Ask until the answer is 200. The pause comes first; a running request may outlast the deadline."""
    last = "<nil>"
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= period_s:
            time.sleep(max(left_s, 0.0))
            raise CliError(f"timeout waiting for Envoy proxy to become ready. Last error: {last}")
        time.sleep(max(period_s, 0.0))
        last = _why_not_ready(url, request_timeout_s)
        if not last:
            return


def _why_not_ready(url: str, timeout_s: float) -> str:
    """Return "" when the proxy answers 200, else why it counts as not ready."""
    from pilot_agent.cli.fetch import fetch  # noqa: PLC0415  # loaded while the proxy starts anyway

    try:
        answer = fetch("GET", url, timeout_s=timeout_s if timeout_s > 0 else None)
    except CliError as error:
        return str(error)
    return "" if answer.status == 200 else f"HTTP status code {answer.status}"


COMMAND = Command(
    use="wait",
    short="Wait until Envoy is ready",
    long="Asks the readiness port until it answers 200, or the time is over.",
    run=_run,
    flags=(
        Flag("timeoutSeconds", "int", 60, "Seconds to wait at most"),
        Flag("requestTimeoutMillis", "int", 500, "Milliseconds that one request may take"),
        Flag("periodMillis", "int", 500, "Milliseconds to pause before each request"),
        Flag("url", "string", "http://localhost:15021/healthz/ready", "What to ask"),
    ),
)
