"""Envoy's own metrics page, streamed: never held as a whole."""

from collections.abc import Iterator
from typing import Final

from pilot_agent.http import Exchange, HttpError, as_url_error, open_exchange, url_of
from pilot_agent.log import get_logger
from pilot_agent.status.messages import Request

_HOST: Final = "localhost"
_PATH: Final = "/stats/prometheus"
_ACCEPT: Final = "text/plain;version=0.0.4"
_TIMEOUT_HEADER: Final = "x-prometheus-scrape-timeout-seconds"
_LONGEST_S: Final = 300.0
"""Where the scraper gives no limit. (The reference then waits for ever.)"""

_log = get_logger()


class ScrapeError(Exception):
    """Envoy's page cannot be had; the text says why."""


class EnvoyPage:
    """The body of Envoy's page. To be closed, whether it was read or not."""

    def __init__(self, exchange: Exchange, url: str) -> None:
        self._exchange, self._url = exchange, url

    def chunks(self) -> Iterator[bytes]:
        """Yield the page.

        Raises:
            ScrapeError: it broke off; what was yielded is what there is.
        """
        try:
            yield from self._exchange.chunks()
        except HttpError as error:
            raise ScrapeError(f"error scraping {self._url}: {error}") from error

    def close(self) -> None:
        self._exchange.close()


def envoy_page(request: Request, port: int) -> EnvoyPage:
    """Ask Envoy for its page, with the query, user agent and time limit of the scraper's request.

    Raises:
        ScrapeError: no answer, or another status than 200.
    """
    target = f"{_PATH}?{request.query}" if request.query else _PATH
    url = url_of(_HOST, port, target)
    passed_on = ((name, request.header(name)) for name in ("user-agent", _TIMEOUT_HEADER))
    headers = [("Accept", _ACCEPT), *((name, value) for name, value in passed_on if value is not None)]
    try:
        exchange = open_exchange(_HOST, port, "GET", target, headers=headers, timeout_s=timeout_s(request))
    except HttpError as error:
        raise ScrapeError(f"error scraping {url}: {as_url_error('GET', url, error)}") from error
    if exchange.status != 200:
        exchange.close()
        raise ScrapeError(f"error scraping {url}, status code: {exchange.status}")
    return EnvoyPage(exchange, url)


def timeout_s(request: Request) -> float:
    """Return the scraper's own time limit in seconds."""
    text = request.header(_TIMEOUT_HEADER)
    if text is None:
        return _LONGEST_S
    try:
        limit_s = float(text)
    except ValueError:
        _log.warn(f"Failed to parse timeout header {text!r}: no limit is taken from it")
        return _LONGEST_S
    return min(limit_s, _LONGEST_S) if limit_s > 0 else _LONGEST_S
