"""Asks one Envoy's admin interface whether it is ready."""

from collections.abc import Callable
from typing import Final

from pilot_agent.health import readiness
from pilot_agent.health.generations import Generation
from pilot_agent.http import HttpError, as_url_error, fetch, url_of

_CONFIG_TIMEOUT_S: Final = 1.0
_LIVE_TIMEOUT_S: Final = 3.0
_ANSWER_LIMIT_BYTES: Final = 1 << 20


class NoAnswerError(Exception):
    """The admin interface did not answer, or not with 200; the text says how."""


def refusal(
    host: str, generation: Generation, *, alone: bool, config_received: Callable[[], None]
) -> str | None:
    """Ask this generation's Envoy; None when it is ready, else the text that says why not.

    Args:
        host: The loopback address that Envoy's admin listens on.
        generation: What is known of it; configuration received once is not asked again.
        alone: No other Envoy can stand behind its admin port.
        config_received: Called when the first step was passed just now.
    """
    added = "" if alone else readiness.EPOCH_FILTER
    try:
        if not generation.config_received:
            answer = stats(host, generation, readiness.CONFIG_FILTER + added, _CONFIG_TIMEOUT_S)
            text = readiness.epoch_refusal(answer, generation.epoch) or readiness.config_refusal(answer)
            if text is not None:
                return text
            config_received()
    except (NoAnswerError, readiness.StatsError) as error:
        return str(error)
    try:
        answer = stats(host, generation, readiness.LIVE_FILTER + added, _LIVE_TIMEOUT_S)
        return readiness.epoch_refusal(answer, generation.epoch) or readiness.live_refusal(answer)
    except (NoAnswerError, readiness.StatsError) as error:
        return f"failed to get readiness stats: {error}"


def stats(host: str, generation: Generation, name_filter: str, timeout_s: float) -> str:
    """Return the stats that match, a line each.

    Raises:
        NoAnswerError: no answer within `timeout_s`, or another status than 200.
    """
    target = f"/stats?usedonly&filter={name_filter}"
    port = generation.admin_port
    try:
        answer = fetch(host, port, "GET", target, timeout_s=timeout_s, limit_bytes=_ANSWER_LIMIT_BYTES)
    except HttpError as error:
        raise NoAnswerError(as_url_error("GET", url_of(host, port, target), error)) from error
    if answer.status != 200:
        raise NoAnswerError(f"unexpected status {answer.status}")
    return answer.body.decode(errors="replace")
